"""Measures and flows of real recordings: an excerpt against the slow oracle, the whole day against plain sums."""

from pathlib import Path

import numpy as np
import pytest

from tapehouse.book import define, flow, make_books
from tapehouse.book.reference import ReferenceBooks
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.feeds import open_feed
from tapehouse.market import Action, Cells, Kind, words
from tests.support.analytics_oracle import fold
from tests.support.analytics_rows import assert_row

EXCERPT = 2_500  # records
TRADES_BEFORE = 1_000
SOURCES = {
    "esh4": ("dbn", "databento/nautilus/esh4-glbx-mdp3-20231225.mbo.dbn.zst", 10 * NS_PER_SECOND),
    "amzn": ("lobster", "lobster/LOBSTER_SampleFile_AMZN_2012-06-21_5.zip", 10 * NS_PER_SECOND),
}
LEVELS, BPS = 5, 10


def day_of(market_data: Path, name: str) -> tuple[Cells, int]:
    """The cells of the busiest instrument, and its tick."""
    format_name, place, _ = SOURCES[name]
    feed = open_feed(format_name, [market_data / place])
    cells = np.concatenate(list(feed.batches()))
    busiest = int(np.bincount(cells["instrument"][cells["cells"] > 0]).argmax())
    return cells[cells["instrument"] == busiest], next(i.tick_size for i in feed.instruments if i.id == busiest)


def rows_of(cells: Cells, tick: int, every: int):
    books = make_books(1)
    define(books, 0, tick)
    slots = np.full(int(cells["instrument"][0]) + 1, 0, np.int64)
    state = flow.make_flow(1, every=every, sample=every // 10, recovery=every // 4, levels=LEVELS, bps=BPS)
    out = flow.make_rows(100_000)
    at, rows, why = flow.fold_flow(books, slots, state, words(cells), 0, out, 0)
    assert (at, why) == (len(cells), flow.DONE)
    rows, why = flow.finish_flow(books, state, 0, int(state.terms[flow.NOW]), out, rows)
    assert why == flow.DONE
    return out.exact[:rows], out.reals[:rows]


@pytest.mark.parametrize("name", SOURCES)
def test_an_excerpt_equals_the_oracle(market_data: Path, name: str) -> None:
    cells, tick = day_of(market_data, name)
    begin = int(np.flatnonzero(cells["action"] == Action.TRADE)[TRADES_BEFORE])
    cells = cells[begin : begin + EXCERPT]  # Books that begin in the middle of a day know some orders and not others.
    every = SOURCES[name][2]
    reference = ReferenceBooks(1, orders=1 << 16, levels=1 << 16)
    reference.define(0, tick)
    slots = [0] * (int(cells["instrument"][0]) + 1)
    oracle = fold(reference, cells, slots, every=every, sample=every // 10, recovery=every // 4)[0]
    exact, reals = rows_of(cells, tick, every)
    assert len(exact) == len(oracle.ended) > 5
    for one, other, ended in zip(exact, reals, oracle.ended, strict=True):
        assert_row(one, other, *ended, levels=LEVELS, bps=BPS)
    sums = exact[:, flow.ROW_SUMS :]
    assert (sums[:, flow.OFI] != 0).sum() > 3
    assert sums[:, flow.TAKEN].sum() > sums[:, flow.RESTORED].sum() > 0
    assert np.isfinite(reals[:, flow.ROW_LAMBDA]).sum() > 3


@pytest.mark.parametrize("name", SOURCES)
def test_a_whole_day_adds_up(market_data: Path, name: str) -> None:
    cells, tick = day_of(market_data, name)
    exact, reals = rows_of(cells, tick, 60 * NS_PER_SECOND)
    sums = exact[:, flow.ROW_SUMS :]
    told = (cells["cells"] > 0) & ((cells["action"] == Action.TRADE) | (cells["kind"] == Kind.TRADE))
    trades = cells[told]
    assert sums[:, flow.TRADES].sum() == len(trades) > 2_500
    assert sums[:, flow.VOLUME].sum() == trades["size"].sum()
    assert sums[:, flow.RECORDS].sum() == (cells["cells"] > 0).sum()
    assert (np.diff(exact[:, flow.ROW_BEGIN]) == 60 * NS_PER_SECOND).all()
    # Prices follow the flow: in most minutes with both, impact is positive (Cont, Kukanov and Stoikov 2014).
    lambdas = reals[np.isfinite(reals[:, flow.ROW_LAMBDA]), flow.ROW_LAMBDA]
    assert (lambdas > 0).mean() > 0.6
    moved = np.diff(exact[:, flow.ROW_MEASURES + 5].astype(np.float64))
    used = (exact[1:, flow.ROW_MEASURES + 12] == 2) & (exact[:-1, flow.ROW_MEASURES + 12] == 2)
    together = np.corrcoef(moved[used], sums[1:, flow.OFI][used])[0, 1]
    assert together > 0.5, together
