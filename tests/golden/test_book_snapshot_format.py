"""Stored snapshots of a tape's books stay readable for ever, and no bytes whatever bring their decoder down.

`write_golden` made the files and is run by hand for a new version: `python -m tests.golden.test_book_snapshot_format`.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.book import stored
from tapehouse.book.canonical import VERSION
from tapehouse.book.stored import (
    HEADER_BYTES,
    Kind,
    Mark,
    Place,
    Stored,
    decode,
    encode,
    read_book,
    read_definitions,
    read_mark,
    store_book,
    store_definitions,
    store_mark,
)
from tapehouse.book.tape_book import RECORDS, TapeBook
from tapehouse.core.errors import DecodeError, IntegrityError
from tapehouse.core.sections import pack_sections
from tapehouse.market import words
from tests.support.book_tape import BY_LEVEL, BY_ORDER, LATE, OLD_ID, START, make_cells

FOLDER = Path(__file__).parent / "formats"
PLACE = Place(ordinal=2**40 + 7, sequence=123_456, time=START + 5, log_id=OLD_ID)
EARLIER = Place(ordinal=99, sequence=3, time=START, log_id=bytes(range(200, 216)))
MARK = Mark(newest={1: PLACE, 3: EARLIER, 2000: None}, defined=4)
REFUSALS = (DecodeError, IntegrityError)


def golden_book() -> TapeBook:
    book = TapeBook(BY_ORDER)
    cells = np.concatenate(make_cells(11, 150))
    book.fold(words(cells), 0, len(cells))
    return book


def golden_messages() -> dict[str, bytes]:
    """One message of each kind."""
    made = {
        f"book-snapshot-v1-book{VERSION}.bin": store_book(golden_book(), PLACE),
        "book-snapshot-v1-mark.bin": store_mark(MARK, PLACE),
        "book-snapshot-v1-definitions.bin": store_definitions([BY_LEVEL, LATE], PLACE),
    }
    assert all(len(parts) == 1 for parts in made.values())
    return {name: parts[0] for name, parts in made.items()}


def meaning(message: bytes) -> dict[str, Any]:
    """What a message says, ready for JSON."""
    said = decode([message])
    told: dict[str, Any] = {
        "kind": said.kind.name.lower(), "instrument": said.instrument, "told": said.told,
        "place": _place(said.place),
    }  # fmt: skip
    if said.kind is Kind.BOOK:
        book = read_book(said)
        told["symbol"], told["book"] = book.instrument.symbol, book.canonical().hex()
    elif said.kind is Kind.MARK:
        mark = read_mark(said)
        told["defined"] = mark.defined
        told["newest"] = {str(number): place and _place(place) for number, place in mark.newest.items()}
    else:
        told["symbols"] = [instrument.symbol for instrument in read_definitions(said)]
    return told


def _place(place: Place) -> dict[str, Any]:
    return {
        "ordinal": place.ordinal, "sequence": place.sequence, "time": place.time, "log_id": place.log_id.hex()
    }  # fmt: skip


@pytest.mark.parametrize("path", sorted(FOLDER.glob("book-snapshot-v1-*.bin")), ids=lambda path: path.name)
def test_a_stored_message_is_read(path: Path) -> None:
    version = path.stem.rpartition("-book")[2]
    if version.isdigit() and int(version) != VERSION:  # Of an older book: told so, and the tape is folded instead.
        with pytest.raises(IntegrityError, match=f"a book of version {version}, not {VERSION}"):
            meaning(path.read_bytes())
        return
    expected = json.loads((FOLDER / "book-snapshot-v1.json").read_text())[path.name]
    assert meaning(path.read_bytes()) == expected


def test_there_are_files_of_all_kinds() -> None:
    assert {*golden_messages()} <= {path.name for path in FOLDER.glob("book-snapshot-v1-*.bin")}


def test_the_header_is_where_the_format_page_says() -> None:
    (message,) = store_book(golden_book(), PLACE)
    assert HEADER_BYTES == 88
    assert struct.unpack_from("<4sHBBIHBB", message) == (b"THBS", 1, 1, RECORDS, 1, 2, 1, 0)
    assert message[16:32] == OLD_ID
    assert struct.unpack_from("<QQq", message, 32) == (PLACE.sequence, PLACE.ordinal, PLACE.time)
    assert struct.unpack_from("<II", message, 72) == (len(message) - 88, len(message) - 88)
    sealed = xxhash.xxh3_64_intdigest(message[:80] + message[88:])
    assert int.from_bytes(message[80:88], "little") == sealed


# Parts.


def test_a_long_body_is_cut_into_parts_that_belong_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "PART_BYTES", 100)
    parts = store_book(golden_book(), PLACE)
    assert len(parts) > 2
    assert max(map(len, parts)) == HEADER_BYTES + 100
    assert read_book(decode(parts)).canonical() == golden_book().canonical()
    other = store_book(golden_book(), EARLIER)
    for wrong in ([*parts[1:]], parts[:-1], [parts[1], parts[0], *parts[2:]], [other[0], *parts[1:]], [], parts * 65):
        with pytest.raises(DecodeError):
            decode(wrong)


def test_the_largest_book_fits() -> None:
    noise = np.random.default_rng(1).bytes(12 * 1024 * 1024)  # more than any book's words, and nothing to compress
    parts = encode(Stored(kind=Kind.BOOK, place=PLACE, instrument=1, told=0, body=noise))
    assert max(map(len, parts)) <= stored.PART_BYTES + HEADER_BYTES
    assert decode(parts).body == noise


# Damage.


def test_every_flipped_byte_is_refused() -> None:
    for message in golden_messages().values():
        for at in range(len(message)):
            damaged = bytearray(message)
            damaged[at] ^= 1 << (at % 8)
            with pytest.raises(DecodeError):
                decode([bytes(damaged)])


def _read(messages: list[bytes]) -> None:
    said = decode(messages)
    {Kind.BOOK: read_book, Kind.MARK: read_mark, Kind.DEFINITIONS: read_definitions}[said.kind](said)  # type: ignore[operator]


def resealed(message: bytes) -> bytes:
    """With a checksum that is right, so that what is behind it is looked at."""
    head = message[: HEADER_BYTES - 8]
    return head + xxhash.xxh3_64_intdigest(head + message[HEADER_BYTES:]).to_bytes(8, "little") + message[HEADER_BYTES:]


@given(data=st.data())
@settings(deadline=None, max_examples=300)
def test_no_bytes_bring_the_decoder_down(data: st.DataObject) -> None:
    message = bytearray(data.draw(st.sampled_from(sorted(golden_messages().values()))))
    for _ in range(data.draw(st.integers(0, 6))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(message[: data.draw(st.integers(0, len(message)))]) + data.draw(st.binary(max_size=20))
    for tried in (cut, resealed(cut) if len(cut) >= HEADER_BYTES else cut, data.draw(st.binary(max_size=200))):
        try:
            _read([tried])
        except REFUSALS:
            continue


@given(data=st.data())
@settings(deadline=None, max_examples=300)
def test_no_body_brings_the_readers_down(data: st.DataObject) -> None:
    """Bodies that are damaged before they were sealed: every checksum is right."""
    said = decode([data.draw(st.sampled_from(sorted(golden_messages().values())))])
    body = bytearray(said.body)
    for _ in range(data.draw(st.integers(0, 8))):
        at = data.draw(st.integers(0, len(body) - 1))
        edge = data.draw(st.sampled_from([0, 1, 2**63 - 1, 2**63, 2**64 - 1, 2**20, 7]))
        body[at : at + 8] = edge.to_bytes(8, "little") if data.draw(st.booleans()) else bytes([edge % 256])
    kind = data.draw(st.sampled_from(list(Kind)))
    damaged = Stored(
        kind=kind, place=PLACE, instrument=said.instrument, told=said.told,
        body=data.draw(st.sampled_from([bytes(body), bytes(body[: len(body) // 2]), pack_sections({"book": b""})])),
    )  # fmt: skip
    try:
        _read(encode(damaged))
    except REFUSALS:
        return


def write_golden() -> None:
    """Write what is not there yet."""
    path = FOLDER / "book-snapshot-v1.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    for name, message in golden_messages().items():
        if not (FOLDER / name).exists():
            (FOLDER / name).write_bytes(message)
            known[name] = meaning(message)
    path.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    write_golden()
