"""Something that answers ticks as it is told: the stand-in for an engine, for tests of who measures it."""

from __future__ import annotations

from tapehouse.core.atomics import array_address, load_acquire, pause
from tapehouse.core.cycles import cycles
from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.market import Kind
from tapehouse.ring.kernels import append_cell, readable, record_cells, release, tail_address

SKIP_AT, TWICE_AT, HOLD_AT, HOLD_COUNTS, STOP = range(5)
TOLD_WORDS = 5
_SMALL = (int(Kind.ORDER) << 48) | (1 << 56)


@kernel()
def answering(told: Array, feed: Int, orders: Int, first_ordinal: Int, ordinals: Array) -> None:
    """Take records from a feed and answer those at `ordinals`, one skipped, doubled or held up where told so."""
    ordinal = first_ordinal
    at = 0
    stop = array_address(told) + STOP * 8
    while at < ordinals.shape[0] and load_acquire(stop) < 0:
        if readable(feed) == 0:
            pause()
            continue
        length = record_cells(tail_address(feed))
        release(feed, length)
        if ordinal == ordinals[at]:
            if at == told[HOLD_AT]:
                until = cycles() + told[HOLD_COUNTS]
                while cycles() < until:
                    pause()
            if at != told[SKIP_AT]:
                append_cell(orders, 0, 0, ordinal, 0, 0, 0, _SMALL, 0)
            if at == told[TWICE_AT]:
                append_cell(orders, 0, 0, ordinals[at - 1], 0, 0, 0, _SMALL, 0)
            at += 1
        ordinal += length
