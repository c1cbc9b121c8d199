"""Ten-level books as changes, and receive times mended, whatever the blocks and batches."""

from __future__ import annotations

import struct
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import databento_dbn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.book import define, levels, make_books
from tapehouse.book.kernels import apply
from tapehouse.core import UNDEFINED
from tapehouse.feeds import DbnFeed, check_dbn, dbn_source
from tapehouse.market import Action, Flag, Kind, words

START = 1_700_000_000_000_000_000
LEVELS = 10


def metadata(schema: str, ids: list[int]) -> bytes:
    interval = {"start_date": date(2023, 11, 14), "end_date": date(2023, 11, 15)}
    mappings = [
        SimpleNamespace(raw_symbol=f"S{number}", intervals=[SimpleNamespace(**interval, symbol=str(number))])
        for number in ids
    ]
    made = databento_dbn.Metadata(
        dataset="XNAS.ITCH",
        start=START,
        stype_in=databento_dbn.SType.RAW_SYMBOL,
        stype_out=databento_dbn.SType.INSTRUMENT_ID,
        schema=databento_dbn.Schema.from_str(schema),
        symbols=[f"S{number}" for number in ids],
        mappings=mappings,
        version=3,
    )
    return bytes(made.encode())


side_levels = st.dictionaries(st.integers(1, 14), st.integers(1, 5), max_size=LEVELS)
books_strategy = st.lists(
    st.tuples(st.sampled_from([5, 9]), st.sampled_from("ACMT"), side_levels, side_levels), min_size=1, max_size=25
)


def record(at: int, instrument: int, action: str, bids: dict[int, int], asks: dict[int, int]) -> bytes:
    body = struct.pack("<qIccBBQiI", 50, 3, action.encode(), b"B", 128, 0, START + at, 5, at)
    bid_rows = [(price, bids[price]) for price in sorted(bids, reverse=True)]
    ask_rows = [(price + 20, asks[price]) for price in sorted(asks)]
    for level in range(LEVELS):
        bid, bid_size = bid_rows[level] if level < len(bid_rows) else (UNDEFINED, 0)
        ask, ask_size = ask_rows[level] if level < len(ask_rows) else (UNDEFINED, 0)
        body += struct.pack("<qqIIII", bid, ask, bid_size, ask_size, bid_size % 2, ask_size % 3)
    return struct.pack("<BBHIQ", 92, 10, 2, instrument, START + at) + body


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dbn")


@settings(max_examples=40, deadline=None)
@given(days=books_strategy, batch_cells=st.sampled_from([1, 10, 65_536]))
def test_books_of_ten_levels(folder: Path, days: list[tuple[int, str, dict, dict]], batch_cells: int) -> None:  # type: ignore[type-arg]
    path = folder / "books.dbn"
    path.write_bytes(metadata("mbp-10", [5, 9]) + b"".join(record(at, *day) for at, day in enumerate(days)))
    feed = DbnFeed(path, batch_cells=batch_cells)
    books = make_books(2, orders=64, levels=64)
    for slot in range(2):
        define(books, slot, 1)
    slots = {feed.own_ids[number]: slot for slot, number in enumerate((5, 9))}
    shown = 0
    for cells in feed.batches():
        array = words(cells)
        for at in range(len(cells)):
            apply(books, slots[int(cells["instrument"][at])], array, at)
            if cells["flags"][at] & Flag.LAST:
                number, _, bids, asks = days[shown]
                slot = slots[feed.own_ids[number]]
                assert int(cells["sequence"][at]) == shown
                assert [pair[:2] for pair in levels(books, slot, 0)] == sorted(bids.items(), reverse=True)
                assert [pair[:2] for pair in levels(books, slot, 1)] == sorted((p + 20, s) for p, s in asks.items())
                shown += 1
    assert shown == len(days)
    trades = sum(int((cells["kind"] == Kind.TRADE).sum()) for cells in feed.batches())
    assert trades == sum(action == "T" for _, action, _, _ in days)
    assert check_dbn(path)["mismatches"] == 0


@settings(max_examples=40, deadline=None)
@given(
    times=st.lists(st.integers(0, 50), min_size=1, max_size=60),
    kinds=st.data(),
    block=st.integers(100, 2_000),
    batch_cells=st.sampled_from([1, 3, 65_536]),
)
def test_mixed_records_in_any_blocks(
    folder: Path, times: list[int], kinds: st.DataObject, block: int, batch_cells: int
) -> None:
    parts = []
    for at, time in enumerate(times):
        if kinds.draw(st.booleans()):
            body = struct.pack("<QqIBBccQiI", at, 100, 1, 128, 0, b"A", b"B", START + time, 5, at)
            parts.append(struct.pack("<BBHIQ", 14, 160, 2, 5, START + time) + body)
        else:
            body = struct.pack("<qIccBBQiI", 100, 1, b"T", b"B", 128, 0, START + time, 5, at)
            parts.append(struct.pack("<BBHIQ", 12, 0, 2, 5, START + time) + body)
    path = folder / "mixed.dbn"
    path.write_bytes(metadata("mbo", [5]) + b"".join(parts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dbn_source, "BLOCK_BYTES", block)
        feed = DbnFeed(path, batch_cells=batch_cells)
        cells = np.concatenate(list(feed.batches()))
    assert cells["sequence"].tolist() == list(range(len(times)))
    assert (cells["ts_recv"] - START).tolist() == np.maximum.accumulate(times).tolist()
    assert (cells["ts_event"] - START).tolist() == times
    assert feed.corrected_times == sum(time < max(times[: at + 1]) for at, time in enumerate(times))
    assert (cells["action"] == np.where(cells["kind"] == Kind.MBO, Action.ADD, Action.TRADE)).all()
