"""How whole books of N levels become the levels that changed: a kernel over rows of Tardis' book snapshots."""

from __future__ import annotations

from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.core.units import UNDEFINED
from tapehouse.feeds.packing import put_cell
from tapehouse.market import Action, Flag, Kind, Side

DECODED, BAD_ORDER, BAD_SIZE = 0, 1, 2
_HEAD = int(Kind.MBP) << 48 | 1 << 56
_BY_PRICE, _SNAPSHOT = int(Flag.BY_PRICE), int(Flag.SNAPSHOT)
_CLEAR_TAIL = int(Action.CLEAR) | int(Side.NONE) << 8 | int(Flag.SNAPSHOT | Flag.SYNTHETIC) << 16
_CLEAR_HEAD = int(Kind.MBO) << 48 | 1 << 56
_LAST = int(Flag.LAST) << 16
_SIDES = (int(Side.BID), int(Side.ASK))
_ADD, _CANCEL, _MODIFY = int(Action.ADD), int(Action.CANCEL), int(Action.MODIFY)


@kernel()
def _put_level(
    out: Array, at: Int, event: Int, recv: Int, own: Int, side: Int, action: Int, price: Int, size: Int, flags: Int
) -> Int:
    tail = action | (_SIDES[side] << 8) | (flags << 16)
    return put_cell(out, at, event, recv, 0, 0, price, size, _HEAD | own, tail)


@kernel()
def _count_levels(book: Array, side: Int) -> Int:
    """How many levels one side has; -1 where they are not strictly ordered, -2 where a size is not positive."""
    levels = 0
    direction = 1 if side == 1 else -1
    for level in range(book.shape[1]):
        price = book[side, level, 0]
        if price == UNDEFINED:
            break
        if book[side, level, 1] <= 0 or book[side, level, 1] == UNDEFINED:
            return -2
        if level > 0 and (price - book[side, level - 1, 0]) * direction <= 0:
            return -1
        levels += 1
    for level in range(levels, book.shape[1]):
        if book[side, level, 0] != UNDEFINED:
            return -1
    return levels


@kernel()
def diff_books(
    times: Array, owns: Array, books: Array, begin: Int, known: Array, seen: Array, limit: Int, out: Array, used: Array
) -> Int:
    """The cells of rows from `begin` on; a status.

    Args:
        times: Shape (rows, 2): ts_event, ts_recv.
        owns: Shape (rows,): instrument ids.
        books: Shape (rows, 2, levels, 2): bids and asks, best first, price (UNDEFINED where none) and size.
        known: Shape (instruments + 1, 2, levels, 2): the row before, changed here.
        seen: Shape (instruments + 1,): 1 where there was one.
        limit: No further row begins when that many cells are written.
        out: Shape (n, 8), n at least limit + 4 * levels + 1.
        used: Cells written; rows done.
    """
    at = 0
    row = begin
    levels_max = books.shape[2]
    status = DECODED
    while row < len(owns) and at < limit:
        own, event, recv = owns[row], times[row, 0], times[row, 1]
        begun = at
        flags = _BY_PRICE
        for side in range(2):
            count = _count_levels(books[row], side)
            if count < 0:
                status = BAD_ORDER if count == -1 else BAD_SIZE
        if status != DECODED:
            break
        if seen[own] == 0:
            seen[own] = 1
            flags |= _SNAPSHOT
            at = put_cell(out, at, event, recv, 0, 0, UNDEFINED, 0, _CLEAR_HEAD | own, _CLEAR_TAIL)
        for side in range(2):
            new_count = _count_levels(books[row], side)
            direction = 1 if side == 1 else -1
            old = 0
            new = 0
            while True:
                old_price = known[own, side, old, 0] if old < levels_max else UNDEFINED
                new_price = books[row, side, new, 0] if new < new_count else UNDEFINED
                if old_price == UNDEFINED and new_price == UNDEFINED:
                    break
                if old_price == new_price:
                    size = books[row, side, new, 1]
                    if size != known[own, side, old, 1]:
                        at = _put_level(out, at, event, recv, own, side, _MODIFY, new_price, size, flags)
                    old += 1
                    new += 1
                elif new_price == UNDEFINED or (old_price != UNDEFINED and (old_price - new_price) * direction < 0):
                    at = _put_level(out, at, event, recv, own, side, _CANCEL, old_price, 0, flags)
                    old += 1
                else:
                    size = books[row, side, new, 1]
                    at = _put_level(out, at, event, recv, own, side, _ADD, new_price, size, flags)
                    new += 1
        for side in range(2):
            for level in range(levels_max):
                known[own, side, level, 0] = books[row, side, level, 0]
                known[own, side, level, 1] = books[row, side, level, 1]
        if at > begun:
            out[at - 1, 7] |= _LAST
        row += 1
    used[0] = at
    used[1] = row - begin
    return status
