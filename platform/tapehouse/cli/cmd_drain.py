"""`tapehouse drain`: the sidecar alone, of a journal or as a logger of any process's ring."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tapehouse.core.errors import EXIT_CHECK_FAILED

if TYPE_CHECKING:
    from tapehouse.app.draining import DrainOptions
    from tapehouse.engine.drain_lag import DrainReport
    from tapehouse.engine.sidecar import Sidecar

Sync = Literal["frame", "interval", "none"]


def drain(
    ring: str | None = None,
    *,
    tape: str | None = None,
    to: Path | None = None,
    segment: Path | None = None,
    codec: Literal["plain", "columns", "zstd"] = "zstd",
    sync: Sync = "interval",
    spill: Path | None = None,
    spill_sync: Sync = "frame",
    spill_max: int = 8 << 30,
    stay: bool = False,
    ready: bool = False,
    status: bool = False,
    read: Path | None = None,
    cpus: str | None = None,
    rings: Path | None = None,
    nats: str | None = None,
    home: Path | None = None,
    json: bool = False,
) -> int:
    """Drain a journal to its tape, or any process's ring to files.

    It ends when the producer has closed the ring, or died, and everything is durable. Ctrl-C ends it sooner: what is
    left stays where it is, and the next one goes on with it. While the broker is away a journal's cells go to a spill
    on the disk, which is brought to the tape when it is back.

    Examples:

        tapehouse drain main-journal --tape main

        tapehouse drain quotes --to /data/quotes --codec plain

        tapehouse drain --status main-journal

        tapehouse drain --read /data/quotes

    Parameters
    ----------
    ring
        The ring's name.
    tape
        The journal's tape.
    to
        A directory for the segment files of a ring that is no journal.
    segment
        A directory for a copy of what goes to the tape.
    codec
        How frames are stored: `plain` costs the least time, `zstd` the least space.
    sync
        When files are forced to the disk: each `frame`, at an `interval` of 100 ms, or `none`. A killed process loses
        nothing in any case.
    spill
        The directory of spills; else in the home directory.
    spill_sync
        The same for the spill. With `frame` what is in it survives the power too.
    spill_max
        Bytes that a spill may take; when it is full the journal pushes back.
    stay
        Go on when the producer has died: another one will come.
    ready
        Connect, and wait for the name of a journal that is yet to come: one line on standard input. A standby has its
        sidecar wait so.
    status
        Show what the ring's header says, and end.
    read
        Read and check the segment files of a directory, and end; exit 1 where the last one's end is torn.
    cpus
        Cores of the roles, such as sidecar=0; else what TAPEHOUSE_CPUS says.
    rings
        The directory of the rings; else where TAPEHOUSE_SHM says, or in /dev/shm.
    nats
        The broker; else what the environment or the embedded cluster says.
    home
        Where spills are, as given to `tapehouse up`.
    json
        One line of JSON.
    """
    from tapehouse.app.draining import CODECS, DrainOptions, require_one, ring_status
    from tapehouse.app.pinning import configured, pin
    from tapehouse.core.errors import UsageError
    from tapehouse.engine.frame_files import SyncPolicy

    if read is not None:
        return _read(read, json=json)
    if ready and (ring is not None or tape is None):
        raise UsageError("--ready is for a journal that is yet to come", hint="give --tape, and no ring")
    if ring is None and not ready:
        raise UsageError("which ring?", hint="see tapehouse drain --help")
    if status and ring is not None:
        _show(ring_status(ring, rings=rings), json=json)
        return 0
    require_one(tape=tape, to=to)
    if segment is not None and tape is None:
        raise UsageError("--segment is for the copy of a tape", hint="--to DIR alone writes files")
    pin("sidecar", configured(cpus))
    options = DrainOptions(
        rings=rings,
        codec=CODECS[codec],
        sync=SyncPolicy(sync),
        spill=spill,
        spill_sync=SyncPolicy(spill_sync),
        spill_bytes_max=spill_max,
        stay=stay,
    )
    report = _run(ring, tape=tape, to=to, segment=segment, nats=nats, home=home, options=options, quiet=json)
    if report is None:
        return 0
    _tell_end(ring or str(tape), report)
    _show(report, json=json)
    return 0


def _run(
    ring: str | None,
    *,
    tape: str | None,
    to: Path | None,
    segment: Path | None,
    nats: str | None,
    home: Path | None,
    options: DrainOptions,
    quiet: bool,
) -> dict[str, Any] | None:
    """Drain to the end; None where the name of the ring was to be told, and nobody told it."""
    import dataclasses

    from tapehouse.app.draining import journal_sidecar, logging_sidecar, reach, tape_log, told_ring
    from tapehouse.cli.output import Bar, run_async
    from tapehouse.core.clock import SystemClock

    clock = SystemClock()

    async def work(on_progress: Callable[[int], None]) -> DrainReport | None:
        if tape is not None:
            name, log = ring, tape_log(tape, nats=nats, home=home)
            if name is None:
                await reach(log)
                name = await told_ring()
                if not name:
                    await log.close()
                    return None
            async with journal_sidecar(
                name,
                tape=tape,
                clock=clock,
                options=options,
                segment=segment,
                nats=nats,
                home=home,
                log=log,
                on_progress=on_progress,
            ) as sidecar:
                return await _until_stopped(sidecar)
        assert ring is not None
        assert to is not None
        with logging_sidecar(ring, to, clock=clock, options=options, on_progress=on_progress) as sidecar:
            return await _until_stopped(sidecar)

    with Bar(f"drain {ring or tape}", None, quiet=quiet) as bar:
        report = run_async(work(bar.at))
    return None if report is None else dataclasses.asdict(report)


async def _until_stopped(sidecar: Sidecar) -> DrainReport:
    """Run it; Ctrl-C and SIGTERM have it finish the append in flight and end."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, sidecar.stop)
    try:
        return await sidecar.run()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _tell_end(ring: str, report: dict[str, Any]) -> None:
    from tapehouse.cli.output import diagnostics
    from tapehouse.engine.sidecar import Ended

    if report["ended"] == Ended.PRODUCER_DIED:
        line = "the producer died; everything that it published is durable"
    elif report["ended"] == Ended.STOPPED:
        left, spilled = report["left_cells"], report["spilled_cells"]
        line = f"stopped; {left:,} cells are left, {spilled:,} of them in the spill: drain {ring} again to finish"
    else:
        return
    diagnostics.print(line, highlight=False, soft_wrap=True)


def _read(directory: Path, *, json: bool) -> int:
    import dataclasses

    from tapehouse.engine.frame_files import verify_directory

    found = dataclasses.asdict(verify_directory(directory))
    found |= {"log_id": found["log_id"].hex(), "digest": found["digest"].hex()}
    _show(found, json=json)
    if found["cut_bytes"]:
        from tapehouse.cli.output import diagnostics

        line = f"the end is torn: {found['cut_bytes']:,} bytes after the last whole frame"
        diagnostics.print(line, highlight=False, soft_wrap=True)
        return EXIT_CHECK_FAILED
    return 0


def _show(found: dict[str, Any], *, json: bool) -> None:
    from tapehouse.cli.output import console, print_json

    if json:
        print_json(found)
        return
    for label, value in found.items():
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
        console.print(f"{label:<20} {shown}", highlight=False)
