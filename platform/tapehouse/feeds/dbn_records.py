"""DBN records as numpy sees them, and their translation to cells, a run of equal records at a time.

Offsets are those of DBN versions 1 to 3, in which the market records did not change. A record's length is taken from
its own header, because a live recording may append a send time to each. `channel_id` and `ts_in_delta` are left out:
a cell has no room for them and nothing here needs them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.core.units import UNDEFINED
from tapehouse.feeds.packing import COUNT_SHIFT, HEAD, PRICE, SIZE, TAIL
from tapehouse.market import Action, Cells, Flag, Kind, Side, empty_cells

HEADER_BYTES = 16
SEND_TIME_BYTES = 8  # `ts_out`
UNDEFINED_TIME = -1  # 2^64 - 1 as int64
UNDEFINED_SIZE = 2**32 - 1
BOOK_LEVELS = 10
_LEVELS_AT = 48
_RESERVED_FLAG = 1  # DBN's unused bit, which is SYNTHETIC here

# rtype: (bytes, what it becomes)
MBO, MBP_0, MBP_1, MBP_10 = 160, 0, 1, 10
CMBP_1, CBBO_1S, CBBO_1M, TCBBO, BBO_1S, BBO_1M = 177, 192, 193, 194, 195, 196
STATUS, DEFINITION, SYMBOL_MAPPING = 18, 19, 22
RECORD_BYTES = {
    MBO: 56,
    MBP_0: 48,
    MBP_1: 80,
    MBP_10: 368,
    CMBP_1: 80,
    CBBO_1S: 80,
    CBBO_1M: 80,
    TCBBO: 80,
    BBO_1S: 80,
    BBO_1M: 80,
    STATUS: 40,
}
QUOTES = frozenset({MBP_1, CMBP_1, CBBO_1S, CBBO_1M, TCBBO, BBO_1S, BBO_1M})
_WITH_TRADES = frozenset({MBP_1, CMBP_1, TCBBO})
_WITH_SEQUENCE = frozenset({MBP_1, BBO_1S, BBO_1M})

_HEADER = {"publisher": ("<u2", 2), "instrument": ("<u4", 4), "ts_event": ("<i8", 8)}
_MBO = {
    "order_id": ("<u8", 16),
    "price": ("<i8", 24),
    "size": ("<u4", 32),
    "flags": ("u1", 36),
    "action": ("u1", 38),
    "side": ("u1", 39),
    "ts_recv": ("<i8", 40),
    "sequence": ("<u4", 52),
}
_MBP = {
    "price": ("<i8", 16),
    "size": ("<u4", 24),
    "action": ("u1", 28),
    "side": ("u1", 29),
    "flags": ("u1", 30),
    "depth": ("u1", 31),
    "ts_recv": ("<i8", 32),
    "sequence": ("<u4", 44),
}
_BEST = {"bid": ("<i8", 48), "ask": ("<i8", 56), "bid_size": ("<u4", 64), "ask_size": ("<u4", 68)}
_STATUS = {"ts_recv": ("<i8", 16), "action": ("<u2", 24), "reason": ("<u2", 26)}

Records = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]


def _dtype(length: int, *groups: dict[str, tuple[str, int]]) -> np.dtype[Any]:
    fields = {name: place for group in (_HEADER, *groups) for name, place in group.items()}
    return np.dtype(
        {
            "names": list(fields),
            "formats": [form for form, _ in fields.values()],
            "offsets": [offset for _, offset in fields.values()],
            "itemsize": length,
        }
    )


def read_records(run: Bytes, rtype: int) -> Records:
    """A run of records of one type, shape (n, record bytes), as a structured array without a copy."""
    groups: tuple[dict[str, tuple[str, int]], ...]
    if rtype == MBO:
        groups = (_MBO,)
    elif rtype == STATUS:
        groups = (_STATUS,)
    elif rtype in QUOTES:
        groups = (_MBP, _BEST)
    else:
        groups = (_MBP,)
    return run.reshape(-1).view(_dtype(run.shape[1], *groups))


def _common(records: Records, kind: Kind) -> Cells:
    """One cell for each record with the fields that all types share; times and instruments are fixed up later."""
    cells = empty_cells(len(records))
    for name in ("ts_event", "ts_recv", "instrument"):
        cells[name] = records[name]
    cells["source"] = records["publisher"]
    cells["kind"] = kind
    cells["cells"] = 1
    return cells


def _market(records: Records, kind: Kind) -> Cells:
    cells = _common(records, kind)
    for name in ("sequence", "price", "action", "side"):
        cells[name] = records[name]
    cells["size"] = np.where(records["size"] == UNDEFINED_SIZE, UNDEFINED, records["size"].astype(np.int64))
    cells["flags"] = records["flags"] & ~np.uint8(_RESERVED_FLAG)
    return cells


def mbo_cells(records: Records) -> Cells:
    """Market by order: one cell each."""
    cells = _market(records, Kind.MBO)
    cells["order_id"] = records["order_id"]
    return cells


def trade_cells(records: Records) -> Cells:
    """Trades: one cell each."""
    cells = _market(records, Kind.TRADE)
    cells["depth"] = records["depth"]
    return cells


def status_cells(records: Records) -> Cells:
    """Trading status: DBN's action number in `count`, its reason in `size`."""
    cells = _common(records, Kind.STATUS)
    cells["price"] = UNDEFINED
    cells["size"] = records["reason"]
    cells["count"] = records["action"]
    cells["action"], cells["side"], cells["flags"] = Action.NONE, Side.NONE, Flag.LAST
    return cells


def quote_cells(records: Records, rtype: int) -> Cells:
    """Best bid and ask: two cells each, and a third for the trade that some report.

    The trade comes last: the quote that DBN sends with it is the book before the trade took from it.
    """
    traded = (records["action"] == Action.TRADE) if rtype in _WITH_TRADES else np.zeros(len(records), bool)
    quotes = _common(records, Kind.QUOTE)
    if rtype in _WITH_SEQUENCE:
        quotes["sequence"] = records["sequence"]
    quotes["cells"] = 2
    quotes["price"], quotes["size"] = records["bid"], records["bid_size"]
    quotes["action"], quotes["side"] = Action.NONE, Side.NONE
    flags = records["flags"] & ~np.uint8(_RESERVED_FLAG)
    quotes["flags"] = np.where(traded, flags & ~np.uint8(Flag.LAST), flags)
    asks = quotes.copy()
    asks["cells"] = 0
    asks["price"], asks["size"] = records["ask"], records["ask_size"]
    starts = np.arange(len(records)) * 2 + np.concatenate(([0], np.cumsum(traded)[:-1])) if len(records) else 0
    cells = empty_cells(2 * len(records) + int(traded.sum()))
    cells[starts] = quotes
    cells[starts + 1] = asks
    if traded.any():
        trades = trade_cells(records[traded])
        if rtype not in _WITH_SEQUENCE:
            trades["sequence"], trades["depth"] = 0, 0
        cells[np.flatnonzero(traded) * 2 + np.arange(int(traded.sum())) + 2] = trades
    return cells


def depth_levels(run: Bytes) -> npt.NDArray[np.int64]:
    """The ten levels of a run of mbp-10 records, shape (n, 10, 4): both prices, both sizes, both order counts."""
    levels = np.ascontiguousarray(run[:, _LEVELS_AT : _LEVELS_AT + 32 * BOOK_LEVELS])
    return levels.view(np.int64).reshape(len(run), BOOK_LEVELS, 4)


_MBP_HEAD = int(Kind.MBP) << 48 | 1 << 56
_MBO_HEAD = int(Kind.MBO) << 48 | 1 << 56
_TRADE_HEAD = int(Kind.TRADE) << 48 | 1 << 56
_HEAD_MASK = (1 << 48) - 1  # instrument and source
_BY_PRICE, _LAST = int(Flag.BY_PRICE), int(Flag.LAST)
_CLEAR_TAIL = int(Action.CLEAR) | int(Side.NONE) << 8 | int(Flag.SNAPSHOT | Flag.SYNTHETIC) << 16
_SIDES = (int(Side.BID), int(Side.ASK))
_ADD, _CANCEL, _MODIFY, _NOTHING = int(Action.ADD), int(Action.CANCEL), int(Action.MODIFY), int(Action.NONE)
_TRADE = int(Action.TRADE)
_NO_SIDE = int(Side.NONE)
DEPTH_CELLS_MAX = 2 + 4 * BOOK_LEVELS  # of one mbp-10 record


@kernel()
def _copy_cell(out: Array, at: Int, cells: Array, row: Int, price: Int, size: Int, head: Int, tail: Int) -> Int:
    for word in range(4):
        out[at, word] = cells[row, word]
    out[at, PRICE] = price
    out[at, SIZE] = size
    out[at, HEAD] = (cells[row, HEAD] & _HEAD_MASK) | head
    out[at, TAIL] = tail
    return at + 1


@kernel()
def _better(side: Int, price: Int, other: Int) -> Int:
    return price > other if side == 0 else price < other


@kernel()
def _diff_side(cells: Array, row: Int, levels: Array, side: Int, known: Array, flags: Int, out: Array, at: Int) -> Int:
    """Cells for what one side of a record changes in `known`, shape (10, 3): price, size, count; UNDEFINED is empty."""
    letter = _SIDES[side]
    old = 0
    for level in range(levels.shape[1] + 1):
        price = levels[row, level, side] if level < levels.shape[1] else np.int64(UNDEFINED)
        while old < known.shape[0] and known[old, 0] != UNDEFINED:
            if price != UNDEFINED and not _better(side, known[old, 0], price):
                break
            tail = _CANCEL | (letter << 8) | (flags << 16) | (old << 24)
            at = _copy_cell(out, at, cells, row, known[old, 0], 0, _MBP_HEAD, tail)
            old += 1
        if price == UNDEFINED:
            break
        size = (levels[row, level, 2] >> (32 * side)) & 0xFFFFFFFF
        count = (levels[row, level, 3] >> (32 * side)) & 0xFFFFFFFF
        action = _ADD
        if old < known.shape[0] and known[old, 0] == price:
            action = _NOTHING if known[old, 1] == size and known[old, 2] == count else _MODIFY
            old += 1
        if action != _NOTHING:
            tail = action | (letter << 8) | (flags << 16) | (level << 24) | (count << COUNT_SHIFT)
            at = _copy_cell(out, at, cells, row, price, size, _MBP_HEAD, tail)
    for level in range(levels.shape[1]):
        known[level, 0] = levels[row, level, side]
        known[level, 1] = (levels[row, level, 2] >> (32 * side)) & 0xFFFFFFFF
        known[level, 2] = (levels[row, level, 3] >> (32 * side)) & 0xFFFFFFFF
    return at


@kernel()
def diff_depth(cells: Array, levels: Array, known: Array, seen: Array, out: Array) -> Int:
    """Turn whole books of ten levels into the levels that changed; return the cells written.

    Args:
        cells: Words of one trade cell for each record, shape (n, 8), with the feed's instrument ids.
        levels: Shape (n, 10, 4), see `depth_levels`.
        known: The books so far, shape (instruments + 1, 2, 10, 3).
        seen: Shape (instruments + 1,), 1 where a book was begun; the first record of each begins with a clear.
        out: Room for DEPTH_CELLS_MAX cells a record.
    """
    at = 0
    for row in range(cells.shape[0]):
        instrument = cells[row, HEAD] & 0xFFFFFFFF
        record_flags = (cells[row, TAIL] >> 16) & 255
        flags = (record_flags & ~_LAST) | _BY_PRICE
        if seen[instrument] == 0:
            seen[instrument] = 1
            at = _copy_cell(out, at, cells, row, UNDEFINED, 0, _MBO_HEAD, _CLEAR_TAIL)
        if cells[row, TAIL] & 255 == _TRADE:
            tail = cells[row, TAIL] & ~(np.int64(_LAST) << 16)
            at = _copy_cell(out, at, cells, row, cells[row, PRICE], cells[row, SIZE], _TRADE_HEAD, tail)
        before = at
        for side in range(2):
            at = _diff_side(cells, row, levels, side, known[instrument, side], flags, out, at)
        if at == before and cells[row, TAIL] & 255 != _TRADE:
            tail = _NOTHING | (_NO_SIDE << 8) | (flags << 16)
            at = _copy_cell(out, at, cells, row, UNDEFINED, 0, _MBP_HEAD, tail)
        out[at - 1, TAIL] |= (record_flags & _LAST) << 16
    return at
