"""One changed byte in every format that can be recorded: `feeds check` fails, by a mismatch or by refusing the file.

Each case names the byte and why it matters; before it is changed, the same files pass. In a container (gzip, xz, zip,
zstd) the byte in the middle is the container's own to find, by its CRC or because it cannot be unpacked; so a byte of
the content is changed as well, in a plain file. Big files are cut to excerpts.
"""

from __future__ import annotations

import gzip
import json
import lzma
import re
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from tapehouse.cli.main import run
from tapehouse.core import VirtualClock
from tapehouse.engine.frame_files import FrameFiles, SyncPolicy
from tapehouse.feeds import FORMATS, open_feed
from tapehouse.log import FrameHeader, encode_frame, read_header
from tests.conftest import PROJECT
from tests.support.order_venues import write_full, write_kraken, write_level2

MISMATCH, REFUSED = 1, 4  # exit codes
LOBSTER = "lobster/excerpt_AAPL_2012-06-21_34200000_57600000_{}_10.csv"
TRUEFX = "small_crypto_fx/truefx__usdjpy-ticks.csv"
TARDIS = "small_crypto_fx/tardis__{}.csv"
TICKS, BYBIT = "taq_lean/ibm_tick_20131008_trade.zip", "small_crypto_fx/bybit__xrpusdt-ob500.data.zip"
SIMULATED, DEEP = "itch50/SIMULATED_ex20101224.TEST_ITCH_50.gz", "iex/DEEP10.pcap.gz"
IEX_PACKETS = 3_000
Place = Callable[[bytes], int]


@dataclass(frozen=True, kw_only=True)
class Flip:
    """One case.

    Args:
        files: Makes the files in a folder from the real ones; the first one gets the changed byte.
        place: Where, in the first file's bytes.
        becomes: What the byte becomes.
        code: The exit code of `feeds check`.
        why: Why the byte matters.
    """

    format: str
    files: Callable[[Path, Path], list[Path]]
    place: Place
    becomes: Callable[[int], int]
    code: int
    why: str


def copied(*names: str) -> Callable[[Path, Path], list[Path]]:
    def make(data: Path, folder: Path) -> list[Path]:
        return [written(folder / Path(name).name, (data / name).read_bytes()) for name in names]

    return make


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def lines_of(name: str, lines: int) -> Callable[[Path, Path], list[Path]]:
    """Some lines of a packed file, as a plain one."""

    def make(data: Path, folder: Path) -> list[Path]:
        source = data / name
        opened: dict[str, Callable[[Path], IO[bytes]]] = {".gz": gzip.open, ".xz": lzma.open}  # type: ignore[dict-item]
        with opened[source.suffix](source) as file:
            taken = list(islice(file, lines))
        return [written(folder / f"{source.name.partition('.')[0]}.log", b"".join(taken))]

    return make


def member_of(name: str, *, called: str = "") -> Callable[[Path, Path], list[Path]]:
    """The one file of a zip, as a plain one."""

    def make(data: Path, folder: Path) -> list[Path]:
        with zipfile.ZipFile(data / name) as archive:
            inside = archive.namelist()[0]
            return [written(folder / (called or Path(inside).name), archive.read(inside))]

    return make


def ticks_beside_bars(data: Path, folder: Path) -> list[Path]:
    """Plain ticks with the bars of the day beside them, in LEAN's folders."""
    made = []
    for unit in ("tick", "minute", "second"):
        (folder / unit / "ibm").mkdir(parents=True)
        made += member_of(TICKS.replace("tick", unit), called=f"{unit}/ibm/20131008_trade.csv")(data, folder)
    return made[:1]


def plain_pitch(data: Path, folder: Path) -> list[Path]:
    content = gzip.decompress((data / "cboe_pitch/pitch_example_data.gz").read_bytes())
    written(folder / "answer.txt", (data / "cboe_pitch/answer.txt").read_bytes())
    return [written(folder / "pitch_example_data", content)]


def iex_packets(data: Path) -> bytes:
    """The first packets of the capture, whole."""
    with gzip.open(data / DEEP) as file:
        parts = [file.read(24)]
        for _ in range(IEX_PACKETS):
            header = file.read(16)
            parts += header, file.read(struct.unpack_from("<I", header, 8)[0])
    return b"".join(parts)


def plain_iex(data: Path, folder: Path) -> list[Path]:
    return [written(folder / "deep.pcap", iex_packets(data))]


def packed_iex(data: Path, folder: Path) -> list[Path]:
    return [written(folder / "deep.pcap.gz", gzip.compress(iex_packets(data)))]


def binance_lines(data: Path, folder: Path) -> list[Path]:
    return lines_of("binance_hftbacktest/spot_btcusdt_20240808.gz", 2_000)(data, folder)


def tape_of_lobster(data: Path, folder: Path) -> list[Path]:
    """A real day's excerpt, recorded into our own segment files."""
    feed = open_feed("lobster", [data / LOBSTER.format(kind) for kind in ("message", "orderbook")])
    files = FrameFiles(
        folder / "tape", name="AAPL", log_id=bytes(range(16)), clock=VirtualClock(), sync=SyncPolicy.NONE
    )
    definitions = np.concatenate([each.definition(ts_recv=1) for each in feed.instruments])
    for part in (definitions, *feed.batches()):
        first = files.next_ordinal or 0
        frame = encode_frame(part, FrameHeader(log_id=bytes(range(16)), writer=1, epoch=1, first_ordinal=first))
        files.write(frame, read_header(frame))
    files.finish()
    files.close()
    return sorted((folder / "tape").iterdir())


def made_up(write: Callable[[Path], object]) -> Callable[[Path, Path], list[Path]]:
    """Of venues without recordings."""

    def make(data: Path, folder: Path) -> list[Path]:
        write(folder / "made_up.capture")
        return [folder / "made_up.capture"]

    return make


# Places.


def middle(content: bytes) -> int:
    return len(content) // 2


def behind(pattern: bytes) -> Place:
    """The byte behind the first match in the second half."""

    def place(content: bytes) -> int:
        found = re.compile(pattern).search(content, len(content) // 2)
        assert found is not None
        return found.end()

    return place


def lobster_cell(content: bytes) -> int:
    """The last digit of the first ask's size in the row in the middle."""
    line = content.index(b"\n", len(content) // 2) + 1
    return content.index(b",", content.index(b",", line) + 1) - 1


def itch_message(offset: int) -> Place:
    """A byte of the message in the middle; two bytes of length stand before each."""

    def place(content: bytes) -> int:
        at = 0
        while at < len(content) // 2:
            at += 2 + struct.unpack_from(">H", content, at)[0]
        return at + 2 + offset

    return place


def iex_message(offset: int) -> Place:
    """A byte of the packet in the middle, counted from its IEX-TP header, of one that has messages."""

    def place(content: bytes) -> int:
        at = 24
        while True:
            size = struct.unpack_from("<I", content, at + 8)[0]
            if at > len(content) // 2 and size > 82:
                return at + 16 + 42 + offset
            at += 16 + size

    return place


def deleted_order(content: bytes) -> int:
    """The price of an order's end, of one whose beginning is in the file."""
    for found in re.compile(rb'order_deleted \{"price": "\d+\.\d(\d)".*"id": (\d+),').finditer(
        content, len(content) // 2
    ):
        if content.count(found[2] + b",", 0, found.start()) == 1:
            return found.start(1)
    raise AssertionError("no such order")


# Changes.


def next_digit(byte: int) -> int:
    assert 48 <= byte <= 57
    return 48 + (byte - 47) % 10


def one_bit(byte: int) -> int:
    return byte ^ 4


def no_digit(byte: int) -> int:
    assert 48 <= byte <= 57
    return byte | 64


GZIP = "the CRC-32 of gzip, or deflate that cannot be unpacked"
ZIP = "the CRC-32 of zip, or deflate that cannot be unpacked"
CASES = {
    "lobster": Flip(
        format="lobster",
        files=copied(LOBSTER.format("orderbook"), LOBSTER.format("message")),
        place=lobster_cell,
        becomes=next_digit,
        code=MISMATCH,
        why="a level's size is that of the row before, unless the message says so",
    ),
    "lobster zip": Flip(
        format="lobster",
        files=copied("lobster/LOBSTER_SampleFile_AMZN_2012-06-21_1.zip"),
        place=middle,
        becomes=one_bit,
        code=REFUSED,
        why=ZIP,
    ),
    "dbn": Flip(
        format="dbn",
        files=copied("databento/dbn_tests/test_data.mbo.dbn"),
        place=lambda content: len(content) - 56,
        becomes=one_bit,
        code=REFUSED,
        why="the length of the last record: it does not fit its type, and what follows is none",
    ),
    "dbn zst": Flip(
        format="dbn",
        files=copied("databento/nautilus/esh4-glbx-mdp3-20231224.mbo.dbn.zst"),
        place=middle,
        becomes=one_bit,
        code=REFUSED,
        why="zstd's checksum, or a block that cannot be unpacked",
    ),
    "itch": Flip(
        format="itch",
        files=copied("itch50/first1000_msgs.itch"),
        place=itch_message(0),
        becomes=one_bit,
        code=MISMATCH,
        why="the type of a message: there is none such, or its length is another",
    ),
    "itch locate": Flip(
        format="itch",
        files=copied("itch50/first1000_msgs.itch"),
        place=itch_message(2),
        becomes=one_bit,
        code=MISMATCH,
        why="the locate of a stock: its name belongs to another one",
    ),
    "itch gzip": Flip(format="itch", files=copied(SIMULATED), place=middle, becomes=one_bit, code=REFUSED, why=GZIP),
    "itch pcap": Flip(
        format="itch",
        files=copied("itch50/omi_pcap/Nasdaq.Equities.TotalView.Itch.v5.0__Multiple.Packets.pcap"),
        place=lambda content: len(content) - 20,
        becomes=one_bit,
        code=MISMATCH,
        why="the checksum of UDP is over every byte of a packet",
    ),
    "iex": Flip(
        format="iex",
        files=plain_iex,
        place=iex_message(42),
        becomes=one_bit,
        code=MISMATCH,
        why="the type of a message: there is none such, or its length is another",
    ),
    "iex sequence": Flip(
        format="iex",
        files=plain_iex,
        place=iex_message(24),
        becomes=one_bit,
        code=MISMATCH,
        why="the number of a packet's first message: it does not go on from the packet before",
    ),
    "iex gzip": Flip(format="iex", files=packed_iex, place=middle, becomes=one_bit, code=REFUSED, why=GZIP),
    "pitch": Flip(
        format="pitch",
        files=plain_pitch,
        place=behind(rb"\nS\d{8}E\w{12}\d{4}"),
        becomes=next_digit,
        code=MISMATCH,
        why="the size of an execution: more than remains, or another volume than was published",
    ),
    "pitch gzip": Flip(
        format="pitch",
        files=copied("cboe_pitch/pitch_example_data.gz"),
        place=middle,
        becomes=one_bit,
        code=REFUSED,
        why=GZIP,
    ),
    "binance": Flip(
        format="binance",
        files=binance_lines,
        place=behind(rb'"depthUpdate"[^\n]*"U":\d{8}'),
        becomes=next_digit,
        code=MISMATCH,
        why="the first update id of a diff: it must be the one behind the diff before",
    ),
    "binance gzip": Flip(
        format="binance",
        files=copied("binance_hftbacktest/spot_btcusdt_20240808.gz"),
        place=middle,
        becomes=one_bit,
        code=REFUSED,
        why=GZIP,
    ),
    "okx": Flip(
        format="okx",
        files=copied("cryptofeed/OKX.ws.1.0"),
        place=behind(rb'"update","data":\[\{"asks":\[\["[\d.]+","'),
        becomes=next_digit,
        code=MISMATCH,
        why="the size of a level: the venue's checksum is of its text",
    ),
    "bitget": Flip(
        format="bitget",
        files=copied("cryptofeed/BITGET.ws.2.0"),
        place=behind(rb'"update"[^\n]*"channel":"books"[^\n]*\[\{"asks":\[\["[\d.]+","'),
        becomes=next_digit,
        code=MISMATCH,
        why="the size of a level: the venue's checksum is of its text",
    ),
    "deribit": Flip(
        format="deribit",
        files=copied("cryptofeed/DERIBIT.ws.1.0", "cryptofeed/DERIBIT.0"),
        place=behind(rb'"prev_change_id":\d{8}'),
        becomes=next_digit,
        code=MISMATCH,
        why="the id of the change before: it is not the one that came",
    ),
    "bybit": Flip(
        format="bybit",
        files=member_of(BYBIT),
        place=behind(rb'"u":\d{7}'),
        becomes=next_digit,
        code=MISMATCH,
        why="the id of an update: ids are consecutive",
    ),
    "bybit zip": Flip(format="bybit", files=copied(BYBIT), place=middle, becomes=one_bit, code=REFUSED, why=ZIP),
    "bitstamp": Flip(
        format="bitstamp",
        files=lines_of("bitstamp_l3/2015-05-01.log.xz", 4_000),
        place=deleted_order,
        becomes=next_digit,
        code=MISMATCH,
        why="the price of an order that ends: it is the one that it began with",
    ),
    "bitstamp xz": Flip(
        format="bitstamp",
        files=copied("bitstamp_l3/2015-05-01.log.xz"),
        place=middle,
        becomes=one_bit,
        code=REFUSED,
        why="xz's own check, or LZMA that cannot be unpacked",
    ),
    "tardis": Flip(
        format="tardis",
        files=copied(TARDIS.format("bitmex_trades_XBTUSD")),
        place=behind(rb"\nbitmex,XBTUSD,\d{16},\d{4}"),
        becomes=next_digit,
        code=MISMATCH,
        why="a local time: it goes back, or is more than a day from the venue's",
    ),
    "tardis snapshots": Flip(
        format="tardis",
        files=copied(TARDIS.format("binance-futures_book_snapshot_5_BTCUSDT")),
        place=behind(rb"\nbinance-futures,BTCUSDT,\d{16},\d{16},[\d.]+,[\d.]+,\d"),
        becomes=next_digit,
        code=MISMATCH,
        why="the best bid's thousands: the snapshot is crossed",
    ),
    "taq": Flip(
        format="taq",
        files=ticks_beside_bars,
        place=behind(rb"\n\d{8},\d{7},"),
        becomes=next_digit,
        code=MISMATCH,
        why="the size of a trade: the bars of its minute and second have another volume",
    ),
    "taq zip": Flip(format="taq", files=copied(TICKS), place=middle, becomes=one_bit, code=REFUSED, why=ZIP),
    "table": Flip(
        format="table",
        files=copied(TRUEFX),
        place=behind(rb"\n2013-01-0"),
        becomes=lambda byte: byte - 1,
        code=REFUSED,
        why="the day of a row: its time goes back; a digit of a price is noticed by nobody, for a table has no truth",
    ),
    "tape": Flip(
        format="tape",
        files=tape_of_lobster,
        place=middle,
        becomes=one_bit,
        code=MISMATCH,
        why="the digest of a message: it and what follows is none",
    ),
    "kraken": Flip(
        format="kraken",
        files=made_up(write_kraken),
        place=behind(rb'"qty":'),
        becomes=next_digit,
        code=MISMATCH,
        why="the size of a level: the venue's checksum is of its text",
    ),
    "coinbase orders": Flip(
        format="coinbase",
        files=made_up(write_full),
        place=behind(rb'"sequence": \d{6}'),
        becomes=next_digit,
        code=MISMATCH,
        why="a message's number: numbers are consecutive",
    ),
    "coinbase levels": Flip(
        format="coinbase",
        files=made_up(write_level2),
        place=behind(rb'"trade_id": \d{6}'),
        becomes=next_digit,
        code=MISMATCH,
        why="a trade's number: numbers are consecutive",
    ),
}


def checked(capsys: pytest.CaptureFixture[str], case: Flip, paths: list[Path], options: list[str]) -> tuple[int, str]:
    """Exit code of `tapehouse feeds check`, and what it says."""
    code = run(["feeds", "check", case.format, *map(str, paths), *options, "--json"])
    told = capsys.readouterr()
    return code, told.out if code in (0, MISMATCH) else told.err


@pytest.mark.parametrize("name", CASES)
def test_one_changed_byte_is_found(
    market_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    case = CASES[name]
    paths = case.files(market_data, tmp_path)
    options = []
    if case.format == "table":
        document = (PROJECT / "docs" / "formats" / "table.md").read_text()
        truefx = re.findall(r"```toml\n(.*?)```", document, re.DOTALL)[0]
        options = ["--mapping", str(written(tmp_path / "truefx.toml", truefx.encode()))]
    if not name.endswith(("zip", "gzip", "xz", "zst")):  # whole files of real data pass in tests of their own
        code, said = checked(capsys, case, paths, options)
        assert (code, json.loads(said)["mismatches"]) == (0, 0), said
    content = bytearray(paths[0].read_bytes())
    at = case.place(bytes(content))
    before = content[at]
    content[at] = case.becomes(before)
    assert content[at] != before
    paths[0].write_bytes(content)
    code, said = checked(capsys, case, paths, options)
    assert code == case.code, f"byte {at} of {paths[0].name}, {case.why}: {said}"
    if code == MISMATCH:
        assert json.loads(said)["mismatches"] > 0
        assert json.loads(said)["first_mismatch"]
    else:
        assert paths[0].name in said


def test_every_format_has_a_byte_that_is_changed() -> None:
    assert {case.format for case in CASES.values()} == FORMATS.keys() - {"generated"}  # which has no file
