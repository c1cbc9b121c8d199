"""The ring in compiled code: everything a hot loop calls, on addresses alone.

`ring` is the address of a mapped ring's header; behind it the slots are mapped twice, so a run of cells that begins
anywhere is contiguous. An index is a count of cells since the ring was made; it never wraps. A record is written
first and published last, by one release store of the head: so what a consumer sees is whole, also if the producer
dies between any two instructions. Only the one producer may call what moves the head, only the one consumer what moves
the tail.

Nothing here raises, and all but the last few never wait: a status says what happened, and the caller's loop decides.
Each function can be called from Python too, at some 300 ns a call.

Source: SPSC ring with acquire/release cursors and a cached peer cursor (Lamport 1983; FastForward; LMAX Disruptor).
"""

from __future__ import annotations

from tapehouse.core.atomics import (
    array_address,
    copy_cells,
    load,
    load_acquire,
    nap,
    pause,
    store,
    store_release,
)
from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.market.cell import CELL_BYTES, Flag, Kind, Side
from tapehouse.market.gap import Cause, Confidence
from tapehouse.ring.layout import (
    CACHED_HEAD,
    CACHED_TAIL,
    CELLS,
    CLOSED,
    DROPPED_CELLS,
    DROPPED_RECORDS,
    GAP_INDEX,
    HEAD,
    HEADER_BYTES,
    MISSING_TS_EVENT,
    MISSING_TS_RECV,
    TAIL,
    TOLD,
    TOLD_AFTER,
)

OK = 0
FULL = 1  # no room now
DROPPED = 2  # no room, and counted
TOO_LONG = 3  # no room ever: the ring is smaller than the record

_SMALL_WORD = 48  # bytes 48 to 55 of a cell: the last of them is the record's length
_LENGTH_SHIFT = 56
_LENGTH_MASK = 0xFF
_COUNT_MAX = 0xFFFFFFFF  # what a gap record's count holds
_GAP_SMALL = (int(Kind.GAP) << 48) | (1 << _LENGTH_SHIFT)
_GAP_PACKED = (
    int(Cause.DROPPED)
    | (int(Side.NONE) << 8)
    | (int(Flag.SYNTHETIC | Flag.LAST) << 16)
    | (int(Confidence.SUSPECT) << 24)
)
_COUNT_SHIFT = 32
_PAGE_BYTES = 4096


@kernel(inline=True)
def slot_address(ring: Int, index: Int) -> Int:
    """Where the cell of an index stands; the cells after it follow, up to the ring's whole capacity."""
    return ring + HEADER_BYTES + (index & (load(ring + CELLS) - 1)) * CELL_BYTES


@kernel(inline=True)
def record_cells(address: Int) -> Int:
    """The length of the record whose first cell is there; 0 says that it is no first cell."""
    return (load(address + _SMALL_WORD) >> _LENGTH_SHIFT) & _LENGTH_MASK


@kernel(inline=True)
def whole_cells(address: Int, cells: Int, cells_max: Int) -> Int:
    """How many of `cells` cells, from a record's first, make whole records within `cells_max`."""
    if cells <= cells_max:
        return cells
    taken = 0
    while taken < cells_max:
        length = record_cells(address + taken * CELL_BYTES)
        if length == 0 or taken + length > cells_max:
            break
        taken += length
    return taken


# The producer.


@kernel(inline=True)
def room(ring: Int) -> Int:
    """Free cells now, as the consumer last released."""
    tail = load_acquire(ring + TAIL)
    store(ring + CACHED_TAIL, tail)
    return load(ring + CELLS) - (load(ring + HEAD) - tail)


@kernel(inline=True)
def fits(ring: Int, count: Int) -> Int:
    """Whether so many cells fit; the consumer's line is read only where the cached tail says no."""
    if load(ring + HEAD) + count - load(ring + CACHED_TAIL) <= load(ring + CELLS):
        return True
    return room(ring) >= count


@kernel(inline=True)
def head_address(ring: Int) -> Int:
    """Where the next cell goes, for producers that write in place: ask `fits`, write whole records, `publish`."""
    return slot_address(ring, load(ring + HEAD))


@kernel(inline=True)
def publish(ring: Int, count: Int) -> None:
    """Let the consumer see the `count` cells written at `head_address`."""
    store_release(ring + HEAD, load(ring + HEAD) + count)


@kernel(inline=True)
def _no_room(ring: Int, count: Int) -> Int:
    return TOO_LONG if count > load(ring + CELLS) else FULL


@kernel(inline=True)
def write_cell(address: Int, w0: Int, w1: Int, w2: Int, w3: Int, w4: Int, w5: Int, w6: Int, w7: Int) -> None:
    """One cell from its eight words."""
    store(address, w0)
    store(address + 8, w1)
    store(address + 16, w2)
    store(address + 24, w3)
    store(address + 32, w4)
    store(address + 40, w5)
    store(address + 48, w6)
    store(address + 56, w7)


@kernel(inline=True)
def append_cell(ring: Int, w0: Int, w1: Int, w2: Int, w3: Int, w4: Int, w5: Int, w6: Int, w7: Int) -> Int:
    """Append a record of one cell from its eight words (see `market.words`): OK or FULL."""
    if not fits(ring, 1):
        return FULL
    write_cell(head_address(ring), w0, w1, w2, w3, w4, w5, w6, w7)
    publish(ring, 1)
    return OK


@kernel(inline=True)
def append(ring: Int, words: Array, row: Int, count: Int) -> Int:
    """Append one record, the `count` cells of `words` from `row`: OK, FULL or TOO_LONG."""
    if not fits(ring, count):
        return _no_room(ring, count)
    copy_cells(head_address(ring), array_address(words) + row * CELL_BYTES, count)
    publish(ring, count)
    return OK


@kernel(inline=True)
def append_bulk(ring: Int, words: Array, start: Int, end: Int) -> Int:
    """Append the whole records of rows `start` to `end` for which there is room, seen all at once: cells written.

    The rows must hold whole records. 0 is FULL, or TOO_LONG if the first record is longer than the ring.
    """
    source = array_address(words) + start * CELL_BYTES
    count = end - start
    if not fits(ring, count):
        count = whole_cells(source, count, room(ring))
    if count > 0:
        copy_cells(head_address(ring), source, count)
        publish(ring, count)
    return count


@kernel(inline=True)
def missing(ring: Int) -> Int:
    """Dropped records of which no gap record has told yet, as many as one gap record can tell of."""
    return min(load(ring + DROPPED_RECORDS) - load(ring + TOLD), _COUNT_MAX)


@kernel(inline=True)
def _drop(ring: Int, count: Int, ts_event: Int, ts_recv: Int) -> Int:
    """Count a record that did not fit."""
    if count >= load(ring + CELLS):  # A gap record must fit beside it, or it could be dropped for ever.
        return TOO_LONG
    store(ring + MISSING_TS_EVENT, ts_event)
    store(ring + MISSING_TS_RECV, ts_recv)
    store_release(ring + DROPPED_CELLS, load(ring + DROPPED_CELLS) + count)
    store_release(ring + DROPPED_RECORDS, load(ring + DROPPED_RECORDS) + 1)
    return DROPPED


@kernel(inline=True)
def _write_gap(ring: Int, records: Int) -> None:
    """Write, unpublished, a gap record at the head, and note what will have been told once it is published."""
    write_cell(
        head_address(ring),
        load(ring + MISSING_TS_EVENT),
        load(ring + MISSING_TS_RECV),
        0,
        0,
        0,
        0,
        _GAP_SMALL,
        _GAP_PACKED | (records << _COUNT_SHIFT),
    )
    store_release(ring + GAP_INDEX, load(ring + HEAD))
    store_release(ring + TOLD_AFTER, load(ring + TOLD) + records)


@kernel(inline=True)
def _publish_told(ring: Int, gaps: Int, count: Int) -> None:
    """Publish, and if a gap record was among the cells, count what it told of."""
    publish(ring, gaps + count)
    if gaps:
        store_release(ring + TOLD, load(ring + TOLD_AFTER))


@kernel()
def tell_gap(ring: Int) -> Int:
    """Append the gap record that is due, if one is and there is room: OK (also if none is due) or FULL."""
    records = missing(ring)
    if records == 0:
        return OK
    if not fits(ring, 1):
        return FULL
    _write_gap(ring, records)
    _publish_told(ring, 1, 0)
    return OK


@kernel()
def settle(ring: Int) -> None:
    """Bring a predecessor's unfinished steps to an end, on attaching as producer.

    What it wrote and did not publish is overwritten. If it died between publishing a gap record and counting it as
    told, the head says so.
    """
    if load(ring + HEAD) > load(ring + GAP_INDEX):
        store(ring + TOLD, load(ring + TOLD_AFTER))
    else:
        store(ring + TOLD_AFTER, load(ring + TOLD))
    room(ring)


@kernel(inline=True)
def append_or_drop(ring: Int, words: Array, row: Int, count: Int) -> Int:
    """Append one record by the drop policy: OK, DROPPED (counted), or TOO_LONG (not counted).

    Before the first record that fits again goes one gap record: kind GAP, `count` records missing, the times of the
    last of them, cause DROPPED, confidence SUSPECT, flags SYNTHETIC and LAST, source and instrument 0.
    """
    records = missing(ring)
    gaps = 1 if records else 0
    source = array_address(words) + row * CELL_BYTES
    if not fits(ring, gaps + count):
        return _drop(ring, count, load(source), load(source + 8))
    if gaps:
        _write_gap(ring, records)
    copy_cells(slot_address(ring, load(ring + HEAD) + gaps), source, count)
    _publish_told(ring, gaps, count)
    return OK


@kernel(inline=True)
def append_cell_or_drop(ring: Int, w0: Int, w1: Int, w2: Int, w3: Int, w4: Int, w5: Int, w6: Int, w7: Int) -> Int:
    """`append_or_drop` of a record of one cell from its eight words."""
    records = missing(ring)
    gaps = 1 if records else 0
    if not fits(ring, gaps + 1):
        return _drop(ring, 1, w0, w1)
    if gaps:
        _write_gap(ring, records)
    write_cell(slot_address(ring, load(ring + HEAD) + gaps), w0, w1, w2, w3, w4, w5, w6, w7)
    _publish_told(ring, gaps, 1)
    return OK


@kernel(inline=True)
def append_bulk_or_drop(ring: Int, words: Array, start: Int, end: Int) -> Int:
    """`append_or_drop` of each record of rows `start` to `end`: cells taken, the dropped ones included.

    Less than all of them is taken only before a record that is too long, or that is none.
    """
    source = array_address(words)
    row = start
    while row < end:
        count = record_cells(source + row * CELL_BYTES)
        if count == 0 or row + count > end or append_or_drop(ring, words, row, count) == TOO_LONG:
            break
        row += count
    return row - start


# The consumer.


@kernel(inline=True)
def readable(ring: Int) -> Int:
    """Cells that can be read, whole records; the producer's line is read only where the cached head shows none."""
    tail = load(ring + TAIL)
    head = load(ring + CACHED_HEAD)
    if head == tail:
        head = load_acquire(ring + HEAD)
        store(ring + CACHED_HEAD, head)
    return head - tail


@kernel(inline=True)
def tail_address(ring: Int) -> Int:
    """Where the first unread cell stands; `readable` cells follow it."""
    return slot_address(ring, load(ring + TAIL))


@kernel(inline=True)
def release(ring: Int, count: Int) -> None:
    """Give `count` cells, whole records, back to the producer."""
    store_release(ring + TAIL, load(ring + TAIL) + count)


@kernel(inline=True)
def readable_up_to(ring: Int, cells_max: Int) -> Int:
    """Cells of the whole records that can be read now, at most `cells_max`."""
    tail = load(ring + TAIL)
    if load(ring + CACHED_HEAD) - tail < cells_max:
        store(ring + CACHED_HEAD, load_acquire(ring + HEAD))
    return whole_cells(slot_address(ring, tail), load(ring + CACHED_HEAD) - tail, cells_max)


@kernel()
def release_whole(ring: Int, count: Int) -> Int:
    """`release`, if so many cells are there and end with a record; whether it was done."""
    unread = load_acquire(ring + HEAD) - load(ring + TAIL)
    if count < 0 or count > unread:
        return False
    if count < unread and record_cells(slot_address(ring, load(ring + TAIL) + count)) == 0:
        return False
    release(ring, count)
    return True


@kernel(inline=True)
def drained(ring: Int) -> Int:
    """Whether the producer has closed the ring and everything is read."""
    closed = load_acquire(ring + CLOSED)
    return closed != 0 and load_acquire(ring + HEAD) == load(ring + TAIL)


# For Python, and for waiting.


@kernel()
def first_broken(words: Array) -> Int:
    """The first row at which cells stop being whole records, or -1."""
    left = 0
    for row in range(words.shape[0]):
        length = (words[row, _SMALL_WORD // 8] >> _LENGTH_SHIFT) & _LENGTH_MASK
        if (length == 0) != (left > 0):
            return row
        left = left - 1 if left else length - 1
    return words.shape[0] if left else -1


@kernel()
def record_at(words: Array, row: Int) -> Int:
    """The length of the record whose first cell is that row."""
    return (words[row, _SMALL_WORD // 8] >> _LENGTH_SHIFT) & _LENGTH_MASK


@kernel()
def longest_record(words: Array) -> Int:
    """The length of the longest of some whole records."""
    longest = 0
    for row in range(words.shape[0]):
        longest = max(longest, (words[row, _SMALL_WORD // 8] >> _LENGTH_SHIFT) & _LENGTH_MASK)
    return longest


@kernel()
def read_word(address: Int) -> Int:
    """An acquire load, callable from Python."""
    return load_acquire(address)


@kernel()
def write_word(address: Int, value: Int) -> None:
    """A release store, callable from Python."""
    store_release(address, value)


@kernel()
def wait_for_room(ring: Int, count: Int, spins: Int, naps: Int, nap_us: Int) -> Int:
    """Wait until so many cells fit: first spin, then nap, each a bounded number of times. Whether they fit."""
    for _ in range(spins):
        if fits(ring, count):
            return True
        pause()
    for _ in range(naps):
        if fits(ring, count):
            return True
        nap(nap_us)
    return fits(ring, count)


@kernel()
def wait_readable(ring: Int, spins: Int, naps: Int, nap_us: Int) -> Int:
    """Wait until something can be read or the ring is closed and drained, as `wait_for_room`: cells readable."""
    for _ in range(spins):
        if readable(ring) or drained(ring):
            return readable(ring)
        pause()
    for _ in range(naps):
        if readable(ring) or drained(ring):
            return readable(ring)
        nap(nap_us)
    return readable(ring)


@kernel()
def touch(address: Int, count: Int) -> Int:
    """Read a word of each of `count` bytes' pages, so that no later access faults."""
    seen = 0
    for page in range(count // _PAGE_BYTES):
        seen |= load_acquire(address + page * _PAGE_BYTES)
    return seen
