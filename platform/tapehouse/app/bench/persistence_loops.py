"""The compiled loop that the benchmark of persistence runs: records into the journal, one by one, between fences."""

from __future__ import annotations

from tapehouse.app.bench.histogram import record_value
from tapehouse.core.cycles import fenced_cycles
from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.ring.kernels import OK, append, readable, record_at, release


@kernel()
def append_timed(ring: Int, words: Array, count: Int, overhead: Int, histogram: Array) -> Int:
    """Append `count` records, from the first again where they end; returns how many the journal has taken.

    The loop is also the one who frees the journal where it is full; that append is not recorded.
    """
    row = 0
    taken = 0
    while taken < count:
        length = record_at(words, row)
        before = fenced_cycles()
        status = append(ring, words, row, length)
        after = fenced_cycles()
        if status != OK:
            release(ring, readable(ring))
            continue
        record_value(histogram, after - before - overhead)
        taken += 1
        row += length
        if row >= words.shape[0]:
            row = 0
    return taken
