"""The compiled loops that the benchmark of the venue runs."""

from __future__ import annotations

from tapehouse.app.bench.histogram import record_value
from tapehouse.core.cycles import fenced_cycles
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.desk.matching import handle, run_requests
from tapehouse.desk.state import INDEX, ORDINAL, OUT_ROWS
from tapehouse.desk.venue_state import REQUEST_ROWS_MAX


@kernel()
def decide(venue: State, books: State, requests: Array, reasons: Array, out: Array, powers: Array) -> None:
    """Decide on all requests; records are written, and overwritten where `out` ends."""
    row = 0
    while row < requests.shape[0]:
        venue.counters[OUT_ROWS] = 0
        row = run_requests(venue, books, requests, reasons, row, out, powers)


@kernel()
def decide_timed(
    venue: State, books: State, requests: Array, out: Array, powers: Array, overhead: Int, histogram: Array
) -> None:
    """The same, each request between two fenced readings."""
    counters = venue.counters
    limit = out.shape[0] - REQUEST_ROWS_MAX
    for row in range(requests.shape[0]):
        if counters[OUT_ROWS] > limit:
            counters[OUT_ROWS] = 0
        counters[ORDINAL] += 1
        counters[INDEX] = 0
        before = fenced_cycles()
        handle(venue, books, requests[row], out, powers)
        record_value(histogram, fenced_cycles() - before - overhead)
