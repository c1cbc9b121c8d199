"""Instruments and the definitions that carry them on a tape."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core import DataError, DecodeError
from tapehouse.market import Cells, Instrument, Kind, pack_payload, read_definition

INT = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
INSTRUMENTS = st.builds(
    Instrument,
    id=st.integers(1, 2**32 - 1),
    symbol=TEXT,
    venue=TEXT,
    asset_class=st.sampled_from(["equity", "future", "option", "crypto"]),
    price_exponent=st.integers(-18, 9),
    size_exponent=st.integers(-18, 9),
    tick_size=INT,
    lot_size=INT,
    currency=TEXT,
    currency_exponent=st.integers(-18, 9),
    multiplier=INT,
    underlying=st.integers(0, 2**32 - 1),
    strike=INT,
    expiry_ns=INT,
    right=st.sampled_from(["", "C", "P"]),
)


@given(instrument=INSTRUMENTS, ts_recv=INT, source=st.integers(0, 65_535))
@settings(deadline=None)
def test_a_definition_comes_back(instrument: Instrument, ts_recv: int, source: int) -> None:
    record = instrument.definition(ts_recv=ts_recv, source=source)
    assert read_definition(record) == instrument
    assert (record["kind"] == Kind.DEFINITION).all()
    assert (record["instrument"] == instrument.id).all()
    assert (record["ts_recv"][0], record["ts_event"][0], record["source"][0]) == (ts_recv, ts_recv, source)


def definition(text: bytes) -> Cells:
    return pack_payload(Kind.DEFINITION, text, ts_event=0, ts_recv=0)


def body(**changes: object) -> bytes:
    return json.dumps({"type": "instrument", "version": 1, "id": 1, "symbol": "AMZN", **changes}).encode()


def test_defaults_and_unknown_fields() -> None:
    assert read_definition(definition(body(colour="green"))) == Instrument(id=1, symbol="AMZN")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"\xff", "no JSON"),
        (b"[" * 12_000, "no JSON"),
        (b"[]", "no instrument definition of version 1"),
        (b"null", "no instrument definition of version 1"),
        (body(type="bond"), "no instrument definition of version 1"),
        (body(version=2), "no instrument definition of version 1"),
        (b'{"type":"instrument","version":1,"id":1}', "lacks a field.*symbol"),
        (body(id="1"), "id is '1', no int"),
        (body(id=True), "id is True, no int"),
        (body(tick_size=0.01), "tick_size is 0.01, no int"),
        (body(symbol=7), "symbol is 7, no str"),
        (body(venue=None), "venue is None, no str"),
    ],
)
def test_a_bad_definition_is_refused_with_words(text: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        read_definition(definition(text))


def test_prices_and_sizes_are_exact() -> None:
    coin = Instrument(id=1, symbol="BTCUSDT", price_exponent=-2, size_exponent=-5)
    assert coin.fixed_price("61234.56") == 6_123_456
    assert coin.price(6_123_456) == Decimal("61234.56")
    assert coin.fixed_size(Decimal("0.00001")) == 1
    with pytest.raises(DataError, match="no whole number"):
        coin.fixed_price("0.001")
    with pytest.raises(DataError, match="no whole number"):
        coin.fixed_size("0.000001")
