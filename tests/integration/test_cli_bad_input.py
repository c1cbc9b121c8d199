"""Bad files, bad tapes, full disks: one line that names the place and the way out, and nothing half-written."""

from __future__ import annotations

import asyncio
import os
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tapehouse.app.bootstrap import Platform, open_platform
from tapehouse.core import DecodeError, SystemClock
from tapehouse.engine import Engine
from tapehouse.log import MemoryLog, decode_frame
from tapehouse.market import Cells
from tapehouse.replay import Session
from tapehouse.strategies import maker
from tests.support.cli import ESH4, Shell, excerpt, written

BAD_LINE = 500
MESSAGE = "AAPL_2012-06-21_34200000_57600000_message_10.csv"
BOOK = "AAPL_2012-06-21_34200000_57600000_orderbook_10.csv"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A user with a cluster of one broker."""
    shell = Shell(tmp_path_factory.mktemp("desk") / "home")
    with shell.cluster():
        yield shell


@pytest.fixture(scope="module")
def rows(market_data: Path) -> tuple[list[bytes], list[bytes]]:
    """The lines of a real message and book file."""
    message, book = excerpt(market_data)
    return message.read_bytes().splitlines(keepends=True), book.read_bytes().splitlines(keepends=True)


def with_platform(shell: Shell, work: Callable[[Platform], object]) -> object:
    """Do something with the desk's cluster, as only a test may."""

    async def run() -> object:
        async with open_platform(home=shell.home) as platform:
            return await work(platform)  # type: ignore[misc]

    return asyncio.run(run())


def streams(shell: Shell) -> set[str]:
    return {stream["name"] for stream in shell.inside.json("status")["streams"]}


# Files that cannot be read at all leave no trace.


def test_files_that_are_not_what_they_should_be(
    desk: Shell, rows: tuple[list[bytes], list[bytes]], market_data: Path, tmp_path: Path
) -> None:
    messages, book = (b"".join(part) for part in rows)
    archive = (market_data / "lobster" / "LOBSTER_SampleFile_AMZN_2012-06-21_1.zip").read_bytes()
    esh4 = (market_data / ESH4).read_bytes()
    cut = tmp_path / "cut.zip"
    cut.write_bytes(archive[: len(archive) // 2])
    empty_zip = tmp_path / "empty.zip"
    empty_zip.write_bytes(b"")
    other_zip = tmp_path / "other.zip"
    with zipfile.ZipFile(other_zip, "w") as file:
        file.writestr("readme.txt", "nothing")
    magic, empty, stump = written(
        tmp_path / "dbn", {"magic.dbn": b"XBN" + esh4[3:], "empty.dbn": b"", "stump.dbn.zst": esh4[:40]}
    )
    no_messages = written(tmp_path / "no-messages", {MESSAGE: b"", BOOK: book})
    no_book = written(tmp_path / "no-book", {MESSAGE: messages, BOOK: b""})
    dbz = market_data / "databento" / "dbn_tests" / "test_data.mbo.dbz"
    missing = tmp_path / "missing"
    cases: list[tuple[tuple[object, ...], int, str]] = [
        (("lobster", cut), 4, "cut.zip: the zip is cut off or damaged (download it again)"),
        (("lobster", empty_zip), 4, "empty.zip: it is no zip"),
        (("lobster", other_zip), 4, "other.zip: a message and an orderbook file belong together, here is neither"),
        (("lobster", *no_messages), 4, f"{MESSAGE}: the file is empty (download or export it again)"),
        (("lobster", *no_book), 4, f"{BOOK}: the file is empty (download or export it again)"),
        (("lobster", no_book[0]), 4, "it is no zip"),
        (("lobster", missing), 3, f"{missing}: there is no such file"),
        (("dbn", magic), 4, "magic.dbn, byte 0: it begins with b'XBN"),
        (("dbn", empty), 4, "empty.dbn, byte 0: the file is empty"),
        (("dbn", stump), 4, "stump.dbn.zst, byte 0: the file ends inside a zstd frame (the file is cut off"),
        (("dbn", dbz), 4, "this is DBZ, which came before DBN"),
        (("dbn", missing), 3, f"{missing}: there is no such file"),
    ]
    before = streams(desk)
    # Two go through processes of their own, all through the same code in this one.
    for source, code, said in (cases[0], cases[8]):
        assert said in desk.refused("record", *source, "--tape", "bad", code=code)
    for source, code, said in cases:
        assert said in desk.inside.refused("record", *source, "--tape", "bad", code=code)
        if source[0] == "lobster" or code == 4:
            assert said in desk.inside.refused("feeds", "check", *source, code=code)
    assert streams(desk) == before, "a file that cannot be read leaves no tape behind"


# Files that turn bad: what came before the fault is recorded, decided upon and told.


def test_a_bad_line(desk: Shell, rows: tuple[list[bytes], list[bytes]], tmp_path: Path) -> None:
    messages, book = rows
    broken = list(messages)
    broken[BAD_LINE] = b"1,2,3\n"
    files = written(tmp_path / "bad", {MESSAGE: b"".join(broken), BOOK: b"".join(book)})
    said = desk.refused("record", "lobster", *files, "--tape", "line", code=4)
    assert said.startswith(f"{MESSAGE}, line {BAD_LINE + 1}: 3 columns where 6 belong: '1,2,3' (the ")
    assert said.endswith(" cells before it are on tape line)")
    kept = int(said.rpartition("(the ")[2].split()[0].replace(",", ""))
    assert kept > BAD_LINE

    replayed = desk.inside.json("replay", "--tape", "line")
    assert replayed["cells"] > kept
    assert replayed["decisions"] > 0
    assert desk.inside.json("prove", "--tape", "line")["equal"], "the decisions on it are durable too"

    # The same command with the mended file goes on where it stopped.
    files[0].write_bytes(b"".join(messages))
    told = desk.json("record", "lobster", *files, "--tape", "line")
    assert told["skipped_cells"] == kept
    whole = desk.inside.json("record", "lobster", *files, "--tape", "whole")
    assert told["feed_cells"] == whole["feed_cells"]
    mended, at_once = (_feed_cells(desk, tape) for tape in ("line", "whole"))
    assert mended.tobytes() == at_once.tobytes()


def _feed_cells(shell: Shell, tape: str) -> Cells:
    """The cells of a tape that came from its feed."""

    async def read(platform: Platform) -> Cells:
        log = await platform.tape(tape)
        cells = np.concatenate([decode_frame(message.payload)[1] async for message in log.read(1)])
        return cells[cells["source"] == 1]

    found: Cells = with_platform(shell, read)
    return found


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("number", f"{MESSAGE}, line {BAD_LINE + 1}: column 2 is no number: "),
        ("book", f"{BOOK}, line {BAD_LINE + 1}: column 40 is no number: "),
        ("shorter", f"{BOOK}, line {BAD_LINE + 1}: it ends after {BAD_LINE} lines, {MESSAGE} goes on"),
        ("torn", f"{MESSAGE}, line {BAD_LINE + 1}: "),
    ],
)
def test_other_faults_name_their_line(
    desk: Shell, rows: tuple[list[bytes], list[bytes]], tmp_path: Path, name: str, said: str
) -> None:
    messages, book = map(list, rows)
    if name == "number":
        messages[BAD_LINE] = messages[BAD_LINE].replace(b",", b",x", 1)
    elif name == "book":
        book[BAD_LINE] = book[BAD_LINE].rstrip()[:-1] + b"x\n"
    elif name == "shorter":
        book = book[:BAD_LINE]
    else:
        messages = [*messages[:BAD_LINE], messages[BAD_LINE][:20]]
    files = written(tmp_path / "bad", {MESSAGE: b"".join(messages), BOOK: b"".join(book)})
    told = desk.inside.refused("record", "lobster", *files, "--tape", f"fault-{name}", code=4)
    assert told.startswith(said), told
    assert f"cells before it are on tape fault-{name})" in told


def test_a_dbn_file_that_is_cut_off(desk: Shell, market_data: Path, tmp_path: Path) -> None:
    whole = (market_data / ESH4).read_bytes()
    (cut,) = written(tmp_path / "cut", {"cut.dbn.zst": whole[: len(whole) // 2]})
    said = desk.refused("record", "dbn", cut, "--tape", "cut", code=4)
    assert said.startswith("cut.dbn.zst, byte ")
    assert "the file ends inside a zstd frame (the file is cut off: download it again; the " in said
    kept = int(said.rpartition("; the ")[2].split()[0].replace(",", ""))
    cells = _feed_cells(desk, "cut")
    assert len(cells) == kept > 10_000
    cut.write_bytes(whole)
    assert desk.inside.json("record", "dbn", cut, "--tape", "cut")["skipped_cells"] == kept


# Strategies.


def test_strategies_that_fail(desk: Shell, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import time\n\n\nclass Base:\n    name = 'mine'\n\n    def on_market(self, view):\n        return []\n\n"
        "    def state(self):\n        return b''\n\n    def restore(self, state):\n        pass\n\n\n"
        "class Clock(Base):\n    def on_market(self, view):\n        time.time()\n        return []\n\n\n"
        "class Broken(Base):\n    def on_market(self, view):\n        return [1 // 0]\n"
    )
    said = desk.refused(
        "record", "generated", "--cells", 2000, "--tape", "clock", "--strategy", f"{file}:Clock", code=1
    )
    assert said.startswith("strategy mine, mine.py line 19: it called time.time (")
    assert "--no-guard" in said
    arguments = ("--cells", 2000, "--tape", "broken", "--strategy", f"{file}:Broken")
    said = desk.inside.refused("record", "generated", *arguments, code=1)
    assert "mine, cell " in said
    assert "it raised ZeroDivisionError" in said
    assert desk.inside.json("replay", "--tape", "broken")["cells"] > 0, (
        "what was recorded stays, and another strategy reads it"
    )


# A tape that is damaged.


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("garbage", "no frame: magic b'this' instead of b'THFR'"),
        ("torn", "a frame's checksum disagrees (it is torn or damaged)"),
        ("version", "frame version 9 is unknown (a newer tapehouse wrote it: upgrade)"),
    ],
)
def test_a_damaged_frame(desk: Shell, damage: str, said: str) -> None:
    """Every reader names the sequence; what was before it can be read."""
    tape = f"damaged-{damage}"
    whole = desk.inside.json("record", "generated", "--cells", 2000, "--tape", tape)

    async def harm(platform: Platform) -> int:
        log = await platform.tape(tape)
        last = await log.last()
        assert last is not None
        frame = {
            "garbage": b"this is no frame, though it is longer than the header of one: " + bytes(100),
            "torn": last.payload[:-9] + b"\0" * 9,
            "version": last.payload[:4] + b"\x09" + last.payload[5:],
        }[damage]
        return await log.append(frame, expected_last=last.sequence)

    async def read_before(platform: Platform) -> str:
        log = await platform.tape(tape)
        report = await Session("before", log, Engine(maker()), clock=SystemClock(), through=sequence - 1).run()
        return report.digests.decision.hex()

    sequence = with_platform(desk, harm)
    assert isinstance(sequence, int)
    where = f"TAPE_{tape}, sequence {sequence}"
    commands: list[tuple[object, ...]] = [
        ("replay", "--tape", tape),
        ("prove", "--tape", tape),
        ("record", "generated", "--cells", 2000, "--tape", tape),
    ]
    assert where in (told := desk.refused(*commands[0], code=4))
    assert said in told
    for command in commands[1:]:
        assert where in desk.inside.refused(*command, code=4)
    assert with_platform(desk, read_before) == whole["decision_digest"]


async def test_a_memory_log_says_the_same() -> None:
    """The reader's message is the log's, not the adapter's."""
    log = MemoryLog("TAPE_x")
    await log.append(b"this is no frame, though it is longer than the header of one: " + bytes(100), expected_last=0)
    with pytest.raises(DecodeError, match="TAPE_x, sequence 1, byte 0: no frame"):
        await Session("x", log, Engine(maker()), clock=SystemClock()).run()


# Full disks.


@contextmanager
def small_disk(place: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of that size; skips the test where this user may not mount one."""
    place.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", place]).returncode
    ):
        pytest.skip("only root mounts a small disk")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_store_on_a_full_disk(desk: Shell, tmp_path: Path) -> None:
    desk.inside.json("record", "generated", "--cells", 20_000, "--tape", "gen")
    with small_disk(tmp_path / "disk", 192) as disk:
        url = f"file://{disk}/store"
        said = desk.refused("dr", "backup", url, "--tape", "gen", code=3)
        assert said.startswith(f"{url}/")
        assert "no space is left (free some, or choose another store)" in said
        assert not list((disk / "store").glob("manifests/*")), "no backup is there, rather than half of one"
        assert not list((disk / "store" / ".tmp").glob("*")), "and no draft"
        subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
        assert desk.inside.json("dr", "backup", url, "--tape", "gen")["manifest"] == 1, "it goes on when there is room"
        assert desk.inside.json("dr", "verify", url)["damaged"] == []


def test_a_picture_on_a_full_disk(desk: Shell, tmp_path: Path) -> None:
    desk.inside.json("record", "generated", "--cells", 2000, "--tape", "drawn")
    with small_disk(tmp_path / "disk", 16) as disk:
        said = desk.inside.refused("replay", "--tape", "drawn", "--plot", disk / "x.png", code=3)
        assert said.startswith(f"{disk}/x.png: the picture cannot be written: No space left on device")
        assert list(disk.iterdir()) == []


def test_a_cluster_on_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2048) as disk:
        shell = Shell(disk / "home")
        with shell.cluster():
            said = shell.refused("record", "generated", "--cells", 300_000, "--tape", "big", code=3)
            assert "_big, after sequence " in said
            assert "resource" in said, "the broker's own reason is passed on"
            assert "room on their disks" in said
            assert shell.inside.json("replay", "--tape", "big")["cells"] > 0, "what was acknowledged is readable"
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        with shell.cluster():
            told = shell.inside.json("record", "generated", "--cells", 300_000, "--tape", "big")
            assert 0 < told["skipped_cells"] < told["feed_cells"]
            assert shell.inside.json("prove", "--tape", "big")["equal"], "nothing is lost and nothing twice"
