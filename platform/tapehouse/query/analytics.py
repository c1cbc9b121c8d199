"""Measures of books and flows between them, a row for each instrument and interval of engine time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from tapehouse.book import BookState, clear, define, flow, make_books, measures
from tapehouse.book.wide import whole
from tapehouse.core.errors import DataError, UsageError
from tapehouse.core.units import NS_PER_SECOND, UNDEFINED
from tapehouse.log import Log
from tapehouse.market import Cells, Confidence, Instrument, words
from tapehouse.query.columns import Columns, Ints, finish
from tapehouse.query.folding import fold_log
from tapehouse.query.slots import SLOTS_MAX, Slots
from tapehouse.query.span import Span, parse_span_ns
from tapehouse.query.table import Table

ORDERS_MAX = 1 << 18  # live orders of all books
ROWS_MAX = 5_000_000  # of a table
ROWS_AT_ONCE = 1 << 13
SAMPLES = 10  # of an interval, where nobody says
LEVELS_MAX = 1_000  # of a depth
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyticsOptions(Span):
    """What is measured.

    Args:
        every: An interval, such as `1s`.
        sample: Between looks at the mid for volatility and impact; a tenth of `every` by default, which it divides.
        recovery: After a trade, when what it took is looked for; `every` by default.
        levels: Of a side are its depth.
        bps: Basis points of the mid that are near.
        symbol: Only this instrument.
        start, end: Engine time, UTC ns: intervals that begin at or after `start`, records before `end`.
        ladders: Keep the best levels of each row too, for a picture.
    """

    every: str = "1s"
    sample: str | None = None
    recovery: str | None = None
    levels: int = 5
    bps: int = 10
    symbol: str | None = None
    ladders: bool = False

    def flow(self) -> flow.Flow:
        """The state to begin with; raises UsageError where something cannot be."""
        every = parse_span_ns(self.every)
        if self.sample is None and every % SAMPLES:
            raise UsageError(f"{self.every} has no tenth in whole ns", hint="say how often the mid is sampled")
        if not 1 <= self.levels <= LEVELS_MAX:
            raise UsageError(f"a depth of {self.levels} levels", hint=f"1 to {LEVELS_MAX}")
        return flow.make_flow(
            SLOTS_MAX,
            every=every,
            sample=every // SAMPLES if self.sample is None else parse_span_ns(self.sample),
            recovery=every if self.recovery is None else parse_span_ns(self.recovery),
            levels=self.levels,
            bps=self.bps,
            start=0 if self.start is None else self.start,
        )


class AnalyticsBuilder:
    """Takes cells in their order, and has a table at the end."""

    def __init__(self, options: AnalyticsOptions) -> None:
        self.slots = Slots(options.symbol)
        self._options = options
        self._flow = options.flow()
        self._books = make_books(SLOTS_MAX, orders=ORDERS_MAX)
        self._out = flow.make_rows(ROWS_AT_ONCE, ladder_levels=options.levels if options.ladders else 0)
        self._written = 0
        self._parts: list[tuple[Ints, Floats, Ints]] = []
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
        array, at, why = words(cells), 0, flow.ROWS_FULL
        while why != flow.DONE:
            at, self._written, why = flow.fold_flow(
                self._books, self.slots.array, self._flow, array, at, self._out, self._written
            )
            if why == flow.ROWS_FULL:
                self._keep()
            elif why == flow.NEEDS_SLOT:
                slot = self.slots.take(int(cells["instrument"][at]))
                if slot is not None:
                    define(self._books, slot, self.slots.instruments[slot].tick_size)
            elif why == flow.DEFINITION:
                length = int(cells["cells"][at])
                for slot in self.slots.learn(cells[at : at + length]):
                    clear(self._books, slot)  # A book of another tick begins empty.
                    self._flow.state[slot, flow.RETOLD] = 1
                    define(self._books, slot, self.slots.instruments[slot].tick_size)
                at += length
        return not self._over

    def finish(self) -> None:
        """End all intervals at the end, or the last moment that was seen, the last one even where it is not over."""
        now = int(self._flow.terms[flow.NOW])
        if self._over and self._options.end is not None:
            now = max(now, self._options.end)
        for slot in range(len(self.slots.instruments)):
            why = flow.ROWS_FULL
            while why != flow.DONE:
                self._written, why = flow.finish_flow(self._books, self._flow, slot, now, self._out, self._written)
                if why == flow.ROWS_FULL:
                    self._keep()
        self._keep()

    def table(self) -> pl.DataFrame:
        """All rows, by time, symbol and venue."""
        exact, reals, _ = self._rows()
        return _frame(self.slots, self._options, exact, reals)

    def ladders(self) -> tuple[Ints, Ints]:
        """The begin of each row, and the best levels at its end, shape (rows, 2, levels, 3); as `view.ladder`."""
        exact, _, ladders = self._rows()
        return exact[:, flow.ROW_BEGIN], ladders

    def _rows(self) -> tuple[Ints, Floats, Ints]:
        empty = flow.make_rows(0, ladder_levels=self._out.ladders.shape[2])
        parts = [(empty.exact, empty.reals, empty.ladders), *self._parts]
        exact, reals, ladders = (np.concatenate([part[at] for part in parts]) for at in range(3))
        return exact, reals, ladders

    def _keep(self) -> None:
        rows, out = self._written, self._out
        self._kept += rows
        if self._kept > ROWS_MAX:
            raise DataError(f"a table of more than {ROWS_MAX} rows", hint="longer intervals, or one instrument")
        if rows:
            self._parts.append((out.exact[:rows].copy(), out.reals[:rows].copy(), out.ladders[:rows].copy()))
        self._written = 0


async def read_analytics(tape: Log, options: AnalyticsOptions) -> Table:
    """Fold a tape, a frame at a time.

    Raises:
        MissingError: The tape defines no such symbol.
    """
    builder = AnalyticsBuilder(options)
    await fold_log(builder, tape)
    return Table(builder.table())


def _frame(slots: Slots, options: AnalyticsOptions, exact: Ints, reals: Floats) -> pl.DataFrame:
    book, sums = exact[:, flow.ROW_MEASURES :], exact[:, flow.ROW_SUMS :]
    ids = slots.ids(exact[:, flow.ROW_SLOT])
    units = Units(slots, ids)
    dictionary = slots.dictionary
    begin, end = exact[:, flow.ROW_BEGIN], exact[:, flow.ROW_END]
    sides = (("bid", 0), ("ask", 1))
    columns: Columns = {
        **moment_columns("begin", begin),
        **moment_columns("end", end),
        "symbol": dictionary.symbols(ids),
        "venue": units.venues,
        "complete": end - begin == parse_span_ns(options.every),
        "state": pl.Series([BookState(each).name.lower() for each in book[:, measures.MEASURED_STATE].tolist()]),
        "confidence": pl.Series([Confidence(each).name.lower() for each in sums[:, flow.CONFIDENCE_WORST].tolist()]),
        "records": sums[:, flow.RECORDS],
    }
    for name, side in sides:
        columns |= dictionary.price(name, ids, book[:, measures.BID_PRICE + 2 * side])
        columns |= dictionary.size(f"{name}_size", ids, book[:, measures.BID_SIZE + 2 * side])
        columns[f"{name}_orders"] = book[:, measures.BID_ORDERS + side]
        columns |= dictionary.size(f"{name}_depth", ids, book[:, measures.BID_DEPTH + side])
        columns |= dictionary.size(f"{name}_near", ids, book[:, measures.BID_NEAR + side])
    middle = book[:, measures.TWICE_MID]
    columns |= dictionary.price("spread", ids, book[:, measures.SPREAD])
    columns["mid"] = np.where(middle == UNDEFINED, np.nan, units.prices(middle / 2))
    columns["microprice"] = units.prices(reals[:, measures.MICROPRICE])
    columns["imbalance"] = reals[:, measures.IMBALANCE]
    columns["depth_imbalance"] = reals[:, measures.DEPTH_IMBALANCE]
    columns |= dictionary.size("order_flow_imbalance", ids, sums[:, flow.OFI])
    columns["trades"] = sums[:, flow.TRADES]
    for name, column in (("volume", flow.VOLUME), ("buy_volume", flow.BUY_VOLUME), ("sell_volume", flow.SELL_VOLUME)):
        columns |= dictionary.size(name, ids, sums[:, column])
    columns["vwap"] = units.prices(quotients(sums[:, flow.NOTIONAL : flow.NOTIONAL + 2], sums[:, flow.VOLUME]))
    columns["twap"] = units.prices(quotients(sums[:, flow.MID_TIME : flow.MID_TIME + 2], 2 * sums[:, flow.MID_NS]))
    columns["mid_seconds"] = sums[:, flow.MID_NS] / NS_PER_SECOND
    returns, variance = sums[:, flow.RETURNS], reals[:, flow.ROW_VARIANCE]
    columns["returns"] = returns
    columns["realised_volatility"] = np.where(returns > 0, np.sqrt(variance), np.nan)
    columns["kyle_lambda"] = units.prices(reals[:, flow.ROW_LAMBDA]) / units.sizes(np.ones(len(exact)))
    taken = sums[:, flow.TAKEN].astype(np.float64)
    columns |= dictionary.size("taken", ids, sums[:, flow.TAKEN])
    columns["resilience"] = sums[:, flow.RESTORED] / np.where(taken > 0, taken, np.nan)
    columns["unfollowed"] = sums[:, flow.UNFOLLOWED]
    return finish(columns).sort(["begin_ns", "symbol", "venue"], maintain_order=True)


class Units:
    """What each row's instrument makes of its numbers."""

    def __init__(self, slots: Slots, ids: Ints) -> None:
        known = [slots.dictionary.instruments[number] for number in ids.tolist()]
        self._price = self._scale([instrument.price_exponent for instrument in known])
        self._size = self._scale([instrument.size_exponent for instrument in known])
        self.venues = pl.Series([instrument.venue for instrument in known], dtype=pl.String)
        self.multiplier = np.array([float(instrument.multiplier) for instrument in known])

    @staticmethod
    def _scale(exponents: list[int]) -> tuple[Floats, Floats]:
        over = np.array([float(10 ** max(0, -each)) for each in exponents])
        return over, np.array([float(10 ** max(0, each)) for each in exponents])

    def prices(self, values: Floats) -> Floats:
        """Of price units."""
        found: Floats = values / self._price[0] * self._price[1]
        return found

    def sizes(self, values: Floats) -> Floats:
        """Of size units."""
        found: Floats = values / self._size[0] * self._size[1]
        return found


def moment_columns(name: str, times: Ints) -> Columns:
    """A time as `<name>` in microseconds and `<name>_ns`, exact."""
    exact = pl.Series(times.astype(np.int64))
    return {name: (exact // 1000).cast(pl.Datetime("us", "UTC")), f"{name}_ns": exact}


def quotients(halves: Ints, divisors: Ints) -> Floats:
    """128-bit integers over others, rounded once; NaN over 0."""
    pairs = zip(halves.tolist(), divisors.tolist(), strict=True)
    return np.array([whole(*pair) / divisor if divisor else np.nan for pair, divisor in pairs], np.float64)
