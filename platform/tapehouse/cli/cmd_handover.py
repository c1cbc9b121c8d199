"""`tapehouse handover`: have the leader of a tape hand over to a waiting standby."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def handover(
    *,
    tape: str = "main",
    force: bool = False,
    timeout: float = 60.0,
    nats: str | None = None,
    home: Path | None = None,
    json: bool = False,
) -> int:
    """Have the host that leads a tape hand over to a standby, and show for how long nobody led.

    The leader stops admitting, sees everything that it decided durable and releases the tape's lease; the standby,
    which has decided the same all along, takes over at once. Commands sent meanwhile wait in their stream. A leader
    that was started with --standby follows from then on; any other ends.

    Examples:

        tapehouse handover

        tapehouse handover --tape amzn --json

    Parameters
    ----------
    tape
        Which tape.
    force
        Also where no standby waits: then nobody leads until a host is started.
    timeout
        Seconds to wait for the next leader.
    nats
        The broker; else what the environment or the embedded cluster says.
    home
        As given to `tapehouse up`.
    json
        One line of JSON.
    """
    from tapehouse.app.bootstrap import open_platform
    from tapehouse.app.hand_over import hand_over
    from tapehouse.cli.output import console, print_json, print_table, run_async
    from tapehouse.core import SystemClock

    async def run() -> dict[str, Any]:
        async with open_platform(nats, home=home) as platform:
            return await hand_over(platform, tape, force=force, timeout_s=timeout, clock=SystemClock())

    done = run_async(run())
    if json:
        print_json(done)
        return 0
    taken = done["take_over"]
    if taken is None:
        console.print(f"{done['from']} ends; nobody leads {tape}", highlight=False)
        return 0
    console.print(
        f"{tape}: {done['from']} handed over to {done['to']}, generation {taken['generation']}; "
        f"nobody led for {taken['leaderless_ms']:.1f} ms",
        highlight=False,
    )
    steps = (
        ("the old leader finished", "closing_ms"), ("the lease was taken", "acquire_ms"),
        ("both logs were met to their ends", "fold_ms"), ("commands were taken", "serve_ms"),
    )  # fmt: skip
    print_table("", ("step", "ms"), [(label, round(taken[name], 3)) for label, name in steps])
    return 0
