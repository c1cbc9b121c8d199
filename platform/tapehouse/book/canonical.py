"""Books as canonical bytes: equal books give equal bytes, however they came to be; and back.

A snapshot is little-endian int64 words, version 1:

    header      magic "TAPEBOOK", version, instruments, levels of a window, orders that may be live
    each slot   tick; only where it is not 0: pinned base or UNDEFINED, base or UNDEFINED, in a snapshot (0 or 1),
                then bids, then asks:
    each side   levels; then each, best first: price, anonymous size, orders; then each, oldest first: id, size

What is not in it: rows, hash entries and statistics, which depend on the path or are no state. The window is in it,
since it decides which prices the book will take.
"""

from __future__ import annotations

import numpy as np
from blake3 import blake3

from tapehouse.book.bits import next_below
from tapehouse.book.layout import (
    ANONYMOUS,
    BASE,
    BEST,
    CAPACITY,
    COUNT,
    IN_SNAPSHOT,
    LEVELS,
    LINKS,
    LIVE,
    OCCUPIED,
    ORDER_ID,
    PINNED,
    PRICE_MAX,
    QUEUE,
    REMAINING,
    SHIFT,
    SIZE_MAX,
    TICK,
    TOP,
    Books,
    Ints,
)
from tapehouse.book.queues import OK, clear, enter, locate
from tapehouse.book.table import find, high, low
from tapehouse.book.view import price_of
from tapehouse.core.check import check
from tapehouse.core.errors import IntegrityError
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.core.units import UNDEFINED
from tapehouse.market import Flag

MAGIC = int.from_bytes(b"TAPEBOOK", "little")
VERSION = 1
HEADER_WORDS = 5
SLOT_WORDS = 6  # of a defined slot: tick, pinned base, base, in a snapshot, levels of both sides
LEVEL_WORDS = 3
ORDER_WORDS = 2
SNAPSHOT = int(Flag.SNAPSHOT)


@kernel()
def write_slot(books: State, slot: Int, out: Array, start: Int) -> Int:
    """Write one slot from `start` on, and return where it ends; `out` must have room for all of it."""
    at = start
    out[at] = books.slots[slot, TICK]
    if books.slots[slot, TICK] == 0:
        return at + 1
    out[at + 1] = books.slots[slot, PINNED]
    out[at + 2] = books.slots[slot, BASE]
    out[at + 3] = 1 if books.slots[slot, IN_SNAPSHOT] != 0 else 0
    at += 4
    for side in range(2):
        book = 2 * slot + side
        first = book << books.pool[SHIFT]
        out[at] = books.slots[slot, OCCUPIED + side]
        at += 1
        rank = books.slots[slot, BEST + side]
        while rank >= 0:
            out[at] = price_of(books, slot, side, rank)
            out[at + 1] = books.levels[first + rank, ANONYMOUS]
            out[at + 2] = books.levels[first + rank, COUNT]
            at += LEVEL_WORDS
            row = low(books.levels[first + rank, QUEUE])
            while row != 0:
                out[at] = books.orders[row, ORDER_ID]
                out[at + 1] = books.orders[row, REMAINING]
                at += ORDER_WORDS
                row = high(books.orders[row, LINKS])
            rank = next_below(books.bitmap, books.pool, book, rank)
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
    if anonymous > 0 and enter(books, slot, place, 0, anonymous) != OK:
        return -1
    for _ in range(count):
        order_id, size = words[at], words[at + 1]
        at += ORDER_WORDS
        if order_id == 0 or size <= 0 or size > SIZE_MAX or find(books.table, books.pool, slot, order_id) >= 0:
            return -1
        if enter(books, slot, place, order_id, size) != OK:
            return -1
    return at


@kernel()
def read_slot(books: State, slot: Int, words: Array, start: Int) -> Int:
    """Fill an empty, undefined slot from its words; return where they end, -1 where they are no slot's."""
    if start >= words.shape[0] or words[start] == 0:
        return start + 1 if start < words.shape[0] else -1
    if words.shape[0] - start < SLOT_WORDS:
        return -1
    tick, pinned, base, in_snapshot = words[start], words[start + 1], words[start + 2], words[start + 3]
    window = books.pool[LEVELS]
    if tick < 0 or tick > PRICE_MAX // window or (pinned != UNDEFINED and pinned != base):
        return -1
    if (base != UNDEFINED and (base > PRICE_MAX or base < -2 * PRICE_MAX)) or in_snapshot < 0 or in_snapshot > 1:
        return -1
    books.slots[slot, TICK] = tick
    books.slots[slot, PINNED] = pinned
    books.slots[slot, BASE] = base
    books.slots[slot, TOP] = -UNDEFINED if base == UNDEFINED else base + (window - 1) * tick
    books.slots[slot, IN_SNAPSHOT] = in_snapshot * SNAPSHOT
    at = start + 4
    for side in range(2):
        if at >= words.shape[0]:
            return -1
        count = words[at]
        at += 1
        worse_than = (2 * slot + side + 1) << books.pool[SHIFT]
        if count < 0 or count > window:
            return -1
        for _ in range(count):
            if words.shape[0] - at < LEVEL_WORDS:
                return -1
            place = locate(books, slot, side, words[at])
            if place < 0 or place >= worse_than:
                return -1
            worse_than = place
            at = read_level(books, slot, place, words, at)
            if at < 0:
                return -1
    return at


@kernel()
def read_slots(books: State, words: Array, start: Int) -> Int:
    """Fill all slots, empty and undefined, from words that must end with them.

    Returns:
        The slot whose words are none, the number of slots where words are left over, -1 where all is well.
    """
    at = start
    for slot in range(books.slots.shape[0]):
        at = read_slot(books, slot, words, at)
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
    if len(data) % 8 or len(words) < HEADER_WORDS or words[0] != MAGIC or words[1] != VERSION:
        raise IntegrityError("these bytes are no snapshot of books", hint="the snapshot is damaged: refold the log")
    if words[:HEADER_WORDS].tolist() != _header(books):
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
    books.slots[:, [TICK, IN_SNAPSHOT]] = 0
    books.slots[:, [PINNED, BASE]] = UNDEFINED
    books.slots[:, TOP] = -UNDEFINED
    return int(read_slots(books, words, HEADER_WORDS))
