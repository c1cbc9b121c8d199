"""One tape served: its desk, its projections, the service that answers reads of them, and the keeper of its books."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from tapehouse.app.ahead import serve_ahead
from tapehouse.app.ahead_desk import AheadOptions
from tapehouse.app.book_keeper import BookKeeper
from tapehouse.app.bootstrap import open_platform
from tapehouse.app.desk_doors import DeskDoors
from tapehouse.app.journals import finish_leftover
from tapehouse.app.kv_service import serve_kv
from tapehouse.app.live import Logs, cancel_all, first_failure, serve
from tapehouse.app.projector import Projector
from tapehouse.app.recording import Mode
from tapehouse.app.sidecars import SidecarProcess
from tapehouse.app.strategies import load_strategy
from tapehouse.bus.service import ServiceHost
from tapehouse.core import SystemClock
from tapehouse.core.errors import TransientError
from tapehouse.log import Log, PatientLog
from tapehouse.log.snaps import Snaps

KEEP_AGAIN_S = 5.0  # between two tries to reach SNAPS


async def serve_tape(
    tape: str,
    *,
    nats: str | None,
    home: Path | None,
    strategy: str,
    parameters: str | None = None,
    mode: Mode = "gated",
    options: AheadOptions | None = None,
    cpus: str | None = None,
    out: bool = True,
    on_ready: Callable[[], None],
) -> None:
    """Serve until cancelled.

    Args:
        out: Bring EVENTS to OUT as JSON.

    Raises:
        ConflictError: Another host took the tape over.
        GapError, DecodeError, IntegrityError: A log is damaged; the sequence is named.
    """
    loaded = load_strategy(strategy, parameters)
    ahead = mode == "ahead"  # It goes on without brokers, so what runs beside it waits for them.
    async with open_platform(nats, home=home, patient=ahead) as platform:
        made: list[Log] = [
            await platform.tape(tape, create=True),
            await platform.events(tape, create=True),
            await platform.commands(tape, create=True),
        ]
        opened = [PatientLog(log) for log in made] if ahead else made
        logs = Logs(tape=opened[0], events=opened[1], commands=opened[2])
        snapshots = await platform.snapshots(tape)
        projector = Projector(logs.tape, logs.events, snapshots)
        await projector.open()
        beside = [asyncio.create_task(projector.run(follow=True))]
        service: ServiceHost | None = None
        doors = DeskDoors(tape, logs, mode=mode, position=projector.position)
        try:
            ends = [(await log.extent()).last for log in (logs.tape, logs.events)]
            await projector.until(tape=ends[0], events=ends[1])  # Readers never see less than was there at the start.
            service = await serve_kv(platform.bus, tape, projector)
            beside += await doors.open(await platform.out(create=True) if out else None, snapshots, patient=ahead)
            beside.append(asyncio.create_task(doors.serve(platform.bus, on_ready)))
            snaps = await platform.make_snaps()
            beside.append(asyncio.create_task(_keep_books(logs.tape, snaps, patient=ahead)))
            rings = options.rings if options else None
            sidecar = SidecarProcess(tape, nats=nats, home=platform.home, rings=rings, cpus=cpus)
            if not ahead:
                await finish_leftover(tape, logs.tape, sidecar, SystemClock(), directory=rings)
                serving = serve(logs, strategy=loaded, clock=SystemClock(), snapshots=snapshots, **doors.hooks)
            else:
                serving = serve_ahead(
                    tape, logs, strategy=loaded, sidecar=sidecar, clock=SystemClock(), snapshots=snapshots,
                    options=options, timings=platform.timings(tape, await logs.tape.extent()), **doors.hooks,
                )  # fmt: skip
            await first_failure(asyncio.create_task(serving), beside)
        except asyncio.CancelledError:
            projector.save()  # Stopped on purpose: the next start begins from here.
            doors.save()
            raise
        finally:
            await doors.stop()
            await cancel_all(beside)
            if service is not None:
                await service.stop()


async def _keep_books(tape: Log, snaps: Snaps, *, patient: bool) -> None:
    """Write the tape's books into SNAPS until cancelled.

    Args:
        patient: Where the broker stays away, go on from the last mark when it is back; else that is an error.
    """
    while True:
        try:
            await BookKeeper(tape, snaps).run(follow=True)
        except TransientError:
            if not patient:
                raise
        await asyncio.sleep(KEEP_AGAIN_S)
