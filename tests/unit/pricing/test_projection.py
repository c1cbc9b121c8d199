"""What the surface projection makes of a tape, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tapehouse.core import UNDEFINED, DataError, DecodeError, IntegrityError
from tapehouse.market import Cells, Instrument, Kind, empty_cells, extend, pack_payload, words
from tapehouse.pricing import YEAR_NS, SurfaceProjection

NOW = 1_600_000_000_000_000_000
STOCK = Instrument(id=1, symbol="ACME", asset_class="equity")
CALL = Instrument(
    id=2,
    symbol="ACME 100 C",
    asset_class="option",
    underlying=1,
    strike=100_000_000_000,
    expiry_ns=NOW + YEAR_NS,
    right="C",
)


class Header:
    def __init__(self, first_ordinal: int = 0) -> None:
        self.first_ordinal = first_ordinal


def definition(instrument: Instrument) -> Cells:
    return instrument.definition(ts_recv=NOW)


def quote(instrument: int, *, forward: float = 100.0, vol: float = 0.2, cells: int = 3) -> Cells:
    record = empty_cells(cells)
    record["ts_recv"] = NOW
    record["instrument"], record["kind"], record["cells"] = instrument, Kind.OPTION_QUOTE, cells
    extend(record)
    array = words(record)
    array[:, 4] = UNDEFINED
    if cells > 2:
        array[2, :6] = round(forward * 1e9), UNDEFINED, UNDEFINED, UNDEFINED, round(vol * 1e9), 17
    return record


def other(kind: int) -> Cells:
    record = empty_cells(1)
    record["kind"], record["cells"], record["instrument"] = kind, 1, 1
    return record


def folded(*records: Cells) -> SurfaceProjection:
    machine = SurfaceProjection()
    machine.apply(Header(), np.concatenate(records))
    return machine


def test_keys_and_values() -> None:
    machine = folded(definition(STOCK), definition(CALL), quote(2))
    assert [key for key, _ in machine.items()] == ["surface/ACME", "surface/ACME/ACME%20100%20C"]
    assert machine.get("surface/ACME") == {
        "underlying": "ACME",
        "as_of": "2020-09-13T12:26:40.000000000Z",
        "at_the_money_volatility": 0.2,
        "expiries": [
            {
                "expiry": "2021-09-13T12:26:40.000000000Z",
                "years": 1.0,
                "forward": 100.0,
                "strikes": [100.0],
                "volatilities": [0.2],
            }
        ],
    }
    option = machine.get("surface/ACME/ACME%20100%20C")
    assert option is not None
    assert option["price"] == pytest.approx(7.965567455405804)
    assert (option["strike"], option["right"], option["inverse"], option["open_interest"]) == (100.0, "C", False, 17)
    assert option["quoted_bid"] is None
    assert next(iter(machine.items("surface/ACME/")))[1] == option
    assert machine.get("surface/NONE") is None


def test_every_value_is_json_before_any_quote_too() -> None:
    machine = folded(definition(STOCK), definition(CALL))
    text = json.dumps(dict(machine.items()), allow_nan=False)
    assert json.loads(text)["surface/ACME/ACME%20100%20C"]["price"] is None


def test_reading_changes_nothing() -> None:
    machine = folded(definition(STOCK), definition(CALL), quote(2))
    before = machine.snapshot()
    dict(machine.items())
    assert machine.snapshot() == before


def test_other_records_are_stepped_over() -> None:
    others = [other(kind) for kind in (Kind.MBO, Kind.TRADE, Kind.CLOCK, Kind.GAP, 128, 255)]
    note = pack_payload(Kind.DEFINITION, b'{"type":"note"}', ts_event=NOW, ts_recv=NOW)
    machine = folded(definition(STOCK), *others, note, definition(CALL), *others, quote(2))
    assert machine.digest() == folded(definition(STOCK), definition(CALL), quote(2)).digest()


@pytest.mark.parametrize(
    ("record", "error", "message"),
    [
        (quote(3), DataError, "cell 40: option 3 is quoted before its definition"),
        (quote(4_000_000_000), DataError, "before its definition"),
        (quote(1), DataError, "before its definition"),
        (quote(2, cells=2), DecodeError, "cell 40: a record is cut short"),
        (quote(2)[:2], DecodeError, "cut short"),
        (quote(2)[1:], DecodeError, "cut short"),
        (other(0), DecodeError, "record kind 0 is unknown"),
        (other(100), DecodeError, "record kind 100 is unknown"),
        (definition(replace(CALL, strike=1)), DataError, "cell 40: instrument 2 is defined twice"),
        (definition(replace(CALL, id=3, underlying=9)), DataError, "before its underlying"),
        (definition(replace(CALL, id=3, right="X")), DataError, "no option right"),
        (definition(replace(STOCK, id=1 << 30)), DataError, "instrument id"),
        (pack_payload(Kind.DEFINITION, b"{", ts_event=NOW, ts_recv=NOW), DecodeError, "no JSON"),
        (pack_payload(Kind.DEFINITION, b"[]", ts_event=NOW, ts_recv=NOW), DataError, "no instrument definition"),
    ],
)
def test_what_cannot_be_applied_halts_with_its_position(record: Cells, error: type[Exception], message: str) -> None:
    machine = folded(definition(STOCK), definition(CALL))
    with pytest.raises(error, match="cell 40") as caught:
        machine.apply(Header(40), record)
    assert message in str(caught.value)


def test_a_repeated_definition_is_no_news() -> None:
    once = folded(definition(STOCK), definition(CALL), quote(2))
    twice = folded(definition(STOCK), definition(CALL), definition(STOCK), definition(CALL), quote(2))
    assert once.snapshot() == twice.snapshot()


def test_a_premium_in_another_currency_than_the_underlyings_is_inverse() -> None:
    machine = folded(definition(STOCK), definition(replace(CALL, currency="ACME")), quote(2))
    value: Any = machine.get("surface/ACME/ACME%20100%20C")
    assert value["inverse"] is True
    assert value["price"] == pytest.approx(0.07965567455405804)


def test_equal_symbols_get_keys_of_their_own() -> None:
    second = [replace(STOCK, id=11), replace(CALL, id=12, underlying=11), replace(CALL, id=13)]
    machine = folded(definition(STOCK), definition(CALL), *map(definition, second))
    assert {key for key, _ in machine.items()} == {
        "surface/ACME",
        "surface/ACME/ACME%20100%20C",
        "surface/ACME/ACME%20100%20C@13",
        "surface/ACME@11",
        "surface/ACME@11/ACME%20100%20C",
    }


def test_it_grows_with_the_tape() -> None:
    """More underlyings, options and instrument ids than it has room for at first."""
    parts = []
    for number in range(20):
        stock = replace(STOCK, id=5000 + number, symbol=f"S{number}")
        parts.append(definition(stock))
        for strike in range(60):
            option = replace(
                CALL,
                id=10_000 + 100 * number + strike,
                symbol=f"S{number} {strike}",
                underlying=stock.id,
                strike=(50 + strike) * 10**9,
            )
            parts += [definition(option), quote(option.id, vol=0.2 + strike / 100)]
    machine = folded(*parts)
    grid: Any = machine.get("surface/S19")
    assert grid["expiries"][0]["strikes"] == [50.0 + strike for strike in range(60)]
    assert grid["expiries"][0]["volatilities"] == [pytest.approx(0.2 + strike / 100) for strike in range(60)]
    assert len(list(machine.items("surface/S3/"))) == 60
    other_machine = SurfaceProjection()
    other_machine.restore(machine.snapshot())
    assert other_machine.digest() == machine.digest()


def test_a_damaged_snapshot_is_refused_and_changes_nothing() -> None:
    good = folded(definition(STOCK), definition(CALL), quote(2)).snapshot()
    machine = folded(definition(STOCK))
    before = machine.snapshot()
    for bad in (b"", good[:20], good[:-1], b"XXXX" + good[4:], good.replace(b'"right":"C"', b'"right":"X"')):
        with pytest.raises(IntegrityError):
            machine.restore(bad)
    assert machine.snapshot() == before
