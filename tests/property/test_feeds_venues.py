"""Venues' sessions against a true book: every fault of the stream is one span of doubt, and then the book is right."""

from __future__ import annotations

import json
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core.errors import DecodeError
from tapehouse.feeds.capture import Happening, Message, capture_line, read_capture, read_captures
from tapehouse.feeds.venue_numbers import PRICE, PRICE_BEGIN, PRICE_END, SIZE, SIZE_BEGIN, SIZE_END, Scale
from tapehouse.market import Confidence
from tests.support.venues import VENUES, Connection

FAULTS = ("drop", "dup", "reorder")
APART = 4  # messages between two faults: time enough to be told anew


@pytest.mark.parametrize("name", VENUES)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), faults=st.lists(st.sampled_from(FAULTS), max_size=5))
def test_every_fault_is_one_span_and_then_the_book_is_right(name: str, seed: int, faults: list[str]) -> None:
    line = Connection(name, seed)
    line.deliver(*(line.venue.message() for _ in range(APART)))
    assert line.right
    assert line.book.gaps == []
    for number, fault in enumerate(faults):
        before = line.book.spans
        if fault == "drop":
            line.venue.message()
        elif fault == "dup":
            line.deliver(*[line.venue.message()] * 2)
        else:
            earlier, later = line.venue.message(), line.venue.message()
            line.deliver(later, earlier)
        for _ in range(APART):
            line.deliver(line.venue.message())
        assert line.book.spans - before == (fault != "dup"), f"fault {number}: {fault}"
        assert line.book.worth is Confidence.GOOD
        assert line.right
    assert line.session.tally.gaps == line.book.spans
    assert [worth for _, worth in line.book.gaps] == [
        Confidence.SUSPECT,
        Confidence.REBUILDING,
        Confidence.GOOD,
    ] * line.book.spans


@pytest.mark.parametrize("name", VENUES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_mutated_messages_are_taken_whole_or_not_at_all(name: str, data: st.DataObject) -> None:
    line = Connection(name, 7)
    line.deliver(line.venue.message(), line.venue.message())
    good = bytearray(line.venue.message())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(good) - 1))
        good[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    bodies = [bytes(good), data.draw(st.binary(max_size=60)), data.draw(st.sampled_from([b"", b"[]", b"{}", b"null"]))]
    for body in bodies:
        told = line.session.instruments
        try:
            line.session.receive(body, line.now)
        except DecodeError:
            assert list(line.session.take()) == []
            assert line.session.instruments == told
        for cells in line.session.take():
            assert len(cells)
    answered = data.draw(st.binary(max_size=60) | st.just(line.venue.whole()[:-3]))
    with pytest.raises(DecodeError):
        line.session.answered("BTCUSDT", answered, line.now)


NUMBER = st.decimals(0, 10**8, allow_nan=False, allow_infinity=False, places=6).map(lambda d: f"{d:f}")
LEVEL = st.tuples(NUMBER, NUMBER, st.booleans(), st.lists(st.sampled_from(['"0"', "3"]), max_size=2))


@settings(deadline=None)
@given(levels=st.lists(LEVEL, max_size=20), spaces=st.sampled_from(["", " ", "\n "]))
def test_levels_are_what_json_and_decimals_say(levels: list[tuple[str, str, bool, list[str]]], spaces: str) -> None:
    quote = '"{}"'.format
    rows = [
        f",{spaces}".join([quote(p) if quoted else p, quote(q) if quoted else q, *more])
        for p, q, quoted, more in levels
    ]
    text = f"{spaces}[{spaces}" + f"{spaces},{spaces}".join(f"[{row}]" for row in rows) + f"{spaces}]"
    scale = Scale("X", -9, -6)
    found = scale.levels(text.encode())
    expected = json.loads(text, parse_float=Decimal, parse_int=Decimal)
    assert [(Decimal(int(row[PRICE])).scaleb(-9), Decimal(int(row[SIZE])).scaleb(-6)) for row in found] == [
        (Decimal(level[0]), Decimal(level[1])) for level in expected
    ]
    for row, (price, size, *_) in zip(found.tolist(), levels, strict=True):
        assert text[row[PRICE_BEGIN] : row[PRICE_END]] == price
        assert text[row[SIZE_BEGIN] : row[SIZE_END]] == size


@settings(deadline=None)
@given(text=st.binary(max_size=60) | st.text('[]",.0123456789e- new', max_size=60).map(str.encode))
def test_no_text_of_levels_leads_outside(text: bytes) -> None:
    for strict in (True, False):
        try:
            rows = Scale("X", -9, -9, strict=strict).levels(text)
        except DecodeError:
            continue
        assert ((rows[:, PRICE_BEGIN:] >= 0) & (rows[:, PRICE_BEGIN:] <= len(text) + 128)).all()


@settings(deadline=None)
@given(numbers=st.lists(NUMBER, min_size=1, max_size=20))
def test_what_was_surveyed_fits(numbers: list[str]) -> None:
    text = json.dumps([[number, number] for number in numbers]).encode()
    surveyed = Scale("X", -9, -9, strict=False)
    surveyed.levels(text)
    price_exponent, size_exponent, tick = surveyed.exponents()
    rows = Scale("X", price_exponent, size_exponent).levels(text)
    assert (rows[:, PRICE] % tick == 0).all()
    assert tick == max(int(np.gcd.reduce(rows[:, PRICE])), 1)
    assert [Decimal(int(size)).scaleb(size_exponent) for size in rows[:, SIZE]] == [Decimal(each) for each in numbers]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("captures")


JSON = st.recursive(st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
URL = st.sampled_from(["wss://a/b?c=d", "https://x/y?symbol=Z"])
MESSAGES = st.lists(
    st.builds(
        lambda ts, kind, url, body, text: Message(
            ts_recv=ts,
            kind=kind,
            url=url if kind not in (Happening.RECEIVED, Happening.SENT) else "",
            body=b""
            if kind in (Happening.CONNECTED, Happening.DISCONNECTED)
            else text.encode()
            if kind is Happening.SENT or (kind is Happening.RECEIVED and text != "x")
            else json.dumps({"k": body}).encode(),
        ),
        st.integers(0, 2**63 - 1),
        st.sampled_from(Happening),
        URL,
        JSON,
        st.sampled_from(["ping", "pong", "x", '{"sent":1}', "é "]),
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(messages=MESSAGES)
def test_what_is_written_is_read(folder: Path, messages: list[Message]) -> None:
    path = folder / "own.txt"
    path.write_bytes(b"".join(capture_line(message) for message in messages))
    found = list(read_capture(path))
    assert [(each.ts_recv, each.kind, each.url, each.body) for each in found] == [
        (each.ts_recv, each.kind, each.url, each.body) for each in messages
    ]
    assert [each.line for each in found] == list(range(1, len(messages) + 1))


LINES = [
    b'1723161256172216566 {"stream":"x","data":{}}',
    b'5 {"request":"https://x","answer":{"a":1}}',
    b"wss://ws.okx.com:8443/ws/v5/public <-> 1652459224.5300605",
    b'wss://x <- 1652459225.29: {"op":"subscribe"}',
    b'1652459225.5: {"event":"subscribe"}',
    b'{"topic":"orderbook.500.XRPUSDT","ts":1733011200691,"data":{}}',
]


@settings(deadline=None, max_examples=150)
@given(lines=st.lists(st.sampled_from(LINES), max_size=4), noise=st.binary(max_size=30), at=st.integers(0, 200))
def test_damaged_files_of_any_layout_only_raise_decode_errors(
    folder: Path, lines: list[bytes], noise: bytes, at: int
) -> None:
    text = b"\n".join(lines)
    path = folder / "damaged.txt"
    path.write_bytes(text[:at] + noise + text[at + 1 :])
    found: list[Message] = []
    with suppress(DecodeError):
        found.extend(read_captures([path]))
    assert all(0 <= message.ts_recv < 2**63 for message in found)
