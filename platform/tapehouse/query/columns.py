"""From cells to typed columns: times, symbols, exact integers and the doubles beside them, letters as words."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from tapehouse.core.units import UNDEFINED
from tapehouse.log import FrameHeader
from tapehouse.market import Action, Cells, Confidence, GapFold, Instrument, Kind, Side, read_definition, records_of

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Columns = dict[str, Any]

FIXED = "_fixed"  # ends the name of a column that holds the log's exact integer
_WORDS = 256


def _table(words: dict[int, str]) -> pl.Series:
    return pl.Series([words.get(code) for code in range(_WORDS)], dtype=pl.String)


KINDS = _table({int(kind): kind.name.lower() for kind in Kind})
ACTIONS = _table({int(action): action.name.lower() for action in Action})
CONFIDENCES = _table({int(each): each.name.lower() for each in Confidence})
SIDES = _table({int(Side.BID): "buy", int(Side.ASK): "sell"})


def words_of(table: pl.Series, codes: npt.NDArray[Any]) -> pl.Series:
    """The word that each code stands for; null for a code without one."""
    return table.gather(pl.Series(codes.astype(np.uint32)))


def time_columns(times: npt.NDArray[Any]) -> Columns:
    """`ts` in microseconds, which SQL can calculate with, and `ts_ns`, exact."""
    exact = pl.Series("ts_ns", times.astype(np.int64))
    return {"ts": (exact // 1000).cast(pl.Datetime("us", "UTC")), "ts_ns": exact}


def finish(columns: Columns) -> pl.DataFrame:
    """A frame in which what is undefined is null."""
    frame = pl.DataFrame(columns)
    exact = [name for name in frame.columns if name.endswith(FIXED)]
    return frame.with_columns(
        pl.col(pl.Float64).fill_nan(None),
        *(pl.when(pl.col(name) != UNDEFINED).then(pl.col(name)).alias(name) for name in exact),
    )


class Dictionary:
    """The instruments that a log defines, and what was known of them when: ids to symbols, units to numbers."""

    def __init__(self) -> None:
        self.instruments: dict[int, Instrument] = {}
        self.gaps = GapFold()

    def learn(self, header: FrameHeader, cells: Cells) -> None:
        """Take up the definitions and GAP records of the log's next frame."""
        self.gaps.take(cells, header.first_ordinal)
        for _, record in records_of(cells, Kind.DEFINITION):
            instrument = read_definition(record)
            self.instruments[instrument.id] = instrument

    def defines(self, symbol: str) -> bool:
        """Whether an instrument has this symbol."""
        return any(instrument.symbol == symbol for instrument in self.instruments.values())

    def symbols(self, ids: npt.NDArray[Any]) -> pl.Series:
        """The symbol of each id; null where nothing defined it."""
        unique, places = np.unique(ids, return_inverse=True)
        known = [self.instruments.get(number) for number in unique.tolist()]
        names = pl.Series([None if found is None else found.symbol for found in known], dtype=pl.String)
        return names.gather(pl.Series(places.astype(np.uint32)))

    def confidence(self, ids: npt.NDArray[Any], ordinals: Ints) -> pl.Series:
        """What the data of each id was worth at a place of the log: `good`, `suspect` or `rebuilding`."""
        return words_of(CONFIDENCES, self.gaps.confidence(ids, ordinals))

    def price(self, name: str, ids: npt.NDArray[Any], fixed: npt.NDArray[Any]) -> Columns:
        """A price as `<name>` and `<name>_fixed`."""
        return self._pair(name, ids, fixed, "price_exponent")

    def size(self, name: str, ids: npt.NDArray[Any], fixed: npt.NDArray[Any]) -> Columns:
        """A size as `<name>` and `<name>_fixed`."""
        return self._pair(name, ids, fixed, "size_exponent")

    def money(self, name: str, ids: npt.NDArray[Any], fixed: npt.NDArray[Any]) -> Columns:
        """Cash in the instrument's currency as `<name>` and `<name>_fixed`."""
        return self._pair(name, ids, fixed, "currency_exponent")

    def _pair(self, name: str, ids: npt.NDArray[Any], fixed: npt.NDArray[Any], exponent: str) -> Columns:
        exact = fixed.astype(np.int64)
        return {name: self._scaled(ids, exact, exponent), f"{name}{FIXED}": exact}

    def _scaled(self, ids: npt.NDArray[Any], fixed: Ints, exponent: str) -> Floats:
        unique, places = np.unique(ids, return_inverse=True)
        known = [self.instruments.get(number) for number in unique.tolist()]
        exponents = [0 if found is None else int(getattr(found, exponent)) for found in known]
        # Division by an exact power of ten rounds once: 585.33 on the tape is the double that 585.33 is written as.
        divisors = np.array([float(10 ** max(0, -number)) for number in exponents], np.float64)
        factors = np.array([float(10 ** max(0, number)) for number in exponents], np.float64)
        values: Floats = fixed.astype(np.float64) / divisors[places] * factors[places]
        values[fixed == UNDEFINED] = np.nan
        return values
