"""What happened over time, streaming: order flow, trades and their signs, time-weighted mid, volatility, impact.

Fed with cells in the tape's order, `fold_flow` keeps the books and, an *interval* of engine time at a time, what
happened in each instrument; each interval that ends gives a row. Intervals lie on a grid from the epoch on, and so do
the *samples* within them, at which the mid is looked at for volatility and impact. The state at a moment is that after
all records received before it. A mid counts where both sides are there and the book is not crossed.

The definitions are in the room's DESIGN.md.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tapehouse.book.kernels import AHEAD, apply_record, expect
from tapehouse.book.layout import ASK, BID, CONFIDENCE, Ints
from tapehouse.book.measures import BPS_MAX, MEASURES, RATIOS, add_capped, measure
from tapehouse.book.queues import clear
from tapehouse.book.standing import set_confidence, told_confidence
from tapehouse.book.trades import BUY, SELL, UNSIGNED, counts_as_trade, is_trade, tick_of, trade_sign
from tapehouse.book.view import best_price, best_size, ladder, level_size
from tapehouse.book.wide import add, multiply
from tapehouse.core import detmath
from tapehouse.core.errors import UsageError
from tapehouse.core.kernel import Array, Float, Int, State, kernel
from tapehouse.core.units import UNDEFINED
from tapehouse.market import Action, Flag, Kind

TIME_MAX = 1 << 62  # of a moment, which begin at 0; a later one moves nothing
EVERY_MAX = 1 << 56  # ns of an interval: two years
PENDING_MAX = 1 << 12  # trades of one instrument whose recovery is waited for

# Columns of `state`: where an instrument stands.
BEGIN = 0  # of the interval; UNDEFINED before the first record
DUE = 1  # the first moment at which something is to be done
SAMPLE_AT = 2  # the next sample
TOP = 3  # bid, bid size, ask, ask size as seen at the last event's end
RETOLD = 7  # the book was cleared or told anew since: what differs is no order flow
MID = 8  # twice the mid; UNDEFINED where there is none
SINCE = 9  # the mid is counted until here
RETURN_MID = 10  # twice the mid at the last sample that had one
SAMPLE_MID = 11  # and at the last sample; UNDEFINED where it had none
SAMPLE_VOLUME = 12  # signed, since the last sample
LAST_PRICE, LAST_TICK = 13, 14  # of trades
BY_BOOK = 15  # it is told by order or by level: its quotes are left alone
SOURCE = 16
WAIT_HEAD, WAITING = 17, 18  # of `pending`: the oldest row, and how many
STATE_COLUMNS = 19
# Columns of `sums`: what is counted from 0 in each interval.
OFI = 0
TRADES, VOLUME, BUY_VOLUME, SELL_VOLUME = 1, 2, 3, 4
NOTIONAL = 5  # and 6: price x size, 128 bits
MID_TIME = 7  # and 8: twice the mid x ns, 128 bits
MID_NS = 9  # how long there was a mid
RETURNS = 10  # how many
POINTS = 11  # of the regression
TAKEN, RESTORED = 12, 13  # sizes, of trades whose time of recovery ended
UNFOLLOWED = 14  # trades that found `pending` full
CONFIDENCE_WORST = 15
RECORDS = 16
SUMS = 17
# Columns of `reals`, likewise.
VARIANCE = 0  # sum of squared returns
MEAN_X, MEAN_Y, SUM_XX, SUM_XY = 1, 2, 3, 4  # of the regression
REALS = 5
# Columns of `pending`.
WAIT_UNTIL, WAIT_PRICE, WAIT_SIDE, WAIT_BEFORE, WAIT_TAKEN = range(5)
WAIT_COLUMNS = 5
# Entries of `terms`.
EVERY, SAMPLE, RECOVERY, LEVELS_MEASURED, BPS, FROM, NOW = range(7)
TERMS = 7

# A row: its begin, end and slot, then what `measure` writes, then `sums`; and the ratios, the variance, Kyle's lambda.
ROW_BEGIN, ROW_END, ROW_SLOT, ROW_MEASURES = 0, 1, 2, 3
ROW_SUMS = ROW_MEASURES + MEASURES
ROW_COLUMNS = ROW_SUMS + SUMS
ROW_VARIANCE, ROW_LAMBDA = RATIOS, RATIOS + 1
ROW_REALS = RATIOS + 2

# Why `fold_flow` stopped.
DONE, ROWS_FULL, NEEDS_SLOT, DEFINITION = range(4)
NO_SLOT, UNWANTED = -1, -2  # in `slots`

_MBO, _MBP, _QUOTE, _TRADE = int(Kind.MBO), int(Kind.MBP), int(Kind.QUOTE), int(Kind.TRADE)
_GAP, _DEFINITION = int(Kind.GAP), int(Kind.DEFINITION)
_CLEAR, _LAST, _SNAPSHOT = int(Action.CLEAR), int(Flag.LAST), int(Flag.SNAPSHOT)
_NAN = float("nan")


class Flow(NamedTuple):
    """The state of all instruments; a kernel takes it whole."""

    state: Ints  # (slots, STATE_COLUMNS)
    sums: Ints  # (slots, SUMS)
    reals: npt.NDArray[np.float64]  # (slots, REALS)
    pending: Ints  # (slots, PENDING_MAX, WAIT_COLUMNS)
    terms: Ints  # (TERMS,)


class Rows(NamedTuple):
    """Where rows are written."""

    exact: Ints  # (rows, ROW_COLUMNS)
    reals: npt.NDArray[np.float64]  # (rows, ROW_REALS)
    ladders: Ints  # (rows, 2, levels, 3): of the book at the row's end; no levels where nobody wants them


def make_flow(
    slots: int, *, every: int, sample: int, recovery: int, levels: int = 5, bps: int = 10, start: int = 0
) -> Flow:
    """The state before the first record.

    Args:
        every: ns of an interval.
        sample: ns between samples; divides `every`.
        recovery: ns after a trade at which what it took is looked for.
        levels, bps: As `measures.measure` takes them.
        start: Intervals that begin earlier give no row; 0 to TIME_MAX.

    Raises:
        UsageError: One is out of its bounds.
    """
    if not 0 < every <= EVERY_MAX or not 0 < recovery <= EVERY_MAX:
        raise UsageError(f"an interval of {every} ns, a recovery of {recovery}", hint=f"1 to {EVERY_MAX}")
    if sample <= 0 or every % sample:
        raise UsageError(f"samples of {sample} ns do not fill an interval of {every}", hint="divide it evenly")
    if levels < 1 or not 0 <= bps <= BPS_MAX:
        raise UsageError(f"a depth of {levels} levels and {bps} basis points", hint=f"1 or more, 0 to {BPS_MAX}")
    if not 0 <= start <= TIME_MAX:
        raise UsageError(f"rows from {start} ns on", hint=f"0 to {TIME_MAX}")
    state = np.zeros((slots, STATE_COLUMNS), np.int64)
    state[:, [BEGIN, DUE, TOP, TOP + 2, MID, RETURN_MID, SAMPLE_MID, LAST_PRICE]] = UNDEFINED
    state[:, RETOLD] = 1
    terms = np.array([every, sample, recovery, levels, bps, start, 0], np.int64)
    return Flow(
        state=state,
        sums=np.zeros((slots, SUMS), np.int64),
        reals=np.zeros((slots, REALS)),
        pending=np.zeros((slots, PENDING_MAX, WAIT_COLUMNS), np.int64),
        terms=terms,
    )


def make_rows(rows: int, *, ladder_levels: int = 0) -> Rows:
    """Room for so many rows."""
    ladders = np.zeros((rows, 2, ladder_levels, 3), np.int64)
    return Rows(np.zeros((rows, ROW_COLUMNS), np.int64), np.zeros((rows, ROW_REALS)), ladders)


# Moments that come.


@kernel()
def next_due(state: Array, pending: Array, every: Int) -> Int:
    """The first moment at which something is to be done for an instrument."""
    due = min(state[SAMPLE_AT], state[BEGIN] + every)
    return min(due, pending[state[WAIT_HEAD], WAIT_UNTIL]) if state[WAITING] != 0 else due


@kernel()
def begin_flow(flow: State, slot: Int, confidence: Int) -> None:
    """The first record of an instrument: its interval is the one that holds now."""
    state = flow.state[slot]
    now, every, sample = flow.terms[NOW], flow.terms[EVERY], flow.terms[SAMPLE]
    state[BEGIN] = now - now % every
    state[SAMPLE_AT] = now - now % sample + sample
    state[SINCE] = now
    flow.sums[slot, CONFIDENCE_WORST] = confidence
    state[DUE] = next_due(state, flow.pending[slot], every)


@kernel()
def count_mid(state: Array, sums: Array, until: Int) -> None:
    """Count the mid for as long as it has stood."""
    if state[MID] != UNDEFINED:
        high, low = multiply(state[MID], until - state[SINCE])
        sums[MID_TIME], sums[MID_TIME + 1] = add(sums[MID_TIME], sums[MID_TIME + 1], high, low)
        sums[MID_NS] += until - state[SINCE]
    state[SINCE] = until


@kernel()
def regress(sums: Array, reals: Array, x: Float, y: Float, times: Int) -> None:
    """Take one point into a regression so many times.

    Source: Chan, Golub and LeVeque 1979, a sample of equal points joined to what there is.
    """
    before, after = np.float64(sums[POINTS]), np.float64(sums[POINTS] + times)
    dx, dy = x - reals[MEAN_X], y - reals[MEAN_Y]
    weight = before * np.float64(times) / after
    reals[MEAN_X] += dx * np.float64(times) / after
    reals[MEAN_Y] += dy * np.float64(times) / after
    reals[SUM_XX] += dx * dx * weight
    reals[SUM_XY] += dx * dy * weight
    sums[POINTS] += times


@kernel()
def sample_mid(state: Array, sums: Array, reals: Array, until: Int, sample: Int) -> None:
    """All samples up to a moment: one sees what happened since the last, those after it that nothing did."""
    times = (until - state[SAMPLE_AT]) // sample + 1
    mid = state[MID]
    if mid != UNDEFINED:
        before = state[RETURN_MID]
        if mid > 0:
            sums[RETURNS] += times - 1
            if before != UNDEFINED and before > 0:
                sums[RETURNS] += 1
                if mid != before:
                    change = detmath.log(np.float64(mid) / np.float64(before))
                    reals[VARIANCE] += change * change
        state[RETURN_MID] = mid
        if state[SAMPLE_MID] != UNDEFINED:
            change = 0.5 * np.float64(add_capped(mid, -state[SAMPLE_MID]))
            regress(sums, reals, np.float64(state[SAMPLE_VOLUME]), change, 1)
        if times > 1:
            regress(sums, reals, 0.0, 0.0, times - 1)
    state[SAMPLE_MID] = mid
    state[SAMPLE_VOLUME] = 0
    state[SAMPLE_AT] += times * sample


@kernel()
def judge_recovery(books: State, slot: Int, state: Array, sums: Array, pending: Array) -> None:
    """What is back, of what the oldest trade that is waited for took of its level."""
    wait = pending[state[WAIT_HEAD]]
    size = level_size(books, slot, wait[WAIT_SIDE], wait[WAIT_PRICE])
    back = min(max(size - (wait[WAIT_BEFORE] - wait[WAIT_TAKEN]), 0), wait[WAIT_TAKEN])
    sums[TAKEN] = add_capped(sums[TAKEN], wait[WAIT_TAKEN])
    sums[RESTORED] = add_capped(sums[RESTORED], back)
    state[WAIT_HEAD] = (state[WAIT_HEAD] + 1) % PENDING_MAX
    state[WAITING] -= 1


@kernel()
def close_interval(books: State, flow: State, slot: Int, end: Int, out: State, rows: Int) -> Int:
    """Write an instrument's row of the interval that ends, and begin the next; return how many rows are written."""
    state, sums, reals = flow.state[slot], flow.sums[slot], flow.reals[slot]
    count_mid(state, sums, end)
    if state[BEGIN] >= flow.terms[FROM]:
        exact = out.exact[rows]
        exact[ROW_BEGIN], exact[ROW_END], exact[ROW_SLOT] = state[BEGIN], end, slot
        measure(books, slot, flow.terms[LEVELS_MEASURED], flow.terms[BPS], exact[ROW_MEASURES:], out.reals[rows])
        for column in range(SUMS):
            exact[ROW_SUMS + column] = sums[column]
        out.reals[rows, ROW_VARIANCE] = reals[VARIANCE]
        out.reals[rows, ROW_LAMBDA] = reals[SUM_XY] / reals[SUM_XX] if reals[SUM_XX] > 0.0 else _NAN
        if out.ladders.shape[2] != 0:
            ladder(books, slot, out.ladders[rows])
        rows += 1
    for column in range(SUMS):
        sums[column] = 0
    for column in range(REALS):
        reals[column] = 0.0
    sums[CONFIDENCE_WORST] = books.slots[slot, CONFIDENCE]
    state[BEGIN] = end
    return rows


@kernel()
def pass_over(state: Array, pending: Array, until: Int, every: Int) -> Int:
    """Where an interval of which nobody wants a row ends: with the last of those like it, up to a moment, in which no
    trade is waited for. However long it was quiet, they are one step."""
    if state[WAITING] != 0:
        until = min(until, pending[state[WAIT_HEAD], WAIT_UNTIL] - 1)
    return state[BEGIN] + every * max(1, (until - state[BEGIN]) // every)


@kernel()
def settle(books: State, flow: State, slot: Int, now: Int, out: State, rows: Int) -> Int:
    """Do all that is due for an instrument up to a moment, in the order of time; return how many rows are written.

    It stops where `out` is full: `DUE` is not after `now` then.
    """
    state, pending = flow.state[slot], flow.pending[slot]
    every, sample = flow.terms[EVERY], flow.terms[SAMPLE]
    while state[DUE] <= now:
        edge = state[BEGIN] + every
        if state[WAITING] != 0 and pending[state[WAIT_HEAD], WAIT_UNTIL] == state[DUE]:
            judge_recovery(books, slot, state, flow.sums[slot], pending)
        elif state[SAMPLE_AT] == state[DUE]:
            sample_mid(state, flow.sums[slot], flow.reals[slot], min(now, edge), sample)
        elif rows == out.exact.shape[0]:
            return rows
        else:
            if state[BEGIN] < flow.terms[FROM]:
                edge = pass_over(state, pending, min(now, flow.terms[FROM]), every)
                if state[SAMPLE_AT] <= edge:
                    sample_mid(state, flow.sums[slot], flow.reals[slot], edge, sample)
            rows = close_interval(books, flow, slot, edge, out, rows)
        state[DUE] = next_due(state, pending, every)
    return rows


# Records.


@kernel()
def see_trade(books: State, flow: State, slot: Int, letter: Int, price: Int, size: Int) -> None:
    """A trade: its volume by sign, and what it takes of its level."""
    state, sums, pending = flow.state[slot], flow.sums[slot], flow.pending[slot]
    if not counts_as_trade(price, size):
        return
    tick = tick_of(price, state[LAST_PRICE], state[LAST_TICK])
    sign = trade_sign(letter, price, state[MID], tick)
    state[LAST_PRICE], state[LAST_TICK] = price, tick
    sums[TRADES] += 1
    sums[VOLUME] = add_capped(sums[VOLUME], size)
    high, low = multiply(price, size)
    sums[NOTIONAL], sums[NOTIONAL + 1] = add(sums[NOTIONAL], sums[NOTIONAL + 1], high, low)
    if sign == UNSIGNED:
        return
    if sign == BUY:
        sums[BUY_VOLUME] = add_capped(sums[BUY_VOLUME], size)
    elif sign == SELL:
        sums[SELL_VOLUME] = add_capped(sums[SELL_VOLUME], size)
    state[SAMPLE_VOLUME] = add_capped(state[SAMPLE_VOLUME], sign * size)
    side = ASK if sign == BUY else BID
    before = level_size(books, slot, side, price)
    if before == 0:
        return
    if state[WAITING] == PENDING_MAX:
        sums[UNFOLLOWED] += 1
        return
    wait = pending[(state[WAIT_HEAD] + state[WAITING]) % PENDING_MAX]
    wait[WAIT_UNTIL] = flow.terms[NOW] + flow.terms[RECOVERY]
    wait[WAIT_PRICE], wait[WAIT_SIDE] = price, side
    wait[WAIT_BEFORE], wait[WAIT_TAKEN] = before, min(size, before)
    state[WAITING] += 1
    state[DUE] = min(state[DUE], wait[WAIT_UNTIL])


@kernel()
def see_top(state: Array, sums: Array, now: Int, bid: Int, bid_size: Int, ask: Int, ask_size: Int) -> None:
    """The top of a book at an event's end, other than before: order flow, and the mid.

    An empty side is one with a worse price than all, and a size of 0.
    """
    if state[RETOLD] == 0:
        bid_now = bid if bid != UNDEFINED else -UNDEFINED
        bid_then = state[TOP] if state[TOP] != UNDEFINED else -UNDEFINED
        flow = sums[OFI]
        if bid_now >= bid_then:
            flow = add_capped(flow, bid_size)
        if bid_now <= bid_then:
            flow = add_capped(flow, -state[TOP + 1])
        if ask <= state[TOP + 2]:
            flow = add_capped(flow, -ask_size)
        if ask >= state[TOP + 2]:
            flow = add_capped(flow, state[TOP + 3])
        sums[OFI] = flow
    state[TOP], state[TOP + 1], state[TOP + 2], state[TOP + 3] = bid, bid_size, ask, ask_size
    mid = bid + ask if bid != UNDEFINED and ask != UNDEFINED and bid <= ask else UNDEFINED
    if mid != state[MID]:
        count_mid(state, sums, now)
        state[MID] = mid


@kernel()
def see_gap(books: State, flow: State, slots: Array, packed: Int, head: Int, out: State, rows: Int) -> Int:
    """A GAP record: what the book of one instrument is worth, or with instrument 0 all that its source feeds.

    A book whose feed the tape does not name is taken for everybody's, as the engine takes it.

    Returns:
        How many rows are written; -1 - rows where `out` is full: it is to be seen again.
    """
    now = flow.terms[NOW]
    instrument, source = head & 0xFFFFFFFF, (head >> 32) & 0xFFFF
    only = slots[instrument] if 0 < instrument < slots.shape[0] else NO_SLOT
    confidence = told_confidence(packed & 255, (packed >> 24) & 255)
    for slot in range(flow.state.shape[0]):
        fed = flow.state[slot, SOURCE]
        if slot == only or (instrument == 0 and (source == 0 or fed == 0 or fed == source)):
            rows = settle(books, flow, slot, now, out, rows)  # Before the first record nothing is due.
            if flow.state[slot, DUE] <= now:
                return -1 - rows
            set_confidence(books, slot, confidence)
            flow.sums[slot, CONFIDENCE_WORST] = max(flow.sums[slot, CONFIDENCE_WORST], confidence)
    return rows


@kernel()
def fold_flow(
    books: State, slots: Array, flow: State, array: Array, start: Int, out: State, rows: Int
) -> tuple[Int, Int, Int]:
    """Fold cells from row `start` on, writing a row of `out` for each interval that ends.

    Args:
        slots: Shape (ids,): the slot of each instrument id, NO_SLOT where it has none yet, UNWANTED to pass it over.
        array: Shape (n, 8) int64 cells, whole records.
        rows: How many rows of `out` are written.

    Returns:
        The row of `array` to go on at, the rows written, and why it stopped: ROWS_FULL; NEEDS_SLOT, the instrument at
        that row has no slot; DEFINITION, which the caller reads and passes; or DONE.
    """
    now = flow.terms[NOW]
    for at in range(start, array.shape[0]):
        head, packed = array[at, 6], array[at, 7]
        if (head >> 56) & 255 == 0:
            continue
        kind, action = (head >> 48) & 255, packed & 255
        if now < array[at, 1] <= TIME_MAX:
            now = array[at, 1]
            flow.terms[NOW] = now
        instrument = head & 0xFFFFFFFF
        slot = slots[instrument] if instrument < slots.shape[0] else NO_SLOT
        if kind == _GAP:
            if instrument != 0 and slot == NO_SLOT:
                return at, rows, NEEDS_SLOT
            written = see_gap(books, flow, slots, packed, head, out, rows)
            if written < 0:
                return at, -1 - written, ROWS_FULL
            rows = written
            continue
        if kind == _DEFINITION:
            return at, rows, DEFINITION
        if kind != _MBO and kind != _MBP and kind != _QUOTE and kind != _TRADE:
            continue
        if slot == UNWANTED:
            continue
        if slot < 0:
            return at, rows, NEEDS_SLOT
        expect(books, slots, array, at + AHEAD)
        state = flow.state[slot]
        if state[BEGIN] == UNDEFINED:
            begin_flow(flow, slot, books.slots[slot, CONFIDENCE])
        elif state[DUE] <= now:
            rows = settle(books, flow, slot, now, out, rows)
            if state[DUE] <= now:
                return at, rows, ROWS_FULL
        state[SOURCE] = (head >> 32) & 0xFFFF
        flow.sums[slot, RECORDS] += 1
        if is_trade(kind, action):
            see_trade(books, flow, slot, (packed >> 8) & 255, array[at, 4], array[at, 5])
        elif kind != _TRADE and (kind != _QUOTE or state[BY_BOOK] == 0):
            if kind != _QUOTE and state[BY_BOOK] == 0:
                state[BY_BOOK] = state[RETOLD] = 1
                clear(books, slot)
            if action == _CLEAR or (packed >> 16) & _SNAPSHOT != 0:
                state[RETOLD] = 1
            apply_record(books, slot, array, at)
        if (packed >> 16) & _LAST != 0:
            bid, bid_size = best_price(books, slot, BID), best_size(books, slot, BID)
            ask, ask_size = best_price(books, slot, ASK), best_size(books, slot, ASK)
            if bid != state[TOP] or bid_size != state[TOP + 1] or ask != state[TOP + 2] or ask_size != state[TOP + 3]:
                see_top(state, flow.sums[slot], now, bid, bid_size, ask, ask_size)
            state[RETOLD] = 0
    return array.shape[0], rows, DONE


@kernel()
def finish_flow(books: State, flow: State, slot: Int, until: Int, out: State, rows: Int) -> tuple[Int, Int]:
    """End an instrument's intervals up to a moment, the last one there even where it is not over.

    Returns:
        The rows written, and DONE or ROWS_FULL: it is to be called again.
    """
    state = flow.state[slot]
    if state[BEGIN] == UNDEFINED:
        return rows, DONE
    rows = settle(books, flow, slot, until, out, rows)
    if state[DUE] <= until or rows == out.exact.shape[0]:
        return rows, ROWS_FULL
    if until > state[BEGIN] or flow.sums[slot, RECORDS] != 0:
        rows = close_interval(books, flow, slot, until, out, rows)
    state[BEGIN] = UNDEFINED
    return rows, DONE
