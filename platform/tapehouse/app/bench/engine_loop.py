"""The engine's own loop, a record at a time between fences."""

from __future__ import annotations

from tapehouse.app.bench.histogram import record_value
from tapehouse.core.cycles import fenced_cycles
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.core.reference import refer
from tapehouse.desk.state import OUT_ROWS
from tapehouse.engine.loop import run as run_loop


@kernel()
def fold_timed(
    array: Array, first_ordinal: Int, desk: State, books: State, chain: State, routes: State, scratch: State,
    strategy: State, parameters: Array, memory: Array, out: Array, powers: Array, overhead: Int, histogram: Array,
) -> Int:  # fmt: skip
    """Run the engine's loop a record at a time, each between two fenced readings; returns the row where it stopped."""
    state = refer(desk), refer(books), refer(chain), refer(routes), refer(scratch)
    row = 0
    while row < array.shape[0]:
        end = row + max((array[row, 6] >> 56) & 255, 1)
        before = fenced_cycles()
        stopped, why = run_loop(
            array, row, end, first_ordinal, 0, state[0], state[1], state[2], state[3], state[4], strategy, parameters,
            memory, 0, out, powers,
        )  # fmt: skip
        record_value(histogram, fenced_cycles() - before - overhead)
        desk.counters[OUT_ROWS] = 0
        if why != 0:
            return row
        row = stopped
    return row
