"""`tapehouse demo` and `tapehouse prove` end to end, and what is left behind by every way of ending them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import Done, Shell, excerpt, one_line, processes_of, until

SMALL = ("--cells", 30_000, "--paced-seconds", 2)
PATHS = ["live", "replay 10x", "replay max", "from segments", "restored"]
FIELDS = ["name", "decision_digest", "state_digest", "cells", "decisions", "seconds"]
STRATEGIES = """
import time

from tapehouse.engine.strategy import BUY, Submit


class Clocked:
    name = "clocked"

    def on_market(self, view):
        if view.bid is None:
            return []
        away = 1 + time.time_ns() // 1_000 % 997
        return [Submit(side=BUY, price=max(view.tick, view.bid - away * view.tick), size=view.lot)]

    def state(self):
        return b""

    def restore(self, state):
        pass
"""


class Place:
    """A directory of its own for one run, with everything temporary below it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.scratch = directory / "tmp"
        self.scratch.mkdir()
        self.shell = Shell(directory / "home", TMPDIR=str(self.scratch))
        self.store = f"file://{directory}/store"

    def demo(self, *arguments: object, code: int = 0) -> Done:
        """Run the demo here; it leaves no process and nothing temporary."""
        done = self.shell.run("demo", *arguments, code=code, cwd=self.directory, timeout_s=150)
        self.assert_clean()
        return done

    def assert_clean(self) -> None:
        assert not processes_of(self.directory)
        assert list(self.scratch.iterdir()) == []
        assert not self.shell.home.exists(), "the user's own cluster was not touched"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def assert_proved(line: str) -> dict[str, Any]:
    """One line of JSON with the keys that scripts rely on, and digests that are all the same."""
    proof: dict[str, Any] = json.loads(line)
    assert list(proof) == ["paths", "equal"]
    assert proof["equal"] is True
    assert [path["name"] for path in proof["paths"]] == PATHS
    assert all(list(path) == FIELDS for path in proof["paths"])
    for name in FIELDS[1:-1]:
        assert len({path[name] for path in proof["paths"]}) == 1
    assert len(proof["paths"][0]["decision_digest"]) == 64
    assert proof["paths"][0]["decisions"] > 0
    return proof


def test_three_brokers_and_an_s3_store(place: Place) -> None:
    """The demo as it comes: the object store is an S3 server of its own."""
    done = place.demo(*SMALL, "--nodes", 3)
    lines = done.out.splitlines()
    assert lines[-1] == "PROVED"
    digests = [line.split()[-5:-3] for name in PATHS for line in lines if line.startswith(f" {name} ")]
    assert len(digests) == len(PATHS)
    assert len({tuple(pair) for pair in digests}) == 1, "the table shows what was proved"
    told = dict(line.split(maxsplit=1) for line in lines if line.startswith(("RPO", "RTO", "plot")))
    assert told["RPO"] == "0 cells lost"
    assert " from an empty cluster to the desk up" in told["RTO"]
    assert told["plot"] == "tapehouse-demo.png"
    assert (place.directory / "tapehouse-demo.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert "record, the strategy live" in done.err, "steps are told as they are done"


def test_one_broker_in_one_line(place: Place) -> None:
    done = place.demo(*SMALL, "--nodes", 1, "--store", place.store, "--plot", "mine.png", "--json")
    assert len(done.out.splitlines()) == 1
    assert done.err == ""
    first = assert_proved(done.out)
    picture = (place.directory / "mine.png").read_bytes()
    width, height = (int.from_bytes(picture[at : at + 4], "big") for at in (16, 20))
    assert (width, height) == (1210, 770)

    # `prove` is the same proof without the picture; the same seed gives the same decisions.
    done = place.shell.run(
        "prove", *SMALL, "--nodes", 1, "--store", f"{place.store}2", "--json", cwd=place.directory, timeout_s=150
    )
    place.assert_clean()
    assert len(done.out.splitlines()) == 1
    again = assert_proved(done.out)
    assert again["paths"][0]["decision_digest"] == first["paths"][0]["decision_digest"]

    # A store that holds the backup of another cluster is not written to.
    said = one_line(place.demo(*SMALL, "--nodes", 1, "--store", place.store, "--json", code=2).err)
    assert "the repository holds another log of this name (choose another repository" in said


def test_a_recorded_day(place: Place, market_data: Path) -> None:
    files = excerpt(market_data)
    done = place.demo("--lobster", *files, "--paced-seconds", 1, "--nodes", 1, "--store", place.store, "--json")
    proof = assert_proved(done.out)
    assert proof["paths"][0]["cells"] > 1_355


def test_a_strategy_that_reads_the_clock_is_stopped(place: Place) -> None:
    file = place.directory / "clocked.py"
    file.write_text(STRATEGIES)
    options = (*SMALL, "--nodes", 1, "--store", place.store, "--strategy", "clocked.py:Clocked")
    done = place.demo(*options, "--json", code=1)
    assert done.out == ""
    said = one_line(done.err)
    assert said.startswith("strategy clocked, clocked.py line 13: it called time.time_ns (")

    # Unguarded, its decisions differ from run to run, and the proof says where.
    done = place.demo(*options, "--no-guard", code=1)
    last = done.out.splitlines()[-1]
    assert last.startswith("DIFFERENT: live and replay 10x part at output cell "), done.out
    assert "input cell " in last
    assert "PROVED" not in done.out


# Where it is when the interrupt arrives: brokers and the object store start, it records, the first half is done.
@pytest.mark.parametrize(
    ("number", "stage", "own_store"),
    [
        (signal.SIGINT, "start 1 broker", True),
        (signal.SIGINT, "record, the strategy live", True),
        (signal.SIGTERM, "record, the strategy live", True),
        (signal.SIGINT, "draw the session", False),
    ],
)
def test_an_interrupt_leaves_nothing(place: Place, number: int, stage: str, own_store: bool) -> None:
    store = () if own_store else ("--store", place.store)
    child = place.shell.start("demo", *SMALL, "--nodes", 1, *store, cwd=place.directory)
    if stage == "start 1 broker":
        until(lambda: processes_of(place.scratch), "nothing was started")
    else:
        assert child.stderr is not None
        assert any(stage in line for line in iter(child.stderr.readline, ""))
    os.killpg(child.pid, number)
    try:
        _, err = child.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        raise
    assert child.returncode == 130, err
    assert err.splitlines()[-1] == "tapehouse: interrupted"
    assert "Traceback" not in err
    place.assert_clean()
    assert not (place.directory / "tapehouse-demo.png").exists() or stage == "draw the session"


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--nodes", 2), 2, 'Invalid value "2" for --nodes'),
        (("--profile", "slow"), 2, 'Invalid value "slow" for --profile'),
        (("--plot", "nowhere/x.png"), 3, "there is no such directory"),
        (("--lobster", "missing.zip"), 3, "missing.zip: there is no such file"),
        (("--lobster", "a", "--dbn", "b"), 2, "--lobster and --dbn exclude each other"),
        (("--speed", "fast"), 2, "'fast' is no speed"),
        (("--paced-seconds", "-1"), 2, "--paced-seconds: -1 seconds"),
        (("--cells", 10), 2, "1000 to"),
        (("--strategy", "nothing"), 2, "there is no strategy 'nothing'"),
        (("--parameters", '{"size": 0}'), 2, "size"),
        (("--store", "backups"), 2, "'backups' is no store"),
    ],
)
def test_wrong_options_are_told_before_anything_starts(
    place: Place, options: tuple[object, ...], code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import contextlib
    import io

    from tapehouse.cli.main import run

    monkeypatch.chdir(place.directory)
    monkeypatch.setenv("TMPDIR", str(place.scratch))
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        assert run(["demo", *map(str, options)]) == code
    assert said in one_line(err.getvalue())
    place.assert_clean()
