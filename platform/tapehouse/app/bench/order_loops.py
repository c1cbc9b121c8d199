"""The compiled loops that the benchmark of orders runs: a market record, then an order near the best price."""

from __future__ import annotations

from tapehouse.app.bench.histogram import record_value
from tapehouse.book import BID, apply, best_price
from tapehouse.core.cycles import fenced_cycles
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.core.units import UNDEFINED
from tapehouse.desk import cancel_side, submit
from tapehouse.desk.state import INDEX, NOW, ORDINAL, OUT_ROWS, TICK, WORKING
from tapehouse.ring.kernels import append_bulk, readable, release

OUT_ROWS_NEEDED = 4_096
SIDE, OFFSET, SIZE, TIME_IN_FORCE = range(4)


@kernel(inline=True)
def _next_price(desk: State, books: State, words: Array, orders: Array, row: Int) -> Int:
    """Apply a market record, and say where the order after it goes; UNDEFINED where its side is empty."""
    apply(books, 0, words, row)
    counters = desk.counters
    counters[NOW] = words[row, 1]
    counters[ORDINAL] = row
    counters[INDEX] = 0
    counters[OUT_ROWS] = 0
    side = orders[row, SIDE]
    best = best_price(books, 0, side)
    if best == UNDEFINED:
        return UNDEFINED
    ticks = orders[row, OFFSET] if side == BID else -orders[row, OFFSET]
    return best + ticks * desk.instruments[0, TICK]


@kernel(inline=True)
def _keep(journal: Int, out: Array, rows: Int) -> None:
    """Copy a decision's records into the journal, where there is one; a full one is emptied as its consumer would."""
    if journal == 0:
        return
    if append_bulk(journal, out, 0, rows) != rows:
        release(journal, readable(journal))


@kernel()
def place(
    desk: State, books: State, words: Array, orders: Array, ladder: Array, out: Array, powers: Array, working: Int,
    journal: Int,
) -> Int:  # fmt: skip
    """Place an order after every market record; returns how many orders there were.

    Args:
        journal: The address of a ring that takes the decisions' records; 0 for none.
    """
    placed = 0
    for row in range(words.shape[0]):
        price = _next_price(desk, books, words, orders, row)
        if price == UNDEFINED:
            continue
        placed += 1
        side = orders[row, SIDE]
        submit(desk, books, ladder, out, powers, 0, 0, side, price, orders[row, SIZE], orders[row, TIME_IN_FORCE], row)
        _keep(journal, out, desk.counters[OUT_ROWS])
        if desk.counters[WORKING] > working:
            cancel_side(desk, out, 0, 0, side)
    return placed


@kernel()
def place_timed(
    desk: State, books: State, words: Array, orders: Array, ladder: Array, out: Array, powers: Array, working: Int,
    journal: Int, overhead: Int, histogram: Array,
) -> Int:  # fmt: skip
    """The same, each order alone between two fenced readings."""
    placed = 0
    for row in range(words.shape[0]):
        price = _next_price(desk, books, words, orders, row)
        if price == UNDEFINED:
            continue
        placed += 1
        side = orders[row, SIDE]
        size = orders[row, SIZE]
        time_in_force = orders[row, TIME_IN_FORCE]
        before = fenced_cycles()
        submit(desk, books, ladder, out, powers, 0, 0, side, price, size, time_in_force, row)
        _keep(journal, out, desk.counters[OUT_ROWS])
        record_value(histogram, fenced_cycles() - before - overhead)
        if desk.counters[WORKING] > working:
            cancel_side(desk, out, 0, 0, side)
    return placed
