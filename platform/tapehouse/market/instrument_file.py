"""Instruments declared in a TOML file, in the words that people use: decimals, days, names.

    [[instrument]]
    symbol = "BTCUSDT"          # the venue's spelling
    venue = "BINANCE"
    asset_class = "crypto"
    tick_size = "0.01"
    lot_size = "0.00001"
    currency = "USDT"
    calendar = "24/7"

Prices count units of 10^-9 unless the tick needs finer ones, sizes units of the lot's last decimal; `price_exponent`
and `size_exponent` say otherwise. docs/formats/instruments.md lists every key.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from tapehouse.core.errors import DataError, DecodeError, MissingError
from tapehouse.core.units import NS_PER_SECOND, to_fixed
from tapehouse.market.instrument import Instrument

EXPONENT_MIN, EXPONENT_MAX = -18, 18
PRICE_EXPONENT = -9  # unless the tick needs a finer one
INSTRUMENTS_MAX = 1 << 16  # of one file
FILE_BYTES_MAX = 64 << 20


def _decimal(value: Any) -> Any:
    """A number as it is written; a TOML float is none, because its digits would be guessed."""
    if isinstance(value, float):
        raise ValueError('write it in quotes, as "0.01": a float has no exact digits')
    return value


def _positive(value: Decimal) -> Decimal:
    if not value.is_finite() or value <= 0:
        raise ValueError("it must be above 0")
    return value


Step = Annotated[Decimal, BeforeValidator(_decimal), AfterValidator(_positive)]
Exponent = Annotated[int, Field(ge=EXPONENT_MIN, le=EXPONENT_MAX)]


class DeclaredInstrument(BaseModel):
    """An instrument in words: one table of the file, or the body of a command."""

    model_config = ConfigDict(extra="forbid", strict=False, frozen=True)

    symbol: str = Field(min_length=1, max_length=255)
    venue: str = ""
    asset_class: Literal["equity", "future", "option", "crypto", "fx", "index", "other"] = "equity"
    tick_size: Step = Decimal("0.01")
    lot_size: Step = Decimal(1)
    price_exponent: Exponent | None = None
    size_exponent: Exponent | None = None
    currency: str = "USD"
    currency_exponent: Exponent = -9
    multiplier: Annotated[int, Field(ge=1)] = 1
    underlying: str = ""
    strike: Step | None = None
    expiry: datetime | date | None = None
    right: Literal["", "C", "P"] = ""
    calendar: str = ""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    instrument: list[DeclaredInstrument] = Field(max_length=INSTRUMENTS_MAX)


def load_instruments(path: Path | str) -> tuple[Instrument, ...]:
    """The instruments of a file, with ids from 1 up in the order in which they stand.

    Raises:
        MissingError: There is no such file.
        DecodeError: It is no TOML, a key is unknown or of a wrong type, a number does not fit its unit, an option lacks
            underlying, strike, expiry or right, or two tables are of the same venue and symbol; file and key are named.
    """
    path = Path(path)
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise DecodeError(f"it is larger than {FILE_BYTES_MAX >> 20} MiB", subject=str(path))
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingError("there is no such file", subject=str(path)) from error
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DecodeError(f"it is no TOML: {error}", subject=str(path)) from error
    try:
        declared = _File(**tables).instrument
    except (ValidationError, TypeError) as error:
        raise _complaint(path, error) from error
    ids = {item.symbol: number for number, item in enumerate(declared, 1)}
    found = tuple(_instrument(path, number, item, ids) for number, item in enumerate(declared, 1))
    seen: set[tuple[str, str]] = set()
    for instrument in found:
        if (instrument.venue, instrument.symbol) in seen:
            raise DecodeError(f"{instrument.symbol} stands there twice", subject=str(path))
        seen.add((instrument.venue, instrument.symbol))
    return found


def _instrument(path: Path, number: int, item: DeclaredInstrument, ids: dict[str, int]) -> Instrument:
    try:
        return declared_instrument(item, number, ids)
    except DataError as error:
        position = f"instrument {number}, {item.symbol}"
        raise DecodeError(error.message, subject=str(path), position=position, hint=error.hint) from error


def declared_instrument(item: DeclaredInstrument, number: int, ids: Mapping[str, int]) -> Instrument:
    """A declared instrument as a tape knows it.

    Args:
        number: Its id.
        ids: Of the symbols that an option may derive from.

    Raises:
        DataError: A number does not fit its unit, or an option lacks underlying, strike, expiry or right.
    """
    if item.asset_class == "option":
        lacking = [name for name in ("underlying", "strike", "expiry", "right") if not getattr(item, name)]
        if lacking:
            raise DataError(f"an option needs {', '.join(lacking)}")
    if item.underlying and item.underlying not in ids:
        raise DataError(f"its underlying {item.underlying!r} is not declared")
    price_exponent = item.price_exponent
    if price_exponent is None:
        price_exponent = min(PRICE_EXPONENT, _last_decimal(item.tick_size))
    size_exponent = item.size_exponent
    if size_exponent is None:
        size_exponent = min(0, _last_decimal(item.lot_size))
    try:
        tick_size, lot_size = to_fixed(item.tick_size, price_exponent), to_fixed(item.lot_size, size_exponent)
        strike = 0 if item.strike is None else to_fixed(item.strike, price_exponent)
    except DataError as error:
        raise DataError(error.message, hint="declare its exponents") from error
    return Instrument(
        id=number,
        symbol=item.symbol,
        venue=item.venue,
        asset_class=item.asset_class,
        price_exponent=price_exponent,
        size_exponent=size_exponent,
        tick_size=tick_size,
        lot_size=lot_size,
        currency=item.currency,
        currency_exponent=item.currency_exponent,
        multiplier=item.multiplier,
        underlying=ids.get(item.underlying, 0),
        strike=strike,
        expiry_ns=_nanoseconds(item.expiry),
        right=item.right,
        calendar=item.calendar,
    )


def _last_decimal(value: Decimal) -> int:
    """The power of ten of the last digit that is not zero."""
    exponent = value.normalize().as_tuple().exponent
    return exponent if isinstance(exponent, int) else 0


def _nanoseconds(when: datetime | date | None) -> int:
    """UTC ns; a day means its beginning in UTC, a time without a zone is in UTC."""
    if when is None:
        return 0
    if not isinstance(when, datetime):
        when = datetime(when.year, when.month, when.day, tzinfo=UTC)
    when = when.replace(tzinfo=UTC) if when.tzinfo is None else when
    whole = int(when.replace(microsecond=0).timestamp())
    return whole * NS_PER_SECOND + when.microsecond * 1000


def _complaint(path: Path, error: ValidationError | TypeError) -> DecodeError:
    if isinstance(error, TypeError):
        return DecodeError(str(error), subject=str(path))
    first = error.errors()[0]
    where = [str(part + 1) if isinstance(part, int) else str(part) for part in first["loc"]]
    text = str(first["msg"]).removeprefix("Value error, ")
    hint = "see docs/formats/instruments.md" if first["type"] in ("extra_forbidden", "missing") else ""
    return DecodeError(text, subject=str(path), position=" ".join(where), hint=hint)
