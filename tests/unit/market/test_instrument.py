"""Instruments and the definitions that carry them on a tape."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core import DataError, DecodeError
from tapehouse.market import Cells, Instrument, Kind, pack_payload, read_definition, unpack_payload

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
    calendar=TEXT,
    revision=st.integers(1, 2**31),
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


def test_terms_that_may_change_make_the_next_revision() -> None:
    known = Instrument(id=4, symbol="ESH4", asset_class="future", expiry_ns=5, revision=3)
    assert replace(known, revision=1).revised(known) is known, "nothing differs"
    for changes in ({"tick_size": 5}, {"lot_size": 2}, {"calendar": "CMES"}, {"expiry_ns": 9}):
        made = replace(known, revision=1, **changes).revised(known)  # type: ignore[arg-type]
        assert made == replace(known, revision=4, **changes)  # type: ignore[arg-type]
        made.require_revision_of(known)
        with pytest.raises(DataError, match="defined twice, differently"):
            replace(made, revision=5).require_revision_of(known)
    for wrong in ({"price_exponent": -2}, {"currency": "EUR"}, {"multiplier": 2}, {"symbol": "ESM4"}):
        assert replace(known, **wrong).revised(known) is None  # type: ignore[arg-type]
    option = replace(known, asset_class="option")
    assert replace(option, expiry_ns=9).revised(option) is None, "another expiry is another option"


def test_what_needs_no_new_field_has_the_bytes_it_always_had() -> None:
    body = json.loads(unpack_payload(Instrument(id=1, symbol="AMZN").definition(ts_recv=0)))
    assert not {"calendar", "revision"} & set(body)
    later = json.loads(
        unpack_payload(Instrument(id=1, symbol="AMZN", calendar="XNYS", revision=2).definition(ts_recv=0))
    )
    assert (later["calendar"], later["revision"]) == ("XNYS", 2)
