"""Positions beside prices: marks, what is unrealised, and totals at the tape's own rates."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.app.projector import Projector
from tapehouse.app.valuation import Valuation, rounded
from tapehouse.book.projection import PricesProjection
from tapehouse.desk.positions_projection import PositionsProjection
from tapehouse.desk.reference import half_away
from tapehouse.log import FrameHeader
from tapehouse.market import Cells, Instrument, Kind, Side
from tests.support.desk_day import COIN, LOG_ID, STOCK, make_day, quote, record, shared_day
from tests.support.events_log import START, EventsLog

HEADER = FrameHeader(log_id=LOG_ID, writer=1, epoch=1, first_ordinal=0)
EURO = Instrument(id=21, symbol="SAP", venue="XETR", currency="EUR", currency_exponent=-2)
RATE = Instrument(id=22, symbol="EUR/USD", asset_class="crypto", tick_size=10_000)
INSIDE = Instrument(id=23, symbol="HOUSE", venue="internal")
UNIT = 10**9
TRADED = [STOCK, COIN, EURO]


def prices_of(*records: Cells, instruments: tuple[Instrument, ...] = (STOCK, COIN, EURO, RATE, INSIDE)) -> Any:
    prices = PricesProjection()
    defined = [instrument.definition(ts_recv=START) for instrument in instruments]
    prices.apply(HEADER, np.concatenate([*defined, *records]))
    return prices


def valuation(log: EventsLog, *records: Cells) -> Valuation:
    positions = PositionsProjection()
    positions.apply(HEADER, log.cells())
    return Valuation(positions, prices_of(*records))


def held() -> EventsLog:
    """One account long of a share in USD, short of one in EUR, with a deposit."""
    log = EventsLog(STOCK, COIN, EURO, RATE, INSIDE)
    log.open("fund", 1)
    log.fill(1, STOCK, 0, 100 * UNIT, 10, fee_ppm=1000)
    log.fill(1, STOCK, 1, 110 * UNIT, 4)
    log.fill(1, EURO, 1, 50 * UNIT, 20)
    log.event("cash.booked", account="fund", currency="EUR", exponent=-2, amount="500", kind="deposit")
    return log


def test_a_position_is_valued_at_the_middle_else_at_the_last_trade_else_not_at_all() -> None:
    bare = valuation(held()).get("positions/fund/AAPL")
    assert (bare["mark"], bare["unrealised"], bare["mark_source"], bare["mark_as_of"]) == (None, None, None, None)
    trade = record(Kind.TRADE, 1, START, side=Side.BID, price=104 * UNIT, size=1)
    last = valuation(held(), trade).get("positions/fund/AAPL")
    assert (last["mark"], last["mark_source"], last["unrealised"]) == ("104", "last", "24")
    wide = quote(Kind.QUOTE, 1, START, (102 * UNIT, 5), (103 * UNIT + 1, 5))
    mid = valuation(held(), trade, wide).get("positions/fund/AAPL")
    assert (mid["mark"], mid["mark_source"], mid["unrealised"]) == ("102.5000000005", "mid", "15.000000003")
    crossed = quote(Kind.QUOTE, 1, START, (103 * UNIT, 5), (102 * UNIT, 5))
    assert valuation(held(), trade, crossed).get("positions/fund/AAPL")["mark_source"] == "last"
    assert mid["mark_as_of"] == last["mark_as_of"] + 1
    assert mid["as_of"] == last["as_of"] == bare["as_of"]


def test_profit_is_told_by_currency_and_in_one_where_the_tape_has_the_rate() -> None:
    marks = [quote(Kind.QUOTE, 1, START, (101 * UNIT, 5), (103 * UNIT, 5)),
             quote(Kind.QUOTE, 21, START, (47 * UNIT, 5), (49 * UNIT, 5))]  # fmt: skip
    value = valuation(held(), *marks).get("pnl/fund")
    assert value["currencies"]["USD"] == {
        "realised": "40", "unrealised": "12", "fees": "1", "cash": "-561", "unmarked": []
    }  # fmt: skip
    assert value["currencies"]["EUR"] == {
        "realised": "0", "unrealised": "40", "fees": "0", "cash": "1500", "unmarked": []
    }  # fmt: skip
    assert value["total"] is None  # nothing says what a euro is worth
    rate = quote(Kind.QUOTE, 22, START, (109 * UNIT // 100, 5), (111 * UNIT // 100, 5))
    total = valuation(held(), *marks, rate).get("pnl/fund")["total"]
    assert total["currency"] == "USD"
    assert (total["realised"], total["unrealised"], total["cash"]) == ("40", "56", "1089")
    told = total["rates"]["EUR"]
    assert (told["instrument"], told["mark"], told["source"], told["inverted"]) == ("EUR/USD", "1.1", "mid", False)


def test_a_rate_the_other_way_round_is_inverted_and_says_so() -> None:
    other = replace(RATE, symbol="USDEUR", currency="EUR")
    positions, log = PositionsProjection(), EventsLog(STOCK, other)
    log.open("fund", 1)
    log.event("cash.booked", account="fund", currency="USD", exponent=-2, amount="10", kind="deposit")
    positions.apply(HEADER, log.cells())
    prices = prices_of(quote(Kind.QUOTE, 22, START, (UNIT * 3 // 4, 5), (UNIT * 5 // 4, 5)), instruments=(STOCK, other))
    rate = Valuation(positions, prices).rate("EUR", "USD")
    assert rate is not None
    assert (rate.factor, rate.inverted, rate.told["instrument"]) == (1, True, "USDEUR")
    assert Valuation(positions, prices_of(instruments=(STOCK, other))).rate("EUR", "USD") is None


def test_what_has_no_mark_leaves_its_sum_unknown() -> None:
    value = valuation(held(), quote(Kind.QUOTE, 1, START, (101 * UNIT, 5), (103 * UNIT, 5))).get("pnl/fund")
    assert value["currencies"]["USD"]["unrealised"] == "12"
    assert value["currencies"]["EUR"] == {
        "realised": "0", "unrealised": None, "fees": "0", "cash": "1500", "unmarked": ["SAP"]
    }  # fmt: skip


def test_an_instrument_that_accounts_cross_in_is_worth_its_last_fill() -> None:
    log = held()
    log.fill(1, INSIDE, 0, 10 * UNIT, 10)
    assert valuation(log).get("positions/fund/HOUSE")["unrealised"] == "0"
    log.fill(2, INSIDE, 0, 12 * UNIT, 1)
    value = valuation(log).get("positions/fund/HOUSE")
    assert (value["mark"], value["mark_source"], value["unrealised"]) == ("12", "fill", "20")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([STOCK, COIN, EURO]), st.integers(0, 1), st.integers(1, 900), st.integers(1, 9))
    ),
    st.integers(1, 500),
    st.integers(0, 9),
)
def test_profit_is_cash_and_what_the_position_is_worth(
    fills: list[tuple[Instrument, int, int, int]], bid: int, spread: int
) -> None:
    log = EventsLog(STOCK, COIN, EURO)
    for instrument, side, ticks, lots in fills:
        size = lots * instrument.lot_size
        log.fill(0, instrument, side, ticks * instrument.tick_size, size, fee_ppm=25)
    quotes = []
    for instrument in (STOCK, COIN, EURO):
        low, high = bid * instrument.tick_size, (bid + spread) * instrument.tick_size
        quotes.append(quote(Kind.QUOTE, instrument.id, START, (low, 5), (high, 5)))
    for key, value in valuation(log, *quotes).items("positions/"):
        instrument = next(each for each in (STOCK, COIN, EURO) if key.endswith(each.symbol.replace(".", "%2E")))
        worth = Fraction(value["position"]) * Fraction(value["mark"]) * instrument.multiplier
        unit = Fraction(10) ** instrument.currency_exponent
        profit = Decimal(value["realised"]) + Decimal(value["unrealised"]) - Decimal(value["fees"])
        assert Fraction(profit) == Fraction(value["cash"]) + half_away(worth / unit) * unit


@settings(max_examples=60, deadline=None)
@given(st.fractions())
def test_rounding_is_half_away(amount: Fraction) -> None:
    assert rounded(amount) == half_away(amount)


async def test_a_projector_reads_positions_through_it() -> None:
    day = await make_day(records=600)
    projector = Projector(day.tape, day.events, None)
    await projector.open()
    await projector.run()
    values = dict(projector.items("positions/"))
    assert values
    assert all(projector.get(key) == value for key, value in values.items())
    assert {value["mark_source"] for value in values.values()} == {"mid"}
    assert {key.partition("/")[0] for key, _ in projector.items()} >= {"cash", "pnl", "positions", "prices", "orders"}
    assert projector.get("pnl/strategy")["total"]["currency"] == "USD"
    assert projector.get("cash/strategy/USD")["balance"] == projector.get("pnl/strategy")["currencies"]["USD"]["cash"]
    assert projector.get("pnl/nobody") is None
    assert "positions" in projector.digests()
    assert "pnl" not in projector.digests()


def test_marks_are_those_of_the_prices() -> None:
    prices = PricesProjection()
    prices.apply(HEADER, shared_day().cells)
    for instrument, value in prices.by_instrument():
        mark = prices.mark(instrument.id)
        assert mark is not None
        assert mark.ordinal == value["ordinal"]
        if mark.source == "mid":
            exact = (Decimal(value["bid"]) + Decimal(value["ask"])) / 2
            assert Decimal(mark.price).scaleb(mark.exponent) == exact
    for unknown in (-1, 4_000, 2**40):
        assert prices.mark(unknown) is None


@pytest.mark.parametrize("key", ["cash/", "pnl/fund", "positions/"])
def test_keys_of_all_three_may_be_asked_for(key: str) -> None:
    from tapehouse.client.reading import check_key

    check_key(key)
