"""Bars of trades by time, tick count, volume or money, streaming: open, high, low, close, volume, vwap, buys, sells.

A bar by time is a span of engine time on the grid from the epoch on; spans without a trade give none. The others begin
with a trade and end with the one that completes them: a trade that overfills a bar goes whole into it, so every bar
holds at least its measure, and no trade is ever split. Everything is exact; the vwap is notional over volume, of which
the notional has 128 bits.

Trades alone are looked at, no book: where a record does not name the aggressor, the tick rule says who it was.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np

from tapehouse.book.flow import DEFINITION, DONE, EVERY_MAX, NEEDS_SLOT, NO_SLOT, ROWS_FULL, TIME_MAX, UNWANTED
from tapehouse.book.layout import SIZE_MAX, Ints
from tapehouse.book.measures import add_capped
from tapehouse.book.trades import BUY, SELL, counts_as_trade, is_trade, tick_of, trade_sign
from tapehouse.book.wide import add, halves, multiply, reaches
from tapehouse.core.errors import UsageError
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.core.units import UNDEFINED
from tapehouse.market import Kind

DOLLARS_MAX = 1 << 124  # of price units x size units


class By(IntEnum):
    """What completes a bar."""

    TIME = 0
    TICK = 1
    VOLUME = 2
    DOLLAR = 3


# Columns of a row, and of the state of a bar that is not complete.
BEGIN = 0  # by time: the span's; else of the first trade. UNDEFINED: no bar has begun
END = 1  # by time: the span's; else of the last trade
SLOT, OPEN, HIGH, LOW, CLOSE, VOLUME, TRADES, BUY_VOLUME, SELL_VOLUME = range(2, 11)
NOTIONAL = 11  # and 12: price x size, 128 bits
COMPLETE = 13  # 0 of a bar that the end of the records cut short
BAR_COLUMNS = 14
LAST_PRICE, LAST_TICK = 14, 15  # of trades, through all bars
STATE_COLUMNS = 16
# Entries of `terms`; the size of bars by money is 128 bits.
WHAT, SIZE, SIZE_LOW = range(3)

_DEFINITION = int(Kind.DEFINITION)
_TIME, _TICK, _VOLUME, _DOLLAR = int(By.TIME), int(By.TICK), int(By.VOLUME), int(By.DOLLAR)


class Bars(NamedTuple):
    """The bars that are not complete, of all instruments."""

    state: Ints  # (slots, STATE_COLUMNS)
    terms: Ints  # (slots, 3)


def make_bars(slots: int) -> Bars:
    """No bars; each slot is to be told what completes one."""
    state = np.zeros((slots, STATE_COLUMNS), np.int64)
    state[:, [BEGIN, LAST_PRICE]] = UNDEFINED
    terms = np.zeros((slots, 3), np.int64)
    return Bars(state, terms)


def define_bars(bars: Bars, slot: int, by: By, size: int) -> None:
    """Say what completes a slot's bars.

    Args:
        size: ns, trades, size units, or price units x size units.

    Raises:
        UsageError: The size is not above 0, or too large.
    """
    most = {By.TIME: EVERY_MAX, By.DOLLAR: DOLLARS_MAX}.get(by, SIZE_MAX)
    if not 0 < size <= most:
        raise UsageError(f"a bar by {by.name.lower()} of {size}", hint=f"1 to {most}")
    bars.terms[slot, [SIZE, SIZE_LOW]] = halves(size) if by == By.DOLLAR else (size, 0)
    bars.terms[slot, WHAT] = by


@kernel()
def end_bar(bars: State, slot: Int, complete: Int, out: Array, rows: Int) -> Int:
    """Write a slot's bar; return how many rows are written."""
    state = bars.state[slot]
    state[COMPLETE] = complete
    for column in range(BAR_COLUMNS):
        out[rows, column] = state[column]
    state[BEGIN] = UNDEFINED
    return rows + 1


@kernel(inline=True)
def is_complete(state: Array, terms: Array) -> Int:
    """Whether a bar holds its measure; one by time never says so itself."""
    what = terms[WHAT]
    if what == _TICK:
        return state[TRADES] >= terms[SIZE]
    if what == _VOLUME:
        return state[VOLUME] >= terms[SIZE]
    return what == _DOLLAR and reaches(state[NOTIONAL], state[NOTIONAL + 1], terms[SIZE], terms[SIZE_LOW])


@kernel()
def take_trade(state: Array, terms: Array, slot: Int, now: Int, letter: Int, price: Int, size: Int) -> None:
    """Take a trade into a bar, which begins with it where none has."""
    if state[BEGIN] == UNDEFINED:
        for column in range(BAR_COLUMNS):
            state[column] = 0
        state[BEGIN] = now - now % terms[SIZE] if terms[WHAT] == _TIME else now
        state[SLOT] = slot
        state[OPEN] = state[HIGH] = state[LOW] = price
    tick = tick_of(price, state[LAST_PRICE], state[LAST_TICK])
    sign = trade_sign(letter, price, UNDEFINED, tick)
    state[LAST_PRICE], state[LAST_TICK] = price, tick
    state[END] = state[BEGIN] + terms[SIZE] if terms[WHAT] == _TIME else now
    state[HIGH] = max(state[HIGH], price)
    state[LOW] = min(state[LOW], price)
    state[CLOSE] = price
    state[TRADES] += 1
    state[VOLUME] = add_capped(state[VOLUME], size)
    if sign == BUY:
        state[BUY_VOLUME] = add_capped(state[BUY_VOLUME], size)
    elif sign == SELL:
        state[SELL_VOLUME] = add_capped(state[SELL_VOLUME], size)
    high, low = multiply(price, size)
    state[NOTIONAL], state[NOTIONAL + 1] = add(state[NOTIONAL], state[NOTIONAL + 1], high, low)


@kernel()
def fold_bars(
    slots: Array, bars: State, array: Array, start: Int, now: Int, out: Array, rows: Int
) -> tuple[Int, Int, Int, Int]:
    """Fold cells from row `start` on, writing a row of `out` for each bar that is complete.

    A bar by time is written when a trade of its instrument comes after it, or by `finish_bars`.

    Args:
        slots: As `flow.fold_flow` takes them.
        now: Engine time before these cells.
        out: Shape (n, BAR_COLUMNS).

    Returns:
        The row of `array` to go on at, engine time, the rows written, and why it stopped, as `flow.fold_flow` says.
    """
    for at in range(start, array.shape[0]):
        head, packed = array[at, 6], array[at, 7]
        if (head >> 56) & 255 == 0:
            continue
        kind = (head >> 48) & 255
        if now < array[at, 1] <= TIME_MAX:
            now = array[at, 1]
        if kind == _DEFINITION:
            return at, now, rows, DEFINITION
        if not is_trade(kind, packed & 255) or not counts_as_trade(array[at, 4], array[at, 5]):
            continue
        instrument = head & 0xFFFFFFFF
        slot = slots[instrument] if instrument < slots.shape[0] else NO_SLOT
        if slot == UNWANTED:
            continue
        if slot < 0:
            return at, now, rows, NEEDS_SLOT
        state, terms = bars.state[slot], bars.terms[slot]
        if rows + 2 > out.shape[0]:
            return at, now, rows, ROWS_FULL
        if terms[WHAT] == _TIME and state[BEGIN] != UNDEFINED and now >= state[END]:
            rows = end_bar(bars, slot, 1, out, rows)
        take_trade(state, terms, slot, now, (packed >> 8) & 255, array[at, 4], array[at, 5])
        if is_complete(state, terms):
            rows = end_bar(bars, slot, 1, out, rows)
    return array.shape[0], now, rows, DONE


@kernel()
def finish_bars(bars: State, now: Int, out: Array, rows: Int) -> Int:
    """Write every bar that has begun, those that are not over as not complete; return how many rows are written.

    Args:
        now: Engine time.
        out: With room for a row of each slot.
    """
    for slot in range(bars.state.shape[0]):
        state, terms = bars.state[slot], bars.terms[slot]
        if state[BEGIN] != UNDEFINED and rows < out.shape[0]:
            over = terms[WHAT] == _TIME and state[END] <= now
            rows = end_bar(bars, slot, 1 if over else 0, out, rows)
    return rows
