"""The surface projection: TAPE folded to what every option was last quoted at and the volatilities that this implies.

It follows DEFINITION and OPTION_QUOTE records and steps over the rest. Reading prices with the surface as it stands,
at the time of the latest quote, and changes nothing. Keys, with symbols as `encode_token` spells them:

- `surface/<underlying>`: the grid of an underlying: expiries, strikes, volatilities;
- `surface/<underlying>/<option>`: one option's quote, volatility, value and Greeks.

Where a second instrument has a symbol that is taken, its key ends with `@` and its instrument id.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from blake3 import blake3

from tapehouse.core import DataError, DecodeError, IntegrityError, format_time_ns
from tapehouse.core.ids import encode_token
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.market import (
    KIND_LAST,
    KIND_SKIPPED_FROM,
    Cells,
    Instrument,
    Kind,
    read_definition,
    unpack_payload,
    words,
)
from tapehouse.pricing import canonical
from tapehouse.pricing.chain import Chain, define_option, make_chain, on_option_quote
from tapehouse.pricing.surface import CLOCK, forward_of, nearest_volatility, years_until
from tapehouse.pricing.valuation import value_option

PREFIX = "surface/"
_HEAD = struct.Struct("<4sII")
_MAGIC = b"THSP"
_FIRST_OPTIONS = 1024  # room to begin with; it doubles as definitions come
_FIRST_UNDERLYINGS = 16
OPTIONS_MAX = 1 << 20
INSTRUMENT_ID_MAX = (1 << 22) - 1

_DONE, _DEFINITION, _BAD_RECORD, _UNDEFINED_OPTION, _UNKNOWN_KIND = range(5)
_OPTION_QUOTE = int(Kind.OPTION_QUOTE)
_DEFINITION_KIND = int(Kind.DEFINITION)


class TapePosition(Protocol):
    """What the projection reads of a frame's header."""

    @property
    def first_ordinal(self) -> int:
        """The ordinal of the first cell."""
        ...


@kernel()
def fold_quotes(chain: State, slots: Array, array: Array, start: Int) -> tuple[Int, Int]:
    """Fold rows from `start` on; return (row, why it stopped there).

    Args:
        slots: Shape (ids,): option slot by instrument id, -1 for none.
        array: Shape (n, 8) int64 cells, whole records.
    """
    n = array.shape[0]
    row = start
    while row < n:
        small = array[row, 6]
        kind = (small >> 48) & 255
        length = (small >> 56) & 255
        if length == 0 or row + length > n:
            return row, _BAD_RECORD
        if kind == _OPTION_QUOTE:
            instrument = small & 0xFFFFFFFF
            if length < 3:
                return row, _BAD_RECORD
            if instrument >= slots.shape[0] or slots[instrument] < 0:
                return row, _UNDEFINED_OPTION
            on_option_quote(chain, slots[instrument], array, row)
        elif kind == _DEFINITION_KIND:
            return row, _DEFINITION
        elif kind == 0 or KIND_LAST < kind < KIND_SKIPPED_FROM:
            return row, _UNKNOWN_KIND
        row += length
    return row, _DONE


class SurfaceProjection:
    """A machine over TAPE; see the module."""

    name = "surface"
    version = 1

    def __init__(self, *, skip: bool = False) -> None:
        """Args:
        skip: Go on at a record that cannot be applied, where the desk decides whether anybody halts at it.
        """
        self._skip = skip
        self._clear()

    def _clear(self) -> None:
        self._chain = make_chain(_FIRST_UNDERLYINGS, _FIRST_OPTIONS)
        self._slots = np.full(_FIRST_OPTIONS, -1, np.int64)
        self._instruments: dict[int, Instrument] = {}
        self._options: list[int] = []  # instrument ids by slot
        self._underlyings: list[int] = []
        self._keys: dict[str, int] = {}  # to option slots
        self._grids: dict[str, int] = {}  # keys to underlying slots

    @property
    def chain(self) -> Chain:
        """The arrays; not to be changed."""
        return self._chain

    # The fold.

    def apply(self, header: TapePosition, cells: Cells) -> None:
        """Fold whole records of TAPE.

        Raises:
            DataError: A definition contradicts an earlier one or makes no sense, or a quote has none.
        """
        array = words(cells)
        row = 0
        while True:
            stopped, why = fold_quotes(self._chain, self._slots, array, row)
            row = int(stopped)
            if why == _DONE:
                return
            position = f"cell {header.first_ordinal + row}"
            if why == _DEFINITION:
                end = row + int(cells["cells"][row])
                self._on_definition(cells[row:end], position)
                row = end
            elif self._skip and why in (_UNDEFINED_OPTION, _UNKNOWN_KIND):
                row += int(cells["cells"][row])
            elif why == _UNDEFINED_OPTION:
                raise DataError(
                    f"option {int(cells['instrument'][row])} is quoted before its definition",
                    subject="TAPE",
                    position=position,
                )
            elif why == _UNKNOWN_KIND:
                raise DecodeError(
                    f"record kind {int(cells['kind'][row])} is unknown",
                    subject="TAPE",
                    position=position,
                    hint="upgrade tapehouse",
                )
            else:
                raise DecodeError("a record is cut short", subject="TAPE", position=position)

    def _on_definition(self, record: Cells, position: str) -> None:
        try:
            body = json.loads(unpack_payload(record))
        except ValueError as error:
            raise DecodeError(f"a definition is no JSON: {error}", subject="TAPE", position=position) from error
        if isinstance(body, dict) and body.get("type") != "instrument":
            return  # Other things are defined on a tape too.
        try:
            self._define(read_definition(record))
        except DataError as error:
            raise DataError(error.message, subject=error.subject, position=position, hint=error.hint) from error

    def _define(self, instrument: Instrument) -> None:
        known = self._instruments.get(instrument.id)
        if known is not None:
            if known != instrument:
                instrument.require_revision_of(known)
                self._instruments[instrument.id] = instrument
            return
        if not 0 < instrument.id <= INSTRUMENT_ID_MAX:
            raise DataError(f"instrument id {instrument.id} is not in 1 to {INSTRUMENT_ID_MAX}")
        if instrument.asset_class == "option":
            self._define_option(instrument)
        self._instruments[instrument.id] = instrument

    def _define_option(self, instrument: Instrument) -> None:
        underlying = self._instruments.get(instrument.underlying)
        if underlying is None:
            raise DataError("an option comes before its underlying", subject=instrument.symbol)
        option = len(self._options)
        fresh = underlying.id not in self._underlyings
        slot = len(self._underlyings) if fresh else self._underlyings.index(underlying.id)
        self._make_room(slot, option, instrument.id)
        define_option(
            self._chain,
            option,
            underlying=slot,
            strike=float(instrument.price(instrument.strike)),
            expiry_ns=instrument.expiry_ns,
            right=instrument.right,
            price_unit=float(instrument.price(1)),
            # Strikes and forwards are in the underlying's currency: a premium in another is paid in the underlying.
            inverse=instrument.currency != underlying.currency,
        )
        self._slots[instrument.id] = option
        self._options.append(instrument.id)
        if fresh:
            self._underlyings.append(underlying.id)
            self._grids[_free(PREFIX + encode_token(underlying.symbol), underlying.id, self._grids)] = slot
        grid = next(key for key, number in self._grids.items() if number == slot)
        self._keys[_free(f"{grid}/{encode_token(instrument.symbol)}", instrument.id, self._keys)] = option

    def _make_room(self, slot: int, option: int, instrument_id: int) -> None:
        """Double whatever is too small for these."""
        if instrument_id >= len(self._slots):
            longer = np.full(1 << instrument_id.bit_length(), -1, np.int64)
            longer[: len(self._slots)] = self._slots
            self._slots = longer
        underlyings = len(self._chain.surface.underlyings)
        options = len(self._chain.options)
        if slot < underlyings and option < options:
            return
        if option >= OPTIONS_MAX:
            raise DataError(f"a tape holds {OPTIONS_MAX} options at most")
        larger = make_chain(underlyings * (2 if slot >= underlyings else 1), options * (2 if option >= options else 1))
        canonical.restore(larger, canonical.snapshot(self._chain))
        self._chain = larger

    # State.

    def snapshot(self) -> bytes:
        """The whole state, canonical."""
        listed = [instrument.terms() for instrument in self._instruments.values()]
        instruments = json.dumps(listed, sort_keys=True, separators=(",", ":")).encode()
        return _HEAD.pack(_MAGIC, self.version, len(instruments)) + instruments + canonical.snapshot(self._chain)

    def restore(self, snapshot: bytes) -> None:
        """Become the state that `snapshot` returned.

        Raises:
            IntegrityError: These bytes are no snapshot of this machine.
        """
        if len(snapshot) < _HEAD.size:
            raise IntegrityError("a surface snapshot is too short", hint="refold the log")
        magic, version, length = _HEAD.unpack_from(snapshot)
        if magic != _MAGIC or version != self.version or len(snapshot) < _HEAD.size + length:
            raise IntegrityError("these bytes are no surface snapshot of version 1", hint="refold the log")
        restored = SurfaceProjection(skip=self._skip)
        try:
            for fields in json.loads(snapshot[_HEAD.size : _HEAD.size + length]):
                restored._define(Instrument(**fields))
            canonical.restore(restored._chain, snapshot[_HEAD.size + length :])
        except (ValueError, TypeError, DataError) as error:
            raise IntegrityError(f"a surface snapshot is damaged: {error}", hint="refold the log") from error
        self.__dict__.update(restored.__dict__)

    def digest(self) -> bytes:
        """BLAKE3 of the snapshot."""
        return blake3(self.snapshot()).digest()

    # Reading.

    def get(self, key: str) -> dict[str, Any] | None:
        """The value under a key, ready for JSON; None where there is none."""
        if key in self._grids:
            return self._grid(self._grids[key])
        if key in self._keys:
            return self._option(self._keys[key])
        return None

    def items(self, prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
        """All keys that begin with `prefix`, sorted, with their values."""
        for key in sorted([*self._grids, *self._keys]):
            if key.startswith(prefix):
                value = self.get(key)
                if value is not None:
                    yield key, value

    def _grid(self, slot: int) -> dict[str, Any]:
        surface = self._chain.surface
        now_ns = int(surface.counts[CLOCK])
        owner = surface.underlyings[slot]
        expiries = []
        for at in range(int(owner["first"]), int(owner["first"] + owner["count"])):
            row = surface.expiries[at]
            nodes = surface.nodes[int(row["first"]) : int(row["first"] + row["count"])]
            expiries.append(
                {
                    "expiry": format_time_ns(int(row["expiry_ns"])),
                    "years": float(years_until(int(row["expiry_ns"]), now_ns)),
                    "forward": _present(forward_of(surface, at)),
                    "strikes": nodes["strike"].tolist(),
                    "volatilities": [_present(found) for found in nodes["volatility"].tolist()],
                }
            )
        return {
            "underlying": self._instruments[self._underlyings[slot]].symbol,
            "as_of": format_time_ns(now_ns),
            "at_the_money_volatility": _present(nearest_volatility(surface, slot, now_ns)),
            "expiries": expiries,
        }

    def _option(self, slot: int) -> dict[str, Any]:
        surface = self._chain.surface
        instrument = self._instruments[self._options[slot]]
        row = self._chain.options[slot]
        now_ns = int(surface.counts[CLOCK])
        value, volatility = value_option(self._chain, slot, 0.0, now_ns)
        priced = {
            name: number if volatility > 0.0 else None
            for name, number in zip(value._fields, map(float, value), strict=True)
        }
        quoted = ("bid", "ask", "mark", "bid_volatility", "ask_volatility", "mark_volatility")
        return {
            "symbol": instrument.symbol,
            "underlying": self._instruments[instrument.underlying].symbol,
            "expiry": format_time_ns(instrument.expiry_ns),
            "strike": float(row["strike"]),
            "right": instrument.right,
            "inverse": bool(row["inverse"]),
            "as_of": format_time_ns(now_ns),
            "quoted_at": format_time_ns(int(row["ts_recv"])),
            "forward": _present(forward_of(surface, int(surface.nodes[int(row["node"])]["expiry"]))),
            "volatility": _present(volatility),
            **priced,
            **{f"quoted_{name}": _present(row[name]) for name in quoted},
            "open_interest": int(row["open_interest"]),
        }


def _present(value: float) -> float | None:
    """A positive number, or None for the 0.0 that stands for nothing."""
    return float(value) if value > 0.0 else None


def _free(key: str, instrument_id: int, taken: dict[str, int]) -> str:
    """The key, or one with the instrument's id where the key is taken."""
    return f"{key}@{instrument_id}" if key in taken else key
