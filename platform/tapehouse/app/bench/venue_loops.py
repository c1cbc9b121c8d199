"""The compiled loop that the benchmark of the venue runs."""

from __future__ import annotations

from tapehouse.app.bench.histogram import record_value
from tapehouse.core.cycles import fenced_cycles
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.core.reference import refer
from tapehouse.desk.orders import decide
from tapehouse.desk.state import OUT_ROWS
from tapehouse.desk.venue_loop import REQUEST_ROWS_MAX, begin_request


@kernel()
def decide_timed(
    desk: State, books: State, ladder: Array, requests: Array, times: Array, out: Array, powers: Array, overhead: Int,
    histogram: Array,
) -> None:  # fmt: skip
    """Decide on all requests, each between two fenced readings; records are overwritten where `out` ends."""
    limit = out.shape[0] - REQUEST_ROWS_MAX
    by_reference, recorded = refer(desk), refer(books)
    for row in range(requests.shape[0]):
        if desk.counters[OUT_ROWS] > limit:
            desk.counters[OUT_ROWS] = 0
        before = fenced_cycles()
        begin_request(desk, books, ladder, out, powers, times[row], limit)
        decide(by_reference, recorded, ladder, out, powers, requests[row])
        record_value(histogram, fenced_cycles() - before - overhead)
