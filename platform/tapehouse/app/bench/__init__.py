"""The benchmarks that anyone can run, and what they say: `tapehouse bench`."""

from tapehouse.app.bench.campaign import Campaign, results_directory
from tapehouse.app.bench.measure import COLUMNS, Measure, Report, table
from tapehouse.app.bench.registry import BENCHMARKS, CELLS, NODES, REPEAT, choose
from tapehouse.app.bench.surroundings import headline

__all__ = [
    "BENCHMARKS",
    "CELLS",
    "COLUMNS",
    "NODES",
    "REPEAT",
    "Campaign",
    "Measure",
    "Report",
    "choose",
    "headline",
    "results_directory",
    "table",
]
