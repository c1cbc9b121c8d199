"""Instruments: what a number on the tape means, defined on the tape before its use."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from decimal import Decimal
from typing import Any

from tapehouse.core.errors import DataError, DecodeError
from tapehouse.core.units import from_fixed, to_fixed
from tapehouse.market.cell import Cells, Kind
from tapehouse.market.records import pack_payload, unpack_payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    """A tradable contract.

    Args:
        id: Its number on one tape, allotted by the sequencer; never 0.
        symbol: The venue's spelling.
        venue: ISO 10383 code or the venue's usual short name.
        asset_class: `equity`, `future`, `option`, `crypto`.
        price_exponent, size_exponent: A price or size on the tape counts units of 10^exponent; never change.
        tick_size: The smallest price step, in price units.
        lot_size: The smallest size step, in size units.
        currency: ISO 4217 or the coin's usual code.
        currency_exponent: Cash counts units of 10^exponent.
        multiplier: Currency per point of price and unit of size.
        underlying: Of an option: the instrument id that it derives from, else 0.
        strike: Of an option, in price units.
        expiry_ns: Of an option or future, UTC ns; 0 where it has none.
        right: Of an option: `C` or `P`.
        calendar: When it trades, as `market.calendar` knows it by name; empty where nobody said.
        revision: Of its terms on one tape, from 1 up: see `revised`.
        session_close_ns: When its present session ends, UTC ns, as the sequencer found it in the calendar; 0 where
            nobody said.
    """

    id: int
    symbol: str
    venue: str = ""
    asset_class: str = "equity"
    price_exponent: int = -9
    size_exponent: int = 0
    tick_size: int = 10_000_000
    lot_size: int = 1
    currency: str = "USD"
    currency_exponent: int = -9
    multiplier: int = 1
    underlying: int = 0
    strike: int = 0
    expiry_ns: int = 0
    right: str = ""
    calendar: str = ""
    revision: int = 1
    session_close_ns: int = 0

    def price(self, fixed: int) -> Decimal:
        """A price on the tape as an exact decimal."""
        return from_fixed(fixed, self.price_exponent)

    def size(self, fixed: int) -> Decimal:
        """A size on the tape as an exact decimal."""
        return from_fixed(fixed, self.size_exponent)

    def fixed_price(self, price: Decimal | int | str) -> int:
        """A decimal price as the tape counts it; raises DataError where the unit cannot hold it."""
        return to_fixed(price, self.price_exponent)

    def fixed_size(self, size: Decimal | int | str) -> int:
        """A decimal size as the tape counts it."""
        return to_fixed(size, self.size_exponent)

    def revised(self, known: Instrument) -> Instrument | None:
        """These terms as the next revision of what a tape knows; `known` itself where nothing differs.

        Tick, lot, calendar, the session's close and a future's expiry may change from one session to the next. Anything
        else says what the numbers on the tape mean or which contract it is: None where that differs.
        """
        if replace(self, revision=known.revision) == known:
            return known
        changed = {name for name in _TYPES if getattr(self, name) != getattr(known, name)}
        changed -= {"revision"}
        if not changed <= _REVISABLE or ("expiry_ns" in changed and self.asset_class == "option"):
            return None
        return replace(self, revision=known.revision + 1)

    def require_revision_of(self, known: Instrument) -> None:
        """Raise DataError unless this is the next revision of what a machine knows."""
        if self.revised(known) != self or self == known:
            raise DataError(f"instrument {self.id} is defined twice, differently", subject=self.symbol)

    def terms(self) -> dict[str, Any]:
        """All fields by name, ready for JSON; those that older records do not have only where they say something."""
        terms = asdict(self)
        for name, usual in _ADDED.items():
            if terms[name] == usual:
                del terms[name]
        return terms

    def definition(self, *, ts_recv: int, source: int = 0) -> Cells:
        """The definition record that must precede this instrument's first use on a tape."""
        body = {"type": "instrument", "version": 1, **self.terms()}
        payload = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
        return pack_payload(
            Kind.DEFINITION, payload, ts_event=ts_recv, ts_recv=ts_recv, instrument=self.id, source=source
        )


_ADDED = {"calendar": "", "revision": 1, "session_close_ns": 0}  # fields that the first definitions did not have
_REVISABLE = {"tick_size", "lot_size", "expiry_ns", "calendar", "session_close_ns"}
_TYPES = {field.name: str(field.type) for field in fields(Instrument)}  # `int` and `str`, as annotated


def read_definition(record: Cells) -> Instrument:
    """The instrument that a definition record defines.

    Raises:
        DecodeError: It is no JSON object, of an unknown version, lacks a field, or has one of a wrong type; fields
            that this version does not know are ignored.
    """
    try:
        body: dict[str, Any] = json.loads(unpack_payload(record))
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"an instrument definition is no JSON: {error}") from error
    if not isinstance(body, dict) or body.get("type") != "instrument" or body.get("version") != 1:
        raise DecodeError(f"no instrument definition of version 1: {str(body)[:80]}")
    known = {name: value for name, value in body.items() if name in _TYPES}
    for name, value in known.items():
        if type(value).__name__ != _TYPES[name]:
            raise DecodeError(f"an instrument definition's {name} is {value!r}, no {_TYPES[name]}")
    try:
        return Instrument(**known)
    except TypeError as error:
        raise DecodeError(f"an instrument definition lacks a field: {error}") from error
