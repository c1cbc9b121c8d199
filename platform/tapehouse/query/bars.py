"""Bars of trades, a row each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Literal

import numpy as np
import polars as pl

from tapehouse.book import bars, flow
from tapehouse.book.wide import whole
from tapehouse.core.errors import DataError, UsageError
from tapehouse.core.units import to_fixed
from tapehouse.log import Log
from tapehouse.market import Cells, Instrument, words
from tapehouse.query.analytics import Units, moment_columns, quotients
from tapehouse.query.columns import Columns, Ints, finish
from tapehouse.query.folding import fold_log
from tapehouse.query.slots import Slots
from tapehouse.query.span import Span, parse_span_ns
from tapehouse.query.table import Table

SLOTS_MAX = 1 << 12  # instruments with bars
ROWS_MAX = 10_000_000
ROWS_AT_ONCE = 1 << 14
DIGITS_MAX = 30  # of a size in money
By = Literal["time", "tick", "volume", "dollar"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BarsOptions(Span):
    """Which bars.

    Args:
        by: What completes one.
        size: A span of time such as `1m`, a number of trades, a volume, or an amount of the instrument's currency.
        symbol: Only this instrument.
        start, end: Engine time, UTC ns: trades at or after `start`, before `end`.
    """

    by: By = "time"
    size: str = "1m"
    symbol: str | None = None

    def kind(self) -> bars.By:
        """As kernels number it."""
        if self.by.upper() not in bars.By.__members__:
            raise UsageError(f"there are no bars by {self.by!r}", hint="time, tick, volume or dollar")
        return bars.By[self.by.upper()]

    def measure(self, instrument: Instrument) -> int:
        """The size of an instrument's bars: ns, trades, size units, or price units x size units.

        Raises:
            UsageError: It is no such size.
        """
        if self.kind() == bars.By.TIME:
            return parse_span_ns(self.size)
        amount = self.amount()
        if self.kind() == bars.By.TICK:
            return to_fixed(amount, 0)
        if self.kind() == bars.By.VOLUME:
            return to_fixed(amount, instrument.size_exponent)
        unit = amount.scaleb(-instrument.price_exponent - instrument.size_exponent) / instrument.multiplier
        return int(unit.to_integral_value(rounding="ROUND_CEILING"))

    def amount(self) -> Decimal:
        """The size of bars that are not by time; raises UsageError where it is no number above 0."""
        try:
            amount = Decimal(self.size)
        except InvalidOperation:
            amount = Decimal(0)
        if not amount.is_finite() or amount <= 0 or abs(amount.adjusted()) > DIGITS_MAX:
            raise UsageError(f"bars by {self.by} of {self.size!r}", hint="a number above 0")
        return amount

    def check(self) -> None:
        """Raise UsageError for what can be bars of no instrument."""
        if self.kind() == bars.By.TIME:
            parse_span_ns(self.size)
        else:
            self.amount()


class BarsBuilder:
    """Takes cells in their order, and has a table at the end."""

    def __init__(self, options: BarsOptions) -> None:
        self.slots = Slots(options.symbol, most=SLOTS_MAX)
        self._options = options
        options.check()
        self._bars = bars.make_bars(SLOTS_MAX)
        self._now = 0
        self._out = np.zeros((ROWS_AT_ONCE, bars.BAR_COLUMNS), np.int64)
        self._written = 0
        self._parts: list[Ints] = []
        self._kept = 0
        self._over = False

    def define(self, instruments: Iterable[Instrument]) -> None:
        """Instruments that no record will define."""
        self.slots.dictionary.instruments |= {instrument.id: instrument for instrument in instruments}

    def take(self, cells: Cells) -> bool:
        """Whole records; False where they go beyond the end, and no more are wanted.

        Raises:
            DecodeError: An instrument is used before its definition.
            DataError: There are more rows, or instruments, than a table can have.
        """
        cells, self._over = self._options.cut(cells)
        early = 0
        if self._options.start is not None:
            late = (cells["cells"] > 0) & (cells["ts_recv"] >= self._options.start)
            early = int(np.argmax(late)) if late.any() else len(cells)
            self.slots.learn(cells[:early])
        array, at, why = words(cells), early, flow.ROWS_FULL
        while why != flow.DONE:
            at, self._now, self._written, why = bars.fold_bars(
                self.slots.array, self._bars, array, at, self._now, self._out, self._written
            )
            if why == flow.ROWS_FULL:
                self._keep()
            elif why == flow.NEEDS_SLOT:
                slot = self.slots.take(int(cells["instrument"][at]))
                if slot is not None:
                    instrument = self.slots.instruments[slot]
                    bars.define_bars(self._bars, slot, self._options.kind(), self._options.measure(instrument))
            elif why == flow.DEFINITION:
                length = int(cells["cells"][at])
                self.slots.learn(cells[at : at + length])
                at += length
        return not self._over

    def finish(self) -> None:
        """End the bars that have begun."""
        self._keep()
        if self._over and self._options.end is not None:
            self._now = max(self._now, self._options.end)
        self._written = int(bars.finish_bars(self._bars, self._now, self._out, 0))
        self._keep()

    def table(self) -> pl.DataFrame:
        """All bars, by time, symbol and venue."""
        rows = np.concatenate([np.zeros((0, bars.BAR_COLUMNS), np.int64), *self._parts])
        ids = self.slots.ids(rows[:, bars.SLOT])
        dictionary, units = self.slots.dictionary, Units(self.slots, ids)
        notional = rows[:, bars.NOTIONAL : bars.NOTIONAL + 2]
        columns: Columns = {
            **moment_columns("begin", rows[:, bars.BEGIN]),
            **moment_columns("end", rows[:, bars.END]),
            "symbol": dictionary.symbols(ids),
            "venue": units.venues,
            "complete": rows[:, bars.COMPLETE] != 0,
        }
        prices = (("open", bars.OPEN), ("high", bars.HIGH), ("low", bars.LOW), ("close", bars.CLOSE))
        for name, column in prices:
            columns |= dictionary.price(name, ids, rows[:, column])
        columns |= dictionary.size("volume", ids, rows[:, bars.VOLUME])
        columns["trades"] = rows[:, bars.TRADES]
        columns |= dictionary.price("vwap", ids, _rounded(notional, rows[:, bars.VOLUME]))
        columns["vwap"] = units.prices(quotients(notional, rows[:, bars.VOLUME]))
        columns |= dictionary.size("buy_volume", ids, rows[:, bars.BUY_VOLUME])
        columns |= dictionary.size("sell_volume", ids, rows[:, bars.SELL_VOLUME])
        ones = np.ones(len(rows), np.int64)
        columns["notional"] = units.sizes(units.prices(quotients(notional, ones))) * units.multiplier
        return finish(columns).sort(["begin_ns", "symbol", "venue"], maintain_order=True)

    def _keep(self) -> None:
        self._kept += self._written
        if self._kept > ROWS_MAX:
            raise DataError(f"a table of more than {ROWS_MAX} bars", hint="larger bars, or one instrument")
        if self._written:
            self._parts.append(self._out[: self._written].copy())
        self._written = 0


async def read_bars(tape: Log, options: BarsOptions) -> Table:
    """The bars of a tape, a frame at a time.

    Raises:
        MissingError: The tape defines no such symbol.
    """
    builder = BarsBuilder(options)
    await fold_log(builder, tape)
    return Table(builder.table())


def _rounded(halves: Ints, divisors: Ints) -> Ints:
    """128-bit integers over others, to the nearest whole, half up."""
    pairs = zip(halves.tolist(), divisors.tolist(), strict=True)
    return np.array([(2 * whole(*pair) + divisor) // (2 * divisor) for pair, divisor in pairs], np.int64)
