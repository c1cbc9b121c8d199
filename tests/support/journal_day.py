"""A journal of a real tape, its producer and its sidecar in processes of their own, and the proof afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tapehouse.app.bootstrap import Platform, open_platform
from tapehouse.core import BusUnavailableError
from tapehouse.engine.journal import JournalView, create_journal
from tapehouse.log import Progress, open_frame, read_tail
from tapehouse.ring import Ring
from tests.conftest import PROJECT
from tests.support.journal_producer import generate

TIMEOUT_S = 90.0
WRITER = 4711
RING = "journal"


class JournalDay:
    """One tape, one journal, and the two processes at its ends."""

    def __init__(self, place: Path, urls: list[str], tape: str, *, cells: int = 1 << 16) -> None:
        self.place = place
        self.rings = place / "rings"
        self.urls = ",".join(urls)
        self.tape = tape
        self.cells = cells
        self.producer: subprocess.Popen[str] | None = None
        self.sidecar: subprocess.Popen[str] | None = None

    async def begin(self) -> None:
        """Make the tape and the journal."""
        async with self.platform() as platform:
            log = await platform.tape(self.tape, create=True)
            extent, tail = await log.extent(), await read_tail(log)
        create_journal(
            RING,
            cells=self.cells,
            log_id=extent.log_id,
            writer=WRITER,
            epoch=tail.header.epoch + 1 if tail.header else 1,
            base_ordinal=tail.next_ordinal,
            commands_through=0,
            directory=self.rings,
        ).close()

    def platform(self) -> Any:
        """A connection of the test's own."""
        return open_platform(self.urls, home=self.place / "home")

    def start_producer(self, rate: int = 20_000) -> None:
        """Start it, or start it again."""
        self.producer = self._start("tests.support.journal_producer", RING, self.rings, "--rate", rate)
        assert self.producer.stdout is not None
        assert self.producer.stdout.readline() == "ready\n"

    def start_sidecar(self, *options: object) -> None:
        """Start `tapehouse drain`, or start it again."""
        self.sidecar = self._start(
            "tapehouse.cli", "drain", RING, "--tape", self.tape, "--nats", self.urls, "--home", self.place / "home",
            "--rings", self.rings, "--json", *options,
        )  # fmt: skip

    def _start(self, module: str, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("NATS_")},
        )  # fmt: skip

    def kill(self, child: subprocess.Popen[str] | None) -> None:
        """kill -9, and wait for the end."""
        assert child is not None
        assert child.poll() is None, child.communicate()
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=TIMEOUT_S)

    def end_producer(self) -> None:
        """Have it close the ring."""
        assert self.producer is not None
        self.producer.send_signal(signal.SIGTERM)
        _, errors = self.producer.communicate(timeout=TIMEOUT_S)
        assert self.producer.returncode == 0, errors

    def end_sidecar(self, *, code: int = 0) -> dict[str, Any]:
        """Wait for its own end; what it told."""
        assert self.sidecar is not None
        out, errors = self.sidecar.communicate(timeout=TIMEOUT_S)
        assert self.sidecar.returncode == code, (out, errors)
        told: dict[str, Any] = json.loads(out) if out else {}
        return {**told, "said": errors.strip()}

    def close(self) -> None:
        """End what still runs."""
        for child in (self.producer, self.sidecar):
            if child is not None and child.poll() is None:
                child.kill()
                child.communicate(timeout=TIMEOUT_S)

    def status(self) -> dict[str, int]:
        """What the journal's header says now."""
        with Ring.observe(RING, directory=self.rings) as seen:
            view = JournalView(seen)
            return {
                "head": seen.head,
                "tail": seen.tail,
                "committed": view.committed,
                "spilled": view.spilled,
                "fenced": int(view.is_fenced),
            }

    async def until(self, what: str, above: int) -> dict[str, int]:
        """Wait until one of these numbers is above a bound."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            status = self.status()
            if status[what] > above:
                return status
            assert time.monotonic() < deadline, f"{what} is {status[what]}, not above {above}: {status}"
            for child in (self.producer, self.sidecar):
                if child is not None and child.returncode is None and child.poll() not in (None, 0, -9):
                    raise AssertionError(child.communicate())
            await asyncio.sleep(0.02)

    async def check(self, *, base_ordinal: int = 0) -> int:
        """Every cell that was published is on the tape, once and in order; returns how many."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                async with self.platform() as platform:
                    found = await check_tape(platform, self.tape, base_ordinal=base_ordinal)
                break
            except BusUnavailableError:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.5)
        assert found == self.status()["head"], "cells that were published are not on the tape"
        return found


async def check_tape(platform: Platform, tape: str, *, base_ordinal: int = 0) -> int:
    """Hold every cell of a tape against the generator; how many there are."""
    log = await platform.tape(tape)
    extent = await log.extent()
    progress = Progress(log_id=extent.log_id, sequence=extent.first - 1, next_ordinal=0)
    cells_seen = 0
    async for message in log.read(extent.first):
        header, cells = open_frame(log.name, message, extent, progress)
        if header.first_ordinal >= base_ordinal:
            expected = generate(header.first_ordinal - base_ordinal, len(cells))
            assert cells.tobytes() == expected.tobytes(), f"cells of ordinal {header.first_ordinal} on are wrong"
            assert header.writer == WRITER
            cells_seen += len(cells)
        progress = Progress(log_id=extent.log_id, sequence=message.sequence, next_ordinal=header.next_ordinal)
    return cells_seen
