"""`tapehouse replay`: a recorded tape at any speed into a strategy."""

from __future__ import annotations

from pathlib import Path


def replay(
    *,
    tape: str,
    speed: str = "max",
    paced_seconds: float | None = None,
    strategy: str = "maker",
    parameters: str | None = None,
    guard: bool = True,
    exclude_gaps: bool = False,
    store: str | None = None,
    plot: Path | None = None,
    nats: str | None = None,
    home: Path | None = None,
    json: bool = False,
) -> int:
    """Replay a tape into a strategy with the paper exchange; decisions, fills, profit and both digests are told.

    Examples:

        tapehouse replay --tape amzn --speed max

        tapehouse replay --tape amzn --speed 10x --paced-seconds 60

        tapehouse replay --tape main --exclude-gaps

        tapehouse replay --tape amzn --store s3://backups/desk --plot amzn.png

    Parameters
    ----------
    tape
        Which tape.
    speed
        `1x`, `10x`, any factor, or `max`.
    paced_seconds
        Hold the speed for so much tape time, then go on at full speed.
    strategy
        `maker`, `watcher`, `FILE.py:NAME` or `MODULE:NAME`.
    parameters
        A JSON object of the strategy's parameters.
    guard
        Stop a Python strategy that reads the clock or randomness.
    exclude_gaps
        Do not call the strategy for an instrument while its book is suspect or told anew (`tapehouse gaps`). Records
        still change the book and fill open orders, which are left alone; the first event after the gap is shown. The
        decisions are others, and so are the digests.
    store
        Read the tape from the newest backup in this store instead of the broker.
    plot
        Write a picture, a PNG.
    nats
        The broker; else what the environment or the embedded cluster says.
    home
        Of the embedded cluster, as given to `tapehouse up`.
    json
        One line of JSON.
    """
    from tapehouse.app.plot import check_picture
    from tapehouse.app.replaying import replay_tape
    from tapehouse.app.strategies import load_strategy
    from tapehouse.cli.output import Bar, compile_kernels, console, print_json, print_table, read_seconds, run_async
    from tapehouse.core.ids import check_name
    from tapehouse.replay import Pace, parse_speed

    paced_ns = None if paced_seconds is None else read_seconds(paced_seconds, "--paced-seconds")
    pace = Pace(speed=parse_speed(speed), paced_ns=paced_ns)
    if plot is not None:
        check_picture(plot)
    check_name(tape, "tape")
    load_strategy(strategy, parameters)  # What is wrong is told before anything takes its time.
    compile_kernels(quiet=json)
    with Bar(f"replay {tape} at {speed}", None, quiet=json) as bar:
        result = run_async(
            replay_tape(
                tape,
                pace=pace,
                strategy=strategy,
                parameters=parameters,
                guard=guard,
                exclude_gaps=exclude_gaps,
                store=store,
                plot=plot,
                nats=nats,
                home=home,
                on_progress=bar.at,
            )
        )
    report = result.report
    found = {
        "tape": tape,
        "strategy": strategy,
        "exclude_gaps": exclude_gaps,
        "cells": report.cells,
        "decisions": report.digests.decisions,
        "seconds": round(report.seconds, 6),
        "cells_per_second": round(report.cells_per_second),
        "lateness_p50_us": round(report.lateness_p50_us, 1),
        "lateness_p99_us": round(report.lateness_p99_us, 1),
        "decision_digest": report.digests.decision.hex(),
        "state_digest": report.digests.state.hex(),
        "positions": result.positions,
        "pools": result.pools,
    }
    if json:
        print_json(found)
        return 0
    columns = ("symbol", "position", "fills", "volume", "fees", "realised", "profit")
    print_table("Result", columns, [tuple(str(row[name]) for name in columns) for row in result.positions])
    pool_columns = ("pool", "used_max", "held", "capacity", "efficiency", "refused")
    print_table("Pools", pool_columns, [tuple(row[name] for name in pool_columns) for row in result.pools])
    labels = ["cells", "decisions", "seconds", "cells_per_second"]
    if pace.speed is not None:
        labels += ["lateness_p50_us", "lateness_p99_us"]
    for label in labels:
        console.print(f"{label:<18} {found[label]:,}", highlight=False)
    console.print(f"{'decision_digest':<18} {found['decision_digest']}", highlight=False)
    console.print(f"{'state_digest':<18} {found['state_digest']}", highlight=False)
    if plot is not None:
        console.print(f"{'plot':<18} {plot}", highlight=False)
    return 0
