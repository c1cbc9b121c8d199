"""IEX's historical captures: DEEP 1.0 and TOPS, in packets of IEX-TP.

Level updates become market-by-price cells, quotes, trades and statuses what they are. LAST stands where IEX says that
an event is complete. Numbers that begin anew under the same session, as a test environment does, are a RESET gap
record and clears of the books that had levels. Instruments and their ticks are surveyed in a first pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tapehouse.core.errors import DecodeError
from tapehouse.core.ids import slug
from tapehouse.core.units import UNDEFINED
from tapehouse.feeds import iex_kernels as kernels
from tapehouse.feeds.byte_blocks import byte_blocks
from tapehouse.feeds.checking import Check
from tapehouse.feeds.formats import SourceOptions, one_file
from tapehouse.feeds.iex_layout import PRICE_UNIT, PROTOCOLS
from tapehouse.feeds.packing import BATCH_CELLS_MAX
from tapehouse.feeds.pcap import Capture
from tapehouse.feeds.symbol_table import STATE, SymbolTable
from tapehouse.market import Action, Cells, Flag, Instrument, Kind, Side, empty_cells, from_words
from tapehouse.market.gap import Cause, Confidence, gap_record

_BYTES_PER_MESSAGE = 45
_COMPRESSION = 5

_COMPLAINTS = {
    kernels.BAD_LENGTH: "the message has not the length of its type",
    kernels.BAD_PRICE: "the price is not positive, or more than there can be",
    kernels.BAD_SIZE: "a trade of no shares",
    kernels.BAD_TIME: "the time is negative",
    kernels.TOO_MANY_SYMBOLS: "there are more symbols than a market has",
}
_Words = npt.NDArray[np.int64]


class IexFeed:
    """One capture, plain or gzip.

    Args:
        batch_cells: About how many cells a batch holds.
        cut_is_end: Whether a last packet that is cut short is the end of the capture, and no error.

    Attributes:
        stream: Of the latest pass: the slots of `iex_kernels.take_packets`.
        tally, types: Counters of the latest pass; of messages by the code of their type.
        resets, truncated: How often numbers began anew; the last packet's bytes that are there, and that must be.

    Raises:
        MissingError: There is no such file.
        DecodeError: It is no capture of Ethernet frames.
    """

    def __init__(self, path: Path, *, batch_cells: int = BATCH_CELLS_MAX, cut_is_end: bool = False) -> None:
        self._path = path
        self._batch_cells = min(max(batch_cells, 1), BATCH_CELLS_MAX)
        self._cut_is_end = cut_is_end
        self._symbols = self._surveyed = SymbolTable("IEXG", PRICE_UNIT)
        self._begin(self._surveyed)
        Capture(byte_blocks(path), path.name)  # refuses at once what is no capture
        with suppress(DecodeError):  # The batches meet the same damage, behind the messages that are good.
            for _ in self._pass():
                pass

    @property
    def name(self) -> str:
        """The file's name, made good as a tape's."""
        return slug(self._path.name.removesuffix(".gz").removesuffix(".pcap"))

    @property
    def instruments(self) -> tuple[Instrument, ...]:
        """Every symbol that a message names, in the order of first use."""
        return self._surveyed.instruments

    @property
    def cells_estimate(self) -> int | None:
        """From the file's size."""
        plain = self._path.stat().st_size * (_COMPRESSION if self._path.suffix == ".gz" else 1)
        return max(plain // _BYTES_PER_MESSAGE, 1)

    @property
    def protocol(self) -> str:
        """What IEX calls the messages of the latest packet."""
        return PROTOCOLS.get(int(self.stream[kernels.PROTOCOL]), "")

    def batches(self) -> Iterator[Cells]:
        """The capture from its beginning; each call is a new pass.

        Raises:
            DecodeError: A message or packet is damaged or cut off.
        """
        self._begin(self._surveyed.copied())
        yield from self._pass()

    def _begin(self, symbols: SymbolTable) -> None:
        self._symbols = symbols
        self.stream = np.zeros(kernels.STREAM_SLOTS, np.int64)
        self.tally = np.zeros(kernels.TALLY_SLOTS, np.int64)
        self.types = np.zeros(256, np.int64)
        self.resets = 0
        self.truncated: tuple[int, int] | None = None

    def _pass(self) -> Iterator[Cells]:
        capture = Capture(byte_blocks(self._path), self._path.name)
        counts = np.zeros(2, np.int64)
        try:
            for data, datagrams, base in capture.blocks():
                row = 0
                while row < len(datagrams):
                    spans = np.empty((len(datagrams) - row, kernels.SPAN_COLUMNS), np.int64)
                    status = kernels.take_packets(data, datagrams, row, self.stream, spans, counts)
                    row = int(counts[1])
                    yield from self._decode(data, spans[: counts[0]], base)
                    if status != kernels.ALL_TAKEN:
                        yield from self._meet(status, data, datagrams[row], base)
        except DecodeError:
            self.truncated = capture.truncated
            if not (self._cut_is_end and self.truncated):
                raise

    def _decode(self, data: npt.NDArray[np.uint8], spans: _Words, base: int) -> Iterator[Cells]:
        """The cells of packets that follow each other."""
        cursor = np.zeros(kernels.CURSOR_SLOTS, np.int64)
        cursor[kernels.AT] = -1
        table = self._symbols
        limit = self._batch_cells
        room = min(limit + kernels.CELLS_PER_MESSAGE_MAX, kernels.room_for(len(data)), BATCH_CELLS_MAX)
        status = kernels.ROOM_USED
        while status == kernels.ROOM_USED:
            out = np.empty((room, 8), np.int64)
            status = kernels.decode_spans(
                data, spans, cursor, table.keys, table.known, table.tally, self.tally, self.types, limit, out
            )
            if cursor[kernels.USED]:
                yield from_words(out[: cursor[kernels.USED]])
        if status != kernels.DONE:
            position = f"byte {base + int(cursor[kernels.AT])}"
            raise DecodeError(_COMPLAINTS[status], subject=self._path.name, position=position)

    def _meet(self, status: int, data: npt.NDArray[np.uint8], datagram: _Words, base: int) -> Iterator[Cells]:
        """The records of a packet that does not follow; the stream's state is made to go on with it."""
        time, _port, begin, end, place = datagram.tolist()
        state = self.stream
        header = data[begin:end].tobytes()
        if status == kernels.BAD_PACKET or int.from_bytes(header[2:4], "little") not in PROTOCOLS:
            text = "the datagram is no IEX-TP packet of DEEP or TOPS"
            raise DecodeError(text, subject=self._path.name, position=f"byte {base + place}")
        time = max(time, int(self.tally[kernels.LATEST]))
        self.tally[kernels.LATEST] = time
        first, last = int.from_bytes(header[24:32], "little"), int(state[kernels.NEXT]) - 1
        if status == kernels.GAP:
            missing = first - last - 1
            state[kernels.NEXT] = first
            state[kernels.MISSING] += missing
            yield gap_record(
                Cause.SEQUENCE, Confidence.SUSPECT, ts_recv=time, sequence=last, following=first, missing=missing
            )
            return
        begun = bool(state[kernels.BEGUN])
        if status == kernels.NEW_SESSION:
            state[kernels.PROTOCOL] = int.from_bytes(header[2:4], "little")
            state[kernels.CHANNEL] = int.from_bytes(header[4:8], "little")
            state[kernels.SESSION] = int.from_bytes(header[8:12], "little")
        state[kernels.BEGUN], state[kernels.NEXT], state[kernels.SENT] = 1, 1, -(2**63)
        if begun:
            self.resets += 1
            yield gap_record(Cause.RESET, Confidence.GOOD, ts_recv=time, sequence=last, following=first)
            yield from self._clears(time)

    def _clears(self, time: int) -> Iterator[Cells]:
        """A clear for each book that has levels."""
        known = self._symbols.known
        ids = np.flatnonzero(known[:, STATE] & kernels.HAS_LEVELS)
        known[:, STATE] = 0
        cells = empty_cells(len(ids))
        cells["ts_event"] = cells["ts_recv"] = time
        cells["instrument"], cells["price"] = ids, UNDEFINED
        cells["kind"], cells["cells"], cells["action"], cells["side"] = Kind.MBO, 1, Action.CLEAR, Side.NONE
        cells["flags"] = int(Flag.LAST | Flag.SYNTHETIC)
        for at in range(0, len(cells), self._batch_cells):
            yield cells[at : at + self._batch_cells]


def open_files(paths: Sequence[Path], options: SourceOptions) -> IexFeed:
    """The feed over one capture."""
    return IexFeed(one_file(paths, "iex"), cut_is_end=options.checking)


def check_files(paths: Sequence[Path], options: SourceOptions) -> Check:
    """Every packet against the one before it, every message against its type; see `iex_check`."""
    from tapehouse.feeds.iex_check import check

    return check(one_file(paths, "iex"))
