"""`tapehouse host`: sequencer, engine and projections of one tape, until stopped."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

LEASE_TTL_MAX_S = 3600.0


def host(
    *,
    tape: str = "main",
    nats: str | None = None,
    home: Path | None = None,
    strategy: str = "maker",
    parameters: str | None = None,
    mode: Literal["gated", "ahead"] = "gated",
    feed: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    orders: str | None = None,
    busy: bool = False,
    cpus: str | None = None,
    out: bool = True,
    standby: bool = False,
    lease_ttl: float = 15.0,
) -> int:
    """Run the desk of one tape: take commands into the order of the tape, decide, answer reads of its projections.

    A live tape gets a clock cell every 100 ms. A recorded history keeps its own time. One host leads a tape at a time:
    it holds the tape's lease. With --standby this one follows the leader, decides what it decides, and takes over
    when it ends, falls silent or hands over. A leader that another has replaced is fenced off and ends.

    Examples:

        tapehouse host

        tapehouse host --tape amzn --nats nats://broker:4222

        tapehouse host --tape amzn --standby

        tapehouse host --tape desk --mode ahead --feed cme --orders out --busy

    Parameters
    ----------
    tape
        Which tape; it is made where it is not there.
    nats
        The broker; else what the environment or the embedded cluster says.
    home
        Where snapshots live.
    strategy
        What the desk trades with; as it ran before on this tape.
    parameters
        A JSON object of the strategy's parameters.
    mode
        `gated` decides on what the tape has made durable; `ahead` decides in the loop that writes the journal, within
        microseconds, and a sidecar process brings the journal to the tape.
    feed
        Rings of feeds to take, in `ahead` mode; see `tapehouse feeds push`.
    orders
        A ring on which decisions leave at once, in `ahead` mode.
    busy
        Spin instead of napping where nothing is to do, in `ahead` mode: give it a core of its own.
    cpus
        Cores of the roles, such as engine=1,sidecar=0,projector=0; else what TAPEHOUSE_CPUS says.
    out
        Bring every event to the stream OUT as JSON; see `tapehouse out`.
    standby
        Follow while another host leads and take over from it; after `tapehouse handover`, follow again.
    lease_ttl
        Seconds for which a leader may be silent before a standby takes over. The brokers elect in 4 to 9 s, and a
        leader can say nothing meanwhile: less than that makes an election a take-over.
    """
    from tapehouse.app import host_process
    from tapehouse.app.ahead_desk import AheadOptions
    from tapehouse.app.bootstrap import home_directory
    from tapehouse.app.leadership import TakeOver
    from tapehouse.app.pinning import configured, pin
    from tapehouse.app.serving import HostEvents, HostOptions, serve_tape
    from tapehouse.cli.output import compile_kernels, run_async
    from tapehouse.core.errors import UsageError

    if mode == "gated" and (feed or orders or busy):
        raise UsageError("--feed, --orders and --busy are of `ahead` mode", hint="add --mode ahead")
    if not 0 < lease_ttl <= LEASE_TTL_MAX_S:
        raise UsageError(f"a lease of {lease_ttl:g} s", subject="--lease-ttl", hint=f"up to {LEASE_TTL_MAX_S:g}")
    place = home_directory(home)
    known_as = f"{tape}@{os.getpid()}" if standby else tape
    cores = configured(cpus)
    compile_kernels()
    pin("projector" if mode == "ahead" else "engine", cores)  # In `ahead` mode the engine's thread pins itself.

    def register() -> None:
        if nats is None:  # A host of the embedded cluster: `tapehouse down` stops it first.
            host_process.register(place, known_as)

    def ready() -> None:
        register()
        print("ready", flush=True)

    def follows() -> None:
        register()
        print("standby", flush=True)

    def took_over(taken: TakeOver) -> None:
        told = taken.table()
        before = f" from {told['before']}, {told['how']}" if told["before"] else ""
        times = ", ".join(f"{name.removesuffix('_ms')} {told[name]:g}" for name in told if name.endswith("_ms"))
        print(f"leads, generation {told['generation']}{before}; ms: {times}", flush=True)

    options = HostOptions(
        nats=nats, home=home, strategy=strategy, parameters=parameters, mode=mode,
        ahead=AheadOptions(busy=busy, feeds=tuple(feed or ()), orders=orders, cpus=cores), cpus=cpus, out=out,
        standby=standby, lease_ttl_s=lease_ttl,
    )  # fmt: skip

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        stopping = False

        def stop() -> None:
            nonlocal stopping
            if not stopping:  # A second Ctrl-C does not interrupt what saves the state.
                stopping = True
                task.cancel()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        try:
            await serve_tape(tape, options, HostEvents(on_ready=ready, on_standby=follows, on_take_over=took_over))
            print("handed over", flush=True)
        except asyncio.CancelledError:
            print("stopped", flush=True)
        finally:
            if standby:
                host_process.forget(place, known_as)

    run_async(run())
    return 0
