"""Instruments declared in TOML: every key, and words for what is wrong."""

from __future__ import annotations

import re
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core import DataError, DecodeError, MissingError
from tapehouse.market.instrument_file import load_instruments
from tests.conftest import PROJECT

DOCUMENTED = PROJECT / "docs" / "formats" / "instruments.md"


def saved(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "instruments.toml"
    path.write_text(text)
    return path


def one(**keys: object) -> str:
    return "[[instrument]]\n" + "".join(f"{name} = {value}\n" for name, value in keys.items())


def test_the_documented_file(tmp_path: Path) -> None:
    match = re.search(r"```toml\n(.*?)```", DOCUMENTED.read_text(), re.DOTALL)
    assert match is not None
    coin, future, option = load_instruments(saved(tmp_path, match[1]))
    assert (coin.id, coin.symbol, coin.venue, coin.calendar, coin.currency) == (1, "BTCUSDT", "BINANCE", "24/7", "USDT")
    assert (coin.price_exponent, coin.tick_size, coin.size_exponent, coin.lot_size) == (-9, 10_000_000, -5, 1)
    assert (future.multiplier, future.expiry_ns, future.size_exponent) == (50, 1_710_509_400_000_000_000, 0)
    assert (option.underlying, option.price(option.strike), option.right) == (2, Decimal(4800), "C")


def test_a_unit_finer_than_the_default(tmp_path: Path) -> None:
    (coin,) = load_instruments(saved(tmp_path, one(symbol='"PEPE"', tick_size='"0.00000000001"', lot_size='"100"')))
    assert (coin.price_exponent, coin.tick_size, coin.size_exponent, coin.lot_size) == (-11, 1, 0, 100)
    assert coin.fixed_price("0.00000001234") == 1234
    (large,) = load_instruments(saved(tmp_path, one(symbol='"X"', tick_size="1000000", price_exponent=6)))
    assert large.price(large.fixed_price("123456789012000000")) == 123_456_789_012_000_000


@given(digits=st.integers(1, 10**18 - 1), places=st.integers(0, 18))
@settings(max_examples=60, deadline=None)
def test_any_18_digits_come_back(digits: int, places: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    step = Decimal(digits).scaleb(-places)
    keys = {"symbol": '"X"', "tick_size": f'"{step:f}"', "price_exponent": -places}
    (found,) = load_instruments(saved(tmp_path_factory.mktemp("file"), one(**keys)))
    assert found.price(found.tick_size) == step


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (one(symbol='"X"', tick_size="0.01"), "instrument 1 tick_size.*in quotes"),
        (one(symbol='"X"', tick_size='"0"'), "tick_size.*above 0"),
        (one(symbol='"X"', lot_size='"nan"'), "lot_size"),
        (one(symbol='"X"', tick='"1"'), "instrument 1 tick.*docs/formats/instruments.md"),
        (one(venue='"X"'), "instrument 1 symbol"),
        (one(symbol='"X"', right='"Z"'), "instrument 1 right"),
        (one(symbol='"X"', tick_size='"0.0001"', price_exponent=-2), "instrument 1, X.*exponents"),
        (one(symbol='"X"', asset_class='"option"'), "an option needs underlying, strike, expiry, right"),
        (one(symbol='"X"', underlying='"Y"'), "underlying 'Y' is not declared"),
        (one(symbol='"X"') + one(symbol='"X"'), "X stands there twice"),
        ("instrument = 3", "instrument"),
        ("[[instrument]", "no TOML"),
        ("colour = 1\n" + one(symbol='"X"'), "colour"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DecodeError) as caught:
        load_instruments(saved(tmp_path, text))
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "instruments.toml" in str(caught.value)


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        load_instruments(tmp_path / "none.toml")
    path = tmp_path / "bytes.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DecodeError, match="no TOML"):
        load_instruments(path)


@given(text=st.text(max_size=200))
@settings(deadline=None)
def test_no_text_breaks_it(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("any") / "any.toml"
    path.write_text(text)
    with suppress(DataError):
        load_instruments(path)
