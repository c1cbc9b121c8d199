"""Books along a tape as messages: the byte-exact form of docs/formats/book-snapshot.md. Bytes in, values out; no I/O.

Three kinds of messages belong to a *boundary* of a tape: the book of each instrument that changed since the boundary
before, the definitions that came since, and at last the mark. The mark says that everything is there, and where the
newest snapshot of every book is; what has no mark is not looked at. A body that is too long for one message is cut
into parts.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import xxhash
import zstandard

from tapehouse.book.canonical import HEADER_WORDS, VERSION, restore, snapshot
from tapehouse.book.layout import LEVELS_MAX, LEVELS_MIN, Books, make_books
from tapehouse.book.tape_book import TOLD_MAX, TapeBook
from tapehouse.core.check import check
from tapehouse.core.errors import DecodeError, IntegrityError
from tapehouse.core.sections import pack_sections, unpack_sections
from tapehouse.market import CELL, Instrument, read_definition, record_starts

MAGIC = b"THBS"
FORMAT = 1
PART_BYTES = 512 * 1024  # of a body as it is stored, in one message
PARTS_MAX = 64
PLAIN_BYTES_MAX = 64 * 1024 * 1024  # what a decoder will ever allocate for one body
READ_LEVELS_MAX, READ_ORDERS_MAX = 1 << 20, 1 << 22  # bounds that a stored book may have been made with
_HEADER = struct.Struct("<4sHBBIHBB16sQQqQQIIQ")
HEADER_BYTES = _HEADER.size
_CHECKSUM_AT = HEADER_BYTES - 8
_ZSTD_LEVEL = 1
_LOG_ID = struct.Struct("<qq")  # as two words of a mark's row
_ROW_BYTES = 48  # of a mark's table
_HINT = "it is damaged: the one before it is used, or the tape from its start"


class Kind(IntEnum):
    """What a message holds."""

    BOOK = 1
    MARK = 2
    DEFINITIONS = 3


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Place:
    """A boundary between two records of a tape.

    Args:
        ordinal: Of the first cell after it.
        sequence: Of the frame that holds this cell.
        time: Engine time, UTC ns: of the last record before it.
        log_id: Of the branch that the frame belongs to.
    """

    ordinal: int
    sequence: int
    time: int
    log_id: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One message, or the parts of one put together: what its header says, and its plain body."""

    kind: Kind
    place: Place
    instrument: int  # 0 where it is of none
    told: int  # of a book: which records told it, see `tape_book`
    source: int = 0  # of a book: of the last record that told it
    body: bytes


def encode(stored: Stored) -> list[bytes]:
    """The messages that hold it: its body in zstd, cut into parts."""
    check(len(stored.body) <= PLAIN_BYTES_MAX, "a snapshot is longer than any book can be", subject="books")
    packed = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_content_size=True).compress(stored.body)
    parts = [packed[at : at + PART_BYTES] for at in range(0, len(packed), PART_BYTES)]
    check(len(parts) <= PARTS_MAX, "a snapshot has more parts than any book can have", subject="books")
    place = stored.place
    messages = []
    for number, part in enumerate(parts):
        head = _HEADER.pack(
            MAGIC, FORMAT, stored.kind, stored.told, stored.instrument, stored.source, len(parts), number, place.log_id,
            place.sequence, place.ordinal, place.time, len(stored.body), xxhash.xxh3_64_intdigest(stored.body),
            len(part), len(packed), 0,
        )[:_CHECKSUM_AT]  # fmt: skip
        messages.append(head + xxhash.xxh3_64_intdigest(head + part).to_bytes(8, "little") + part)
    return messages


def decode(messages: Sequence[bytes]) -> Stored:
    """What all parts of one snapshot hold, in their order.

    Raises:
        DecodeError: They are torn, damaged, of an unknown version, or not the parts of one snapshot.
    """
    if not messages or len(messages) > PARTS_MAX:
        raise DecodeError(f"a snapshot of {len(messages)} parts", hint=_HINT)
    fields = [_read_header(message, number, len(messages)) for number, message in enumerate(messages)]
    first = fields[0]
    for number, field in enumerate(fields):
        if (*field[:7], *field[8:14], field[15]) != (*first[:7], *first[8:14], first[15]):
            raise DecodeError("it belongs to another snapshot", position=f"part {number}", hint=_HINT)
    plain_bytes, plain_checksum, packed_bytes = first[12], first[13], first[15]
    packed = b"".join(message[HEADER_BYTES:] for message in messages)
    if len(packed) != packed_bytes or plain_bytes > PLAIN_BYTES_MAX:
        raise DecodeError(f"a body of {len(packed)} bytes, not {packed_bytes}", hint=_HINT)
    try:
        if zstandard.frame_content_size(packed) != plain_bytes:
            raise DecodeError("a body claims another length than its header", hint=_HINT)
        body = zstandard.ZstdDecompressor().decompress(packed, max_output_size=plain_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise DecodeError(f"a body does not decompress: {error}", hint=_HINT) from error
    if len(body) != plain_bytes or xxhash.xxh3_64_intdigest(body) != plain_checksum:
        raise DecodeError("a body's checksum disagrees", hint=_HINT)
    place = Place(log_id=first[8], sequence=first[9], ordinal=first[10], time=first[11])
    kind, told, instrument, source = first[2:6]
    return Stored(kind=Kind(kind), told=told, instrument=instrument, source=source, place=place, body=body)


def _read_header(message: bytes, number: int, parts: int) -> tuple[Any, ...]:
    """The fields of one part's header, its checksum verified over all of it."""
    if len(message) < HEADER_BYTES:
        raise DecodeError(f"a snapshot of {len(message)} bytes is shorter than its header", position="byte 0")
    if message[:4] != MAGIC:
        raise DecodeError(f"no snapshot of a book: magic {message[:4]!r} instead of {MAGIC!r}", position="byte 0")
    fields = _HEADER.unpack_from(message)
    if fields[1] != FORMAT:
        raise DecodeError(f"version {fields[1]} is unknown", position="byte 4", hint="a newer tapehouse wrote it")
    sealed = xxhash.xxh3_64(message[:_CHECKSUM_AT])
    sealed.update(memoryview(message)[HEADER_BYTES:])
    if sealed.intdigest() != fields[16]:
        raise DecodeError("a snapshot's checksum disagrees", position=f"byte {_CHECKSUM_AT}", hint=_HINT)
    if fields[2] not in Kind.__members__.values() or fields[3] > TOLD_MAX:
        raise DecodeError(f"a snapshot of kind {fields[2]}, told by {fields[3]}", position="byte 6", hint=_HINT)
    if (fields[6], fields[7]) != (parts, number):
        raise DecodeError(f"part {fields[7]} of {fields[6]}, not {number} of {parts}", position="byte 14", hint=_HINT)
    if fields[14] != len(message) - HEADER_BYTES:
        raise DecodeError(f"a part of {len(message) - HEADER_BYTES} bytes, not {fields[14]}", hint=_HINT)
    return fields


# What the bodies hold.


def store_book(book: TapeBook, place: Place) -> list[bytes]:
    """One instrument's book at a boundary."""
    body = pack_sections({"book": snapshot(book.books), "instrument": _define([book.instrument])})
    return encode(
        Stored(
            kind=Kind.BOOK, place=place, instrument=book.instrument.id, told=book.told, source=book.source, body=body
        )
    )  # fmt: skip


def read_book(stored: Stored) -> TapeBook:
    """The book that `store_book` was given.

    Raises:
        DecodeError, IntegrityError: It is none, or of another version of the book.
    """
    sections = _sections(stored, Kind.BOOK, ("book", "instrument"))
    instruments = _defined(sections["instrument"])
    if len(instruments) != 1 or instruments[0].id != stored.instrument:
        raise DecodeError("a book without its instrument's definition", hint=_HINT)
    return TapeBook(instruments[0], books=_restored(sections["book"]), told=stored.told, source=stored.source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What there is of a tape's books up to a boundary.

    Args:
        newest: Where the newest snapshot of each told book is, None for a book that is not kept.
        defined: How many instruments were defined before it.
    """

    newest: dict[int, Place | None]
    defined: int


def store_mark(mark: Mark, place: Place) -> list[bytes]:
    """The mark of a boundary."""
    rows = [
        (instrument, at.ordinal, at.sequence, at.time, *_LOG_ID.unpack(at.log_id)) if at else (instrument, -1, *[0] * 4)
        for instrument, at in sorted(mark.newest.items())
    ]
    table = np.array(rows, "<i8").reshape(-1, 6).tobytes()
    body = pack_sections({"books": table, "defined": mark.defined.to_bytes(8, "little")})
    return encode(Stored(kind=Kind.MARK, place=place, instrument=0, told=0, body=body))


def read_mark(stored: Stored) -> Mark:
    """What `store_mark` was given.

    Raises:
        DecodeError, IntegrityError: It is none.
    """
    sections = _sections(stored, Kind.MARK, ("books", "defined"))
    table, defined = sections["books"], sections["defined"]
    if len(table) % _ROW_BYTES or len(defined) != 8:
        raise DecodeError(f"a mark's table of {len(table)} bytes", hint=_HINT)
    newest: dict[int, Place | None] = {}
    for instrument, ordinal, sequence, time, *log_id in np.frombuffer(table, "<i8").reshape(-1, 6).tolist():
        if not 0 < instrument < 2**32 or not -1 <= ordinal <= stored.place.ordinal or sequence < 0:
            raise DecodeError(f"a mark's row of instrument {instrument}, cell {ordinal}", hint=_HINT)
        place = Place(ordinal=ordinal, sequence=sequence, time=time, log_id=_LOG_ID.pack(*log_id))
        newest[instrument] = place if ordinal >= 0 else None
    return Mark(newest=newest, defined=int.from_bytes(defined, "little"))


def store_definitions(instruments: Sequence[Instrument], place: Place) -> list[bytes]:
    """The instruments that were defined between a boundary and the one before, in the tape's order."""
    body = pack_sections({"instruments": _define(instruments)})
    return encode(Stored(kind=Kind.DEFINITIONS, place=place, instrument=0, told=0, body=body))


def read_definitions(stored: Stored) -> list[Instrument]:
    """What `store_definitions` was given.

    Raises:
        DecodeError, IntegrityError: It is none.
    """
    return _defined(_sections(stored, Kind.DEFINITIONS, ("instruments",))["instruments"])


def _sections(stored: Stored, kind: Kind, names: tuple[str, ...]) -> dict[str, bytes]:
    if stored.kind is not kind:
        raise DecodeError(f"a snapshot of a {stored.kind.name.lower()}, not of a {kind.name.lower()}", hint=_HINT)
    sections = unpack_sections(stored.body)
    if tuple(sorted(sections)) != names:
        raise DecodeError(f"a {kind.name.lower()} with the sections {', '.join(sorted(sections))}", hint=_HINT)
    return sections


def _define(instruments: Sequence[Instrument]) -> bytes:
    """Instruments as the cells of their definitions."""
    return b"".join(instrument.definition(ts_recv=0).tobytes() for instrument in instruments)


def _defined(data: bytes) -> list[Instrument]:
    if len(data) % CELL.itemsize:
        raise DecodeError(f"definitions of {len(data)} bytes are no cells", hint=_HINT)
    cells = np.frombuffer(data, CELL)
    starts = record_starts(cells).tolist()
    return [read_definition(cells[start:end]) for start, end in zip(starts, [*starts[1:], len(cells)], strict=True)]


def _restored(data: bytes) -> Books:
    """A book of one slot, with the bounds that it was stored with."""
    words = np.frombuffer(data[: len(data) // 8 * 8], "<i8")
    if len(words) < HEADER_WORDS:
        raise DecodeError(f"a book of {len(data)} bytes", hint=_HINT)
    version, slots, levels, orders = (int(word) for word in words[1:HEADER_WORDS])
    if version != VERSION:
        raise IntegrityError(f"a book of version {version}, not {VERSION}", hint=_HINT)
    bounded = LEVELS_MIN <= levels <= min(READ_LEVELS_MAX, LEVELS_MAX) and 0 < orders <= READ_ORDERS_MAX
    if slots != 1 or not bounded or levels & (levels - 1):
        raise DecodeError(f"{slots} books of {levels} levels and {orders} orders", hint=_HINT)
    books = make_books(1, orders=orders, levels=levels)
    restore(books, data)
    return books
