"""A projector that is killed with SIGKILL at a chosen step, in a child process, again and again.

Steps are counted where a crash could hurt: after every message read, and around every system call of a snapshot's write
(before, halfway through and after the write; before and after the syncs and the rename). So a kill point is a number,
and a run is the seed's and no clock's. Children are forked from one process that has everything imported and compiled.

Run as a program, it reads one JSON object a line, {"directory", "last", "control"}, and answers each with one.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NoReturn

from tapehouse.app import projector as projector_module
from tapehouse.app.projector import Projector
from tapehouse.app.snapshots import FileSnapshots
from tapehouse.core.errors import IntegrityError
from tapehouse.log import Host, Message, Progress, Snapshot, read_header
from tapehouse.log.host import _HEAD
from tests.support.desk_day import shared_day

RECORDS = 1200
SNAPSHOT_CELLS = 250
NEVER = 1 << 30


class Steps:
    """Counts steps and dies at one of them."""

    def __init__(self, last: int) -> None:
        self.taken = 0
        self._last = last

    def step(self) -> None:
        """One step more."""
        self.taken += 1
        if self.taken == self._last:
            os.kill(os.getpid(), signal.SIGKILL)


class SteppedLog:
    """A log whose every message is a step."""

    def __init__(self, log: Any, steps: Steps) -> None:
        self._log = log
        self._steps = steps
        self.name = log.name

    async def extent(self) -> Any:
        return await self._log.extent()

    async def read(self, first: int, *, through: int | None = None, follow: bool = False) -> AsyncIterator[Message]:
        async for message in self._log.read(first, through=through, follow=follow):
            yield message
            self._steps.step()


def step_through_writes(steps: Steps) -> None:
    """Make every system call of a snapshot's write a step on both sides, and a write one in its middle."""
    write, fsync, replace = os.write, os.fsync, os.replace

    def stepped_write(descriptor: int, data: Any) -> int:
        steps.step()
        half = write(descriptor, data[: len(data) // 2])
        steps.step()
        return half + write(descriptor, data[half:])

    def stepped_fsync(descriptor: int) -> None:
        steps.step()
        fsync(descriptor)

    def stepped_replace(source: Any, target: Any) -> None:
        steps.step()
        replace(source, target)
        steps.step()

    os.write, os.fsync, os.replace = stepped_write, stepped_fsync, stepped_replace  # type: ignore[assignment]


class EarlyHost(Host):
    """A negative control: it writes down a frame as folded before it has folded it."""

    def fold(self, message: Message) -> Any:
        before, header = self.progress, read_header(message.payload)
        self._snapshot_cells = NEVER
        if (header.first_ordinal // SNAPSHOT_CELLS) != (header.next_ordinal // SNAPSHOT_CELLS):
            self.progress = Progress(log_id=header.log_id, sequence=message.sequence, next_ordinal=header.next_ordinal)
            self.save()
            self.progress = before
        return super().fold(message)


class InPlaceSnapshots(FileSnapshots):
    """Writes over the old snapshot, its header first: torn where the process dies in between."""

    def save(self, name: str, data: bytes) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path(name), os.O_RDWR | os.O_CREAT)
        try:
            os.write(descriptor, data)
            os.ftruncate(descriptor, len(data))
        finally:
            os.close(descriptor)


class TrustingSnapshot(Snapshot):
    """A negative control: a snapshot that is believed without its digest."""

    @classmethod
    def decode(cls, data: bytes) -> Snapshot:
        if len(data) < _HEAD.size:
            raise IntegrityError("no header")
        _, _, version, log_id, sequence, next_ordinal, _ = _HEAD.unpack_from(data)
        progress = Progress(log_id=log_id, sequence=sequence, next_ordinal=next_ordinal)
        return Snapshot(progress=progress, machine_version=version, state=data[_HEAD.size :])


def run_child(directory: Path, last: int, control: str, answer: int) -> NoReturn:
    """Open a projector on the directory's snapshots, fold to the end, and write what came of it."""
    write = os.write
    steps = Steps(last)
    day = shared_day(records=RECORDS)
    snapshots = FileSnapshots(directory)
    if control == "early":
        projector_module.Host = EarlyHost  # type: ignore[misc]
    if control in ("torn", "torn and believed"):
        snapshots = InPlaceSnapshots(directory)
    if control == "torn and believed":
        from tapehouse.log import host

        host.Snapshot = TrustingSnapshot  # type: ignore[misc]
    step_through_writes(steps)

    async def work() -> dict[str, Any]:
        tape, events = SteppedLog(day.tape, steps), SteppedLog(day.events, steps)
        projector = Projector(tape, events, snapshots, snapshot_cells=SNAPSHOT_CELLS)  # type: ignore[arg-type]
        await projector.open()
        begun = projector.position()
        await projector.run()
        return {"digests": projector.digests(), "begun": begun, "ignored": projector.ignored_snapshots}

    told = asyncio.run(work())
    write(answer, json.dumps({**told, "steps": steps.taken}).encode())
    os._exit(0)


def run_forked(directory: Path, last: int, control: str) -> dict[str, Any]:
    """One life of a projector: what it answered, or that it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            run_child(directory, last, control, writing)
        except BaseException as error:
            os.write(writing, json.dumps({"error": repr(error)}).encode())
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return {"killed": os.WTERMSIG(status)}
    answer: dict[str, Any] = json.loads(told)
    return answer


def main() -> None:
    """Serve lives until standard input ends."""
    day = shared_day(records=RECORDS)
    warm = Projector(day.tape, day.events, None)
    asyncio.run(_fold(warm))
    for line in sys.stdin:
        asked = json.loads(line)
        answer = run_forked(Path(asked["directory"]), asked["last"], asked["control"])
        print(json.dumps(answer), flush=True)


async def _fold(projector: Projector) -> None:
    await projector.open()
    await projector.run()
    projector.digests()


if __name__ == "__main__":
    main()
