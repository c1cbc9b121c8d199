"""The compiled loops that the benchmark of books runs; slot 0 takes every record."""

from __future__ import annotations

from tapehouse.app.bench.histogram import record_value
from tapehouse.book import ASK, BID, apply, best_price, best_size, depth, level_size
from tapehouse.core.cycles import fenced_cycles
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.core.units import UNDEFINED
from tapehouse.market import Action, Kind, Side

_SIDE = 8  # bits below the side in a cell's last word
_KINDS = 0xFF << 48
_MBP = int(Kind.MBP) << 48
_MODIFY, _CLEAR = int(Action.MODIFY), int(Action.CLEAR)
_TRADE, _FILL, _NONE = int(Action.TRADE), int(Action.FILL), int(Action.NONE)
_BID, _ASK = int(Side.BID), int(Side.ASK)


@kernel()
def _state_level(books: State, words: Array, row: Int, side: Int, price: Int, out: Array, at: Int) -> Int:
    """Write what a level is now as a record by price; returns the next row of `out`."""
    for column in range(8):
        out[at, column] = words[row, column]
    out[at, 3] = 0
    out[at, 4] = price
    out[at, 5] = level_size(books, 0, side, price)
    out[at, 6] = (words[row, 6] & ~_KINDS) | _MBP
    letter = _BID if side == BID else _ASK
    out[at, 7] = (words[row, 7] & ~0xFFFF) | (letter << _SIDE) | _MODIFY
    return at + 1


@kernel()
def derive_levels(books: State, words: Array, previous: Array, out: Array) -> Int:
    """Apply every record, and write the levels that it touched, clears and trades; returns the rows written.

    Args:
        previous: Shape (n, 2): side and price where the record's order was before; UNDEFINED where nobody knows.
    """
    at = 0
    for row in range(words.shape[0]):
        apply(books, 0, words, row)
        action = words[row, 7] & 0xFF
        if action == _CLEAR or action == _TRADE:
            for column in range(8):
                out[at, column] = words[row, column]
            at += 1
        elif action != _FILL and action != _NONE:
            letter = (words[row, 7] >> _SIDE) & 0xFF
            price = words[row, 4]
            side = BID if letter == _BID else ASK
            if price != UNDEFINED and (letter == _BID or letter == _ASK):
                at = _state_level(books, words, row, side, price, out, at)
            if previous[row, 1] != UNDEFINED and (previous[row, 0] != side or previous[row, 1] != price):
                at = _state_level(books, words, row, previous[row, 0], previous[row, 1], out, at)
    return at


@kernel()
def apply_timed(books: State, words: Array, overhead: Int, histogram: Array) -> None:
    """Apply every record between two fenced readings."""
    for row in range(words.shape[0]):
        before = fenced_cycles()
        apply(books, 0, words, row)
        record_value(histogram, fenced_cycles() - before - overhead)


@kernel(inline=True)
def _top(books: State) -> Int:
    """The best of both sides, in one number so that nothing of it can be left out."""
    prices = best_price(books, 0, BID) ^ best_price(books, 0, ASK)
    return prices ^ best_size(books, 0, BID) ^ best_size(books, 0, ASK)


@kernel()
def top_timed(books: State, words: Array, prices: Array, sizes: Array, overhead: Int, histogram: Array) -> Int:
    """Apply every record and look at the top of the book after it, each look between two fenced readings."""
    mixed = 0
    for row in range(words.shape[0]):
        apply(books, 0, words, row)
        before = fenced_cycles()
        mixed ^= _top(books)
        record_value(histogram, fenced_cycles() - before - overhead)
    return mixed


@kernel()
def depth_timed(books: State, words: Array, prices: Array, sizes: Array, overhead: Int, histogram: Array) -> Int:
    """Apply every record and copy out the levels of both sides, each copy between two fenced readings."""
    copied = 0
    for row in range(words.shape[0]):
        apply(books, 0, words, row)
        before = fenced_cycles()
        copied += depth(books, 0, BID, prices, sizes) + depth(books, 0, ASK, prices, sizes)
        record_value(histogram, fenced_cycles() - before - overhead)
    return copied
