"""The kernels of the seeded chain: a reference price from whatever a feed sends, a smile, and Black's formula on it.

The smile is an SVI curve in k = ln(strike / forward) / sqrt(years), the same for all expiries, so that neither strikes
nor expiries admit arbitrage. Its level rises when the reference falls, as it does in equities.

Source: F. Black, "The pricing of commodity contracts" (1976); J. Gatheral, A. Jacquier, "Arbitrage-free SVI volatility
surfaces" (2014).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tapehouse.core import detmath
from tapehouse.core.kernel import Array, Float, Int, State, kernel
from tapehouse.core.units import UNDEFINED
from tapehouse.feeds.packing import HEAD, PRICE, SIZE, TAIL, TS_RECV, head_word, put_cell, tail_word
from tapehouse.feeds.random_integers import below
from tapehouse.market import Action, Flag, Kind, Side

CELLS_PER_QUOTE = 3
YEAR_NS = 365 * 86_400 * 1_000_000_000  # ACT/365 fixed

# Columns of the terms, one row to an option.
INSTRUMENT, STRIKE, EXPIRY, IS_PUT, TICK, INTEREST = range(6)
# Slots of the tracker.
REFERENCE, FIRST, BEST_BID, BEST_ASK, BY_ORDER, RECORDS, NEXT, QUOTES = range(8)
# The smile's parameters.
SVI_A, SVI_B, SVI_RHO, SVI_SIGMA, HALF_SPREAD = range(5)

_MBO, _MBP, _QUOTE, _TRADE = np.int64(Kind.MBO), np.int64(Kind.MBP), np.int64(Kind.QUOTE), np.int64(Kind.TRADE)
_OPTION_QUOTE = np.int64(Kind.OPTION_QUOTE)
_TRADED, _NONE, _BID, _NO_SIDE = np.int64(Action.TRADE), np.int64(Action.NONE), np.int64(Side.BID), np.int64(Side.NONE)
_LAST = np.int64(Flag.LAST)
_QUOTE_FLAGS = np.int64(Flag.LAST | Flag.SYNTHETIC)
_SMOOTHING = 4  # a trade moves the reference by a quarter of its distance
_LEVERAGE = 3.0  # relative rise of variance for a relative fall of the reference
_VARIANCE_FACTOR_MIN, _VARIANCE_FACTOR_MAX = 0.5, 3.0
_NANO = 1e9


class Chain(NamedTuple):
    """What the kernels know of a chain."""

    terms: npt.NDArray[Any]  # (options, 6) int64
    smile: npt.NDArray[Any]  # (5,) float64
    tracker: npt.NDArray[Any]  # (8,) int64
    random: npt.NDArray[Any]  # (1,) uint64


@kernel()
def track(tracker: Array, cells: Array, row: Int) -> None:
    """Let one record move the reference price: its own mid for quotes, else the trades, else the best levels."""
    kind = (cells[row, HEAD] >> 48) & 255
    action = cells[row, TAIL] & 255
    price = cells[row, PRICE]
    if kind == _MBO or kind == _TRADE:
        if kind == _MBO:
            tracker[BY_ORDER] = 1
        if action == _TRADED and 0 < price < UNDEFINED:
            known = tracker[REFERENCE]
            tracker[REFERENCE] = known + (price - known) // _SMOOTHING if known else price
    elif kind == _QUOTE and row + 1 < cells.shape[0]:
        ask = cells[row + 1, PRICE]
        if 0 < price < ask < UNDEFINED:
            tracker[REFERENCE] = price + (ask - price) // 2
    elif kind == _MBP and tracker[BY_ORDER] == 0 and (cells[row, TAIL] >> 24) & 255 == 0 and cells[row, SIZE] > 0:
        if (cells[row, TAIL] >> 8) & 255 == _BID:
            tracker[BEST_BID] = price
        else:
            tracker[BEST_ASK] = price
        if 0 < tracker[BEST_BID] < tracker[BEST_ASK]:
            tracker[REFERENCE] = tracker[BEST_BID] + (tracker[BEST_ASK] - tracker[BEST_BID]) // 2
    if tracker[FIRST] == 0:
        tracker[FIRST] = tracker[REFERENCE]


@kernel()
def first_reference(tracker: Array, cells: Array, underlying: Int) -> Int:
    """The row at which the reference price becomes known, or -1."""
    for row in range(cells.shape[0]):
        if cells[row, HEAD] & 0xFFFFFFFF == underlying and (cells[row, HEAD] >> 56) & 255 != 0:
            track(tracker, cells, row)
            if tracker[REFERENCE] > 0:
                return row
    return -1


@kernel()
def smile_volatility(smile: Array, moneyness: Float, fall: Float) -> Float:
    """The volatility at k = ln(strike / forward) / sqrt(years) after a relative fall of the reference."""
    factor = min(max(1.0 + _LEVERAGE * fall, _VARIANCE_FACTOR_MIN), _VARIANCE_FACTOR_MAX)
    wing = detmath.sqrt(moneyness * moneyness + smile[SVI_SIGMA] * smile[SVI_SIGMA])
    return detmath.sqrt(factor * (smile[SVI_A] + smile[SVI_B] * (smile[SVI_RHO] * moneyness + wing)))


@kernel()
def black(forward: Float, strike: Float, deviation: Float, is_put: Int) -> Float:
    """Black's undiscounted price; `deviation` is volatility times sqrt(years), positive."""
    d1 = detmath.log(forward / strike) / deviation + 0.5 * deviation
    d2 = d1 - deviation
    if is_put:
        value = strike * detmath.normal_cdf(-d2) - forward * detmath.normal_cdf(-d1)
    else:
        value = forward * detmath.normal_cdf(d1) - strike * detmath.normal_cdf(d2)
    return max(value, 0.0)


@kernel()
def _put_extension(out: Array, at: Int, first: Int, a: Int, b: Int, c: Int, d: Int, e: Int, f: Int) -> Int:
    """An extension of the record that begins at `first`."""
    head = out[first, HEAD] & ((1 << 56) - 1)
    return put_cell(out, at, a, b, c, d, e, f, head, out[first, TAIL])


@kernel()
def put_option_quote(chain: State, option: Int, cells: Array, row: Int, out: Array, at: Int) -> Int:
    """Quote one option at the time of a cell; the next free cell, or `at` where the option has expired."""
    terms = chain.terms[option]
    now = cells[row, TS_RECV]
    if now >= terms[EXPIRY]:
        return at
    reference = chain.tracker[REFERENCE]
    forward = float(reference)
    strike = float(terms[STRIKE])
    root = detmath.sqrt(float(terms[EXPIRY] - now) / YEAR_NS)
    fall = 1.0 - forward / float(chain.tracker[FIRST])
    mark_volatility = smile_volatility(chain.smile, detmath.log(strike / forward) / root, fall)
    half = chain.smile[HALF_SPREAD]
    is_put = terms[IS_PUT]
    tick = terms[TICK]
    mark = np.int64(black(forward, strike, mark_volatility * root, is_put) + 0.5)
    bid = np.int64(black(forward, strike, (mark_volatility - half) * root, is_put)) // tick * tick
    ask = -(-np.int64(black(forward, strike, (mark_volatility + half) * root, is_put)) // tick) * tick
    ask = max(ask, bid + tick)
    bid_volatility = np.int64((mark_volatility - half) * _NANO + 0.5)
    ask_volatility = np.int64((mark_volatility + half) * _NANO + 0.5)
    bid_size = 1 + below(chain.random, 50)
    ask_size = 1 + below(chain.random, 50)
    if bid <= 0:
        bid, bid_size, bid_volatility = np.int64(UNDEFINED), np.int64(0), np.int64(UNDEFINED)
    chain.tracker[QUOTES] += 1
    sequence = chain.tracker[QUOTES]
    head = head_word(terms[INSTRUMENT], 0, _OPTION_QUOTE, CELLS_PER_QUOTE)
    tail = tail_word(_NONE, _NO_SIDE, _QUOTE_FLAGS, 0)
    first = at
    at = put_cell(out, at, now, now, sequence, 0, bid, bid_size, head, tail)
    at = _put_extension(out, at, first, now, now, sequence, 0, ask, ask_size)
    volatility = np.int64(mark_volatility * _NANO + 0.5)
    return _put_extension(out, at, first, reference, mark, bid_volatility, ask_volatility, volatility, terms[INTEREST])


@kernel()
def insert_quotes(chain: State, underlying: Int, every: Int, cells: Array, begin: Int, out: Array, used: Array) -> Int:
    """Copy records and put an option quote behind the event in which the `every`-th record since the last one falls.

    Args:
        cells: Words of a batch, shape (n, 8).
        begin: The row to go on from; a record's first.
        out: Words, shape (m, 8).
        used: 0 becomes the cells written.

    Returns:
        The row to go on from; n when all is done.
    """
    at = np.int64(0)
    row = begin
    options = chain.terms.shape[0]
    while row < cells.shape[0]:
        length = max((cells[row, HEAD] >> 56) & 255, 1)
        if at + length + CELLS_PER_QUOTE > out.shape[0]:
            break
        for offset in range(length):
            for word in range(8):
                out[at + offset, word] = cells[row + offset, word]
        at += length
        if cells[row, HEAD] & 0xFFFFFFFF == underlying:
            track(chain.tracker, cells, row)
        chain.tracker[RECORDS] += 1
        due = chain.tracker[RECORDS] >= every and (cells[row, TAIL] >> 16) & _LAST != 0
        if due and options > 0 and chain.tracker[REFERENCE] > 0:
            chain.tracker[RECORDS] = 0
            at = put_option_quote(chain, chain.tracker[NEXT], cells, row, out, at)
            chain.tracker[NEXT] = (chain.tracker[NEXT] + 1) % options
        row += length
    used[0] = at
    return row
