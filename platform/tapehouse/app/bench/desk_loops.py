"""The compiled loops that the benchmark of the desk runs: parts of a tape through the engine's loop, and what rests."""

from __future__ import annotations

from tapehouse.app.bench.histogram import record_value
from tapehouse.book.resting import first_order, order_after, order_id_in, order_left
from tapehouse.core.cycles import fenced_cycles
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.core.reference import refer
from tapehouse.desk.state import INDEX_BITS, ORDER_ACCOUNT, ORDER_PRICE, ORDINAL_BITS, OUT_ROWS
from tapehouse.engine.loop import ANEW, DONE, NOT_AT_ALL, OUTPUT_FULL
from tapehouse.engine.loop import run as run_loop

# Columns of what `list_resting` finds.
RESTING_ID, RESTING_ACCOUNT, RESTING_PRICE, RESTING_LEFT = range(4)
RESTING_COLUMNS = 4
_ORDINAL = (1 << ORDINAL_BITS) - 1


@kernel()
def fold_parts(
    array: Array, ends: Array, counted: Array, first_ordinal: Int, desk: State, books: State, chain: State,
    routes: State, scratch: State, strategy: State, parameters: Array, memory: Array, out: Array, powers: Array,
    overhead: Int, histogram: Array,
) -> tuple[Int, Int]:  # fmt: skip
    """Run the engine's loop over parts of `array`, one after the other; no strategy is called.

    Where the outputs are full they are dropped, so that they are written to memory as a host's are.

    Args:
        ends: The row before which each part ends.
        counted: Not 0 for parts that are timed: each between two fenced readings, into the histogram.

    Returns:
        The row after the last part, or that of a record at which the loop stopped; and the counts of the timed parts.
    """
    state = refer(desk), refer(books), refer(chain), refer(routes), refer(scratch)
    row, spent = 0, 0
    for part in range(ends.shape[0]):
        before = fenced_cycles()
        why = OUTPUT_FULL
        while why == OUTPUT_FULL:
            row, why = run_loop(
                array, row, ends[part], first_ordinal, ANEW, state[0], state[1], state[2], state[3], state[4],
                strategy, parameters, memory, NOT_AT_ALL, out, powers,
            )  # fmt: skip
            if why == OUTPUT_FULL:
                desk.counters[OUT_ROWS] = 0
        took = fenced_cycles() - before - overhead
        if why != DONE:
            return row, spent
        if counted[part] != 0:
            spent += took
            record_value(histogram, took)
    return row, spent


@kernel()
def list_resting(desk: State, slot: Int, found: Array) -> Int:
    """Write id, account, price and what is left of each resting order of a slot; returns how many there are."""
    count = 0
    for side in range(2):
        row = first_order(desk.own, slot, side)
        while row != 0:
            key = order_id_in(desk.own, row)
            found[count, RESTING_ID] = (key & _ORDINAL) << INDEX_BITS | key >> ORDINAL_BITS
            found[count, RESTING_ACCOUNT] = desk.orders[row, ORDER_ACCOUNT]
            found[count, RESTING_PRICE] = desk.orders[row, ORDER_PRICE]
            found[count, RESTING_LEFT] = order_left(desk.own, row)
            count += 1
            row = order_after(desk.own, slot, side, row)
    return count
