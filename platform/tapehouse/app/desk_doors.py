"""The doors of a running desk for other languages: commands by the micro service, events by the stream OUT.

They are opened by a host that follows, so that they are ready when it leads: it reads what they must know, and stores,
sends and answers nothing until the desk takes commands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tapehouse.app.desk_service import CommandIndex, DeskService, serve_desk
from tapehouse.app.logs import Logs
from tapehouse.app.out import OutLog, OutProjector
from tapehouse.bus import Bus
from tapehouse.bus.service import ServiceHost
from tapehouse.client.outcomes import Outcomes
from tapehouse.core import SystemClock
from tapehouse.core.errors import InvariantError, TransientError
from tapehouse.core.metrics import Metrics
from tapehouse.core.tasks import cancel_all, first_failure
from tapehouse.engine import Sequencer
from tapehouse.log import SnapshotStore

OUT_AGAIN_S = 1.0  # between two tries to reach OUT


class DeskDoors:
    """What a host opens for others: `open` it, run the tasks that this gives, `serve` once it leads, and `stop`."""

    def __init__(
        self, tape: str, logs: Logs, unhurried: Logs, *, mode: str, position: Callable[[], dict[str, int]]
    ) -> None:
        """Doors of one desk.

        Args:
            unhurried: The same logs, for what nobody who has sent a command waits for.
        """
        self._tape = tape
        self._logs = logs
        self._unhurried = unhurried
        self._mode = mode
        self._position = position
        self._outcomes: Outcomes | None = None
        self._out: OutProjector | None = None
        self._sequencer: Sequencer | None = None
        self._opened = asyncio.Event()
        self._ready = asyncio.Event()
        self._is_served = asyncio.Event()
        self._service: DeskService | None = None
        self._served: ServiceHost | None = None
        self.metrics = Metrics()

    @property
    def hooks(self) -> dict[str, Any]:
        """What the desk is to call when it has its sequencer, and when it takes commands."""
        return {"on_open": self._open_with, "on_ready": self._ready.set}

    async def served(self) -> None:
        """Return when commands are taken by every door, and it was said."""
        await self._is_served.wait()

    async def open(self, out: OutLog | None, snapshots: SnapshotStore, *, patient: bool) -> list[asyncio.Task[None]]:
        """Find the place in every log; returns the tasks that must run from now on, leading or not.

        Args:
            out: OUT; None where the events are not brought there.
            patient: Where the broker stays away, go on when it is back; else that is an error.

        Raises:
            IntegrityError: OUT holds what EVENTS does not.
        """
        commands = self._logs.commands
        if commands is None:
            raise InvariantError("a desk without CMDS has no doors", subject=self._tape)
        self._outcomes = outcomes = Outcomes(self._logs.events)
        index = CommandIndex(self._unhurried.commands or commands)
        await asyncio.gather(outcomes.open(), index.open())
        self._service = DeskService(
            self._tape, commands, outcomes, index, clock=SystemClock(), status=self._status, consumed=self._consumed
        )
        tasks = [asyncio.create_task(outcomes.run()), asyncio.create_task(index.run())]
        if out is not None:
            self._out = await self._open_out(out, snapshots)
            tasks.append(asyncio.create_task(self._keep_out(out, snapshots, patient=patient)))
        return tasks

    async def serve(self, bus: Bus, on_ready: Callable[[], Awaitable[None]]) -> None:
        """Take commands once the desk has its place on the tape, and say when it decides; ends only with its task.

        Those that come between the two are stored in CMDS, where the desk finds them.
        """
        await self._opened.wait()
        if self._service is None:
            raise InvariantError("doors are served only after open()", subject=self._tape)
        self._served = await serve_desk(bus, self._service)
        await self._ready.wait()
        await on_ready()
        self._is_served.set()
        await asyncio.Event().wait()

    def save(self) -> None:
        """Keep the fold of OUT, so that the next start begins from here."""
        if self._out is not None:
            self._out.save()

    async def stop(self) -> None:
        """Take no more commands; those who wait are told at once that theirs are stored."""
        if self._outcomes is not None:
            self._outcomes.close()
        if self._served is not None:
            await self._served.stop()

    def _open_with(self, sequencer: Sequencer) -> None:
        self._sequencer = sequencer
        self._opened.set()

    def _consumed(self) -> int:
        return self._sequencer.state.commands_through if self._sequencer is not None else 0

    async def _status(self) -> dict[str, Any]:
        position: dict[str, Any] = {**self._position(), "commands": self._consumed()}
        parked = int(self.metrics.get("parked_total"))
        told: dict[str, Any] = {"mode": self._mode, "position": position, "parked": parked}
        if self._out is not None:
            told["out"] = {"complete_below": self._out.complete_below, "lag_cells": await self._out.lag()}
        return told

    async def _open_out(self, out: OutLog, snapshots: SnapshotStore) -> OutProjector:
        projector = OutProjector(self._tape, self._unhurried.events, out, snapshots=snapshots, metrics=self.metrics)
        await projector.open()
        return projector

    async def _keep_out(self, out: OutLog, snapshots: SnapshotStore, *, patient: bool) -> None:
        """Follow EVENTS until commands are taken, and bring it to OUT from then on, until cancelled."""
        projector = self._out
        while True:
            try:
                if projector is None:  # From where OUT ends, as after a restart.
                    self._out = projector = await self._open_out(out, snapshots)
                if not self._is_served.is_set():
                    await self._until_served(projector)
                    if not await projector.take_turn():
                        projector = None
                        continue
                await projector.run(follow=True)
            except TransientError:
                if not patient:
                    raise
                projector = None
            await asyncio.sleep(OUT_AGAIN_S)

    async def _until_served(self, projector: OutProjector) -> None:
        """Have a projector wait for its turn."""
        waiting = [asyncio.create_task(projector.wait())]
        try:
            await first_failure(asyncio.create_task(self.served()), waiting)
        finally:
            await cancel_all(waiting)
