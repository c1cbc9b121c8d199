"""Bitstamp logs made line by line: what each message becomes, gaps, damage and any bytes at all."""

from __future__ import annotations

import gzip
import json
import lzma
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tapehouse.core import DecodeError, MissingError, UsageError
from tapehouse.feeds import check_source, open_feed
from tapehouse.feeds.bitstamp import BitstampFeed
from tapehouse.market import Action, Cause, Cells, Confidence, Flag, Kind, Side

START_MS = 1_430_438_404_518
QUIET = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def order(event: str, at: int, number: int, side: int, price: str, amount: str) -> bytes:
    body = {"price": price, "amount": amount, "datetime": "1430438404", "id": number, "order_type": side}
    return f"{START_MS + at} order_{event} {json.dumps(body)}\n".encode()


def book(at: int, bids: list[list[str]], asks: list[list[str]]) -> bytes:
    return f"{START_MS + at} order_book {json.dumps({'bids': bids, 'asks': asks})}\n".encode()


DAY = (
    order("created", 0, 1, 0, "10.00", "2.00000000"),
    order("created", 5, 2, 1, "11.50", "1.00000000"),
    order("created", 9, 3, 1, "10.00", "0.50000000"),
    order("changed", 20, 1, 0, "10.00", "1.50000000"),
    b'%d trade {"price": 10.0, "amount": 0.50000000000000011, "id": 77}\n' % (START_MS + 21),
    order("deleted", 22, 3, 1, "10.00", "0.00000000"),
    book(30, [["10.00", "1.50000000"]], [["11.50", "1.00000000"]]),
    order("changed", 40, 2, 1, "11.25", "1.00000000"),
    order("changed", 41, 9, 0, "9.00", "4.00000000"),
    order("deleted", 42, 8, 0, "9.50", "1.00000000"),
)


def written(tmp_path: Path, *lines: bytes, name: str = "a.log") -> Path:
    path = tmp_path / name
    path.write_bytes(b"".join(lines))
    return path


def cells_of(path: Path, **options: int) -> Cells:
    return np.concatenate(list(BitstampFeed(path, **options).batches()))


def told(cells: Cells) -> list[tuple[int, ...]]:
    return [(c["action"], c["side"], c["order_id"], c["price"] // 10**7, c["size"] // 10**6) for c in cells.copy()]


def test_what_each_message_becomes(tmp_path: Path) -> None:
    path = written(tmp_path, *DAY)
    feed = BitstampFeed(path)
    cells = np.concatenate(list(feed.batches()))
    assert feed.instruments[0].tick_size == 250_000_000
    market = cells[cells["kind"] != Kind.GAP]
    assert told(market)[1:] == [
        (Action.ADD, Side.BID, 1, 1000, 200),
        (Action.ADD, Side.ASK, 2, 1150, 100),
        (Action.ADD, Side.ASK, 3, 1000, 50),
        (Action.CANCEL, Side.BID, 1, 1000, 50),
        (Action.TRADE, Side.NONE, 77, 1000, 50),
        (Action.CANCEL, Side.ASK, 3, 1000, 50),
        (Action.MODIFY, Side.ASK, 2, 1125, 100),
        (Action.ADD, Side.BID, 9, 900, 400),
    ]
    assert market["action"][0] == Action.CLEAR
    assert (cells["flags"] & int(Flag.LAST) != 0).all()
    assert (np.diff(cells["ts_recv"]) >= 0).all()
    assert (feed.unknown_orders, feed.learnt_orders) == (1, 1)
    assert [(g["action"], g["depth"]) for g in cells[cells["kind"] == Kind.GAP]] == [
        (Cause.UNKNOWN, Confidence.SUSPECT),
        (Cause.SNAPSHOT, Confidence.GOOD),
    ]


@pytest.mark.parametrize(("waits", "gaps"), [(900, 0), (1_100, 1)])
def test_a_crossing_that_lasts_is_a_gap(tmp_path: Path, waits: int, gaps: int) -> None:
    lines = (
        *DAY[:2],
        order("created", 100, 5, 0, "12.00", "3.00000000"),
        book(100 + waits, [["10.00", "2.00000000"]], [["11.50", "1.00000000"]]),
        book(2_000, [["10.00", "2.00000000"]], [["11.50", "1.00000000"]]),
    )
    cells = cells_of(written(tmp_path, *lines[: 5 if gaps else 4]))
    found = cells[cells["kind"] == Kind.GAP]
    assert int((found["action"] == Cause.CROSSED).sum()) == gaps
    if gaps:
        assert found["depth"].tolist()[-1] == Confidence.GOOD
        last = cells[cells["action"] == Action.CANCEL]
        assert last["order_id"].tolist() == [5]
        assert last["flags"][0] & Flag.SYNTHETIC


@pytest.mark.parametrize("batch_cells", [1, 3, 1000])
def test_any_batch_size_gives_the_same_cells(tmp_path: Path, batch_cells: int) -> None:
    path = written(tmp_path, *DAY)
    assert (cells_of(path, batch_cells=batch_cells) == cells_of(path)).all()


def test_packed_or_not(tmp_path: Path) -> None:
    plain = b"".join(DAY)
    whole = cells_of(written(tmp_path, plain))
    two_streams = lzma.compress(plain[:300]) + lzma.compress(plain[300:])
    for data in (gzip.compress(plain), lzma.compress(plain), two_streams):
        assert (cells_of(written(tmp_path, data)) == whole).all()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"x\n", "no line"),
        (b"1 order_created {\n", "no line"),
        (b"1 order_created {1}\n", "JSON"),
        (b'1 trade {"price": 1, "amount": 1}\n', "id"),
        (b'1 trade {"price": NaN, "amount": 1, "id": 5}\n', "price"),
        (order("created", 50, 6, 2, "1", "1"), "order_type"),
        (order("created", 50, 6, 1, "-1", "1"), "negative"),
        (order("created", 50, 6, 1, "1", "1e99"), "64 bits"),
        (b'1 order_book {"bids": [["1"]], "asks": []}\n', "price, amount"),
    ],
)
def test_a_bad_line_is_named_and_what_came_before_stands(tmp_path: Path, line: bytes, why: str) -> None:
    feed = BitstampFeed(written(tmp_path, *DAY, line, *DAY))
    before: list[Cells] = []
    with pytest.raises(DecodeError, match=why) as caught:
        before.extend(feed.batches())
    assert caught.value.position == f"line {len(DAY) + 1}"
    assert (np.concatenate(before) == cells_of(written(tmp_path, *DAY))).all()


def test_a_cut_off_file(tmp_path: Path) -> None:
    packed = lzma.compress(b"".join(DAY) * 3)
    with pytest.raises(DecodeError, match="unpacked"):
        cells_of(written(tmp_path, packed[:-20]))


def test_files_that_do_not_do(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        open_feed("bitstamp", [tmp_path / "none.log"])
    with pytest.raises(UsageError, match="2 logs"):
        open_feed("bitstamp", [tmp_path / "a.log", tmp_path / "b.log"])
    with pytest.raises(DecodeError, match="empty"):
        BitstampFeed(written(tmp_path, b""))


@pytest.mark.parametrize(
    ("at", "line", "said"),
    [
        (5, order("deleted", 22, 3, 1, "10.25", "0.00000000"), "order_deleted"),
        (5, order("deleted", 22, 3, 0, "10.00", "0.00000000"), "order_deleted"),
        (5, order("deleted", 22, 3, 1, "10.00", "0.40000000"), "order_deleted"),
        (3, order("changed", 20, 1, 0, "10.00", "2.50000000"), "order_changed"),
        (2, order("created", 9, 1, 1, "10.00", "0.50000000"), "known already"),
        (4, b'%d trade {"price": 10.0, "amount": 0.4, "id": 77}\n' % START_MS, "time goes backwards"),
    ],
)
def test_control_a_contradiction_is_found(tmp_path: Path, at: int, line: bytes, said: str) -> None:
    assert check_source("bitstamp", [written(tmp_path, *DAY)]).mismatches == 0
    found = check_source("bitstamp", [written(tmp_path, *DAY[:at], line, *DAY[at + 1 :])])
    assert found.mismatches >= 1
    assert said in str(found.first_mismatch)


def test_control_a_crossing_by_a_changed_price_is_no_lost_order(tmp_path: Path) -> None:
    """An order whose price was damaged crosses the book like one whose delete was lost, but it is told again."""
    lines = (
        *DAY[:2],
        order("created", 100, 5, 0, "12.00", "3.00000000"),
        book(2_000, [["10.00", "2.00000000"]], [["11.50", "1.00000000"]]),
    )
    assert check_source("bitstamp", [written(tmp_path, *lines)]).mismatches == 0
    found = check_source("bitstamp", [written(tmp_path, *lines, order("deleted", 2_100, 5, 0, "10.00", "3.00000000"))])
    assert "yet it lives" in str(found.first_mismatch)


def test_control_an_order_book_line_that_disagrees_late(tmp_path: Path) -> None:
    hour = 3_700_000
    good = book(hour, [["10.00", "1.50000000"]], [["11.25", "1.00000000"]])
    bad = good.replace(b"11.25", b"11.35")
    assert check_source("bitstamp", [written(tmp_path, *DAY, good)]).mismatches == 0
    assert check_source("bitstamp", [written(tmp_path, *DAY, bad)]).mismatches == 1


@QUIET
@given(data=st.binary(max_size=300))
def test_any_bytes_are_refused_or_read(tmp_path: Path, data: bytes) -> None:
    only_decode_errors(written(tmp_path, data))


@QUIET
@given(packed=st.booleans(), place=st.integers(0, 10**6), byte=st.integers(0, 255), cut=st.integers(0, 10**6))
def test_mutated_logs_are_refused_or_read(tmp_path: Path, packed: bool, place: int, byte: int, cut: int) -> None:
    data = bytearray(lzma.compress(b"".join(DAY)) if packed else b"".join(DAY))
    data[place % len(data)] = byte
    only_decode_errors(written(tmp_path, bytes(data[: cut % len(data) + 1])))


def only_decode_errors(path: Path) -> None:
    with suppress(DecodeError):
        for batch in BitstampFeed(path).batches():
            assert len(batch)
        check_source("bitstamp", [path])
