"""`tapehouse host`: sequencer, engine and projections of one tape, until stopped."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path


def host(
    *,
    tape: str = "main",
    nats: str | None = None,
    home: Path | None = None,
    strategy: str = "maker",
    parameters: str | None = None,
) -> int:
    """Run the desk of one tape: take commands into the order of the tape, decide, answer reads of its projections.

    A live tape gets a clock cell every 100 ms. A recorded history keeps its own time. When another host takes the tape
    over, this one is fenced off and ends.

    Examples:

        tapehouse host

        tapehouse host --tape amzn --nats nats://broker:4222

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
    """
    from tapehouse.app.serving import serve_tape
    from tapehouse.cli.output import compile_kernels, run_async

    compile_kernels()

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
            await serve_tape(
                tape,
                nats=nats,
                home=home,
                strategy=strategy,
                parameters=parameters,
                on_ready=lambda: print("ready", flush=True),
            )
        except asyncio.CancelledError:
            print("stopped", flush=True)

    run_async(run())
    return 0
