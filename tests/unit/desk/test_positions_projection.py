"""Positions and profit, against the desk's own accounts."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

from tapehouse.core.errors import DecodeError, IntegrityError
from tapehouse.desk import state as desk_state
from tapehouse.desk.positions_projection import PositionsProjection, average_price
from tapehouse.desk.state import CASH, COST, FEES, FILLS, POSITION, REALISED, VOLUME
from tapehouse.log import FrameHeader
from tapehouse.market import FILL_EXTENSION, Kind
from tests.support.desk_day import COIN, LOG_ID, STOCK, record, shared_day
from tests.support.events_log import EventsLog

HEADER = FrameHeader(log_id=LOG_ID, writer=1, epoch=1, first_ordinal=0)
COLUMNS = (POSITION, CASH, FEES, COST, REALISED, FILLS, VOLUME)


def test_every_column_equals_the_desks() -> None:
    for seed in (1, 2, 3):
        day = shared_day(seed)
        positions = PositionsProjection()
        positions.apply(HEADER, day.outputs)
        held = positions.held()
        assert held
        for account, instrument in held:
            slot = day.engine.route(instrument)
            for column in COLUMNS:
                assert positions.row(account, instrument)[column] == day.engine.desk.accounts[account, slot, column]
        traded = {
            (account, slot) for account, slot in np.argwhere(day.engine.desk.accounts[:, :, desk_state.FILLS]).tolist()
        }
        assert traded == {(account, day.engine.route(instrument)) for account, instrument in held}


def test_values_are_exact_decimals_under_named_keys() -> None:
    day = shared_day()
    positions = PositionsProjection()
    positions.apply(HEADER, day.outputs)
    values = dict(positions.items())
    assert {key.split("/")[1] for key in values} == {"strategy", "alice", "bob"}
    for key, value in values.items():
        assert positions.get(key) == value
        token = key.split("/")[2]
        fills = day.outputs[(day.outputs["kind"] == Kind.FILL) & (day.outputs["cells"] > 0)]
        assert value["fills"] <= len(fills)
        assert Decimal(value["volume"]) >= abs(Decimal(value["position"]))
        assert token in ("AAPL", "BTC-USD%2EP", "EUR%2FUSD")
    assert list(values) == sorted(values)
    assert positions.get("positions/strategy") is None
    assert positions.items("positions/al") == [item for item in values.items() if item[0].startswith("positions/al")]


def test_the_average_price_is_rounded_to_the_instruments_unit() -> None:
    assert average_price(300, 0, STOCK) is None
    assert average_price(10 * 10**9, 3, STOCK) == "3.333333333"
    assert average_price(-10 * 10**9, -3, STOCK) == "3.333333333"
    assert COIN.multiplier == 5
    assert average_price(5 * 10**9, 50_000_000, COIN) == "2"


def test_a_fill_that_contradicts_the_ones_before_it_halts() -> None:
    day = shared_day()
    for name in ("position", "cash"):
        cells = day.outputs.copy()
        at = np.flatnonzero((cells["kind"] == Kind.FILL) & (cells["cells"] > 0))[3]
        cells[at + 1 : at + 2].view(FILL_EXTENSION)[name] += 1
        with pytest.raises(IntegrityError, match=rf"cell {at}: a fill's position or cash"):
            PositionsProjection().apply(HEADER, cells)


def test_a_fill_that_is_missing_is_noticed_at_the_next_one() -> None:
    day = shared_day()
    at = int(np.flatnonzero((day.outputs["kind"] == Kind.FILL) & (day.outputs["cells"] > 0))[0])
    cells = np.delete(day.outputs, [at, at + 1])
    with pytest.raises(IntegrityError, match="fills are missing before it"):
        PositionsProjection().apply(HEADER, cells)


def test_what_cannot_be_read_halts() -> None:
    cells = np.concatenate([record(Kind.FILL, 1, 5)] * 2)
    cells["cells"] = [2, 0]
    with pytest.raises(DecodeError, match="before its definition"):
        PositionsProjection().apply(HEADER, cells)
    with pytest.raises(DecodeError, match="cut short"):
        PositionsProjection().apply(HEADER, record(Kind.FILL, 1, 5, cells=2))


def test_a_damaged_snapshot_is_refused_and_changes_nothing() -> None:
    day = shared_day()
    positions = PositionsProjection()
    positions.apply(HEADER, day.outputs)
    snapshot, before = positions.snapshot(), positions.digest()
    for damaged in (snapshot[:-1], snapshot[:10], b"", snapshot.replace(b"AAPL", b"\xff\xfe\xfd\xfc")):
        with pytest.raises(IntegrityError):
            positions.restore(damaged)
    assert positions.digest() == before


def test_what_accounts_hold_is_told_of_both_legs() -> None:
    log = EventsLog(STOCK)
    log.open("fund", 1)
    log.event("account.configured", account="fund", mode="hedging", method="fifo", maker_fee_ppm=0, taker_fee_ppm=100)
    for side, price, size, closing in ((0, 100, 5, False), (0, 110, 5, False), (1, 120, 4, False), (1, 130, 7, True)):
        log.fill(1, STOCK, side, price * 10**9, size, closing=closing)
    positions = PositionsProjection()
    positions.apply(HEADER, log.cells())
    value = positions.get("positions/fund/AAPL")
    assert value is not None
    # 7 bought are closed, the oldest first: 5 at 100 and 2 at 110, sold at 130.
    assert (value["position"], value["long"], value["short"], value["lots"]) == ("-1", "3", "4", 2)
    assert (value["realised"], value["long_average_price"], value["short_average_price"]) == ("190", "110", "120")
    assert value["average_price"] is None
    assert (value["mode"], value["method"]) == ("hedging", "fifo")
    other = PositionsProjection()
    other.restore(positions.snapshot())
    assert other.get("positions/fund/AAPL") == value


def test_bookings_and_corrections_are_folded_in_their_place() -> None:
    log = EventsLog(STOCK, COIN)
    log.open("fund", 1)
    log.event("cash.booked", account="fund", currency="USD", exponent=-2, amount="1000.50", kind="deposit")
    log.event("cash.booked", account="fund", currency="EUR", exponent=-2, amount="7", kind="fee", reason="custody")
    log.fill(1, STOCK, 0, 100 * 10**9, 5)
    log.event("position.corrected", account="fund", instrument="AAPL", size="-2", price="90", reason="bust")
    log.fill(1, STOCK, 1, 100 * 10**9, 3)
    log.event("cash.booked", account="fund", currency="USD", exponent=-9, amount="0.000000001", kind="interest")
    positions = PositionsProjection()
    positions.apply(HEADER, log.cells())
    value = positions.get("positions/fund/AAPL")
    assert value is not None
    assert (value["position"], value["realised"], value["cash"], value["fills"]) == ("0", "-20", "-20", 2)
    balances = dict(positions.cash_items())
    assert list(balances) == ["cash/external/EUR", "cash/external/USD", "cash/fund/EUR", "cash/fund/USD"]
    usd = balances["cash/fund/USD"]
    assert (usd["balance"], usd["traded"], usd["deposit"]) == ("980.500000001", "-20", "1000.5")
    assert balances["cash/external/USD"]["balance"] == "-1000.500000001"
    assert balances["cash/fund/EUR"]["balance"] == balances["cash/fund/EUR"]["fee"] == "-7"
    assert positions.cash_items("cash/fund/U") == [("cash/fund/USD", usd)]


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        ("cash.booked", {"currency": "USD", "exponent": -2, "amount": "0.001", "kind": "deposit"}, "whole number"),
        ("cash.booked", {"currency": "USD", "exponent": -2, "amount": "-1", "kind": "deposit"}, "positive"),
        ("position.corrected", {"instrument": "IBM", "size": "1", "price": "1"}, "no such instrument"),
        ("position.corrected", {"instrument": "AAPL", "size": "9223372036", "price": "9"}, "does not fit"),
        ("account.configured", {"mode": "hedging"}, "not flat"),
        ("cash.booked", {"account": "x", "currency": "USD", "exponent": 0, "amount": "1", "kind": "fee"}, "opened"),
    ],
)
def test_a_booking_that_cannot_be_halts(kind: str, body: dict[str, object], said: str) -> None:
    log = EventsLog(STOCK)
    log.open("fund", 1)
    log.fill(1, STOCK, 0, 100 * 10**9, 5)
    at = len(log.cells())
    log.event(kind, **{"account": "fund", **body})
    with pytest.raises(DecodeError, match=f"cell {at}: .*{said}"):
        PositionsProjection().apply(HEADER, log.cells())
