"""The kernels of the LOBSTER feed: a model book of whole levels, and what a row of the book file reveals about it.

The model holds exactly what a consumer of the feed's cells holds by price. A message's delta is applied to it as the
consumer will apply it; then its best levels are compared with the row that LOBSTER wrote after that message, and each
difference becomes a market-by-price cell. So whoever folds the cells shows the row's levels after every row.

A level that left the view is *doubted*: orders in it may have come and gone unseen, so what a consumer knows of its
orders may be wrong even where the size is right. It is trusted until its size proves wrong or something is taken from
it; then it is stated anew: emptied by a cell of size 0, which makes a consumer forget its orders, and set again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.core.units import UNDEFINED
from tapehouse.feeds.packing import COUNT_SHIFT, TAIL, head_word, put_cell, tail_word
from tapehouse.market import Action, Flag, Kind, Side

MODEL_LEVELS_MAX = 8192  # levels of one side that are remembered beyond the view; the worst are forgotten first
UNIT = 100_000  # LOBSTER's USD x 10^4 in units of 1e-9
EMPTY = 9_999_999_999  # the price of a level that is not there, negative for bids

# Message columns and types.
TIME, TYPE, ORDER, SHARES, PRICE, DIRECTION = range(6)
ADD, CANCEL, DELETE, EXECUTION, HIDDEN, CROSS, HALT = range(1, 8)

# Columns of the model's tally.
COUNT = 0  # and 1: levels held of bids and asks
REVEALED, STALE, RESTATED, SEEDED, LAST_TIME = 2, 3, 4, 5, 6

DECODED, BAD_TYPE, BAD_DIRECTION, BAD_SIZE, BAD_PRICE, BAD_ORDER, BAD_TIME, BAD_HALT = range(8)

# Constants are of numpy's type: Numba compiles a function anew for each Python integer that it is called with.
_0, _1, _DEEP, _UNDEFINED = np.int64(0), np.int64(1), np.int64(255), np.int64(UNDEFINED)
_MBO, _MBP, _TRADE, _STATUS = np.int64(Kind.MBO), np.int64(Kind.MBP), np.int64(Kind.TRADE), np.int64(Kind.STATUS)
_ADD, _CANCEL = np.int64(Action.ADD), np.int64(Action.CANCEL)
_CLEAR, _T, _F, _NONE = np.int64(Action.CLEAR), np.int64(Action.TRADE), np.int64(Action.FILL), np.int64(Action.NONE)
_BID, _ASK, _NO_SIDE = np.int64(Side.BID), np.int64(Side.ASK), np.int64(Side.NONE)
_LAST, _BY_PRICE = np.int64(Flag.LAST), np.int64(Flag.BY_PRICE)
_SEED, _SEED_CLEAR = np.int64(Flag.SNAPSHOT | Flag.BY_PRICE), np.int64(Flag.SNAPSHOT | Flag.SYNTHETIC)
# DBN's status actions, in `count` of a status cell.
_STATUS_QUOTING, _STATUS_TRADING, _STATUS_HALT = 3, 7, 8
_EVENT_CELLS_MAX = 16  # a clear, a trade of three, a level forgotten or stated anew, and some to spare


class Model(NamedTuple):
    """Levels by side (0 bids, 1 asks), the worst first; keys are prices, negated for asks, so that the best is last."""

    key: npt.NDArray[Any]  # (2, MODEL_LEVELS_MAX) int64
    size: npt.NDArray[Any]  # (2, MODEL_LEVELS_MAX) int64
    doubt: npt.NDArray[Any]  # (2, MODEL_LEVELS_MAX) int64, 1 where the level was out of view
    tally: npt.NDArray[Any]  # (8,) int64


def new_model() -> Model:
    """A model that holds nothing."""
    shape = (2, MODEL_LEVELS_MAX)
    return Model(np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(8, np.int64))


@kernel()
def check_message(messages: Array, at: Int) -> Int:
    """Whether one message is one of LOBSTER's, whatever the book: a status."""
    kind = messages[at, TYPE]
    direction = messages[at, DIRECTION]
    price = messages[at, PRICE]
    if kind < ADD or kind > HALT:
        return BAD_TYPE
    if direction != 1 and direction != -1:
        return BAD_DIRECTION
    if kind == HALT:
        known = -1 <= price <= 1 and direction == -1 and messages[at, SHARES] == 0
        return DECODED if known else BAD_HALT
    if messages[at, SHARES] <= 0:
        return BAD_SIZE
    if kind != CROSS and not 0 < price < EMPTY:
        return BAD_PRICE
    return DECODED


@kernel()
def check_row(book: Array, at: Int) -> Int:
    """Whether a row's levels are strictly ordered on each side, with sizes, the empty ones last: a status."""
    levels = book.shape[1] // 4
    for side in range(2):  # 0 asks, 1 bids, as the columns come
        sign = 1 - 2 * side
        previous = np.int64(0) if side == 0 else np.int64(-EMPTY)
        for level in range(levels):
            key = sign * book[at, 4 * level + 2 * side]
            size = book[at, 4 * level + 2 * side + 1]
            if key == EMPTY:
                if size != 0:
                    return BAD_ORDER
            elif key <= previous or size <= 0 or abs(key) > EMPTY or sign * key <= 0:
                return BAD_ORDER
            previous = key
    return DECODED


@kernel()
def _find(model: State, side: Int, key: Int) -> Int:
    """The index of the first level with a key not below `key`."""
    low = np.int64(0)
    high = model.tally[COUNT + side]
    while low < high:
        middle = (low + high) >> 1
        if model.key[side, middle] < key:
            low = middle + 1
        else:
            high = middle
    return low


@kernel()
def _remove(model: State, side: Int, at: Int) -> Int:
    last = model.tally[COUNT + side] - 1
    for index in range(at, last):
        model.key[side, index] = model.key[side, index + 1]
        model.size[side, index] = model.size[side, index + 1]
        model.doubt[side, index] = model.doubt[side, index + 1]
    model.tally[COUNT + side] = last
    return last


@kernel()
def _insert(model: State, side: Int, at: Int, key: Int, size: Int) -> Int:
    """Put a level before index `at`; the key of the level forgotten to make room for it, or UNDEFINED."""
    forgotten = _UNDEFINED
    if model.tally[COUNT + side] == MODEL_LEVELS_MAX:
        if at == 0:
            return key
        forgotten = model.key[side, 0]
        _remove(model, side, 0)
        at -= 1
    index = model.tally[COUNT + side]
    while index > at:
        model.key[side, index] = model.key[side, index - 1]
        model.size[side, index] = model.size[side, index - 1]
        model.doubt[side, index] = model.doubt[side, index - 1]
        index -= 1
    model.key[side, at] = key
    model.size[side, at] = size
    model.doubt[side, at] = 0
    model.tally[COUNT + side] += 1
    return forgotten


@kernel()
def _change(model: State, side: Int, key: Int, delta: Int) -> Int:
    """Add to one level; it goes when nothing remains. The key of a level forgotten for it, or UNDEFINED."""
    at = _find(model, side, key)
    if at < model.tally[COUNT + side] and model.key[side, at] == key:
        model.size[side, at] += delta
        if model.size[side, at] <= 0:
            _remove(model, side, at)
    elif delta > 0:
        return _insert(model, side, at, key, delta)
    return _UNDEFINED


@kernel()
def _put_level(
    out: Array, at: Int, time: Int, row: Int, side: Int, key: Int, size: Int, action: Int, depth: Int, flags: Int
) -> Int:
    letter = _BID if side == 0 else _ASK
    price = (key if side == 0 else -key) * UNIT
    return put_cell(
        out, at, time, time, row, _0, price, size, head_word(_1, _0, _MBP, _1), tail_word(action, letter, flags, depth)
    )


@kernel()
def _put_anew(model: State, side: Int, key: Int, time: Int, row: Int, out: Array, at: Int) -> Int:
    """State a level of the model from nothing, so that a consumer forgets what it knew of its orders."""
    index = _find(model, side, key)
    count = model.tally[COUNT + side]
    present = index < count and model.key[side, index] == key
    depth = min(count - index - present, 255)
    at = _put_level(out, at, time, row, side, key, _0, _CANCEL, depth, _BY_PRICE)
    if present:
        model.doubt[side, index] = 0
        at = _put_level(out, at, time, row, side, key, model.size[side, index], _ADD, depth, _BY_PRICE)
    return at


@kernel()
def _is_doubted(model: State, side: Int, key: Int) -> Int:
    index = _find(model, side, key)
    return index < model.tally[COUNT + side] and model.key[side, index] == key and model.doubt[side, index] == 1


@kernel()
def _reconcile(model: State, side: Int, book: Array, row_at: Int, time: Int, row: Int, out: Array, at: Int) -> Int:
    """Make one side of the model show the row, writing a cell for each difference; the next free cell."""
    levels = book.shape[1] // 4
    column = 2 * (1 - side)
    model_at = model.tally[COUNT + side] - 1
    complete = False
    for level in range(levels):
        price = book[row_at, 4 * level + column]
        size = book[row_at, 4 * level + column + 1]
        if price == EMPTY or price == -EMPTY:
            complete = True
            break
        key = price if side == 0 else -price
        while model_at >= 0 and model.key[side, model_at] > key:
            at = _put_level(out, at, time, row, side, model.key[side, model_at], _0, _CANCEL, level, _BY_PRICE)
            _remove(model, side, model_at)
            model.tally[STALE] += 1
            model_at -= 1
        if model_at >= 0 and model.key[side, model_at] == key:
            if model.size[side, model_at] != size:
                model.size[side, model_at] = size
                at = _put_anew(model, side, key, time, row, out, at)
                model.tally[REVEALED] += 1
            model_at -= 1
        else:
            forgotten = _insert(model, side, model_at + 1, key, size)
            if forgotten != _UNDEFINED:
                at = _put_level(out, at, time, row, side, forgotten, _0, _CANCEL, levels, _BY_PRICE)
                model_at -= 1
            at = _put_level(out, at, time, row, side, key, size, _ADD, level, _BY_PRICE)
            model.tally[REVEALED] += 1
    while complete and model_at >= 0:
        at = _put_level(out, at, time, row, side, model.key[side, model_at], _0, _CANCEL, levels, _BY_PRICE)
        _remove(model, side, model_at)
        model.tally[STALE] += 1
        model_at -= 1
    while model_at >= 0 and model.doubt[side, model_at] == 0:
        model.doubt[side, model_at] = 1
        model_at -= 1
    return at


@kernel()
def _seed(model: State, messages: Array, book: Array, time: Int, row: Int, out: Array, at: Int) -> Int:
    """The book before the first message, as the first row and that message imply it; begins with a clear."""
    at = put_cell(
        out,
        at,
        time,
        time,
        row,
        _0,
        _UNDEFINED,
        _0,
        head_word(_1, _0, _MBO, _1),
        tail_word(_CLEAR, _NO_SIDE, _SEED_CLEAR, _0),
    )
    for side in range(2):
        for level in range(book.shape[1] // 4):
            price = book[0, 4 * level + 2 * (1 - side)]
            if price == EMPTY or price == -EMPTY:
                break
            _change(model, side, price if side == 0 else -price, book[0, 4 * level + 2 * (1 - side) + 1])
    kind = messages[0, TYPE]
    if kind <= EXECUTION:
        side = 0 if messages[0, DIRECTION] == 1 else 1
        key = messages[0, PRICE] if side == 0 else -messages[0, PRICE]
        _change(model, side, key, -messages[0, SHARES] if kind == ADD else messages[0, SHARES])
    for side in range(2):
        count = model.tally[COUNT + side]
        for level in range(count):
            index = count - 1 - level
            at = _put_level(
                out, at, time, row, side, model.key[side, index], model.size[side, index], _ADD, level, _SEED
            )
    model.tally[SEEDED] = 1
    return at


@kernel()
def _put_message(model: State, messages: Array, index: Int, time: Int, row: Int, out: Array, at: Int) -> Int:
    """The cells of one message, its delta applied to the model; the next free cell."""
    kind = messages[index, TYPE]
    order = messages[index, ORDER]
    shares = messages[index, SHARES]
    price = messages[index, PRICE]
    side = 0 if messages[index, DIRECTION] == 1 else 1
    key = price if side == 0 else -price
    letter = _BID if side == 0 else _ASK
    aggressor = _ASK if side == 0 else _BID
    fixed = price * UNIT
    mbo = head_word(_1, _0, _MBO, _1)
    if kind == ADD:
        at = put_cell(out, at, time, time, row, order, fixed, shares, mbo, tail_word(_ADD, letter, _0, _0))
        forgotten = _change(model, side, key, shares)
        if forgotten != _UNDEFINED:
            at = _put_level(out, at, time, row, side, forgotten, _0, _CANCEL, _DEEP, _BY_PRICE)
    elif kind <= EXECUTION:
        if kind == EXECUTION:
            at = put_cell(out, at, time, time, row, _0, fixed, shares, mbo, tail_word(_T, aggressor, _0, _0))
            at = put_cell(out, at, time, time, row, order, fixed, shares, mbo, tail_word(_F, letter, _0, _0))
        at = put_cell(out, at, time, time, row, order, fixed, shares, mbo, tail_word(_CANCEL, letter, _0, _0))
        doubted = _is_doubted(model, side, key)
        _change(model, side, key, -shares)
        if doubted:
            at = _put_anew(model, side, key, time, row, out, at)
            model.tally[RESTATED] += 1
    elif kind == HIDDEN:
        at = put_cell(out, at, time, time, row, _0, fixed, shares, mbo, tail_word(_T, aggressor, _0, _0))
    elif kind == CROSS:
        paid = fixed if price > 0 else _UNDEFINED
        at = put_cell(
            out, at, time, time, row, _0, paid, shares, head_word(_1, _0, _TRADE, _1), tail_word(_T, _NO_SIDE, 0, 0)
        )
    else:
        status = _STATUS_HALT if price == -1 else (_STATUS_QUOTING if price == 0 else _STATUS_TRADING)
        tail = tail_word(_NONE, _NO_SIDE, _0, _0) | (status << COUNT_SHIFT)
        at = put_cell(out, at, time, time, row, _0, _UNDEFINED, _0, head_word(_1, _0, _STATUS, _1), tail)
    return at


@kernel()
def decode_rows(
    model: State, messages: Array, book: Array, begin: Int, row: Int, midnight: Int, limit: Int, out: Array, used: Array
) -> Int:
    """Rows `begin` and on into cells, until `limit` cells are there or `out` has no room for one row more.

    Args:
        messages, book: Shapes (n, 6) and (n, 4 levels), int64.
        row: The number of row `begin` in its file, from 1.
        midnight: UTC ns, added to the times.
        out: Words, shape (m, 8).
        used: 0 becomes the cells written, 1 the rows done.

    Returns:
        A status; the row where it stopped is begin + used[1].
    """
    used[0] = 0
    used[1] = 0
    levels = book.shape[1] // 4
    for index in range(begin, messages.shape[0]):
        room = _EVENT_CELLS_MAX + 12 * levels + model.tally[COUNT] + model.tally[COUNT + 1]
        if used[0] >= limit or used[0] + room > out.shape[0]:
            return DECODED
        status = check_message(messages, index)
        if status == DECODED:
            status = check_row(book, index)
        if status == DECODED and messages[index, TIME] < model.tally[LAST_TIME]:
            status = BAD_TIME
        if status != DECODED:
            return status
        model.tally[LAST_TIME] = messages[index, TIME]
        time = midnight + messages[index, TIME]
        at = used[0]
        if model.tally[SEEDED] == 0:
            at = _seed(model, messages, book, time, row, out, at)
        at = _put_message(model, messages, index, time, row, out, at)
        for side in range(2):
            at = _reconcile(model, side, book, index, time, row, out, at)
        out[at - 1, TAIL] |= _LAST << 16
        used[0] = at
        used[1] += 1
        row += 1
    return DECODED
