"""Which instruments a DBN file speaks of: from its definitions, else from the symbol mappings in its metadata.

Ids on the feed's side run from 1 in the order of DBN's own ids. Where a file defines nothing, the tick is the greatest
common divisor of the prices that its first block shows, if they are enough to tell, and the multiplier is 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import gcd
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import databento_dbn
import numpy as np
import numpy.typing as npt

from tapehouse.core.errors import DecodeError, MissingError
from tapehouse.core.units import NS_PER_SECOND, UNDEFINED
from tapehouse.feeds.dbn_records import DEFINITION, QUOTES, RECORD_BYTES, STATUS, SYMBOL_MAPPING, Bytes, read_records
from tapehouse.feeds.dbn_source import UPGRADE, DbnStream
from tapehouse.feeds.dbn_summaries import BAR_SECONDS, SUMMARY_BYTES, summary_cells
from tapehouse.market import Instrument

DEFAULT_TICK = 10_000_000  # 0.01
DISTINCT_PRICES_MIN = 16  # fewer say nothing about a tick
_UNDEFINED_I32 = 2**31 - 1
_UNDEFINED_TIME = 2**64 - 1
_PRICE_UNIT = 1_000_000_000
_FUTURES = ("GLBX", "IFEU", "IFUS", "IFLL", "NDEX", "XEUR", "XEEE")
_CLASSES = {"F": "future", "S": "future", "C": "option", "P": "option", "T": "option", "K": "equity"}
_OTHER_CLASSES = {"B": "bond", "I": "index", "X": "fx", "Y": "commodity", "M": "mixed"}
_SHARED_SYMBOLOGY = ("continuous", "smart")
_OPTION_SHARES = 100
_OSI = re.compile(r"^(?P<root>.{6})(?P<day>\d{6})(?P<right>[CP])(?P<strike>\d{8})$")


@dataclass(slots=True)
class Survey:
    """What was found about instruments, by DBN's ids."""

    version: int
    dataset: str
    raw_symbols: bool = True  # else a symbol such as a continuous contract's stands for several instruments
    symbols: dict[int, str] = field(default_factory=dict)
    definitions: dict[int, Any] = field(default_factory=dict)
    prices: dict[int, set[int]] = field(default_factory=dict)

    def add_mappings(self, metadata: Any) -> bool:
        """Take the metadata's symbols; whether they name the ids of all records."""
        complete = bool(metadata.mappings) and metadata.schema is not None
        self.raw_symbols = str(metadata.stype_in) not in _SHARED_SYMBOLOGY
        for symbol, intervals in metadata.mappings.items():
            for interval in intervals:
                if interval["symbol"].isdigit():
                    self.symbols.setdefault(int(interval["symbol"]), symbol)
                else:
                    complete = False
        return complete and str(metadata.schema) != "definition"

    def add_ids(self, run: Bytes) -> None:
        """Take the ids that records bear."""
        ids = np.unique(run[:, 4:8].copy().view("<u4"))
        for number in ids.tolist():
            self.symbols.setdefault(number, "")

    def add_run(self, rtype: int, run: Bytes) -> None:
        """Take definitions, symbol mappings and ids of a run."""
        if rtype == DEFINITION:
            for definition in _objects(run, self.version):
                self.definitions[definition.instrument_id] = definition
                self.symbols[definition.instrument_id] = definition.raw_symbol
        elif rtype == SYMBOL_MAPPING:
            for mapping in _objects(run, self.version):
                self.symbols[mapping.instrument_id] = mapping.stype_out_symbol
        elif rtype in RECORD_BYTES or rtype in SUMMARY_BYTES:
            self.add_ids(run)

    def add_prices(self, rtype: int, run: Bytes) -> None:
        """Take the prices of a run, for the tick."""
        if rtype in SUMMARY_BYTES:
            cells, owned = summary_cells(run, rtype)
            priced = [cells["price"], *(owned[:, :3].T if rtype in BAR_SECONDS else ())]
            self._add_prices(cells["instrument"], priced)
            return
        if rtype not in RECORD_BYTES or rtype == STATUS:
            return
        records = read_records(run, rtype)
        columns = [records["price"], *((records["bid"], records["ask"]) if rtype in QUOTES else ())]
        self._add_prices(records["instrument"], columns)

    def _add_prices(self, ids: npt.NDArray[Any], columns: Sequence[npt.NDArray[Any]]) -> None:
        for number in np.unique(ids).tolist():
            mine = ids == number
            found = self.prices.setdefault(number, set())
            for column in columns:
                found.update(np.unique(column[mine]).tolist())
            found.discard(UNDEFINED)

    def instruments(self) -> dict[int, Instrument]:
        """The instrument of each of DBN's ids, ascending. Ids of one symbol, as equities have one a day, share it."""
        names = {number: self._symbol(number) for number in sorted(self.symbols)}
        own_by_name: dict[str, int] = {}
        for name in names.values():
            own_by_name.setdefault(name, len(own_by_name) + 1)
        own_ids = {number: own_by_name[name] for number, name in names.items()}
        latest = {own_ids[number]: number for number in names if number in self.definitions}
        made: dict[int, Instrument] = {}
        for number, own in own_ids.items():
            if own not in made:
                made[own] = self._instrument(own, latest.get(own, number), own_ids)
        return {number: made[own] for number, own in own_ids.items()}

    def _symbol(self, number: int) -> str:
        symbol = self.symbols[number]
        if not symbol:
            return str(number)
        return symbol if self.raw_symbols else f"{symbol}#{number}"

    def _instrument(self, own: int, number: int, own_ids: dict[int, int]) -> Instrument:
        definition = self.definitions.get(number)
        if definition is not None:
            return _from_definition(own, definition, own_ids, self.dataset)
        return self._guess(own, number)

    def _guess(self, own: int, number: int) -> Instrument:
        symbol = self._symbol(number)
        tick = _tick(self.prices.get(number, set()))
        venue, _, _ = self.dataset.partition(".")
        option = _OSI.match(symbol)
        if option is not None:
            return _from_osi(own, symbol, venue, option, tick)
        asset_class = "future" if venue in _FUTURES else "equity"
        return Instrument(id=own, symbol=symbol, venue=venue, asset_class=asset_class, tick_size=tick)


def survey(stream: DbnStream) -> dict[int, Instrument]:
    """Read as much of a file as it takes to know its instruments: one block, or all of it where nothing maps the ids.

    Raises:
        DecodeError: A record is damaged.
    """
    found = Survey(version=stream.metadata.version, dataset=stream.metadata.dataset)
    complete = found.add_mappings(stream.metadata)
    try:
        for index, block in enumerate(stream.run_blocks()):
            for rtype, run, _position in block:
                if index == 0:
                    found.add_prices(rtype, run)
                if not complete:
                    found.add_run(rtype, run)
            if complete:
                break
    except DecodeError:
        if not found.symbols:
            raise  # Else reading the batches will meet the same damage, behind the records that are good.
    return found.instruments()


def _objects(run: Bytes, version: int) -> Iterable[Any]:
    """The library's objects for a run of records."""
    decoder = databento_dbn.DBNDecoder(
        has_metadata=False,
        input_version=version,
        upgrade_policy=UPGRADE,
    )
    records: list[Any] = decoder.write_and_decode(run.tobytes())
    return records


def _tick(prices: set[int]) -> int:
    divisor = gcd(*prices) if prices else 0
    if divisor == 0:
        return DEFAULT_TICK
    return divisor if len(prices) >= DISTINCT_PRICES_MIN else gcd(divisor, DEFAULT_TICK)


def _from_definition(own: int, definition: Any, ids: dict[int, int], dataset: str) -> Instrument:
    letter = str(definition.instrument_class)[-1:]
    asset_class = _CLASSES.get(letter) or _OTHER_CLASSES.get(letter, "other")
    is_option = letter in ("C", "P")
    tick = definition.min_price_increment
    expiry = definition.expiration
    return Instrument(
        id=own,
        symbol=definition.raw_symbol,
        venue=definition.exchange or dataset.partition(".")[0],
        asset_class=asset_class,
        tick_size=tick if 0 < tick < UNDEFINED else DEFAULT_TICK,
        lot_size=definition.min_lot_size if 0 < definition.min_lot_size < _UNDEFINED_I32 else 1,
        currency=definition.currency or "USD",
        multiplier=_multiplier(definition, asset_class, dataset),
        underlying=ids.get(definition.underlying_id, 0) if is_option else 0,
        strike=definition.strike_price if is_option and definition.strike_price != UNDEFINED else 0,
        expiry_ns=expiry if asset_class in ("future", "option") and expiry != _UNDEFINED_TIME else 0,
        right=letter if is_option else "",
    )


def _multiplier(definition: Any, asset_class: str, dataset: str) -> int:
    if 0 < definition.contract_multiplier < _UNDEFINED_I32:
        return int(definition.contract_multiplier)
    quantity = definition.unit_of_measure_qty
    if asset_class in ("future", "option") and 0 < quantity < UNDEFINED and quantity % _PRICE_UNIT == 0:
        return int(quantity // _PRICE_UNIT)
    return _OPTION_SHARES if asset_class == "option" and dataset == "OPRA.PILLAR" else 1


def _from_osi(own: int, symbol: str, venue: str, match: re.Match[str], tick: int) -> Instrument:
    """A listed US option says itself what it is; it expires at 16:00 in New York and stands for 100 shares."""
    try:
        zone = ZoneInfo("America/New_York")
        expiry = datetime.strptime(match["day"], "%y%m%d").replace(hour=16, tzinfo=zone)
    except ZoneInfoNotFoundError as error:
        raise MissingError("the time zone America/New_York is not known here", hint="install tzdata") from error
    except ValueError as error:
        raise DecodeError(f"the option symbol {symbol!r} has no valid day") from error
    return Instrument(
        id=own,
        symbol=symbol,
        venue=venue,
        asset_class="option",
        tick_size=tick,
        multiplier=_OPTION_SHARES,
        strike=int(match["strike"]) * (_PRICE_UNIT // 1000),
        expiry_ns=int(expiry.timestamp()) * NS_PER_SECOND,
        right=match["right"],
    )
