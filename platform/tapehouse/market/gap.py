"""Missing market data as records: what was lost, what the book is worth since, and how it was made good.

A GAP record says that the confidence in the books of an instrument changes: of one, or with instrument 0 of all that
its source feeds. `action` is the cause, `depth` the confidence from here on, `sequence` the last venue sequence that
came in order, `order_id` the first that came after it (0 where there is none), `count` how many records are missing
(0 where nobody knows). A span of missing data lasts from a record that leaves GOOD to the one that comes back to it.
"""

from __future__ import annotations

from enum import IntEnum

from tapehouse.market.cell import Cells, Flag, Kind, empty_cells

COUNT_MAX = 2**32 - 1


class Cause(IntEnum):
    """Why confidence changes. Numbers are pinned for ever; from RECOVERED_FROM on they say how it came back."""

    UNKNOWN = 0  # a ring that dropped records, or a feed that is gone, as older tapes have it
    SEQUENCE = 1  # the venue's numbers jumped
    CHECKSUM = 2  # the book is not the one that the venue's checksum is of
    CROSSED = 3  # bids above asks for longer than they may be
    STALE = 4  # nothing came for longer than it may
    RESET = 5  # the venue began its numbers anew
    DISCONNECTED = 6
    DROPPED = 7  # the consumer was too slow and the ring dropped records
    DETACHED = 8  # the feed's ring is not there any more
    MALFORMED = 9  # a message that could not be read was left out
    SNAPSHOT = 32  # the book was told anew, whole
    RETRANSMITTED = 33  # the missing messages were asked for again, and came
    FILLED = 34  # the other line of the same feed had them
    RESUMED = 35  # what was quiet speaks again, and nothing was missed


RECOVERED_FROM = 32
_GOOD, _SUSPECT, _REBUILDING = 0, 1, 2
_UNKNOWN, _NONE = 0, 78  # causes of records that do not say what the book is worth: a zero, or the letter for "none"


class Confidence(IntEnum):
    """What a book is worth."""

    GOOD = 0  # every message of the venue is in it
    SUSPECT = 1  # something is missing
    REBUILDING = 2  # it is being told anew


def told_confidence(cause: int, depth: int) -> int:
    """The `Confidence` that a GAP record with this `action` and `depth` tells.

    Older tapes leave both fields empty, and what no version knows is not trusted: both are SUSPECT. The engine compiles
    this function, so it stays one of integers.
    """
    if depth == _REBUILDING or (depth == _GOOD and cause != _UNKNOWN and cause != _NONE):
        return depth
    return _SUSPECT


def gap_record(
    cause: Cause,
    confidence: Confidence,
    *,
    ts_recv: int,
    ts_event: int | None = None,
    instrument: int = 0,
    source: int = 0,
    sequence: int = 0,
    following: int = 0,
    missing: int = 0,
) -> Cells:
    """One GAP record, shape (1,).

    Args:
        instrument: 0 for all of the source's.
        sequence, following: The last venue sequence in order, and the first after it; both below 2^64.
        missing: Records; what is beyond 2^32 - 1 is written as that.
    """
    cells = empty_cells(1)
    cell = cells[0]
    cell["ts_event"], cell["ts_recv"] = ts_recv if ts_event is None else ts_event, ts_recv
    cell["sequence"], cell["order_id"], cell["count"] = sequence, following, min(missing, COUNT_MAX)
    cell["instrument"], cell["source"], cell["kind"], cell["cells"] = instrument, source, Kind.GAP, 1
    cell["action"], cell["depth"], cell["flags"] = cause, confidence, Flag.SYNTHETIC | Flag.LAST
    return cells
