"""Bars of a real day's trades are the bars that another pipeline published of the same ticks.

IBM, 2013-10-08: every print of the day, and second and minute bars that QuantConnect made of them. Their open, high,
low and close leave out prints with some sale conditions, by a rule that is not published; their volume leaves out few.
"""

import io
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tapehouse.book import bars, flow
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.market import Flag, Kind, Side, empty_cells, words

NS_PER_MS = 1_000_000
SLOTS = np.array([-1, 0], np.int64)
# span: seconds, published bars, how many of them have our volume, and how many all of ours.
TRUTH = {"minute": (60, 424, 420, 228), "second": (1, 6_826, 5_833, 4_647)}


def rows_in(path: Path) -> pl.DataFrame:
    with zipfile.ZipFile(path) as archive:
        text = archive.read(archive.namelist()[0])
    return pl.read_csv(io.BytesIO(text), has_header=False)


@pytest.fixture(scope="module")
def trades(market_data: Path):
    """The day's trades as cells; times are ns since midnight, prices in 1e-4 dollars."""
    ticks = rows_in(market_data / "taq_lean" / "ibm_tick_20131008_trade.zip")
    cells = empty_cells(len(ticks))
    cells["ts_recv"] = cells["ts_event"] = ticks[:, 0].to_numpy() * NS_PER_MS
    cells["price"], cells["size"] = ticks[:, 1].to_numpy(), ticks[:, 2].to_numpy()
    cells["kind"], cells["cells"], cells["instrument"] = Kind.TRADE, 1, 1
    cells["side"], cells["flags"] = Side.NONE, Flag.LAST
    return cells


def bars_of(cells, by: bars.By, size: int) -> np.ndarray:
    state = bars.make_bars(1)
    bars.define_bars(state, 0, by, size)
    out = np.zeros((len(cells) + 2, bars.BAR_COLUMNS), np.int64)
    _, now, rows, why = bars.fold_bars(SLOTS, state, words(cells), 0, 0, out, 0)
    assert why == flow.DONE
    return out[: bars.finish_bars(state, now, out, rows)]


@pytest.mark.parametrize("span", TRUTH)
def test_bars_by_time_are_the_published_ones(trades, market_data: Path, span: str) -> None:
    seconds, published, same_volume, same_all = TRUTH[span]
    truth = rows_in(market_data / "taq_lean" / f"ibm_{span}_20131008_trade.zip").to_numpy()
    ours = bars_of(trades, bars.By.TIME, seconds * NS_PER_SECOND)
    assert len(truth) == published
    found = {int(row[bars.BEGIN]): row for row in ours}
    columns = [bars.OPEN, bars.HIGH, bars.LOW, bars.CLOSE, bars.VOLUME]
    pairs = [(found[begin], row) for row in truth.tolist() if (begin := int(row[0]) * NS_PER_MS) in found]
    assert sum(one[bars.VOLUME] == other[5] for one, other in pairs) == same_volume
    assert sum(one[columns].tolist() == other[1:] for one, other in pairs) == same_all
    late = trades.copy()
    late["ts_recv"] += NS_PER_SECOND
    shifted = {int(row[bars.BEGIN]): row[bars.VOLUME] for row in bars_of(late, bars.By.TIME, seconds * NS_PER_SECOND)}
    still = sum(shifted.get(int(row[0]) * NS_PER_MS) == row[5] for row in truth)
    assert still < 0.6 * same_volume, "a second off, many bars are others"


@pytest.mark.parametrize(("by", "size"), [(bars.By.TICK, 100), (bars.By.VOLUME, 10_000), (bars.By.DOLLAR, 10**10)])
def test_other_bars_hold_the_whole_day(trades, by: bars.By, size: int) -> None:
    rows = bars_of(trades, by, size)
    assert rows[:, bars.VOLUME].sum() == trades["size"].sum()
    assert rows[:, bars.TRADES].sum() == len(trades)
    assert rows[:, bars.COMPLETE].tolist() == [1] * (len(rows) - 1) + [0]
    measure = {bars.By.TICK: bars.TRADES, bars.By.VOLUME: bars.VOLUME, bars.By.DOLLAR: bars.NOTIONAL + 1}[by]
    assert (rows[:-1, measure] >= size).all()
    signed = rows[:, bars.BUY_VOLUME].sum() + rows[:, bars.SELL_VOLUME].sum()
    assert signed > 0.99 * trades["size"].sum(), "the tick rule signs all but the first prints"
