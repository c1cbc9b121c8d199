"""`tapehouse bench`: measure on this machine."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

REPEAT_MAX = 1_000


def bench(
    *names: str,
    only_list: Annotated[bool, Parameter(name="--list")] = False,
    quick: bool = False,
    repeat: int = 3,
    output: Path | None = None,
    lobster: Annotated[list[Path] | None, Parameter(consume_multiple=True)] = None,
    dbn: Path | None = None,
    cells: int = 2_000_000,
    nodes: int = 3,
    json: bool = False,
) -> int:
    """Measure on this machine: each figure beside its goal and its peer, with median and spread.

    On a generated day, and on real recordings where TAPEHOUSE_DATA names their directory. Peers that are libraries of
    Python run in the interpreter that TAPEHOUSE_PEERS names (`make peers` makes one).

    Examples:

        tapehouse bench

        tapehouse bench books pricing --repeat 5

        tapehouse bench replay --dbn esh4.mbo.dbn.zst --json

    Parameters
    ----------
    names
        Benchmarks; all without any.
    only_list
        Only say which there are.
    quick
        Small numbers: whether everything works, not how fast. Written only where --output says so.
    repeat
        Runs of each measurement; the median is shown with its spread.
    output
        Where each benchmark's JSON is written; in a checkout tests/bench/results.
    lobster
        Measure on a LOBSTER zip, or its message and book file, instead of the recordings.
    dbn
        Measure on a DBN file instead of the recordings.
    cells
        Of the generated day.
    nodes
        1, 3 or 5 brokers, for what is durable.
    json
        One line of JSON.
    """
    from tapehouse.app.bench import BENCHMARKS, COLUMNS, Campaign, Report, choose, headline, results_directory, table
    from tapehouse.cli.output import console, diagnostics, print_json, print_table
    from tapehouse.core import SystemClock
    from tapehouse.core.errors import EXIT_MISSING, UsageError

    if only_list:
        if json:
            print_json(BENCHMARKS)
        else:
            print_table("", ("benchmark", "measures"), BENCHMARKS.items())
        return 0
    chosen = choose(names)
    if not 1 <= repeat <= REPEAT_MAX:
        raise UsageError(f"{repeat} runs", subject="--repeat", hint=f"1 to {REPEAT_MAX}")
    own = {}
    if lobster:
        own[lobster[0].name] = ("lobster", lobster)
    if dbn:
        own[dbn.name] = ("dbn", [dbn])

    def tell(step: str) -> None:
        if diagnostics.is_terminal and not json:
            diagnostics.print(f"  {step} …", highlight=False)

    campaign = Campaign(
        clock=SystemClock(),
        names=chosen,
        command=_command(names, quick=quick, repeat=repeat, cells=cells, nodes=nodes),
        output=output or (None if quick else results_directory()),
        repeat=repeat,
        quick=quick,
        cells=cells,
        nodes=nodes,
        own=own,
        on_step=tell,
    )
    reports: list[Report] = []
    for report in campaign.run():
        reports.append(report)
        if not json:
            print_table(f"{report.benchmark}: {BENCHMARKS[report.benchmark]}", COLUMNS, table(report.rows))
            console.print(headline(report.machine), highlight=False)
        if report.interrupted:
            break
        if report.failure:
            diagnostics.print(f"tapehouse: {report.benchmark}: {report.failure}", highlight=False, markup=False)
    if json:
        print_json([report.as_json() for report in reports])
    elif campaign.output is not None:
        diagnostics.print(f"written to {campaign.output}", highlight=False)
    if reports and reports[-1].interrupted:
        raise KeyboardInterrupt
    return EXIT_MISSING if any(report.failure for report in reports) else 0


def _command(names: tuple[str, ...], *, quick: bool, repeat: int, cells: int, nodes: int) -> str:
    """What was called, as somebody else would call it."""
    flags = ["--quick"] if quick else ["--repeat", str(repeat), "--cells", str(cells)]
    return shlex.join(["tapehouse", "bench", *names, *flags, "--nodes", str(nodes)])
