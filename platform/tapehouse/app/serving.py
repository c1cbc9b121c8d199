"""One tape served: its desk, its projections, the service that answers reads of them, and the keeper of its books."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from tapehouse.app.ahead import serve_ahead
from tapehouse.app.ahead_desk import AheadOptions
from tapehouse.app.book_keeper import BookKeeper
from tapehouse.app.bootstrap import open_platform
from tapehouse.app.journals import finish_leftover
from tapehouse.app.kv_service import serve_kv
from tapehouse.app.live import Logs, cancel_all, first_failure, serve
from tapehouse.app.parked_stream import ParkedStream
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
    on_ready: Callable[[], None],
) -> None:
    """Serve until cancelled.

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
        try:
            ends = [(await log.extent()).last for log in (logs.tape, logs.events)]
            await projector.until(tape=ends[0], events=ends[1])  # Readers never see less than was there at the start.
            service = await serve_kv(platform.bus, tape, projector)
            snaps = await platform.make_snaps()
            beside.append(asyncio.create_task(_keep_books(logs.tape, snaps, patient=ahead)))
            copier = ParkedStream(tape, logs.tape, logs.events, await platform.parked())
            beside.append(asyncio.create_task(_again(lambda: copier.run(follow=True), patient=ahead)))
            rings = options.rings if options else None
            sidecar = SidecarProcess(tape, nats=nats, home=platform.home, rings=rings, cpus=cpus)
            if not ahead:
                await finish_leftover(tape, logs.tape, sidecar, SystemClock(), directory=rings)
                serving = serve(logs, strategy=loaded, clock=SystemClock(), snapshots=snapshots, on_ready=on_ready)
            else:
                serving = serve_ahead(
                    tape, logs, strategy=loaded, sidecar=sidecar, clock=SystemClock(), snapshots=snapshots,
                    options=options, timings=platform.timings(tape, await logs.tape.extent()), on_ready=on_ready,
                )  # fmt: skip
            await first_failure(asyncio.create_task(serving), beside)
        except asyncio.CancelledError:
            projector.save()  # Stopped on purpose: the next start begins from here.
            raise
        finally:
            await cancel_all(beside)
            if service is not None:
                await service.stop()


async def _keep_books(tape: Log, snaps: Snaps, *, patient: bool) -> None:
    """Write the tape's books into SNAPS until cancelled."""
    await _again(lambda: BookKeeper(tape, snaps).run(follow=True), patient=patient)


async def _again(work: Callable[[], Awaitable[object]], *, patient: bool) -> None:
    """Do what goes on until cancelled.

    Args:
        patient: Where the broker stays away, begin anew when it is back; else that is an error.
    """
    while True:
        try:
            await work()
        except TransientError:
            if not patient:
                raise
        await asyncio.sleep(KEEP_AGAIN_S)
