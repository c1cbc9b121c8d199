"""The generator's own memory of live orders: queues by price, best prices, and a random pick, all in constant time.

It knows every order of every instrument, so that each cancel, replacement and execution it writes refers to a live
order and to the one whose turn it is. It is no product book: prices are ticks of a window, and nothing is checked.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tapehouse.core.kernel import Int, State, kernel

WINDOW_TICKS = 4096
ORDERS_MAX = 1024  # live orders of one instrument
BID, ASK = 0, 1
NONE = -1

# Columns of an order.
ID, SIDE, TICK, SIZE, BEFORE, AFTER, PLACE = range(7)
_ORDER_COLUMNS = 8
# Columns of a pool's heads: live orders, free rows, then by side: best tick, live orders.
LIVE, FREE, BEST, ON_SIDE = 0, 1, 2, 4
_HEAD_COLUMNS = 8


class Pool(NamedTuple):
    """Orders of several instruments; the first axis of everything is the instrument."""

    orders: npt.NDArray[Any]  # (instruments, ORDERS_MAX, 8)
    first: npt.NDArray[Any]  # (instruments, 2, WINDOW_TICKS) rows of orders, NONE where a level is empty
    last: npt.NDArray[Any]
    live: npt.NDArray[Any]  # (instruments, ORDERS_MAX) rows in no order, for the random pick
    free: npt.NDArray[Any]  # (instruments, ORDERS_MAX) a stack
    heads: npt.NDArray[Any]  # (instruments, 8)


def new_pool(instruments: int) -> Pool:
    """No orders; the best bid is NONE and the best ask WINDOW_TICKS."""
    levels = (instruments, 2, WINDOW_TICKS)
    pool = Pool(
        orders=np.zeros((instruments, ORDERS_MAX, _ORDER_COLUMNS), np.int64),
        first=np.full(levels, NONE, np.int64),
        last=np.full(levels, NONE, np.int64),
        live=np.zeros((instruments, ORDERS_MAX), np.int64),
        free=np.tile(np.arange(ORDERS_MAX - 1, -1, -1, dtype=np.int64), (instruments, 1)),
        heads=np.zeros((instruments, _HEAD_COLUMNS), np.int64),
    )
    pool.heads[:, FREE] = ORDERS_MAX
    pool.heads[:, BEST + BID] = NONE
    pool.heads[:, BEST + ASK] = WINDOW_TICKS
    return pool


@kernel()
def _link(pool: State, instrument: Int, row: Int, side: Int, tick: Int) -> None:
    """Queue an order behind the others of its level and count it on its side."""
    order = pool.orders[instrument, row]
    order[SIDE] = side
    order[TICK] = tick
    order[AFTER] = NONE
    order[BEFORE] = pool.last[instrument, side, tick]
    if order[BEFORE] == NONE:
        pool.first[instrument, side, tick] = row
    else:
        pool.orders[instrument, order[BEFORE], AFTER] = row
    pool.last[instrument, side, tick] = row
    heads = pool.heads[instrument]
    heads[ON_SIDE + side] += 1
    if side == BID:
        heads[BEST + BID] = max(heads[BEST + BID], tick)
    else:
        heads[BEST + ASK] = min(heads[BEST + ASK], tick)


@kernel()
def _unlink(pool: State, instrument: Int, row: Int) -> None:
    """Take an order out of its level, and find the next best price where it was the last of the best."""
    order = pool.orders[instrument, row]
    side = order[SIDE]
    tick = order[TICK]
    if order[BEFORE] == NONE:
        pool.first[instrument, side, tick] = order[AFTER]
    else:
        pool.orders[instrument, order[BEFORE], AFTER] = order[AFTER]
    if order[AFTER] == NONE:
        pool.last[instrument, side, tick] = order[BEFORE]
    else:
        pool.orders[instrument, order[AFTER], BEFORE] = order[BEFORE]
    heads = pool.heads[instrument]
    heads[ON_SIDE + side] -= 1
    if side == BID:
        while tick >= 0 and tick == heads[BEST + BID] and pool.first[instrument, BID, tick] == NONE:
            tick -= 1
            heads[BEST + BID] = tick
    else:
        while tick < WINDOW_TICKS and tick == heads[BEST + ASK] and pool.first[instrument, ASK, tick] == NONE:
            tick += 1
            heads[BEST + ASK] = tick


@kernel()
def add(pool: State, instrument: Int, order_id: Int, side: Int, tick: Int, size: Int) -> None:
    """A new order; the caller sees to it that fewer than ORDERS_MAX are live."""
    heads = pool.heads[instrument]
    heads[FREE] -= 1
    row = pool.free[instrument, heads[FREE]]
    pool.orders[instrument, row, ID] = order_id
    pool.orders[instrument, row, SIZE] = size
    pool.orders[instrument, row, PLACE] = heads[LIVE]
    pool.live[instrument, heads[LIVE]] = row
    heads[LIVE] += 1
    _link(pool, instrument, row, side, tick)


@kernel()
def move(pool: State, instrument: Int, row: Int, tick: Int, size: Int) -> None:
    """Give an order another price or size; it loses its turn."""
    _unlink(pool, instrument, row)
    pool.orders[instrument, row, SIZE] = size
    _link(pool, instrument, row, pool.orders[instrument, row, SIDE], tick)


@kernel()
def reduce(pool: State, instrument: Int, row: Int, size: Int) -> None:
    """Take from an order; it goes when nothing remains."""
    pool.orders[instrument, row, SIZE] -= size
    if pool.orders[instrument, row, SIZE] > 0:
        return
    _unlink(pool, instrument, row)
    heads = pool.heads[instrument]
    heads[LIVE] -= 1
    place = pool.orders[instrument, row, PLACE]
    moved = pool.live[instrument, heads[LIVE]]
    pool.live[instrument, place] = moved
    pool.orders[instrument, moved, PLACE] = place
    pool.free[instrument, heads[FREE]] = row
    heads[FREE] += 1


@kernel()
def crossed(pool: State, instrument: Int) -> Int:
    """Whether the best bid is at or above the best ask."""
    return pool.heads[instrument, BEST + BID] >= pool.heads[instrument, BEST + ASK]
