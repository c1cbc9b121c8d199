"""The compiled loops that the benchmark of the ring runs.

In a loop of one process the producer also plays the consumer: where the ring is full it releases everything, once in a
ring's length.
"""

from __future__ import annotations

from tapehouse.app.bench.histogram import record_value
from tapehouse.core.atomics import load, pause
from tapehouse.core.cycles import fenced_cycles
from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.market.cell import CELL_BYTES, Kind
from tapehouse.ring.kernels import OK, append, append_bulk, append_cell, readable, record_at, release, tail_address

_SMALL = (int(Kind.RAW) << 48) | (1 << 56)
_INSTRUMENT = 0xFFFFFFFF
_GOLDEN = 0x1E3779B97F4A7C15  # an odd number that sets bits everywhere: a torn cell does not look whole


@kernel(inline=True)
def _append_numbered(ring: Int, number: Int) -> Int:
    """Append the cell of a number; every word of it depends on the number."""
    mixed = number * _GOLDEN
    small = _SMALL | (number & _INSTRUMENT)
    return append_cell(ring, number, ~number, mixed, mixed ^ number, mixed + 1, mixed - 1, small, ~mixed)


@kernel(inline=True)
def _is_numbered(address: Int, number: Int) -> Int:
    """Whether that cell stands there, field by field."""
    mixed = number * _GOLDEN
    return (
        load(address) == number
        and load(address + 8) == ~number
        and load(address + 16) == mixed
        and load(address + 24) == mixed ^ number
        and load(address + 32) == mixed + 1
        and load(address + 40) == mixed - 1
        and load(address + 48) == _SMALL | (number & _INSTRUMENT)
        and load(address + 56) == ~mixed
    )


@kernel()
def append_numbered(ring: Int, count: Int) -> None:
    """Append cells one by one."""
    for number in range(count):
        if _append_numbered(ring, number) != OK:
            release(ring, readable(ring))
            _append_numbered(ring, number)


@kernel()
def append_timed(ring: Int, count: Int, overhead: Int, histogram: Array) -> None:
    """The same, each append between two fenced readings; one that finds the ring full is not counted."""
    for number in range(count):
        before = fenced_cycles()
        status = _append_numbered(ring, number)
        after = fenced_cycles()
        if status == OK:
            record_value(histogram, after - before - overhead)
        else:
            release(ring, readable(ring))


@kernel()
def append_records(ring: Int, words: Array, count: Int) -> Int:
    """Append records of a recording one by one, from its beginning again where it ends; returns the cells appended."""
    row = 0
    cells = 0
    for _ in range(count):
        length = record_at(words, row)
        if append(ring, words, row, length) != OK:
            release(ring, readable(ring))
            append(ring, words, row, length)
        cells += length
        row += length
        if row >= words.shape[0]:
            row = 0
    return cells


@kernel()
def append_batches(ring: Int, words: Array, batches: Int) -> Int:
    """Append all rows at once, again and again; returns the cells appended."""
    cells = 0
    for _ in range(batches):
        done = append_bulk(ring, words, 0, words.shape[0])
        while done < words.shape[0]:
            release(ring, readable(ring))
            done += append_bulk(ring, words, done, words.shape[0])
        cells += done
    return cells


@kernel()
def release_all(ring: Int) -> None:
    """Forget what is in the ring, between runs."""
    release(ring, readable(ring))
    release(ring, readable(ring))  # The first may have known an older head.


@kernel()
def produce(ring: Int, first: Int, last: Int, spins_max: Int) -> Int:
    """Append the cells of numbers from `first` to before `last`; returns the next number: less where nobody drained."""
    number = first
    spins = 0
    while number < last and spins < spins_max:
        if _append_numbered(ring, number) == OK:
            number += 1
            spins = 0
        else:
            pause()
            spins += 1
    return number


@kernel()
def consume(ring: Int, first: Int, last: Int, verify: Int, spins_max: Int) -> tuple[Int, Int]:
    """Take the cells of numbers from `first` to before `last`: (the next number, how many cells were wrong).

    Args:
        verify: 1 to compare every field of every cell, 0 to discard them.
    """
    number = first
    wrong = 0
    spins = 0
    while number < last and spins < spins_max:
        there = readable(ring)
        if there == 0:
            pause()
            spins += 1
            continue
        spins = 0
        if verify != 0:
            address = tail_address(ring)
            for at in range(there):
                wrong += 1 - _is_numbered(address + at * CELL_BYTES, number + at)
        release(ring, there)
        number += there
    return number, wrong
