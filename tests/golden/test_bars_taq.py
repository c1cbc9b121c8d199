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
from tapehouse.core.units import NS_PER_SECOND, PRICE_EXPONENT, parse_time_ns
from tapehouse.feeds import open_feed
from tapehouse.market import Cells, Kind, words

NS_PER_MS = 1_000_000
MIDNIGHT = parse_time_ns("2013-10-08T00:00:00-04:00")  # in New York, from which the published times count
PUBLISHED_UNIT = 10**5  # of prices, in ours: 1e-4 dollars
SLOTS = np.zeros(64, np.int64)  # the consolidated tape: every exchange's trades into one series of bars
# span: seconds, published bars, how many of them have our volume, and how many all of ours.
TRUTH = {"minute": (60, 424, 420, 228), "second": (1, 6_826, 5_833, 4_647)}


def rows_in(path: Path) -> pl.DataFrame:
    with zipfile.ZipFile(path) as archive:
        text = archive.read(archive.namelist()[0])
    return pl.read_csv(io.BytesIO(text), has_header=False)


@pytest.fixture(scope="module")
def trades(market_data: Path) -> Cells:
    """The day's trades, of all exchanges, as the feed gives them."""
    feed = open_feed("taq", [market_data / "taq_lean" / "ibm_tick_20131008_trade.zip"])
    assert {item.price_exponent for item in feed.instruments} == {PRICE_EXPONENT}
    cells = np.concatenate(list(feed.batches()))
    return cells[(cells["kind"] == Kind.TRADE) & (cells["cells"] > 0)]


def bars_of(cells: Cells, by: bars.By, size: int) -> np.ndarray:
    state = bars.make_bars(1)
    bars.define_bars(state, 0, by, size)
    out = np.zeros((len(cells) + 2, bars.BAR_COLUMNS), np.int64)
    _, now, rows, why = bars.fold_bars(SLOTS, state, words(cells), 0, 0, out, 0)
    assert why == flow.DONE
    return out[: bars.finish_bars(state, now, out, rows)]


@pytest.mark.parametrize("span", TRUTH)
def test_bars_by_time_are_the_published_ones(trades: Cells, market_data: Path, span: str) -> None:
    seconds, published, same_volume, same_all = TRUTH[span]
    truth = rows_in(market_data / "taq_lean" / f"ibm_{span}_20131008_trade.zip").to_numpy()
    ours = bars_of(trades, bars.By.TIME, seconds * NS_PER_SECOND)
    assert len(truth) == published
    truth[:, 0] = MIDNIGHT + truth[:, 0] * NS_PER_MS
    truth[:, 1:5] *= PUBLISHED_UNIT
    columns = [bars.OPEN, bars.HIGH, bars.LOW, bars.CLOSE, bars.VOLUME]
    found = {int(row[bars.BEGIN]): row[columns].tolist() for row in ours}
    pairs = [(found[row[0]], row[1:]) for row in truth.tolist() if row[0] in found]
    assert sum(one[-1] == other[-1] for one, other in pairs) == same_volume
    assert sum(one == other for one, other in pairs) == same_all
    late = trades.copy()
    late["ts_recv"] += NS_PER_SECOND
    shifted = {int(row[bars.BEGIN]): row[bars.VOLUME] for row in bars_of(late, bars.By.TIME, seconds * NS_PER_SECOND)}
    still = sum(shifted.get(int(row[0])) == row[5] for row in truth)
    assert still < 0.6 * same_volume, "a second off, many bars are others"


@pytest.mark.parametrize(("by", "size"), [(bars.By.TICK, 100), (bars.By.VOLUME, 10_000), (bars.By.DOLLAR, 10**15)])
def test_other_bars_hold_the_whole_day(trades: Cells, by: bars.By, size: int) -> None:
    rows = bars_of(trades, by, size)
    assert rows[:, bars.VOLUME].sum() == trades["size"].sum()
    assert rows[:, bars.TRADES].sum() == len(trades)
    assert rows[:, bars.COMPLETE].tolist() == [1] * (len(rows) - 1) + [0]
    measure = {bars.By.TICK: bars.TRADES, bars.By.VOLUME: bars.VOLUME, bars.By.DOLLAR: bars.NOTIONAL + 1}[by]
    assert (rows[:-1, measure] >= size).all()
    signed = rows[:, bars.BUY_VOLUME].sum() + rows[:, bars.SELL_VOLUME].sum()
    assert signed > 0.99 * trades["size"].sum(), "the tick rule signs all but the first prints"
