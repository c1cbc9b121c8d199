"""`tapehouse demo`: the whole loop in one go."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def demo(
    *,
    lobster: Annotated[list[Path] | None, Parameter(consume_multiple=True)] = None,
    dbn: Path | None = None,
    seed: int = 7,
    cells: int = 600_000,
    strategy: str = "maker",
    parameters: str | None = None,
    guard: bool = True,
    nodes: Literal[1, 3, 5] = 3,
    profile: Literal["durable", "fast"] = "durable",
    speed: str = "10x",
    paced_seconds: float = 100.0,
    store: str | None = None,
    plot: Path = Path("tapehouse-demo.png"),
    json: bool = False,
) -> int:
    """Record a day on three brokers with a strategy live, then reach the same state by every other path.

    The day is replayed paced and at full speed, backed up to an S3 store, replayed from the backup's segments; then
    the cluster is wiped, restored and replayed once more. All digests must be equal: the last line is `PROVED`, or
    the first difference is named and the exit code is 1. Nothing is left behind but the picture.

    Examples:

        tapehouse demo

        tapehouse demo --lobster AMZN_2012-06-21_5.zip

        tapehouse demo --strategy my_strategy.py:MyStrategy --no-guard

    Parameters
    ----------
    lobster
        Record a LOBSTER zip, or its message and book file, instead of the generated day.
    dbn
        Record a DBN file instead of the generated day.
    seed
        Names the generated day, or the option chain that is hung on a recorded one.
    cells
        Size of the generated day.
    strategy
        `maker`, `watcher`, `FILE.py:NAME` or `MODULE:NAME`.
    parameters
        A JSON object of the strategy's parameters.
    guard
        Stop a Python strategy that reads the clock or randomness.
    nodes
        1, 3 or 5 brokers.
    profile
        `durable` syncs every acknowledged write; `fast` may lose minutes at a power loss.
    speed
        Of the paced replay.
    paced_seconds
        Tape time for which the paced replay holds its speed before it goes on at full speed.
    store
        `s3://…` or `file:///…`; an embedded S3 server where it is left out.
    plot
        Where to write the picture, a PNG.
    json
        One JSON line instead of tables.
    """
    from tapehouse.app.plot import check_picture
    from tapehouse.cli.day import DayChoice, run_sync, show
    from tapehouse.cli.output import console, read_seconds
    from tapehouse.replay import parse_speed

    factor = parse_speed(speed)
    read_seconds(paced_seconds, "--paced-seconds")
    check_picture(plot)
    choice = DayChoice(
        lobster=lobster,
        dbn=dbn,
        seed=seed,
        cells=cells,
        strategy=strategy,
        parameters=parameters,
        guard=guard,
        nodes=nodes,
        profile=profile,
        speed=factor if factor is not None else 1e6,
        paced_seconds=paced_seconds,
        store=store,
    )
    day = run_sync(choice, lines=not json, plot=plot)
    if json:
        print(day.proof.to_json())
        if not day.proof.equal:
            print(f"tapehouse: {day.proof.difference}", file=sys.stderr)
        return 0 if day.proof.equal else 1
    show(day)
    console.print(f"plot      {plot}", highlight=False)
    if not day.proof.equal:
        console.print(f"DIFFERENT: {day.proof.difference}", highlight=False, soft_wrap=True)
        return 1
    console.print("PROVED", highlight=False)
    return 0
