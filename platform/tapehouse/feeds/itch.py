"""NASDAQ TotalView-ITCH 5.0, from files of length-prefixed messages and from captures of MoldUDP64.

Times count from midnight in New York, so a file needs the day said; a capture tells it. Instruments and the ticks of
their prices are surveyed in a first pass. `itch_decoder` says what becomes of each message.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import numpy as np

from tapehouse.core.errors import DecodeError, UsageError
from tapehouse.core.ids import slug
from tapehouse.feeds import itch_kernels, mold_capture
from tapehouse.feeds.byte_blocks import byte_blocks
from tapehouse.feeds.checking import Check
from tapehouse.feeds.formats import SourceOptions, one_file
from tapehouse.feeds.itch_decoder import Bytes, ItchDecoder, Spans
from tapehouse.feeds.new_york import UNKNOWN_DAY, day_of, midnight_ns
from tapehouse.feeds.packing import BATCH_CELLS_MAX
from tapehouse.feeds.pcap import TIME, Capture, Datagrams, is_pcap
from tapehouse.market import Cells, Instrument
from tapehouse.market.gap import Cause, Confidence, gap_record

_BYTES_PER_MESSAGE = 32
_COMPRESSION = 3
_END_OF_FILE = b"\0\0"  # an empty message ends a file as NASDAQ writes it


class ItchFeed:
    """One file or capture, plain or gzip.

    Args:
        day: The trading day; None where a capture tells it.
        batch_cells: About how many cells a batch holds.

    Attributes:
        decoder: Of the latest pass, with what it counted.
        stream: Of the latest pass over a capture: the slots of `mold_capture`.
        gaps: Gap records of the latest pass.

    Raises:
        MissingError: There is no such file.
        DecodeError: It is empty, or a capture of a kind that is not read.
        UsageError: Nobody says the day.
    """

    def __init__(self, path: Path, *, day: date | None = None, batch_cells: int = BATCH_CELLS_MAX) -> None:
        self._path = path
        self._batch_cells = min(max(batch_cells, 1), BATCH_CELLS_MAX)
        first = next(byte_blocks(path, 1 << 12), b"")
        if not first:
            raise DecodeError("the file is empty", subject=path.name, hint="download it again")
        self.is_capture = is_pcap(first)
        if day is None and not self.is_capture:
            raise UsageError("an ITCH file does not say its day", subject=path.name, hint="give --date")
        self._captured_day: date | None = None
        self._surveyed = self._new_decoder()
        try:
            for data, spans, base, _event in self._pieces(self._surveyed):
                self._surveyed.survey(data, spans, base=base, more_follows=not self.is_capture)
        except DecodeError:
            pass  # Reading the batches meets the same damage, behind the messages that are good.
        self.day = day or self._captured_day or UNKNOWN_DAY
        self.decoder = self._new_decoder()
        self.stream = np.zeros(mold_capture.STREAM_SLOTS, np.int64)
        self.gaps = 0

    @property
    def name(self) -> str:
        """The file's name, made good as a tape's."""
        return slug(self._path.name.removesuffix(".gz").removesuffix(".pcap").removesuffix(".itch"))

    @property
    def instruments(self) -> tuple[Instrument, ...]:
        """What the directory or any other message names, in the order of first use."""
        return self._surveyed.instruments

    @property
    def cells_estimate(self) -> int | None:
        """From the file's size."""
        plain = self._path.stat().st_size * (_COMPRESSION if self._path.suffix == ".gz" else 1)
        return max(plain // _BYTES_PER_MESSAGE, 1)

    def batches(self) -> Iterator[Cells]:
        """The file from its beginning; each call is a new pass.

        Raises:
            DecodeError: A message or packet is damaged or cut off.
        """
        self.decoder = decoder = self._new_decoder()
        decoder.learn_from(self._surveyed)
        self.gaps = 0
        midnight = midnight_ns(self.day)
        for data, spans, base, event in self._pieces(decoder):
            try:
                yield from decoder.decode_spans(
                    data, spans, midnight, base=base, limit=self._batch_cells, more_follows=not self.is_capture
                )
            except DecodeError as error:
                raise DecodeError(error.message, subject=self._path.name, position=error.position) from error
            if event is not None:
                yield from self._told(decoder, event)

    def _new_decoder(self) -> ItchDecoder:
        return ItchDecoder(zero_is_unsaid=not self.is_capture)

    def _pieces(self, decoder: ItchDecoder) -> Iterator[tuple[Bytes, Spans, int, _Event | None]]:
        return self._capture_pieces() if self.is_capture else self._file_pieces(decoder)

    def _file_pieces(self, decoder: ItchDecoder) -> Iterator[tuple[Bytes, Spans, int, _Event | None]]:
        """Blocks of a file, each one span; the message that a block cuts off begins the next one."""
        rest, base, number = b"", 0, 1
        for block in byte_blocks(self._path):
            data = rest + block
            yield np.frombuffer(data, np.uint8), np.array([[0, len(data), number, -1]], np.int64), base, None
            done, messages = decoder.stopped()
            rest, base, number = data[done:], base + done, number + messages
        if rest and rest != _END_OF_FILE:
            raise DecodeError(
                f"the file ends inside a message: {len(rest)} bytes are left over",
                subject=self._path.name,
                position=f"byte {base}",
                hint="the file is cut off: download it again",
            )

    def _capture_pieces(self) -> Iterator[tuple[Bytes, Spans, int, _Event | None]]:
        """Runs of packets without a gap, and what comes behind each."""
        self.stream = state = np.zeros(mold_capture.STREAM_SLOTS, np.int64)
        capture = Capture(byte_blocks(self._path), self._path.name)
        counts = np.zeros(2, np.int64)
        for data, datagrams, base in capture.blocks():
            if self._captured_day is None:
                self._captured_day = day_of(int(datagrams[0, TIME]))
            row = 0
            while row < len(datagrams):
                spans = np.empty((len(datagrams) - row, itch_kernels.SPAN_COLUMNS), np.int64)
                status = mold_capture.take_packets(data, datagrams, row, state, spans, counts)
                row = int(counts[1])
                event = None
                if status != mold_capture.ALL_TAKEN:
                    event = self._meet(status, state, data, datagrams, row, base)
                yield data, spans[: counts[0]], base, event

    def _meet(self, status: int, state: Spans, data: Bytes, datagrams: Datagrams, row: int, base: int) -> _Event:
        """What a packet that does not follow means; the stream's state is made to go on with it."""
        time, _port, begin, _end, place = datagrams[row].tolist()
        if status == mold_capture.BAD_PACKET:
            raise DecodeError(
                "the datagram is no MoldUDP64 packet", subject=self._path.name, position=f"byte {base + place}"
            )
        first = int.from_bytes(data[begin + 10 : begin + 18].tobytes(), "big")
        if status == mold_capture.GAP:
            event = _Event(Cause.SEQUENCE, time, int(state[mold_capture.NEXT]) - 1, first)
            state[mold_capture.MISSING] += first - int(state[mold_capture.NEXT])
            state[mold_capture.NEXT] = first
            return event
        begun = bool(state[mold_capture.BEGUN])
        state[mold_capture.SESSION] = int.from_bytes(data[begin : begin + 8].tobytes(), "big", signed=True)
        state[mold_capture.SESSION_END] = int.from_bytes(data[begin + 8 : begin + 10].tobytes(), "big")
        last = int(state[mold_capture.NEXT]) - 1 if begun else 0
        state[mold_capture.BEGUN], state[mold_capture.NEXT] = 1, 1
        return _Event(Cause.RESET if begun else None, time, last, first)

    def _told(self, decoder: ItchDecoder, event: _Event) -> Iterator[Cells]:
        """The records of a gap or of a session's end."""
        if event.cause is None:
            return
        self.gaps += 1
        time = decoder.hold_time(event.time)
        if event.cause == Cause.RESET:
            yield gap_record(Cause.RESET, Confidence.GOOD, ts_recv=time, sequence=event.last, following=event.first)
            clears = decoder.forget_orders(time)
            for at in range(0, len(clears), self._batch_cells):
                yield clears[at : at + self._batch_cells]
            return
        yield gap_record(
            Cause.SEQUENCE,
            Confidence.SUSPECT,
            ts_recv=time,
            sequence=event.last,
            following=event.first,
            missing=event.first - event.last - 1,
        )


class _Event:
    """Something between two runs of packets: `cause` None where a first session begins."""

    def __init__(self, cause: Cause | None, time: int, last: int, first: int) -> None:
        self.cause, self.time, self.last, self.first = cause, time, last, first


def open_files(paths: Sequence[Path], options: SourceOptions) -> ItchFeed:
    """The feed over one file or capture."""
    path = one_file(paths, "itch")
    return ItchFeed(path, day=options.day or (UNKNOWN_DAY if options.checking else None))


def check_files(paths: Sequence[Path], options: SourceOptions) -> Check:
    """Every message against its type, its stock and its order; see `itch_check`."""
    from tapehouse.feeds.itch_check import check

    return check(one_file(paths, "itch"), options.day or UNKNOWN_DAY)
