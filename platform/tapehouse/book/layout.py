"""The memory of the order books: which arrays there are, what their columns mean, and how they are made.

Everything is int64 or uint64 arrays in one `Books`, made once and never grown, so that a kernel can take the whole of
it and allocate nothing. `instruments` books, one to a *slot*, share the order table; levels and bitmaps are per slot.

A side's prices lie in a *window* of `levels` ticks from a base. A level is found by its *rank* in that window, counted
so that a higher rank is a better price: ticks above the base for bids, ticks below the window's top for asks. So both
sides run the same code, and "best" is always "highest rank". The *book* `2 * slot + side` numbers the sides, and the
*place* `book * levels + rank` numbers every level there is.

An order is a row of `orders`; row 0 means none. The orders of a level form a linked list, oldest first. A level's size
is the sum of its known orders and of an *anonymous* quantity, whose orders nobody told us.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tapehouse.core.errors import DataError, UsageError
from tapehouse.core.pools import Pool
from tapehouse.core.units import UNDEFINED

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

BID, ASK = 0, 1  # the sides as kernels number them

# Columns of `slots`. The hot ones share a cache line.
BASE = 0  # the window's lowest price; UNDEFINED before the first price
TOP = 1  # its highest; -UNDEFINED before the first price, so that every price is outside
TICK = 2  # 0 while the slot is undefined
IN_SNAPSHOT = 3  # the last change of this book was flagged SNAPSHOT
BEST = 4  # + side: the best level's rank, -1 where the side is empty
OCCUPIED = 6  # + side: how many levels have a size
PINNED = 8  # the base that `define` was given, else UNDEFINED
LIVE = 9  # known orders of this slot
SLOT_COLUMNS = 16

# Columns of `levels`, one row to a place.
SIZE, ANONYMOUS, QUEUE, COUNT = 0, 1, 2, 3  # QUEUE packs the first and last order: see `low` and `high`
# Columns of `orders`.
ORDER_ID, REMAINING, LINKS, PLACE = 0, 1, 2, 3  # LINKS packs the previous and next order of the level
# Columns of `table`: the order's id, and its row packed with its slot; that word is 0 in an empty entry.
KEY, ROW = 0, 1
# Entries of `pool`.
CAPACITY = 0  # orders that may be live at once
FREE = 1  # the first row of the free list, linked through LINKS
FRESH = 2  # rows below were in use at least once
LEVELS = 3  # ticks in a window, a power of two
SHIFT = 4  # log2 of it
HASH_SHIFT = 5
TIERS = 6  # tiers of each side's bitmap
TIER = 8  # + tier: the first word of that tier
POOL_ENTRIES = 16

ORDERS_MAX = 1 << 30
SLOTS_MAX = 1 << 20
LEVELS_MIN, LEVELS_MAX = 1 << 6, 1 << 24
PRICE_MAX = 1 << 61  # of a price's magnitude and of a window's width, so that no price arithmetic can wrap
SIZE_MAX = UNDEFINED - 1  # of a level
CACHE_LINE_BYTES = 64


class Status(IntEnum):
    """What came of a record; counted per slot in `Books.stats`."""

    OK = 0
    UNKNOWN_ORDER = 1  # no such order: a modify adds it, a cancel takes from the level's anonymous size
    DUPLICATE_ORDER = 2  # an add of a live order: taken as a modify
    OUT_OF_WINDOW = 3  # the price is undefined or outside of the window
    OFF_TICK = 4  # the price is no whole number of ticks
    TABLE_FULL = 5  # as many orders as can be are live: the new one is left out
    EXCESS_SIZE = 6  # a cancel of more than remained: the order went
    BAD_SIZE = 7  # not positive, undefined, or more than the level can count
    BAD_SIDE = 8  # neither bid nor ask
    BAD_ACTION = 9  # no action of the vocabulary
    ORDERS_DROPPED = 10  # a level's stated size was less than its known orders: the newest went
    UNDEFINED_SLOT = 11  # no `define` came before
    OUT_OF_RANGE = 12  # no such slot or row: counted in the row of `stats` after the last slot's


STATUS_COLUMNS = 16


class Books(NamedTuple):
    """All books of one machine; a kernel takes it whole. Make it with `make_books`, read it with the functions."""

    slots: Ints  # (instruments, SLOT_COLUMNS)
    levels: Ints  # (instruments * 2 * levels, 4)
    bitmap: Words  # (instruments * 2, words): which levels have a size, as a tree of 64-bit words
    orders: Ints  # (orders + 1, 4)
    table: Ints  # (entries, 2): open addressing from (slot, order id) to the order's row
    pool: Ints  # (POOL_ENTRIES,)
    stats: Ints  # (instruments + 1, STATUS_COLUMNS): how often each status came up; telemetry, not state


def make_books(instruments: int, *, orders: int = 1 << 17, levels: int = 1 << 16) -> Books:
    """Empty books for `instruments` slots, each to be defined before its use.

    Args:
        instruments: How many slots.
        orders: The most orders that can be live at once, over all slots.
        levels: Ticks in the window of each book; a power of two from 64 to 2^24. Untouched levels take no memory.

    Raises:
        UsageError: A number is out of its bounds, or the machine cannot hold as much.
    """
    if not 0 < instruments <= SLOTS_MAX:
        raise UsageError(f"{instruments} books cannot be made", hint=f"from 1 to {SLOTS_MAX} can")
    if not 0 < orders <= ORDERS_MAX:
        raise UsageError(f"books of {orders} orders cannot be made", hint=f"from 1 to {ORDERS_MAX} can")
    if not LEVELS_MIN <= levels <= LEVELS_MAX or levels & (levels - 1):
        raise UsageError(
            f"books of {levels} levels cannot be made", hint=f"use a power of two from {LEVELS_MIN} to {LEVELS_MAX}"
        )
    tiers = _tiers(levels)
    entries = max(16, 1 << (2 * orders - 1).bit_length())
    try:
        books = Books(
            slots=_aligned(instruments, SLOT_COLUMNS),
            levels=_aligned(instruments * 2 * levels, 4),
            bitmap=_aligned(instruments * 2, tiers[-1]).view(np.uint64),
            orders=_aligned(orders + 1, 4),
            table=_aligned(entries, 2),
            pool=_aligned(POOL_ENTRIES),
            stats=_aligned(instruments + 1, STATUS_COLUMNS),
        )
    except MemoryError as error:
        raise UsageError(
            f"there is no memory for {instruments} books of {levels} levels and {orders} orders",
            hint="a level takes 32 bytes of address space on each side, an order 64",
        ) from error
    pool = books.pool
    pool[CAPACITY], pool[FRESH], pool[LEVELS], pool[SHIFT] = orders, 1, levels, levels.bit_length() - 1
    pool[HASH_SHIFT] = 64 - (entries.bit_length() - 1 - 3)
    pool[TIERS] = len(tiers) - 1
    pool[TIER : TIER + len(tiers)] = tiers
    books.slots[:, [BASE, PINNED]] = UNDEFINED
    books.slots[:, TOP] = -UNDEFINED
    books.slots[:, [BEST, BEST + 1]] = -1
    return books


def define(books: Books, slot: int, tick_size: int, *, base: int | None = None) -> None:
    """Say what a slot's prices are, before its first record. Saying the same again changes nothing.

    Args:
        tick_size: The smallest price step, in the tape's unit.
        base: The window's lowest price, for books whose first price is no good guide to the rest. Without it, the
            window is laid around the first price of the book (and of each book after a clear), not below 0 unless
            that price is.

    Raises:
        UsageError: No such slot, or a tick or base that no window can have.
        DataError: The slot's book is in use with another tick or base: clear it first.
    """
    if not 0 <= slot < len(books.slots):
        raise UsageError(f"there is no slot {slot} in {len(books.slots)} books")
    levels = int(books.pool[LEVELS])
    if tick_size <= 0 or tick_size * levels > PRICE_MAX:
        raise UsageError(f"a tick of {tick_size} is not possible", hint=f"{levels} of them must stay below 2^61")
    if base is not None and abs(base) > PRICE_MAX:
        raise UsageError(f"a lowest price of {base} is not possible", hint="its magnitude must stay below 2^61")
    pinned = UNDEFINED if base is None else base
    row = books.slots[slot]
    if row[TICK] == tick_size and row[PINNED] == pinned:
        return
    if row[OCCUPIED] or row[OCCUPIED + 1]:
        raise DataError(
            f"the tick or base of a book in use cannot change (tick {int(row[TICK])} to {tick_size})",
            subject=f"slot {slot}",
            hint="clear the book first",
        )
    row[TICK], row[PINNED], row[BASE] = tick_size, pinned, pinned
    row[TOP] = -UNDEFINED if base is None else base + (levels - 1) * tick_size


def counts(books: Books, slot: int) -> dict[str, int]:
    """How often each status came up in a slot since the books were made or restored, by its name in lower case.

    `slot` may be one past the last: that row counts the records that were sent to no slot.
    """
    if not 0 <= slot < len(books.stats):
        raise UsageError(f"there is no slot {slot} in {len(books.slots)} books")
    return {status.name.lower(): int(books.stats[slot, status]) for status in Status}


def order_pool(books: Books) -> Pool:
    """The rows of all live orders: how many are used, and how many were ever taken."""
    return Pool(
        name="book_orders",
        used=int(books.slots[:, LIVE].sum()),
        held=int(books.pool[FRESH]) - 1,
        capacity=int(books.pool[CAPACITY]),
        row_bytes=books.orders.itemsize * books.orders.shape[1],
        refused=int(books.stats[:, Status.TABLE_FULL].sum()),
    )


def _tiers(levels: int) -> list[int]:
    """Where each tier of a bitmap begins, and where the last ends."""
    starts, width = [0], levels
    while width > 1:
        width = -(-width // 64)
        starts.append(starts[-1] + width)
    return starts


def _aligned(*shape: int) -> Ints:
    """Zeros that begin on a cache line, so that no row straddles two; pages are taken when they are touched."""
    count = int(np.prod(shape))
    spare = CACHE_LINE_BYTES // 8
    raw = np.zeros(count + spare, np.int64)
    skip = (-raw.ctypes.data % CACHE_LINE_BYTES) // 8
    return raw[skip : skip + count].reshape(shape)
