"""The kernels of the generated day: which event comes next, when, and in which cells.

A fair price walks at random and is drawn back to where it began; orders gather around it, and those that it leaves
behind are hit. Everything is drawn from one stream of integers and computed in integers, so a seed gives the same bytes
on every CPU. The plan of the day says for each phase until when, until which cell, and how the kinds of events mix.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.core.units import UNDEFINED
from tapehouse.feeds.order_pool import (
    ASK,
    BEST,
    BID,
    ID,
    LIVE,
    NONE,
    ON_SIDE,
    SIDE,
    SIZE,
    TICK,
    WINDOW_TICKS,
    Pool,
    add,
    crossed,
    move,
    new_pool,
    reduce,
)
from tapehouse.feeds.packing import COUNT_SHIFT, TAIL, head_word, put_cell, tail_word
from tapehouse.feeds.random_integers import below, geometric, new_random
from tapehouse.market import Action, Flag, Kind, Side

# Columns of the plan, one row to a phase.
CELLS_UNTIL, TIME_UNTIL, ADDS, CANCELS, REPLACES, TRADES, SPEED, DRIFT = range(8)
PLAN_COLUMNS = 8
PRE_OPEN, OPENING = 0, 1  # the first phases
# Slots of the clock.
NOW, EVENT_TIME, CELLS, ORDERS, PHASE, DONE = range(6)
# Columns of an instrument's state.
PRICE_AT_0, TICK_SIZE, FAIR, STATUS_SENT = range(4)

FAIR_UNIT = 16  # the fair price counts sixteenths of a tick
CENTRE = WINDOW_TICKS // 2
FAIR_RANGE = 1000  # ticks that the fair price may leave the centre
DEEP_TICKS = 40
LIVE_TARGET = 400  # orders of one instrument
SIDE_MIN = 8  # orders that must stay on a side
FILLS_MAX = 6  # of one trade
EVENT_CELLS_MAX = 3 * FILLS_MAX
ROUND_LOT = 100
_REVERSION = 512  # sixteenths of a tick for one part in a thousand of pull
_LATENCY_NS_MIN, _LATENCY_NS_RANGE = 30_000, 90_000
_OPENING_GAP_NS = 20_000  # between the matches of the opening
_STATUS_PRE_OPEN, _STATUS_TRADING, _STATUS_CLOSE = np.int64(1), np.int64(7), np.int64(12)  # DBN's status actions

# Constants are of numpy's type: Numba compiles a function anew for each Python integer that it is called with.
_NOBODY = np.int64(0)  # the order id of an aggressor
_MBO, _STATUS = np.int64(Kind.MBO), np.int64(Kind.STATUS)
_ADD, _CANCEL, _MODIFY = np.int64(Action.ADD), np.int64(Action.CANCEL), np.int64(Action.MODIFY)
_TRADE, _FILL, _NONE = np.int64(Action.TRADE), np.int64(Action.FILL), np.int64(Action.NONE)
_LETTERS = (np.int64(Side.BID), np.int64(Side.ASK))
_NO_SIDE = np.int64(Side.NONE)
_LAST = np.int64(Flag.LAST)


class Flow(NamedTuple):
    """The whole state of a day in the making."""

    random: npt.NDArray[Any]  # (1,) uint64
    clock: npt.NDArray[Any]  # (8,) int64
    plan: npt.NDArray[Any]  # (phases, 8) int64
    state: npt.NDArray[Any]  # (instruments, 4) int64
    pool: Pool


def new_flow(seed: int, plan: npt.NDArray[np.int64], start_ns: int, specs: list[tuple[int, int]]) -> Flow:
    """A day before its first event; `specs` are (first price, tick size) of each instrument."""
    state = np.zeros((len(specs), 4), np.int64)
    for row, (price, tick_size) in enumerate(specs):
        state[row] = (price - CENTRE * tick_size, tick_size, CENTRE * FAIR_UNIT, 0)
    clock = np.zeros(8, np.int64)
    clock[NOW] = clock[EVENT_TIME] = start_ns
    return Flow(new_random(seed), clock, plan, state, new_pool(len(specs)))


@kernel()
def _put(
    flow: State, instrument: Int, order_id: Int, action: Int, letter: Int, price: Int, size: Int, out: Array, at: Int
) -> Int:
    """One market-by-order cell of the present event."""
    flow.clock[CELLS] += 1
    return put_cell(
        out,
        at,
        flow.clock[EVENT_TIME],
        flow.clock[NOW],
        flow.clock[CELLS],
        order_id,
        price,
        size,
        head_word(instrument + 1, 0, _MBO, 1),
        tail_word(action, letter, 0, 0),
    )


@kernel()
def _put_status(flow: State, instrument: Int, status: Int, out: Array, at: Int) -> Int:
    flow.clock[CELLS] += 1
    return put_cell(
        out,
        at,
        flow.clock[EVENT_TIME],
        flow.clock[NOW],
        flow.clock[CELLS],
        0,
        UNDEFINED,
        0,
        head_word(instrument + 1, 0, _STATUS, 1),
        tail_word(_NONE, _NO_SIDE, 0, 0) | (status << COUNT_SHIFT),
    )


@kernel()
def _price(flow: State, instrument: Int, tick: Int) -> Int:
    return flow.state[instrument, PRICE_AT_0] + tick * flow.state[instrument, TICK_SIZE]


@kernel()
def _advance(flow: State, at_once: Int) -> None:
    """Move the clock by a random gap: a short one, or one that spends the phase's time evenly over its cells."""
    clock = flow.clock
    phase = clock[PHASE]
    time_left = flow.plan[phase, TIME_UNTIL] - clock[NOW]
    cells_left = max(flow.plan[phase, CELLS_UNTIL] - clock[CELLS], 1)
    mean = max(time_left // cells_left, 1)
    gap = 1 + below(flow.random, mean if below(flow.random, 8) < 5 else 4 * mean)
    if at_once:
        gap = 1 + below(flow.random, _OPENING_GAP_NS)
    clock[NOW] += max(min(gap, time_left // 2), 1)
    latency = _LATENCY_NS_MIN + below(flow.random, _LATENCY_NS_RANGE)
    clock[EVENT_TIME] = min(max(clock[EVENT_TIME] + 1, clock[NOW] - latency), clock[NOW])


@kernel()
def _walk(flow: State, instrument: Int) -> Int:
    """Move the instrument's fair price one step; its whole ticks."""
    phase = flow.clock[PHASE]
    away = flow.state[instrument, FAIR] - CENTRE * FAIR_UNIT
    up = 512 - away // _REVERSION + flow.plan[phase, DRIFT]
    step = 1 + below(flow.random, flow.plan[phase, SPEED])
    fair = flow.state[instrument, FAIR] + (step if below(flow.random, 1024) < up else -step)
    fair = min(max(fair, (CENTRE - FAIR_RANGE) * FAIR_UNIT), (CENTRE + FAIR_RANGE) * FAIR_UNIT)
    flow.state[instrument, FAIR] = fair
    return fair // FAIR_UNIT


@kernel()
def _order_tick(flow: State, instrument: Int, side: Int, fair: Int) -> Int:
    """Where a new order of that side would rest: near the fair price, never across the other side after the open."""
    away = geometric(flow.random) + below(flow.random, 3)
    if below(flow.random, 4) == 0:
        away += below(flow.random, DEEP_TICKS)
    heads = flow.pool.heads[instrument]
    if flow.clock[PHASE] == PRE_OPEN:
        return fair + 3 - away if side == BID else fair - 3 + away
    if side == BID:
        return min(heads[BEST + ASK] - 1, fair - 1) - away
    return max(heads[BEST + BID] + 1, fair + 1) + away


@kernel()
def _order_size(flow: State) -> Int:
    if below(flow.random, 5) == 0:
        return 1 + below(flow.random, ROUND_LOT - 1)
    return ROUND_LOT * (1 + geometric(flow.random))


@kernel()
def _put_add(flow: State, instrument: Int, side: Int, fair: Int, out: Array, at: Int) -> Int:
    tick = _order_tick(flow, instrument, side, fair)
    size = _order_size(flow)
    flow.clock[ORDERS] += 1
    order_id = flow.clock[ORDERS]
    add(flow.pool, instrument, order_id, side, tick, size)
    return _put(flow, instrument, order_id, _ADD, _LETTERS[side], _price(flow, instrument, tick), size, out, at)


@kernel()
def _put_cancel(flow: State, instrument: Int, row: Int, out: Array, at: Int) -> Int:
    order = flow.pool.orders[instrument, row]
    size = order[SIZE]
    if size > 1 and below(flow.random, 8) == 0:
        size = 1 + below(flow.random, size - 1)
    price = _price(flow, instrument, order[TICK])
    at = _put(flow, instrument, order[ID], _CANCEL, _LETTERS[order[SIDE]], price, size, out, at)
    reduce(flow.pool, instrument, row, size)
    return at


@kernel()
def _put_replace(flow: State, instrument: Int, row: Int, fair: Int, out: Array, at: Int) -> Int:
    order = flow.pool.orders[instrument, row]
    tick = _order_tick(flow, instrument, order[SIDE], fair)
    size = _order_size(flow)
    move(flow.pool, instrument, row, tick, size)
    price = _price(flow, instrument, tick)
    return _put(flow, instrument, order[ID], _MODIFY, _LETTERS[order[SIDE]], price, size, out, at)


@kernel()
def _put_trade(flow: State, instrument: Int, side: Int, limit: Int, out: Array, at: Int) -> Int:
    """An aggressor takes from the orders resting on `side`, at ticks not worse for it than `limit`."""
    pool = flow.pool
    left = _order_size(flow)
    for fill in range(FILLS_MAX):
        tick = pool.heads[instrument, BEST + side]
        if fill > 0 and (tick < limit if side == BID else tick > limit):
            break
        if left == 0 or pool.heads[instrument, ON_SIDE + side] <= SIDE_MIN // 2:
            break
        row = pool.first[instrument, side, tick]
        order_id = pool.orders[instrument, row, ID]
        size = min(left, pool.orders[instrument, row, SIZE])
        price = _price(flow, instrument, tick)
        at = _put(flow, instrument, _NOBODY, _TRADE, _LETTERS[1 - side], price, size, out, at)
        at = _put(flow, instrument, order_id, _FILL, _LETTERS[side], price, size, out, at)
        at = _put(flow, instrument, order_id, _CANCEL, _LETTERS[side], price, size, out, at)
        reduce(pool, instrument, row, size)
        left -= size
    return at


@kernel()
def _put_opening(flow: State, instrument: Int, out: Array, at: Int) -> Int:
    """One match of the opening: the best bid with the best ask, at a price between them."""
    pool = flow.pool
    best_bid = pool.heads[instrument, BEST + BID]
    best_ask = pool.heads[instrument, BEST + ASK]
    fair = flow.state[instrument, FAIR] // FAIR_UNIT
    price = _price(flow, instrument, min(max(fair, best_ask), best_bid))
    bid = pool.first[instrument, BID, best_bid]
    ask = pool.first[instrument, ASK, best_ask]
    size = min(pool.orders[instrument, bid, SIZE], pool.orders[instrument, ask, SIZE])
    at = _put(flow, instrument, _NOBODY, _TRADE, _NO_SIDE, price, size, out, at)
    for side in range(2):
        row = bid if side == BID else ask
        order_id = pool.orders[instrument, row, ID]
        resting = _price(flow, instrument, pool.orders[instrument, row, TICK])
        at = _put(flow, instrument, order_id, _FILL, _LETTERS[side], price, size, out, at)
        at = _put(flow, instrument, order_id, _CANCEL, _LETTERS[side], resting, size, out, at)
        reduce(pool, instrument, row, size)
    return at


@kernel()
def _put_stale(flow: State, instrument: Int, side: Int, fair: Int, out: Array, at: Int) -> Int:
    """What becomes of the best order of a side that the fair price has left behind: withdrawn, moved or hit."""
    choice = below(flow.random, 8)
    row = flow.pool.first[instrument, side, flow.pool.heads[instrument, BEST + side]]
    if choice == 0:
        return _put_trade(flow, instrument, side, fair + 1 if side == BID else fair - 1, out, at)
    if choice < 5:
        return _put_cancel(flow, instrument, row, out, at)
    return _put_replace(flow, instrument, row, fair, out, at)


@kernel()
def _put_steady(flow: State, instrument: Int, out: Array, at: Int) -> Int:
    """One event of an instrument that is open, or gathers orders before the open."""
    heads = flow.pool.heads[instrument]
    plan = flow.plan[flow.clock[PHASE]]
    fair = _walk(flow, instrument)
    side = below(flow.random, 2)
    for thin in range(2):
        if heads[ON_SIDE + thin] < SIDE_MIN:
            return _put_add(flow, instrument, thin, fair, out, at)
    if flow.clock[PHASE] != PRE_OPEN and below(flow.random, 2) == 0:
        for stale in range(2):
            best = heads[BEST + stale]
            if best > fair if stale == BID else best < fair:
                return _put_stale(flow, instrument, stale, fair, out, at)
    choice = below(flow.random, plan[ADDS] + plan[CANCELS] + plan[REPLACES] + plan[TRADES])
    row = flow.pool.live[instrument, below(flow.random, heads[LIVE])]
    winding_down = plan[CANCELS] > plan[ADDS]
    if choice < plan[ADDS] + plan[CANCELS]:
        adding = choice < plan[ADDS]
        if not winding_down:
            if heads[LIVE] > LIVE_TARGET * 5 // 4:
                adding = False
            elif heads[LIVE] < LIVE_TARGET * 3 // 4:
                adding = True
        if adding or heads[ON_SIDE + flow.pool.orders[instrument, row, SIDE]] <= SIDE_MIN:
            return _put_add(flow, instrument, side, fair, out, at)
        return _put_cancel(flow, instrument, row, out, at)
    if choice < plan[ADDS] + plan[CANCELS] + plan[REPLACES]:
        return _put_replace(flow, instrument, row, fair, out, at)
    limit = heads[BEST + side] - 2 if side == BID else heads[BEST + side] + 2
    return _put_trade(flow, instrument, side, limit, out, at)


@kernel()
def _opening_instrument(flow: State) -> Int:
    """The first instrument whose opening is due and not done yet, or NONE."""
    if flow.clock[PHASE] == PRE_OPEN:
        return NONE
    for instrument in range(flow.state.shape[0]):
        if flow.state[instrument, STATUS_SENT] < _STATUS_TRADING:
            return instrument
    return NONE


@kernel()
def _put_event(flow: State, opening: Int, out: Array, at: Int) -> Int:
    """The next event of the day."""
    instruments = flow.state.shape[0]
    for instrument in range(instruments):
        if flow.state[instrument, STATUS_SENT] == 0:
            flow.state[instrument, STATUS_SENT] = _STATUS_PRE_OPEN
            return _put_status(flow, instrument, _STATUS_PRE_OPEN, out, at)
    if opening != NONE:
        if crossed(flow.pool, opening):
            return _put_opening(flow, opening, out, at)
        flow.state[opening, STATUS_SENT] = _STATUS_TRADING
        return _put_status(flow, opening, _STATUS_TRADING, out, at)
    chosen = below(flow.random, instruments + 1) % instruments  # the first one is twice as busy
    return _put_steady(flow, chosen, out, at)


@kernel()
def _close(flow: State, out: Array, at: Int) -> Int:
    """The closing status of every instrument, at the end of the day."""
    phases = flow.plan.shape[0]
    for instrument in range(flow.state.shape[0]):
        flow.clock[NOW] = max(flow.clock[NOW] + 1, flow.plan[phases - 1, TIME_UNTIL])
        flow.clock[EVENT_TIME] = flow.clock[NOW]
        at = _put_status(flow, instrument, _STATUS_CLOSE, out, at)
        out[at - 1, TAIL] |= _LAST << 16
    flow.clock[DONE] = 1
    return at


@kernel()
def generate(flow: State, limit: Int, out: Array) -> Int:
    """Write events until `limit` cells are there, the day is over, or `out` has no room for one event more.

    Args:
        out: Words, shape (m, 8), m at least EVENT_CELLS_MAX + the number of instruments.

    Returns:
        The cells written; 0 after the end of the day.
    """
    at = np.int64(0)
    phases = flow.plan.shape[0]
    room = EVENT_CELLS_MAX + flow.state.shape[0]
    while flow.clock[DONE] == 0 and at < limit and at + room <= out.shape[0]:
        while flow.clock[PHASE] < phases and flow.clock[CELLS] >= flow.plan[flow.clock[PHASE], CELLS_UNTIL]:
            flow.clock[PHASE] += 1
        if flow.clock[PHASE] == phases:
            return _close(flow, out, at)
        opening = _opening_instrument(flow)
        _advance(flow, opening != NONE)
        before = at
        at = _put_event(flow, opening, out, at)
        if at > before:
            out[at - 1, TAIL] |= _LAST << 16
    return at
