"""A sidecar's whole world in one process: a real ring, a tape in memory that misbehaves as told, and kills.

`Steps` counts every call by which a sidecar changes anything, before and after it, and can end the life at any of them:
the exception stands for kill -9, since nothing runs after it but the closing of descriptors. The producer appends in
between, whenever the sidecar naps or talks to the tape.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from tapehouse.core import AmbiguousAppendError, BusUnavailableError, ConflictError, VirtualClock
from tapehouse.engine.drain_lag import DrainReport
from tapehouse.engine.frame_files import FrameFiles, SyncPolicy
from tapehouse.engine.journal import Journal, create_journal
from tapehouse.engine.sidecar import Sidecar
from tapehouse.engine.spill import Spill, spill_directory
from tapehouse.log import Codec, Extent, FrameHeader, MemoryLog, Message, decode_frame
from tapehouse.market import Cells, Kind, empty_cells, extend, pack_payload, record_starts
from tapehouse.ring import Ring, RingConsumer, RingFullError, RingProducer
from tests.support.cells import LOG_ID, market_cells, wild_cells

FAULTS = ("fine", "lost", "unheard", "late", "refused", "blind", "away")
AWAY_CALLS = 25  # calls in a row that an absent broker refuses: longer than an outage is waited for
RING_CELLS = 512
WRITER, EPOCH = 77, 3
NEVER = 1 << 30


class KilledError(Exception):
    """kill -9."""


class Steps:
    """Counts, and kills at one of them."""

    def __init__(self, last: int = NEVER) -> None:
        self.taken = 0
        self.last = last

    def step(self) -> None:
        self.taken += 1
        if self.taken == self.last:
            raise KilledError(f"at step {self.taken}")

    def around(self, owner: Any, *names: str) -> None:
        """Make each call of these methods a step on both sides."""
        for name in names:
            setattr(owner, name, self._stepped(getattr(owner, name)))

    def _stepped(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self.step()
            answer = method(*arguments, **named)
            self.step()
            return answer

        return call


class StormyLog(MemoryLog):
    """A log in memory whose appends go wrong as scheduled, one entry for each.

    `lost` and `unheard` give no acknowledgement, without and with the message stored; `late` gives none either, and the
    message arrives just before a later call, which may be of the sidecar's next life; `refused` stores nothing and
    says so; `blind` is `unheard`, and the next look fails too; `away` is a broker that answers nothing for a while.
    """

    def __init__(self, faults: Iterable[str] = (), *, first: int = 1) -> None:
        super().__init__("TAPE_world", log_id=LOG_ID, first=first)
        self.faults = list(faults)
        self.steps = Steps()
        self.on_call: Callable[[], None] = lambda: None
        self._late: tuple[bytes, int | None] | None = None
        self._blind = 0

    async def append(
        self,
        payload: bytes,
        *,
        expected_last: int | None,
        subject: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> int:
        self._called()
        await self.arrive()
        fault = self.faults.pop(0) if self.faults else "fine"
        if fault == "away":
            self._blind = AWAY_CALLS
        if fault in ("away", "refused"):
            raise BusUnavailableError("no broker answers")
        if fault == "late":
            self._late = payload, expected_last
            raise AmbiguousAppendError("no acknowledgement came")
        if fault != "fine":
            self.fail_next_append(stored=fault != "lost")
            self._blind = int(fault == "blind")
        try:
            self.steps.step()
        except KilledError:
            self._late = payload, expected_last  # It was sent: it arrives in the next life.
            raise
        sequence = await super().append(payload, expected_last=expected_last, subject=subject, headers=headers)
        self.steps.step()
        return sequence

    async def arrive(self) -> None:
        """Let a message that is under way arrive, if its fence still holds."""
        late, self._late = self._late, None
        if late is not None:
            with suppress(ConflictError, AmbiguousAppendError):
                await super().append(late[0], expected_last=late[1])

    async def last(self) -> Message | None:
        self._called()
        return await super().last()

    async def extent(self) -> Extent:
        self._called()
        return await super().extent()

    def _called(self) -> None:
        self.on_call()
        self.steps.step()
        if self._blind:
            self._blind -= 1
            raise BusUnavailableError("no broker answers")


class PumpingClock(VirtualClock):
    """While somebody sleeps, the producer works."""

    def __init__(self, pump: Callable[[], None]) -> None:
        super().__init__()
        self._pump = pump

    async def sleep_until(self, monotonic_ns: int) -> None:
        self._pump()
        await super().sleep_until(monotonic_ns)


def journal_batch(seed: int, first_command: int) -> tuple[Cells, int]:
    """A few whole records, some of them commands; and the last command's sequence."""
    rng = random.Random(seed)
    parts = []
    for number in range(rng.randint(1, 4)):
        kind = rng.randrange(4)
        if kind == 0:
            first_command += 1
            payload = bytes([rng.randrange(32, 127)]) * rng.randint(0, 200)
            parts.append(pack_payload(Kind.COMMAND, payload, ts_event=seed, ts_recv=seed, sequence=first_command))
        elif kind == 1:
            cells = wild_cells(seed + number, rng.randint(1, 9))
            cells["kind"] = Kind.RAW  # Of a command's kind the sequence would mean something.
            parts.append(cells)
        elif kind == 2:
            cells = market_cells(seed, 3)
            cells["cells"][0] = 3
            extend(cells)
            parts.append(cells)
        else:
            parts.append(market_cells(seed, rng.randint(1, 40)))
    return np.concatenate(parts), first_command


class World:
    """A journal, its producer, its tape, and one sidecar after another."""

    def __init__(
        self,
        directory: Path,
        *,
        faults: Iterable[str] = (),
        batches: int = 12,
        seed: int = 0,
        frame_cells: int = 48,
        with_files: bool = False,
        spill_bytes_max: int = 1 << 30,
        sidecar: type[Sidecar] = Sidecar,
    ) -> None:
        self.directory = directory
        self.log = StormyLog(faults)
        self.rng = random.Random(seed)
        self.appended: list[Cells] = []
        self.base_ordinal = 0
        self.frame_cells = frame_cells
        self.with_files = with_files
        self.spill_bytes_max = spill_bytes_max
        self.sidecar_class = sidecar
        self.clock = PumpingClock(self.pump)
        self.log.on_call = self.pump
        self._batches = []
        command = 10
        for number in range(batches):
            cells, command = journal_batch(seed * 1000 + number, command)
            self._batches.append(cells)
        self.producer: RingProducer = create_journal(
            "world",
            cells=RING_CELLS,
            log_id=LOG_ID,
            writer=WRITER,
            epoch=EPOCH,
            base_ordinal=0,
            commands_through=10,
            directory=directory / "rings",
        )
        self.close_at_end = True
        self.consumer: RingConsumer | None = None
        self.spill: Spill | None = None
        self.files: FrameFiles | None = None
        self.sidecar: Sidecar | None = None

    def pump(self) -> None:
        """The producer appends a batch or two, where the ring has room."""
        for _ in range(self.rng.randint(0, 2)):
            if not self._batches:
                if self.close_at_end:
                    self.producer.close()
                return
            if self.producer.room < len(self._batches[0]):
                return
            cells = self._batches.pop(0)
            with suppress(RingFullError):
                self.producer.append(cells, timeout_ns=0)
                self.appended.append(cells)

    async def live(self, *, kill_at: int = NEVER) -> DrainReport | None:
        """One life of the sidecar; None where it was killed. Its steps are in `self.log.steps`."""
        steps = self.log.steps = Steps(kill_at)
        try:
            report = await self._open(steps).run()
            if self.spill is not None:
                self.spill.close()
                self.spill = None
            assert (report.left_cells == 0) == (report.ended != "stopped"), report
            return report
        except KilledError:
            return None
        finally:
            self._let_go()

    def _open(self, steps: Steps) -> Sidecar:
        self.consumer = Ring.consume("world", directory=self.directory / "rings")
        identity = Journal(self.consumer).identity()
        place = spill_directory(self.directory / "spill", "TAPE_world", identity)
        self.spill = Spill(
            place,
            identity,
            name="TAPE_world",
            clock=self.clock,
            bytes_max=self.spill_bytes_max,
            sync=SyncPolicy.NONE,  # Kills of a process are tried here, not of a machine.
        )
        steps.around(self.consumer, "release", "set_word")
        steps.around(self.spill, "append", "pop")
        if self.with_files:
            self.files = FrameFiles(
                self.directory / "copy", name="TAPE_world", log_id=LOG_ID, clock=self.clock, sync=SyncPolicy.NONE
            )
            steps.around(self.files, "write")
        self.sidecar = self.sidecar_class(
            self.consumer,
            clock=self.clock,
            log=self.log,
            spill=self.spill,
            files=self.files,
            codec=Codec.PLAIN,
            frame_cells=self.frame_cells,
        )
        return self.sidecar

    def _let_go(self) -> None:
        """What the operating system does for a process that is gone."""
        if self.spill is not None:
            self.spill._files.close()
        if self.files is not None:
            self.files.close()
        if self.consumer is not None:
            self.consumer.close()
        self.spill = self.files = self.consumer = None

    async def finish(self, *, lives_max: int = 3) -> DrainReport:
        """Live until the end."""
        for _ in range(lives_max):
            report = await self.live()
            if report is not None:
                return report
        raise AssertionError("no life came to its end")

    async def tape(self) -> list[tuple[FrameHeader, Cells]]:
        self.log.steps = Steps()
        self.log.on_call = lambda: None
        self.log._blind = 0
        await self.log.arrive()
        return [decode_frame(message.payload) async for message in self.log.read(1)]

    async def check(self) -> None:
        """Everything appended is on the tape once, in order, and the frames say the truth of themselves."""
        check_frames(await self.tape(), self.appended, base_ordinal=self.base_ordinal, commands=10)


def check_frames(
    frames: list[tuple[FrameHeader, Cells]], appended: list[Cells], *, base_ordinal: int, commands: int
) -> None:
    """Every appended cell is there once and in order, in whole records, under contiguous ordinals."""
    ordinal = base_ordinal
    found = []
    for header, cells in frames:
        assert header.first_ordinal == ordinal, f"ordinal {header.first_ordinal} where {ordinal} was due"
        assert record_starts(cells)[0] == 0
        is_command = (cells["kind"] == Kind.COMMAND) & (cells["cells"] > 0)
        commands = max(commands, int(cells["sequence"][is_command].max(initial=0)))
        assert header.input_ordinal == commands, f"commands through {header.input_ordinal}, not {commands}"
        assert not header.is_partial
        found.append(cells)
        ordinal = header.next_ordinal
    there = np.concatenate([*found, empty_cells(0)]).tobytes()
    assert there == np.concatenate([*appended, empty_cells(0)]).tobytes(), "cells were lost, doubled or changed"
