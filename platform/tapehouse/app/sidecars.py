"""Who drains a desk's journal: a sidecar process that outlives the desk, or one inside this process.

A desk of a cluster has a process of its own: if the desk is killed the sidecar brings the rest of the journal to TAPE
and ends by itself. Where the logs are in memory the sidecar is a task beside the desk.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from tapehouse.bus.process import ProcessIdentity, identify, send_signal, wait_ended
from tapehouse.bus.state import write_atomically
from tapehouse.core.clock import Clock
from tapehouse.core.errors import BusUnavailableError, ConflictError, MissingError
from tapehouse.engine.journal import Journal, JournalView
from tapehouse.engine.sidecar import Sidecar
from tapehouse.engine.spill import Spill
from tapehouse.log import Log
from tapehouse.ring import Ring

RESTARTS_MAX = 20  # of a sidecar that ends while its desk lives, within
RESTARTS_SPAN_S = 60.0
STOP_TIMEOUT_S = 30.0
END_PATIENCE_S = 5.0
FENCED_EXIT = 1


class SidecarRunner(Protocol):
    """Keeps one sidecar going."""

    async def start(self, journal: str) -> None:
        """Have a journal drained, from now on until its producer closes it."""
        ...

    async def failed(self) -> None:
        """Return when the sidecar has come to its end in order; raise what ended it otherwise."""
        ...

    async def stop(self) -> None:
        """Wait for its end, now that the journal is closed; raise what it met."""
        ...


class SidecarProcess:
    """`tapehouse drain` in a session of its own; one that is killed is started again."""

    def __init__(
        self, tape: str, *, nats: str | None, home: Path, rings: Path | None = None, cpus: str | None = None
    ) -> None:
        self._command = [sys.executable, "-m", "tapehouse.cli", "drain"]
        self._options = ["--tape", tape, "--home", str(home)]
        if nats is not None:
            self._options += ["--nats", nats]
        if cpus is not None:
            self._options += ["--cpus", cpus]
        self._rings = rings
        self._log = home / "drains" / f"{tape}.log"
        self._process: asyncio.subprocess.Process | None = None
        self._waiting: asyncio.subprocess.Process | None = None
        self._journal = ""
        self._ends: deque[float] = deque(maxlen=RESTARTS_MAX + 1)

    async def prepare(self) -> None:
        """Start a process that waits for its journal, which `start` tells it; it ends if this one does."""
        self._waiting = await self._spawn("--ready", asyncio.subprocess.PIPE)

    async def dismiss(self) -> None:
        """End the process that waits, where it was not needed."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None and waiting.stdin is not None:
            waiting.stdin.close()
            await waiting.wait()

    async def start(self, journal: str) -> None:
        """Give the journal to the process that waits for one, or start one; its words go to the log file."""
        self._journal = journal
        waiting, self._waiting = self._waiting, None
        if waiting is not None and waiting.stdin is not None and waiting.returncode is None:
            waiting.stdin.write(f"{journal}\n".encode())
            waiting.stdin.close()  # One that has ended meanwhile is started again, as at any time.
            self._process = waiting
        else:
            self._process = await self._spawn(journal, asyncio.subprocess.DEVNULL)
        with suppress(MissingError):  # It has ended at once; `failed` tells why.
            write_atomically(self._log.with_suffix(".json"), asdict(identify(self._process.pid)))

    async def _spawn(self, which: str, stdin: int) -> asyncio.subprocess.Process:
        command = [*self._command, which, *self._options]
        if self._rings is not None:
            command += ["--rings", str(self._rings)]
        with self._open_log() as output:
            return await asyncio.create_subprocess_exec(
                *command, stdin=stdin, stdout=output, stderr=output, start_new_session=True
            )

    def _open_log(self) -> BinaryIO:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        return open(self._log, "ab")

    async def failed(self) -> None:
        """Start it again where somebody ended it, RESTARTS_MAX times within RESTARTS_SPAN_S.

        Raises:
            ConflictError: Another writer took the tape over.
            MissingError: It ended with an error, or too often; its last words are in the message.
        """
        while True:
            assert self._process is not None
            code = await self._process.wait()
            if code == 0 and self._is_over():
                return
            if code == FENCED_EXIT:
                raise ConflictError("the sidecar is fenced off", subject=self._journal, hint=self._said())
            self._ends.append(time.monotonic())
            often = len(self._ends) > RESTARTS_MAX and self._ends[-1] - self._ends[0] < RESTARTS_SPAN_S
            if code > 0 or often:
                raise MissingError(f"the sidecar ended with {code}", subject=str(self._log), hint=self._said())
            await self.start(self._journal)

    def _is_over(self) -> bool:
        """Whether all of the journal is on TAPE and nothing more will come; else somebody told it to stop."""
        try:
            ring = Ring.observe(self._journal, directory=self._rings)
        except MissingError:
            return True
        with ring:
            ends = ring.closed_by_producer or not ring.producer_alive
            return ends and JournalView(ring).committed == ring.head

    async def stop(self) -> None:
        """Wait for the process; raises as `failed`.

        Raises:
            BusUnavailableError: It did not end within STOP_TIMEOUT_S.
        """
        await _ended(self.failed(), self._journal)

    def _said(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1].removeprefix("tapehouse: ") if lines else "it said nothing"


def stop_sidecars(home: Path) -> list[str]:
    """End the sidecar processes of a home directory, whose hosts have ended; the tapes of those that had to be told.

    Each gets END_PATIENCE_S to finish by itself. What is left then stays in its journal and its spill, for the tape's
    next host.
    """
    told = []
    for path in sorted((home / "drains").glob("*.json")):
        try:
            process = ProcessIdentity(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            continue  # Cut short: no process is known.
        if wait_ended([process], END_PATIENCE_S):
            told.append(path.stem)
            send_signal(process, signal.SIGTERM)
            if wait_ended([process], END_PATIENCE_S):
                send_signal(process, signal.SIGKILL)
                wait_ended([process], END_PATIENCE_S)
        path.unlink(missing_ok=True)
    return told


class SidecarTask:
    """A sidecar inside this process, for logs in memory."""

    def __init__(self, tape: Log, *, clock: Clock, spill: Path, rings: Path | None = None) -> None:
        self._tape = tape
        self._clock = clock
        self._spill = spill
        self._rings = rings
        self._task: asyncio.Task[None] | None = None

    async def start(self, journal: str) -> None:
        """Begin to drain."""
        self._task = asyncio.create_task(self._run(journal))

    async def _run(self, journal: str) -> None:
        with Ring.consume(journal, directory=self._rings) as consumer:
            identity = Journal(consumer).identity()
            spill = Spill(self._spill, identity, name=self._tape.name, clock=self._clock)
            try:
                await Sidecar(consumer, clock=self._clock, log=self._tape, spill=spill).run()
            finally:
                spill.close()

    async def failed(self) -> None:
        """Return when it has come to its end in order."""
        assert self._task is not None
        await asyncio.shield(self._task)

    async def stop(self) -> None:
        """Wait for its end."""
        await _ended(self.failed(), self._tape.name)


async def _ended(end: Coroutine[Any, Any, None], journal: str) -> None:
    try:
        await asyncio.wait_for(end, STOP_TIMEOUT_S)
    except TimeoutError as error:
        raise BusUnavailableError(
            f"the sidecar did not end within {STOP_TIMEOUT_S:g} s",
            subject=journal,
            hint="it goes on by itself; see tapehouse drain --status",
        ) from error
