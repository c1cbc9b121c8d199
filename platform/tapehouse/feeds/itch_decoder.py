"""TotalView-ITCH messages into cells, for files, captures and live receivers alike. It opens nothing.

Executions, cancels, deletes and replacements name an order only, so the decoder keeps the live orders, in memory that
grows with them and no further than `order_table.ROWS_MAX`. What names an order that nobody added is counted and left
out. An execution becomes trade, fill and cancel; one that is not to be printed (it was part of a cross that is told
by itself) no trade. A replacement is a cancel and an add, because the order's id changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd

import numpy as np
import numpy.typing as npt

from tapehouse.core.errors import DecodeError, InvariantError
from tapehouse.core.units import UNDEFINED
from tapehouse.feeds import itch_kernels as kernels
from tapehouse.feeds.itch_layout import PRICE_UNIT
from tapehouse.feeds.order_table import META, grown, new_table
from tapehouse.feeds.packing import BATCH_CELLS_MAX
from tapehouse.market import Action, Cells, Flag, Instrument, Kind, Side, empty_cells, from_words

LOCATES = 1 << 16
_CENT = 100  # in units of ITCH's prices
Bytes = npt.NDArray[np.uint8]
Spans = npt.NDArray[np.int64]  # shape (n, SPAN_COLUMNS)

_COMPLAINTS = {
    kernels.CUT_OFF: "the bytes end inside a message",
    kernels.BAD_LENGTH: "the message has not the length of its type",
    kernels.UNFRAMED: "no length is said, and the message's type is unknown",
    kernels.BAD_SIDE: "the side is neither B nor S",
    kernels.BAD_SIZE: "the number of shares is 0, or more than there can be",
    kernels.BAD_PRICE: "the price is 0",
}


class ItchDecoder:
    """The state of one session of one venue.

    Args:
        zero_is_unsaid: Whether a length of 0 stands for the length of the message's type, as one file has it. Else it
            is an empty message, as MoldUDP64 allows it.
        venue: Of the instruments.
    """

    def __init__(self, *, zero_is_unsaid: bool = False, venue: str = "XNAS") -> None:
        self._zero_is_unsaid = int(zero_is_unsaid)
        self._venue = venue
        self._rows = new_table()
        self._locates = np.zeros((LOCATES, kernels.LOCATE_COLUMNS), np.int64)
        self._tally = np.zeros(kernels.TALLY_SLOTS, np.int64)
        self._types = np.zeros(256, np.int64)
        self._cursor = np.zeros(kernels.CURSOR_SLOTS + 1, np.int64)
        self._instruments: list[Instrument] = []
        self._symbols: set[str] = set()
        self._next = 1

    @property
    def instruments(self) -> tuple[Instrument, ...]:
        """Everything that cells so far refer to, in the order of their ids; grows while messages come.

        One that was used before any message told its symbol is called `LOCATE-<n>`, and stays so.
        """
        missing = int(self._tally[kernels.INSTRUMENTS]) - len(self._instruments)
        if missing:
            ids = self._locates[:, kernels.INSTRUMENT]
            new = np.flatnonzero(ids > len(self._instruments))
            for locate in new[np.argsort(ids[new])].tolist():
                self._instruments.append(self._instrument(locate))
        return tuple(self._instruments)

    @property
    def types(self) -> dict[str, int]:
        """Messages so far by type."""
        return {chr(code): int(self._types[code]) for code in np.flatnonzero(self._types).tolist()}

    @property
    def live_orders(self) -> int:
        """Orders that are known and have shares left."""
        return int(self._tally[kernels.ORDERS])

    @property
    def counters(self) -> dict[str, int]:
        """What was met that needs to be known: each left out or put right, and how often."""
        slots = {
            "unknown_orders": kernels.UNKNOWN_ORDERS,
            "overtaken": kernels.OVERTAKEN,
            "duplicate_orders": kernels.DUPLICATES,
            "unknown_types": kernels.UNKNOWN_TYPES,
            "empty_messages": kernels.EMPTY,
            "zero_lengths": kernels.ZERO_LENGTHS,
            "unprinted": kernels.UNPRINTED,
            "empty_crosses": kernels.NO_CROSS,
            "corrected_times": kernels.CORRECTED_TIMES,
        }
        return {name: int(self._tally[slot]) for name, slot in slots.items()}

    @property
    def latest(self) -> int:
        """The receive time of the latest cell."""
        return int(self._tally[kernels.LATEST])

    def hold_time(self, ts_recv: int) -> int:
        """A receive time that is not before any given out, for a record put between the decoder's cells."""
        self._tally[kernels.LATEST] = max(self.latest, ts_recv)
        return self.latest

    def decode(
        self,
        messages: bytes | bytearray | memoryview | Bytes,
        midnight: int,
        ts_recv: int | None = None,
        sequence: int | None = None,
    ) -> Cells:
        """Whole messages, each behind its length (u16, big endian), into cells.

        Args:
            midnight: From which their times count, UTC ns.
            ts_recv: When they were received; None for their own times. Held where it goes back.
            sequence: The number of the first; None to count on.

        Raises:
            DecodeError: A message cannot be; `position` is a byte of `messages`. Nothing of them was taken.
        """
        data = np.frombuffer(messages, np.uint8)
        self._validate(data)
        first = self._next if sequence is None else sequence
        received = -1 if ts_recv is None else ts_recv
        spans = np.array([[0, len(data), first, received]], np.int64)
        parts = list(self.decode_spans(data, spans, midnight))
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else empty_cells(0)

    def decode_spans(
        self,
        data: Bytes,
        spans: Spans,
        midnight: int,
        *,
        base: int = 0,
        limit: int = BATCH_CELLS_MAX,
        more_follows: bool = False,
    ) -> Iterator[Cells]:
        """The messages of several spans of a block, in batches of about `limit` cells.

        Args:
            base: The position of `data` in its source, for errors.
            more_follows: The last message may be cut off; `stopped` says what was taken.

        Raises:
            DecodeError: A message cannot be, at `position`; the cells of those before it were yielded.
        """
        cursor = self._cursor
        cursor[kernels.SPAN], cursor[kernels.AT] = 0, -1
        room = min(limit + kernels.CELLS_PER_MESSAGE_MAX, kernels.room_for(len(data)), BATCH_CELLS_MAX)
        while True:
            out = np.empty((room, 8), np.int64)
            status = kernels.decode_spans(
                data, spans, cursor, self._rows, self._locates, self._tally, self._types,
                self._zero_is_unsaid, midnight, limit, out,
            )  # fmt: skip
            used = int(cursor[kernels.USED])
            if used:
                yield from_words(out[:used])
            if status == kernels.TABLE_FULL:
                self._rows = grown(self._rows)
            elif status != kernels.ROOM_USED:
                break
        if len(spans):
            last = spans[min(int(cursor[kernels.SPAN]), len(spans) - 1)]
            self._next = int(last[kernels.FIRST] + cursor[kernels.MESSAGES])
        if status != kernels.DONE and not (more_follows and status == kernels.CUT_OFF):
            raise DecodeError(_COMPLAINTS[status], position=f"byte {base + int(cursor[kernels.AT])}")

    def stopped(self) -> tuple[int, int]:
        """How many bytes and messages of the last span were taken, up to a message that was cut off."""
        return int(self._cursor[kernels.AT]), int(self._cursor[kernels.MESSAGES])

    def survey(self, data: Bytes, spans: Spans, *, base: int = 0, more_follows: bool = False) -> int:
        """Learn instruments, symbols and ticks from messages without decoding them; how many bytes were taken.

        Raises:
            DecodeError: As `decode_spans`.
        """
        at = 0
        for begin, end, _first, _received in spans.tolist():
            status = kernels.survey_span(
                data, begin, end, self._zero_is_unsaid, self._locates, self._tally, self._cursor
            )
            at = int(self._cursor[kernels.AT])
            if status != kernels.DONE and not (more_follows and status == kernels.CUT_OFF):
                raise DecodeError(_COMPLAINTS[status], position=f"byte {base + at}")
        return at

    def learn_from(self, surveyed: ItchDecoder) -> None:
        """Take the instruments of a decoder that surveyed the same messages."""
        if self._tally[kernels.INSTRUMENTS]:
            raise InvariantError("a decoder that has instruments was given others")
        self._locates[:] = surveyed._locates
        self._tally[kernels.INSTRUMENTS] = surveyed._tally[kernels.INSTRUMENTS]

    def forget_orders(self, ts_recv: int) -> Cells:
        """Begin anew, as when a venue's session changes: a clear for each instrument that had orders."""
        ids = np.unique(self._rows[self._rows[:, META] != 0, META] >> 2)
        self._rows = new_table()
        self._tally[kernels.ORDERS] = 0
        cells = empty_cells(len(ids))
        cells["ts_event"] = cells["ts_recv"] = self.hold_time(ts_recv)
        cells["instrument"], cells["price"] = ids, UNDEFINED
        cells["kind"], cells["cells"], cells["action"], cells["side"] = Kind.MBO, 1, Action.CLEAR, Side.NONE
        cells["flags"] = int(Flag.LAST | Flag.SYNTHETIC)
        return cells

    def _validate(self, data: Bytes) -> None:
        """Hold all messages against their types before one is taken."""
        cursor = np.zeros(kernels.CURSOR_SLOTS + 1, np.int64)
        status = kernels.hold_frames(data, 0, len(data), self._zero_is_unsaid, cursor)
        if status != kernels.DONE:
            raise DecodeError(_COMPLAINTS[status], position=f"byte {int(cursor[kernels.AT])}")

    def _instrument(self, locate: int) -> Instrument:
        number, symbol, divisor = self._locates[locate].tolist()
        text = symbol.to_bytes(8, "big", signed=True).decode("ascii", "backslashreplace").strip(" \0")
        text = text or f"LOCATE-{locate}"
        if text in self._symbols:
            text = f"{text}#{locate}"
        self._symbols.add(text)
        tick = gcd(divisor, _CENT) if divisor else 1
        return Instrument(id=number, symbol=text, venue=self._venue, tick_size=tick * PRICE_UNIT)
