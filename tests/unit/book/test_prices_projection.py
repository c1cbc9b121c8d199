"""Last trades and best prices, against the reference book and the engine's own."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.book import best_price, best_size
from tapehouse.book import projection as module
from tapehouse.book.projection import PricesProjection, fixed_text
from tapehouse.book.reference import ReferenceBooks
from tapehouse.core.errors import DataError, DecodeError, IntegrityError
from tapehouse.core.units import UNDEFINED, from_fixed
from tapehouse.log import FrameHeader
from tapehouse.market import Action, Cells, Instrument, Kind, Side
from tests.support.desk_day import COIN, INSTRUMENTS, LOG_ID, PAIR, START, STOCK, quote, record, shared_day

HEADER = FrameHeader(log_id=LOG_ID, writer=1, epoch=1, first_ordinal=0)


def plainly(cells: Cells) -> dict[int, dict[str, Any]]:
    """The oracle: the reference book and a dictionary an instrument."""
    books = ReferenceBooks(2, orders=1 << 18, levels=1 << 16)
    books.define(0, STOCK.tick_size)
    books.define(1, COIN.tick_size)
    slots = {STOCK.id: 0, COIN.id: 1}
    seen: dict[int, dict[str, Any]] = {}
    for row, cell in enumerate(cells):
        kind, instrument = int(cell["kind"]), int(cell["instrument"])
        if not cell["cells"] or kind not in (Kind.MBO, Kind.MBP, Kind.TRADE, Kind.QUOTE, Kind.OPTION_QUOTE):
            continue
        entry = seen.setdefault(instrument, {"last": UNDEFINED, "bid": UNDEFINED, "ask": UNDEFINED})
        if kind in (Kind.QUOTE, Kind.OPTION_QUOTE):
            entry["bid"], entry["ask"] = int(cell["price"]), int(cells["price"][row + 1])
        elif kind == Kind.TRADE or cell["action"] == Action.TRADE:
            entry["last"] = int(cell["price"])
        else:
            books.apply(slots[instrument], cells, row)
            for side, name in ((0, "bid"), (1, "ask")):
                levels = books.levels(slots[instrument], side)
                entry[name] = levels[0][0] if levels else UNDEFINED
        entry["ordinal"] = row
    return seen


def test_a_whole_day_equals_the_reference() -> None:
    day = shared_day()
    prices = PricesProjection()
    prices.apply(HEADER, day.cells)
    seen = plainly(day.cells)
    assert set(seen) == {instrument.id for instrument in INSTRUMENTS}
    for instrument in INSTRUMENTS:
        value = prices.get(f"prices/{instrument.symbol}")
        assert value is not None
        expected = {
            name: fixed_text(seen[instrument.id][name], instrument.price_exponent) for name in ("last", "bid", "ask")
        }
        assert {name: value[name] for name in expected} == expected
        assert value["ordinal"] == seen[instrument.id]["ordinal"]


def test_the_best_prices_are_those_that_the_strategy_saw() -> None:
    day = shared_day()
    prices = PricesProjection()
    prices.apply(HEADER, day.cells)
    for instrument in (STOCK, COIN):
        slot = day.engine.route(instrument.id)
        value = prices.get(f"prices/{instrument.symbol}")
        assert value is not None
        for side, name in ((0, "bid"), (1, "ask")):
            price, size = best_price(day.engine.books, slot, side), best_size(day.engine.books, slot, side)
            assert value[name] == fixed_text(int(price), instrument.price_exponent)
            assert value[f"{name}_size"] == fixed_text(int(size), instrument.size_exponent)


def test_keys_are_encoded_and_found_by_plain_symbols_too() -> None:
    day = shared_day()
    prices = PricesProjection()
    prices.apply(HEADER, day.cells)
    keys = [key for key, _ in prices.items()]
    assert keys == sorted(keys)
    assert "prices/BTC-USD%2EP" in keys
    assert prices.get("prices/BTC-USD.P") == prices.get("prices/BTC-USD%2EP")
    assert prices.get("prices/EUR/USD") == prices.get("prices/EUR%2FUSD")
    assert prices.items("prices/A") == [item for item in prices.items() if item[0].startswith("prices/A")]
    for key in ("prices/", "prices/NOPE", "price/AAPL", "AAPL", ""):
        assert prices.get(key) is None


def test_an_instrument_that_nothing_was_said_of_has_no_price() -> None:
    prices = PricesProjection()
    prices.apply(HEADER, STOCK.definition(ts_recv=START))
    assert prices.get("prices/AAPL") is None
    assert prices.items() == []


def test_an_empty_side_is_null_and_so_is_an_undefined_quote() -> None:
    prices = PricesProjection()
    add = record(Kind.MBO, 1, START, action=Action.ADD, side=Side.BID, price=10**10, size=3, order_id=1)
    undefined = quote(Kind.QUOTE, PAIR.id, START, (UNDEFINED, 0), (10**9, 5))
    prices.apply(
        HEADER, np.concatenate([STOCK.definition(ts_recv=START), PAIR.definition(ts_recv=START), add, undefined])
    )
    one, two = prices.get("prices/AAPL"), prices.get("prices/EUR/USD")
    assert one is not None
    assert two is not None
    assert (one["bid"], one["bid_size"], one["ask"], one["ask_size"], one["last"]) == ("10", "3", None, None, None)
    assert (two["bid"], two["bid_size"], two["ask"]) == (None, None, "1")


def test_two_instruments_of_one_symbol_have_two_keys() -> None:
    twin = Instrument(id=3, symbol="AAPL", venue="BATS")
    trades = [record(Kind.TRADE, number, START, side=Side.BID, price=number * 10**9, size=1) for number in (1, 3)]
    prices = PricesProjection()
    prices.apply(HEADER, np.concatenate([STOCK.definition(ts_recv=0), twin.definition(ts_recv=0), *trades]))
    assert [(key, value["last"]) for key, value in prices.items()] == [("prices/AAPL", "1"), ("prices/AAPL@3", "3")]


def test_ids_and_instruments_find_room() -> None:
    listed = [Instrument(id=100_000 + 3 * number, symbol=f"S{number}") for number in range(1500)]
    trades = [record(Kind.TRADE, i.id, START, side=Side.BID, price=i.id, size=1) for i in listed]
    prices = PricesProjection()
    prices.apply(HEADER, np.concatenate([*(i.definition(ts_recv=0) for i in listed), *trades]))
    assert len(prices.items()) == 1500
    again = PricesProjection()
    again.restore(prices.snapshot())
    assert again.items() == prices.items()


def test_more_books_than_there_can_be_halt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BOOKS_MAX", 1)
    adds = [
        record(Kind.MBO, i.id, START, action=Action.ADD, side=Side.BID, price=10**10, size=1, order_id=1)
        for i in (STOCK, COIN)
    ]
    with pytest.raises(DataError, match=r"BTC-USD\.P: a tape has 1 books at most"):
        PricesProjection().apply(
            HEADER, np.concatenate([STOCK.definition(ts_recv=0), COIN.definition(ts_recv=0), *adds])
        )


def test_what_cannot_be_halts_with_its_ordinal() -> None:
    clock = record(Kind.CLOCK, 0, START)
    strange = clock.copy()
    strange["kind"] = 99
    for cells, problem in (
        (record(Kind.TRADE, 1, START), "used before its definition"),
        (strange, "kind 99 is unknown"),
        (record(Kind.QUOTE, 1, START, cells=2), "cut short"),
    ):
        with pytest.raises(DecodeError, match=rf"TAPE, cell 8: .*{problem}"):
            PricesProjection().apply(
                FrameHeader(log_id=LOG_ID, writer=1, epoch=1, first_ordinal=7), np.concatenate([clock, cells])
            )
    other = Instrument(id=1, symbol="MSFT")
    with pytest.raises(DataError, match="defined twice"):
        PricesProjection().apply(HEADER, np.concatenate([STOCK.definition(ts_recv=0), other.definition(ts_recv=0)]))


def test_a_revision_of_the_terms_is_taken_up() -> None:
    prices = PricesProjection()
    book = record(Kind.MBP, 1, START, side=int(Side.BID), price=STOCK.tick_size * 100, size=5)
    finer = replace(STOCK, tick_size=1, revision=2)
    parts = [STOCK.definition(ts_recv=0), book, finer.definition(ts_recv=0)]
    prices.apply(HEADER, np.concatenate(parts))
    (value,) = [value for _, value in prices.by_instrument()]
    assert value["bid"] is None, "a book of another tick begins empty"
    copy = PricesProjection()
    copy.restore(prices.snapshot())
    assert copy.digest() == prices.digest()
    assert [instrument for instrument, _ in copy.by_instrument()] == [finer]


def test_a_damaged_snapshot_is_refused_and_changes_nothing() -> None:
    day = shared_day()
    prices = PricesProjection()
    prices.apply(HEADER, day.cells)
    snapshot, before = prices.snapshot(), prices.digest()
    for damaged in (snapshot[:-1], snapshot[:10], b"", snapshot.replace(b"AAPL", b"\xff\xfe\xfd\xfc")):
        with pytest.raises(IntegrityError):
            prices.restore(damaged)
    assert prices.digest() == before


@pytest.mark.parametrize(
    ("fixed", "exponent", "text"),
    [(UNDEFINED, -9, None), (0, -9, "0"), (10**9, -9, "1"), (-1, -9, "-0.000000001"), (5, 2, "500"), (120, -2, "1.2")],
)
def test_fixed_text(fixed: int, exponent: int, text: str | None) -> None:
    assert fixed_text(fixed, exponent) == text


@settings(deadline=None)
@given(fixed=st.integers(-(2**63) + 1, UNDEFINED - 1), exponent=st.integers(-18, 4))
def test_fixed_text_is_exact(fixed: int, exponent: int) -> None:
    text = fixed_text(fixed, exponent)
    assert text is not None
    assert Decimal(text) == from_fixed(fixed, exponent)
    assert not text.endswith(".")
    assert "." not in text or not text.endswith("0")
