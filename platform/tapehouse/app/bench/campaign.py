"""Several benchmarks in one go, on the same data: each report is written as soon as its benchmark ends."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tapehouse.app.bench.material import gather
from tapehouse.app.bench.measure import Measure, Report
from tapehouse.app.bench.peer import Peers
from tapehouse.app.bench.registry import CELLS, CELLS_QUICK, NODES, REPEAT, Options, choose, run
from tapehouse.app.bench.timer import Timer
from tapehouse.core.clock import Clock

RESULTS = Path("tests/bench/results")


def results_directory() -> Path | None:
    """Where a checkout keeps its results; None where these sources are no checkout."""
    root = Path(__file__).resolve().parents[4]
    return root / RESULTS if (root / "pyproject.toml").exists() and (root / RESULTS.parent).is_dir() else None


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """What to run, and how.

    Args:
        names: Benchmarks; none for all.
        command: What was called, for the reports.
        output: Where reports are written; None for nowhere.
        own: Recordings of the user's, see `material.gather`.
        cells: Of the generated day.
        on_step: Told what is measured next.
        on_row: Told each row.
    """

    clock: Clock
    names: Sequence[str]
    command: str
    output: Path | None
    repeat: int = REPEAT
    quick: bool = False
    nodes: int = NODES
    cells: int = CELLS
    own: Mapping[str, tuple[str, Sequence[Path]]] = field(default_factory=dict)
    on_step: Callable[[str], None] = lambda step: None
    on_row: Callable[[Measure], None] = lambda row: None

    def run(self) -> Iterator[Report]:
        """Run them in order; an interrupted one is written and is the last.

        Raises:
            UsageError: There is no benchmark of a name.
        """
        names = choose(self.names)
        with tempfile.TemporaryDirectory(prefix="tapehouse-bench-") as scratch:
            options = Options(
                timer=Timer.start(self.clock),
                materials=gather(self.clock, cells=CELLS_QUICK if self.quick else self.cells, own=self.own),
                peers=Peers(Path(scratch)),
                scratch=Path(scratch),
                repeat=1 if self.quick else self.repeat,
                quick=self.quick,
                nodes=self.nodes,
                output=self.output,
                on_step=self.on_step,
            )
            for name in names:
                report = run(name, options, command=self.command, on_row=self.on_row)
                if self.output is not None:
                    report.write(self.output)
                yield report
                if report.interrupted:
                    return
