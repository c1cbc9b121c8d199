"""A desk in `ahead` mode on real brokers: feed, host and sidecar in processes of their own, and the proof afterwards.

What a feed published is known from its ring's head, and each cell of it from its place in a generated day. So after any
faults the tape can be held against what was published, EVENTS against a fresh fold of the tape, and the answers against
the commands.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tapehouse.app.bootstrap import Platform, open_platform
from tapehouse.core import AmbiguousAppendError, BusUnavailableError
from tapehouse.engine import Engine
from tapehouse.engine.journal import JournalView
from tapehouse.feeds import GeneratedDay
from tapehouse.log import Log, Progress, open_frame
from tapehouse.market import Cells, Kind, empty_cells, read_definition, records_of, unpack_payload
from tapehouse.ring import Policy, Ring, list_rings
from tapehouse.strategies import maker
from tests.conftest import PROJECT
from tests.support.bench import command_bytes, fold
from tests.support.cli import Shell, alive, environment
from tests.support.day_feed import day_cells, definitions

TIMEOUT_S = 90.0
FEED = "east"
FEED_SOURCE = 16
SEED = 7
DAY_CELLS = 1_500_000
INTERVAL_MS = 20
PARAMETERS = json.dumps({"interval_ms": INTERVAL_MS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a tape and its desk were found to hold, with nothing wrong."""

    feed_cells: int
    tape_cells: int
    decided_cells: int
    commands: int
    epochs: int


class AheadDay:
    """One tape with one feed; hosts may come and go."""

    def __init__(self, place: Path, rings: Path, urls: list[str], tape: str, *, rate: int = 5_000) -> None:
        self.place, self.rings, self.tape = place, rings, tape
        self.urls = ",".join(urls)
        self.shell = Shell(place / "home", TAPEHOUSE_SHM=str(rings))
        self.rate = rate
        self.host: subprocess.Popen[str] | None = None
        self.feed: subprocess.Popen[str] | None = None
        self._told = len(definitions(GeneratedDay(seed=SEED, cells=DAY_CELLS)))
        self._published = 0  # by lives of the feed that have ended
        self._head = 0  # of the feed's ring when the present life began
        self._number = 0  # of the last command
        self._hosts: list[subprocess.Popen[str]] = []

    # Processes.

    def begin(self, *, cells: int = 1 << 16) -> None:
        """Make the feed's ring."""
        Ring.create(FEED, cells=cells, policy=Policy.BLOCK, directory=self.rings)

    def start_feed(self) -> None:
        """Start it, or start it again where the life before ended."""
        with Ring.observe(FEED, directory=self.rings) as ring:
            self._head = ring.head
        self.feed = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.support.day_feed", FEED, "--seed", str(SEED)),
                *("--cells", str(DAY_CELLS), "--rate", str(self.rate), "--skip", str(self._published)),
            ],
            cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment(TAPEHOUSE_SHM=str(self.rings)),
        )  # fmt: skip
        assert self.feed.stdout is not None
        assert self.feed.stdout.readline() == "ready\n", self.feed.communicate()

    def end_feed(self, number: int = signal.SIGTERM) -> None:
        """Stop or kill it; what it has published counts."""
        assert self.feed is not None
        self.feed.send_signal(number)
        _, errors = self.feed.communicate(timeout=TIMEOUT_S)
        assert self.feed.returncode == (0 if number == signal.SIGTERM else -number), errors
        self.feed = None
        with Ring.observe(FEED, directory=self.rings) as ring:
            self._published += max(0, ring.head - self._head - self._told)
            self._head = ring.head

    @property
    def published(self) -> int:
        """Cells of the day that the feed has published, in all its lives."""
        if self.feed is None:
            return self._published
        with Ring.observe(FEED, directory=self.rings) as ring:
            return self._published + max(0, ring.head - self._head - self._told)

    def start_host(
        self, *options: object, shell: Shell | None = None, mode: str = "ahead", feed: bool = True, wait: bool = True
    ) -> subprocess.Popen[str]:
        """Start `tapehouse host`; returns when it is ready."""
        extra = ("--mode", mode, *(("--feed", FEED) if feed and mode == "ahead" else ()))
        self.host = (shell or self.shell).start(
            "host", "--tape", self.tape, "--nats", self.urls, "--parameters", PARAMETERS, *extra, *options
        )
        self._hosts.append(self.host)
        if wait:
            self.await_ready(self.host)
        return self.host

    @staticmethod
    def await_ready(host: subprocess.Popen[str]) -> None:
        """Return when a host says that it serves."""
        assert host.stdout is not None
        line = host.stdout.readline()
        assert line == "ready\n", (line, host.communicate(timeout=TIMEOUT_S))

    def kill_host(self) -> None:
        """kill -9 of the process that sequences and decides."""
        assert self.host is not None
        assert self.host.poll() is None, self.host.communicate()
        self.host.send_signal(signal.SIGKILL)
        self.host.communicate(timeout=TIMEOUT_S)

    def stop_host(self, number: int = signal.SIGTERM, *, code: int = 0) -> str:
        """End it in order; what it said on standard error."""
        assert self.host is not None
        self.host.send_signal(number)
        return self.ended(self.host, code)

    @staticmethod
    def ended(host: subprocess.Popen[str], code: int) -> str:
        """Wait for a host's own end; what it said on standard error."""
        out, errors = host.communicate(timeout=TIMEOUT_S)
        assert host.returncode == code, (host.returncode, out, errors)
        assert "Traceback" not in errors, errors
        return errors.strip()

    @property
    def journal(self) -> str:
        """The name of the desk's journal."""
        [name] = [name for name in list_rings(self.rings) if name.endswith("-journal")]
        return name

    def sidecar_pid(self) -> int:
        """The process that drains the journal; 0 where there is none just now."""
        journals = [name for name in list_rings(self.rings) if name.endswith("-journal")]
        if not journals:
            return 0
        with Ring.observe(journals[0], directory=self.rings) as ring:
            return ring.consumer_pid if ring.consumer_alive else 0

    async def until(self, condition: Any, message: str, *, timeout_s: float = TIMEOUT_S) -> None:
        """Wait for a condition while the host lives."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, message
            if self.host is not None and self.host.poll() not in (None, 0, -signal.SIGKILL):
                raise AssertionError((message, self.host.communicate(timeout=TIMEOUT_S)))
            await asyncio.sleep(0.02)

    async def taken(self) -> None:
        """Wait until the host has taken all that the feed has published."""
        with Ring.observe(FEED, directory=self.rings) as ring:
            await self.until(lambda: ring.lag == 0, "the feed's ring is not emptied")

    async def answered(self, platform: Platform) -> None:
        """Wait until every message of CMDS is on the tape: a host that ends leaves the rest to the next one."""
        last = (await (await platform.commands(self.tape)).extent()).last
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            taped = await contiguous_cells(await platform.tape(self.tape))
            taken = max((int(made["sequence"][0]) for _, made in records_of(taped, Kind.COMMAND)), default=0)
            if taken >= last:
                return
            assert time.monotonic() < deadline, f"the host took commands through {taken} of {last}"
            await asyncio.sleep(0.1)

    def close(self) -> None:
        """End what still runs, and see that nothing is left behind."""
        for child in (*self._hosts, self.feed):
            if child is not None and child.poll() is None:
                child.kill()
                child.communicate(timeout=TIMEOUT_S)
        for pid in self.sidecars():
            os.kill(pid, signal.SIGKILL)

    def sidecars(self) -> list[int]:
        """Every `tapehouse drain` of this day that is alive."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            ours = b"drain" in command and self.tape.encode() in command and str(self.shell.home).encode() in command
            if ours and alive(int(entry.name)):
                found.append(int(entry.name))
        return found

    def feed_lag(self) -> int:
        """Cells that wait in the feed's ring."""
        with Ring.observe(FEED, directory=self.rings) as ring:
            return ring.lag

    def head(self) -> int:
        """Cells that the journal has taken."""
        with Ring.observe(self.journal, directory=self.rings) as ring:
            return ring.head

    def committed(self) -> int:
        """Cells of the journal that TAPE has acknowledged."""
        with Ring.observe(self.journal, directory=self.rings) as ring:
            return JournalView(ring).committed

    # Commands.

    def platform(self) -> Any:
        """A connection of the test's own."""
        return open_platform(self.urls, home=self.shell.home)

    async def send(self, commands: Log) -> None:
        """Put one command into CMDS; one that may or may not be there is sent again under the same number."""
        self._number += 1
        order = {"instrument": "ALFA", "side": "buy", "price": "1.00", "size": "1", "account": "alice"}
        payload = command_bytes(self._number, "order.submit", order)
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                await commands.append(payload, expected_last=None, subject=f"cmd.v1.{self.tape}.order.submit")
                return
            except (BusUnavailableError, AmbiguousAppendError):
                assert time.monotonic() < deadline, "CMDS takes nothing"
                await asyncio.sleep(0.2)

    # The proof.

    async def check(self, *, kept: Cells | None = None) -> Checked:
        """Hold everything against what it must be; raises AssertionError, which names what is lost or doubled.

        Args:
            kept: Cells of the feed that a fenced-off journal held, as they would have been on the tape: one run of
                them is missing there.
        """
        async with self.platform() as platform:
            return await check_logs(platform, self.tape, day_cells(SEED, DAY_CELLS)[: self.published], kept=kept)


async def check_logs(platform: Platform, tape: str, expected: Cells, *, kept: Cells | None = None) -> Checked:
    """TAPE's cells of the feed are the expected ones, EVENTS is the fold of TAPE, each command has its one outcome."""
    taped = await contiguous_cells(await platform.tape(tape))
    if kept is not None:
        there = taped[(taped["source"] == FEED_SOURCE) & (taped["kind"] != Kind.GAP)]
        at = next(n for n in range(len(expected)) if n == len(there) or there["sequence"][n] != expected["sequence"][n])
        taped_run = as_expected(expected[at : at + len(kept)], taped)
        assert kept.tobytes() == taped_run.tobytes(), "what is in the files is not what the tape lacks"
        expected = np.concatenate([expected[:at], expected[at + len(kept) :]])
    check_feed(taped, expected)
    decided = await contiguous_cells(await platform.events(tape))
    folded = fold(Engine(maker(interval_ms=INTERVAL_MS)), taped, [])
    common = min(len(decided), len(folded))
    differ = np.flatnonzero(decided[:common] != folded[:common])
    assert not len(differ), f"EVENTS differs from the fold of TAPE from cell {differ[0]} on"
    assert len(decided) == len(folded), f"EVENTS has {len(decided)} cells, the fold of TAPE {len(folded)}"
    commands = await check_outcomes(await platform.commands(tape), taped, decided)
    return Checked(
        feed_cells=len(expected),
        tape_cells=len(taped),
        decided_cells=len(decided),
        commands=commands,
        epochs=len(list(records_of(taped, Kind.EPOCH))),
    )


async def contiguous_cells(log: Log) -> Cells:
    """All cells of a log of frames; raises where an ordinal or a sequence is missing or comes twice."""
    extent = await log.extent()
    progress = Progress(log_id=extent.log_id, sequence=extent.first - 1, next_ordinal=0)
    parts = [empty_cells(0)]
    async for message in log.read(extent.first):
        header, cells = open_frame(log.name, message, extent, progress)
        progress = Progress(log_id=extent.log_id, sequence=message.sequence, next_ordinal=header.next_ordinal)
        parts.append(cells)
    return np.concatenate(parts)


def tape_ids(taped: Cells) -> npt.NDArray[np.uint32]:
    """The tape's id of each of the feed's ids, 0 where it has none."""
    ids = {(i.venue, i.symbol): i.id for i in (read_definition(made) for _, made in records_of(taped, Kind.DEFINITION))}
    day = GeneratedDay(seed=SEED, cells=DAY_CELLS)
    table = np.zeros(max(item.id for item in day.instruments) + 1, np.uint32)
    for item in day.instruments:
        table[item.id] = ids.get((item.venue, item.symbol), 0)
    return table


def as_expected(cells: Cells, taped: Cells) -> Cells:
    """Cells of the day as the tape has them."""
    wanted = cells.copy()
    wanted["instrument"], wanted["source"] = tape_ids(taped)[wanted["instrument"]], FEED_SOURCE
    return wanted


def check_feed(taped: Cells, expected: Cells) -> None:
    """Each expected cell is on the tape once, in order, under the tape's id of its instrument."""
    wanted = as_expected(expected, taped)
    found = taped[(taped["source"] == FEED_SOURCE) & (taped["kind"] != Kind.GAP)]
    if len(found) == len(wanted) and (found == wanted).all():
        return
    there, due = (Counter(row.tobytes() for row in cells) for cells in (found, wanted))
    lost, doubled = (due - there).total(), (there - due).total()
    if lost or doubled:
        raise AssertionError(f"of {len(wanted)} cells {lost} are lost and {doubled} are doubled")
    raise AssertionError(f"the cells of the feed are in another order, {len(wanted)} of them")


async def check_outcomes(commands: Log, taped: Cells, decided: Cells) -> int:
    """Each message of CMDS is on the tape once and was answered once; returns how many."""
    extent = await commands.extent()
    sequences = [int(made["sequence"][0]) for _, made in records_of(taped, Kind.COMMAND)]
    due = list(range(extent.first, extent.last + 1))
    assert sequences == due, f"commands are lost, doubled or out of order: {sequences} on the tape, {due} in CMDS"
    ordinals = [start for start, _ in records_of(taped, Kind.COMMAND)]
    events = [json.loads(unpack_payload(made)) for _, made in records_of(decided, Kind.EVENT)]
    answered = [event["body"]["position"] for event in events if event["type"] == "command.outcome"]
    assert answered == ordinals, f"{len(ordinals)} commands have {len(answered)} outcomes"
    return len(sequences)
