"""The memory of the order books: which arrays there are, what their columns mean, and how they are made.

Everything is int64 or uint64 arrays in one `Books`, made once and never grown, so that a kernel can take the whole of
it and allocate nothing. `instruments` books, one to a *slot*, share the order table; all else is per slot.

A price is a number of *ticks* above its slot's floor, and a *rank* on its side: the ticks for bids, minus the ticks
for asks. So a higher rank is a better price on both sides, and both run the same code. The *book* `2 * slot + side`
numbers the sides.

A level inside the slot's *window* of `levels` ticks has its row at rank modulo `levels`, so that the window can move
and the levels stay where they are. One outside is *far*: it has a row of a second, equally large part, found in a list
that is sorted by rank. The row's number is the level's *place*.

An order is a row of `orders`; row 0 means none. The orders of a level form a linked list, oldest first. A level's size
is the sum of its known orders and of an *anonymous* quantity, whose orders nobody told us.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tapehouse.core.errors import DataError, UsageError
from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.core.pools import Pool
from tapehouse.core.units import UNDEFINED
from tapehouse.market.gap import Confidence

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

BID, ASK = 0, 1  # the sides as kernels number them

# Columns of `slots`. Those of a change that stays within the window share a cache line.
LOW = 0  # the window's lowest price, in ticks
FLOOR = 1  # the price of tick 0: the lowest multiple of the tick that a book takes
INVERSE = 2  # of the tick's odd part, modulo 2^64; 0 while the slot is undefined
ROTATE = 3  # trailing zero bits of the tick
BEST = 4  # + side: the best level's rank, NO_RANK where the side is empty
IN_SNAPSHOT = 6  # the last change of this book was flagged SNAPSHOT
STATE = 7  # the `BookState` that was noted last
TICK = 8  # 0 while the slot is undefined
LIVE = 9  # known orders of this slot
OCCUPIED = 10  # + side: how many levels have a size
FAR = 12  # + side: how many of them are far
MISSES = 14  # prices outside of the window since it moved or was looked at last
CONFIDENCE = 15  # the `Confidence` that was set last; no record of the market changes it
FAR_FREE = 16  # + side: the first of the free far rows, plus 1; linked through NEXT_FREE
FAR_FRESH = 18  # + side: far rows below were in use at least once
SLOT_COLUMNS = 24
NO_RANK = -UNDEFINED  # below every rank

# Columns of `levels`, one row to a place.
SIZE, ANONYMOUS, QUEUE, COUNT = 0, 1, 2, 3  # QUEUE packs the first and last order: see `low` and `high`
# Columns of `far`, of which each side has `levels` rows. The first two are by position, best first; the others by row.
FAR_RANK, FAR_ROW, NEXT_FREE, RANK_OF = 0, 1, 2, 3
FAR_COLUMNS = 4
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
    OUT_OF_WINDOW = 3  # the price is undefined, or its magnitude is beyond PRICE_MAX
    OFF_TICK = 4  # the price is no whole number of ticks
    TABLE_FULL = 5  # as many orders as can be are live: the new one is left out
    EXCESS_SIZE = 6  # a cancel of more than remained: the order went
    BAD_SIZE = 7  # not positive, undefined, or more than the level can count
    BAD_SIDE = 8  # neither bid nor ask
    BAD_ACTION = 9  # no action of the vocabulary
    ORDERS_DROPPED = 10  # a level's stated size was less than its known orders: the newest went
    UNDEFINED_SLOT = 11  # no `define` came before
    OUT_OF_RANGE = 12  # no such slot (counted in the row of `stats` after the last slot's) or row
    TOO_MANY_LEVELS = 13  # the side has as many levels as there can be: the new one is left out


class BookState(IntEnum):
    """How the two sides of a book stand to each other."""

    EMPTY = 0
    ONE_SIDED = 1
    NORMAL = 2  # the best bid is below the best ask
    LOCKED = 3  # they are equal
    CROSSED = 4  # the best bid is above the best ask


# Columns of `stats` after the statuses.
ENTERED = 16  # + BookState: how often a record led into it from another
MOVED = 24  # how often the window moved
DOUBTED = 25  # + Confidence: how often it was set to that from another
STATS_COLUMNS = 32


class Books(NamedTuple):
    """All books of one machine; a kernel takes it whole. Make it with `make_books`, read it with the functions."""

    slots: Ints  # (instruments, SLOT_COLUMNS)
    levels: Ints  # (instruments * 4 * levels, 4): those of windows, then as many far ones
    bitmap: Words  # (instruments * 2, words): which rows of a window have a size, as a tree of 64-bit words
    orders: Ints  # (orders + 1, 4)
    table: Ints  # (entries, 2): open addressing from (slot, order id) to the order's row
    pool: Ints  # (POOL_ENTRIES,)
    stats: Ints  # (instruments + 1, STATS_COLUMNS): what came up how often; telemetry, not state
    far: Ints  # (instruments * 2 * levels, FAR_COLUMNS): which levels are far, and where


def make_books(instruments: int, *, orders: int = 1 << 17, levels: int = 1 << 16) -> Books:
    """Empty books for `instruments` slots, each to be defined before its use.

    Args:
        instruments: How many slots.
        orders: The most orders that can be live at once, over all slots.
        levels: Ticks in the window of each book, and levels that a side can have at most; a power of two from 64 to
            2^24. Untouched levels take no memory.

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
            levels=_aligned(instruments * 4 * levels, 4),
            bitmap=_aligned(instruments * 2, tiers[-1]).view(np.uint64),
            orders=_aligned(orders + 1, 4),
            table=_aligned(entries, 2),
            pool=_aligned(POOL_ENTRIES),
            stats=_aligned(instruments + 1, STATS_COLUMNS),
            far=_aligned(instruments * 2 * levels, FAR_COLUMNS),
        )
    except MemoryError as error:
        raise UsageError(
            f"there is no memory for {instruments} books of {levels} levels and {orders} orders",
            hint="a level takes 96 bytes of address space on each side, an order 64",
        ) from error
    pool = books.pool
    pool[CAPACITY], pool[FRESH], pool[LEVELS], pool[SHIFT] = orders, 1, levels, levels.bit_length() - 1
    pool[HASH_SHIFT] = 64 - (entries.bit_length() - 1 - 3)
    pool[TIERS] = len(tiers) - 1
    pool[TIER : TIER + len(tiers)] = tiers
    books.slots[:, [BEST, BEST + 1]] = NO_RANK
    return books


def define(books: Books, slot: int, tick_size: int) -> None:
    """Say what a slot's prices are, before its first record. Saying the same again changes nothing.

    Args:
        tick_size: The smallest price step, in the tape's unit; prices are whole multiples of it.

    Raises:
        UsageError: No such slot, or a tick that no window can have.
        DataError: The slot's book is in use with another tick: clear it first.
    """
    _require_slot(books, slot)
    levels = int(books.pool[LEVELS])
    if tick_size <= 0 or tick_size * levels > PRICE_MAX:
        raise UsageError(f"a tick of {tick_size} is not possible", hint=f"{levels} of them must stay below 2^61")
    row = books.slots[slot]
    if row[TICK] == tick_size:
        return
    if row[OCCUPIED] or row[OCCUPIED + 1]:
        raise DataError(
            f"the tick of a book in use cannot change ({int(row[TICK])} to {tick_size})",
            subject=f"slot {slot}",
            hint="clear the book first",
        )
    lay_floor(books.slots, slot, tick_size)


@kernel()
def lay_floor(slots: Array, slot: Int, tick: Int) -> None:
    """Give an empty slot its tick, from 1 to PRICE_MAX, and what is derived from it.

    A multiple of odd * 2^zeros is divided exactly by a product with the inverse of `odd` modulo 2^64 and a rotation by
    `zeros`; what is no multiple comes out beyond every tick (Granlund and Montgomery 1994, section 9).
    """
    odd = tick
    zeros = 0
    while odd & 1 == 0:
        odd >>= 1
        zeros += 1
    inverse = odd  # right in its lowest 3 bits; each step doubles them
    for _ in range(5):
        inverse *= 2 - odd * inverse
    slots[slot, TICK] = tick
    slots[slot, ROTATE] = zeros
    slots[slot, INVERSE] = inverse
    slots[slot, FLOOR] = -(PRICE_MAX // tick) * tick
    slots[slot, LOW] = 0
    slots[slot, MISSES] = 0


def counts(books: Books, slot: int) -> dict[str, int]:
    """How often each status came up in a slot since the books were made or restored, by its name in lower case.

    `slot` may be one past the last: that row counts the records that were sent to no slot.
    """
    if not 0 <= slot < len(books.stats):
        raise UsageError(f"there is no slot {slot} in {len(books.slots)} books")
    return {status.name.lower(): int(books.stats[slot, status]) for status in Status}


def confidence(books: Books, slot: int) -> Confidence:
    """What a slot's book is worth, as `set_confidence` said last; GOOD before."""
    _require_slot(books, slot)
    return Confidence(int(books.slots[slot, CONFIDENCE]))


def confidences(books: Books, slot: int) -> dict[str, int]:
    """How often a slot came to each confidence from another, since the books were made or restored."""
    _require_slot(books, slot)
    return {each.name.lower(): int(books.stats[slot, DOUBTED + each]) for each in Confidence}


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


def transitions(books: Books, slot: int) -> dict[str, int]:
    """How often a record led a slot's book into each state from another, and how often its window moved (`moved`).

    Since the books were made or restored; a state is judged after a whole record.
    """
    _require_slot(books, slot)
    entered = {state.name.lower(): int(books.stats[slot, ENTERED + state]) for state in BookState}
    return {**entered, "moved": int(books.stats[slot, MOVED])}


def _require_slot(books: Books, slot: int) -> None:
    if not 0 <= slot < len(books.slots):
        raise UsageError(f"there is no slot {slot} in {len(books.slots)} books")


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
