"""Books as canonical bytes: equal books give equal bytes, however they came to be; and back.

A snapshot is little-endian int64 words, version 3:

    header      magic "TAPEBOOK", version, instruments, levels of a window, orders that may be live
    each slot   confidence, tick; only where the tick is not 0: in a snapshot (0 or 1), then bids, then asks:
    each side   levels; then each, best first: price, anonymous size, orders; then each, oldest first: id, size

What is not in it: rows, hash entries, the place of the window and statistics, which depend on the path or are no state.
Versions 1 and 2, which are still read, had no confidence: it was GOOD. In version 1 two words stood after the tick: the
base to which the window was pinned, and its base, each UNDEFINED where there was none. Nothing is made of them, because
windows move by themselves now.
"""

from __future__ import annotations

import numpy as np
from blake3 import blake3

from tapehouse.book.layout import (
    ANONYMOUS,
    BEST,
    BID,
    CAPACITY,
    CONFIDENCE,
    COUNT,
    IN_SNAPSHOT,
    INVERSE,
    LEVELS,
    LINKS,
    LIVE,
    NO_RANK,
    OCCUPIED,
    ORDER_ID,
    PRICE_MAX,
    QUEUE,
    REMAINING,
    SIZE_MAX,
    STATE,
    TICK,
    Books,
    Ints,
    lay_floor,
)
from tapehouse.book.places import claim, next_rank, place_of, price_of
from tapehouse.book.queues import OK, clear, enter, release, resize
from tapehouse.book.standing import CONFIDENCE_MAX, standing
from tapehouse.book.table import find, high, low
from tapehouse.core.check import check
from tapehouse.core.errors import IntegrityError
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.core.units import UNDEFINED
from tapehouse.market import Flag

MAGIC = int.from_bytes(b"TAPEBOOK", "little")
VERSION = 3
VERSION_WITH_BASES = 1
VERSION_WITH_CONFIDENCE = 3  # and those after it
VERSIONS = (VERSION_WITH_BASES, 2, VERSION)
HEADER_WORDS = 5
SLOT_WORDS = 5  # of a defined slot: confidence, tick, in a snapshot, levels of both sides
BASE_WORDS = 2  # of a defined slot in version 1, after its tick
LEVEL_WORDS = 3
ORDER_WORDS = 2
SNAPSHOT = int(Flag.SNAPSHOT)


@kernel()
def write_slot(books: State, slot: Int, out: Array, start: Int) -> Int:
    """Write one slot from `start` on, and return where it ends; `out` must have room for all of it."""
    out[start] = books.slots[slot, CONFIDENCE]
    at = start + 1
    out[at] = books.slots[slot, TICK]
    if books.slots[slot, TICK] == 0:
        return at + 1
    out[at + 1] = 1 if books.slots[slot, IN_SNAPSHOT] != 0 else 0
    at += 2
    for side in range(2):
        out[at] = books.slots[slot, OCCUPIED + side]
        at += 1
        rank = books.slots[slot, BEST + side]
        while rank != NO_RANK:
            place = place_of(books, slot, side, rank)
            out[at] = price_of(books, slot, side, rank)
            out[at + 1] = books.levels[place, ANONYMOUS]
            out[at + 2] = books.levels[place, COUNT]
            at += LEVEL_WORDS
            row = low(books.levels[place, QUEUE])
            while row != 0:
                out[at] = books.orders[row, ORDER_ID]
                out[at + 1] = books.orders[row, REMAINING]
                at += ORDER_WORDS
                row = high(books.orders[row, LINKS])
            rank = next_rank(books, slot, side, rank)
    return at


@kernel()
def write_slots(books: State, out: Array, start: Int) -> Int:
    """Write all slots from `start` on, and return where they end."""
    at = start
    for slot in range(books.slots.shape[0]):
        at = write_slot(books, slot, out, at)
    return at


@kernel()
def read_level(books: State, slot: Int, place: Int, words: Array, start: Int) -> Int:
    """Fill an empty level from its words; return where they end, -1 where they are no level's."""
    anonymous, count = words[start + 1], words[start + 2]
    at = start + LEVEL_WORDS
    if anonymous < 0 or count < 0 or (anonymous == 0 and count == 0) or count > (words.shape[0] - at) // ORDER_WORDS:
        return -1
    if anonymous > 0:
        if enter(books, slot, place, 0, anonymous) != OK:
            return -1
        resize(books, place, anonymous)
    for _ in range(count):
        order_id, size = words[at], words[at + 1]
        at += ORDER_WORDS
        if order_id == 0 or size <= 0 or size > SIZE_MAX or find(books.table, books.pool, slot, order_id) >= 0:
            return -1
        if enter(books, slot, place, order_id, size) != OK:
            return -1
        resize(books, place, size)
    return at


@kernel()
def read_side(books: State, slot: Int, side: Int, words: Array, start: Int) -> Int:
    """Fill an empty side from its words; return where they end, -1 where they are no side's."""
    if start >= words.shape[0]:
        return -1
    count = words[start]
    at = start + 1
    previous = UNDEFINED if side == BID else -UNDEFINED
    if count < 0 or count > books.pool[LEVELS]:
        return -1
    for _ in range(count):
        if words.shape[0] - at < LEVEL_WORDS:
            return -1
        price = words[at]
        if price >= previous if side == BID else price <= previous:
            return -1
        previous = price
        place = claim(books, slot, side, price)
        if place < 0:
            return -1
        at = read_level(books, slot, place, words, at)
        if at < 0:
            release(books, place)
            return -1
    return at


@kernel()
def read_slot(books: State, slot: Int, words: Array, start: Int, version: Int) -> Int:
    """Fill an empty, undefined slot from its words; return where they end, -1 where they are no slot's."""
    at = start
    if version >= VERSION_WITH_CONFIDENCE:
        if at >= words.shape[0] or words[at] < 0 or words[at] > CONFIDENCE_MAX:
            return -1
        books.slots[slot, CONFIDENCE] = words[at]
        at += 1
    if at >= words.shape[0] or words[at] == 0:
        return at + 1 if at < words.shape[0] else -1
    tick = words[at]
    at += 1
    if version == VERSION_WITH_BASES:
        at += BASE_WORDS
    if words.shape[0] - at < SLOT_WORDS - 2:
        return -1
    in_snapshot = words[at]
    if tick < 0 or tick > PRICE_MAX // books.pool[LEVELS] or in_snapshot < 0 or in_snapshot > 1:
        return -1
    lay_floor(books.slots, slot, tick)
    books.slots[slot, IN_SNAPSHOT] = in_snapshot * SNAPSHOT
    at += 1
    for side in range(2):
        if at >= 0:
            at = read_side(books, slot, side, words, at)
    books.slots[slot, STATE] = standing(books, slot)
    return at


@kernel()
def read_slots(books: State, words: Array, start: Int, version: Int) -> Int:
    """Fill all slots, empty and undefined, from words that must end with them.

    Returns:
        The slot whose words are none, the number of slots where words are left over, -1 where all is well.
    """
    at = start
    for slot in range(books.slots.shape[0]):
        at = read_slot(books, slot, words, at, version)
        if at < 0:
            return slot
    return -1 if at == words.shape[0] else books.slots.shape[0]


def snapshot(books: Books) -> bytes:
    """All books as canonical bytes: equal books, of equal bounds, give equal bytes."""
    slots = books.slots
    occupied = int(slots[:, OCCUPIED : OCCUPIED + 2].sum())
    bound = HEADER_WORDS + len(slots) * SLOT_WORDS + occupied * LEVEL_WORDS + int(slots[:, LIVE].sum()) * ORDER_WORDS
    out = np.zeros(bound, np.int64)
    out[:HEADER_WORDS] = _header(books)
    at = write_slots(books, out, HEADER_WORDS)
    check(at <= bound, f"a snapshot of {at} words was bounded at {bound}", subject="books")
    return out[:at].astype("<i8").tobytes()


def restore(books: Books, data: bytes) -> None:
    """Become the books that `snapshot` wrote; statistics begin at 0 again.

    Raises:
        IntegrityError: These bytes are no snapshot of books with these bounds; the books are as they were.
    """
    words = np.frombuffer(data[: len(data) // 8 * 8], "<i8").astype(np.int64)
    if len(data) % 8 or len(words) < HEADER_WORDS or words[0] != MAGIC or words[1] not in VERSIONS:
        raise IntegrityError("these bytes are no snapshot of books", hint="the snapshot is damaged: refold the log")
    if words[2:HEADER_WORDS].tolist() != _header(books)[2:]:
        raise IntegrityError(
            "the snapshot is of books with {} slots, {} levels and {} orders, not {}, {} and {}".format(
                *words[2:HEADER_WORDS].tolist(), *_header(books)[2:]
            ),
            hint="make the books with the same bounds, or refold the log",
        )
    before = np.frombuffer(snapshot(books), "<i8").astype(np.int64)
    damaged_at = _load(books, words)
    if damaged_at >= 0:
        check(_load(books, before) < 0, "books could not be put back as they were", subject="books")
        raise IntegrityError(
            "a snapshot of books is damaged", position=f"slot {damaged_at}", hint="refold the log from its start"
        )
    books.stats[:] = 0


def digest(books: Books) -> bytes:
    """32 bytes that equal books share: the BLAKE3 of their snapshot."""
    return blake3(snapshot(books)).digest()


def _header(books: Books) -> list[int]:
    return [MAGIC, VERSION, len(books.slots), int(books.pool[LEVELS]), int(books.pool[CAPACITY])]


def _load(books: Books, words: Ints) -> int:
    """Replace all books by those of a snapshot; return as `read_slots` does."""
    for slot in np.flatnonzero(books.slots[:, OCCUPIED] | books.slots[:, OCCUPIED + 1]).tolist():
        clear(books, slot)
    books.slots[:, [TICK, INVERSE, IN_SNAPSHOT, STATE, CONFIDENCE]] = 0
    return int(read_slots(books, words, HEADER_WORDS, int(words[1])))
