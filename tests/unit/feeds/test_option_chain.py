"""Option quotes that were made up: what they refer to, that they do not contradict each other, and where they stand."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from tapehouse.core import UNDEFINED, UsageError, format_time_ns
from tapehouse.feeds import GeneratedDay, SeededChain
from tapehouse.feeds.option_chain import RECORDS_PER_QUOTE
from tapehouse.feeds.option_quotes import YEAR_NS
from tapehouse.market import (
    OPTION_EXTENSION,
    Action,
    Cells,
    Flag,
    Instrument,
    Kind,
    Side,
    empty_cells,
    record_starts,
)

DAY = GeneratedDay(cells=40_000)


class ListFeed:
    """A feed over batches made by hand."""

    def __init__(self, *batches: Cells, price_exponent: int = -9) -> None:
        self._batches = batches
        self.instruments = (Instrument(id=4, symbol="XY", price_exponent=price_exponent),)
        self.name = "list"
        self.cells_estimate = sum(map(len, batches))

    def batches(self) -> Iterator[Cells]:
        yield from self._batches


def record(kind: Kind, price: int, *, action: Action = Action.TRADE, side: Side = Side.BID, flags: int = 128) -> Cells:
    cells = empty_cells(2 if kind == Kind.QUOTE else 1)
    cells["ts_event"] = cells["ts_recv"] = 1_700_000_000_000_000_000
    cells["instrument"], cells["kind"], cells["action"], cells["side"] = 4, kind, action, side
    cells["price"], cells["size"], cells["flags"] = price, 1, flags
    cells["cells"][0] = len(cells)
    return cells


def quotes_of(cells: Cells) -> Cells:
    starts = np.flatnonzero((cells["kind"] == Kind.OPTION_QUOTE) & (cells["cells"] > 0))
    assert (cells["cells"][starts] == 3).all()
    return starts


@pytest.fixture(scope="module")
def cells() -> Cells:
    return np.concatenate(list(DAY.batches()))


def test_the_chain() -> None:
    chain = DAY.instruments[3:]
    assert len(chain) == 3 * 7 * 2
    assert [item.id for item in DAY.instruments] == list(range(1, 46))
    assert {item.underlying for item in chain} == {1}
    assert {item.right for item in chain} == {"C", "P"}
    assert {item.asset_class for item in chain} == {"option"}
    expiries = sorted({item.expiry_ns for item in chain})
    assert [format_time_ns(ns)[:16] for ns in expiries] == ["2026-01-16T21:00", "2026-02-20T21:00", "2026-03-20T20:00"]
    strikes = sorted({item.strike for item in chain})
    assert set(np.diff(strikes).tolist()) == {2_500_000_000}
    assert strikes[3] == 100_000_000_000
    assert chain[0].symbol == "ALFA 260116C92.5"
    assert len({item.symbol for item in chain}) == len(chain)


def test_the_feed_s_own_cells_pass_through(cells: Cells) -> None:
    shares = np.concatenate(list(GeneratedDay(cells=40_000 * 32 // 35, options=False).batches()))
    assert cells[cells["kind"] != Kind.OPTION_QUOTE].tobytes() == shares.tobytes()


def test_where_quotes_stand(cells: Cells) -> None:
    starts = quotes_of(cells)
    assert len(starts) > 900
    assert (cells["flags"][starts - 1] & int(Flag.LAST) != 0).all()  # no event is split
    assert (cells["flags"][starts] == int(Flag.LAST | Flag.SYNTHETIC)).all()
    gaps = np.diff(starts) - 3
    assert gaps.min() >= RECORDS_PER_QUOTE
    assert gaps.max() <= RECORDS_PER_QUOTE + 18  # the rest of the event
    assert (np.diff(cells["ts_recv"][cells["cells"] > 0]) >= 0).all()
    assert cells["sequence"][starts].tolist() == list(range(1, len(starts) + 1))
    assert cells["instrument"][starts[:43]].tolist() == [*range(4, 46), 4]


def test_prices_are_black_s(cells: Cells) -> None:
    """Against the standard library, to a part in 10^10 of the forward."""
    terms = {item.id: item for item in DAY.instruments}
    for start in quotes_of(cells).tolist()[::7]:
        option = terms[int(cells["instrument"][start])]
        extension = cells[start + 2 : start + 3].view(OPTION_EXTENSION)[0]
        forward, volatility = int(extension["forward"]), int(extension["mark_volatility"]) / 1e9
        years = (option.expiry_ns - int(cells["ts_recv"][start])) / YEAR_NS
        deviation = volatility * math.sqrt(years)
        d1 = math.log(forward / option.strike) / deviation + deviation / 2
        call = forward * normal_cdf(d1) - option.strike * normal_cdf(d1 - deviation)
        value = call if option.right == "C" else call - forward + option.strike
        assert int(extension["mark"]) == pytest.approx(value, abs=max(forward * 1e-8, 1))
        bid, ask = int(cells["price"][start]), int(cells["price"][start + 1])
        assert ask % option.tick_size == 0
        assert ask >= int(extension["mark"]) > 0
        assert int(extension["ask_volatility"]) > int(extension["mark_volatility"])
        if bid != UNDEFINED:
            assert bid % option.tick_size == 0
            assert 0 < bid <= int(extension["mark"])
            assert int(extension["bid_volatility"]) < int(extension["mark_volatility"])
        else:
            assert cells["size"][start] == 0


def normal_cdf(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2


def test_a_smile_without_arbitrage() -> None:
    """At one moment: calls fall and are convex in the strike, variance grows with the expiry, and puts pay the skew."""
    feed = ListFeed(*[record(Kind.TRADE, 100 * 10**9)] * 42 * 3)
    chained = SeededChain(feed, 3, records_per_quote=1)
    cells = np.concatenate(list(chained.batches()))
    terms = {item.id: item for item in chained.chain}
    marks: dict[tuple[int, int, str], tuple[int, float]] = {}
    for start in quotes_of(cells).tolist():
        option = terms[int(cells["instrument"][start])]
        extension = cells[start + 2 : start + 3].view(OPTION_EXTENSION)[0]
        years = (option.expiry_ns - int(cells["ts_recv"][start])) / YEAR_NS
        variance = (int(extension["mark_volatility"]) / 1e9) ** 2 * years
        marks[option.expiry_ns, option.strike, option.right] = (int(extension["mark"]), variance)
    expiries = sorted({key[0] for key in marks})
    strikes = sorted({key[1] for key in marks})
    for expiry in expiries:
        calls = [marks[expiry, strike, "C"][0] for strike in strikes]
        assert (np.diff(calls) < 0).all()
        assert (np.diff(calls, 2) > 0).all()
        for strike in strikes:
            parity = marks[expiry, strike, "C"][0] - marks[expiry, strike, "P"][0]
            assert abs(parity - (100 * 10**9 - strike)) <= 2
        assert marks[expiry, strikes[0], "P"][1] > marks[expiry, strikes[-1], "C"][1]
    for strike in strikes:
        assert (np.diff([marks[expiry, strike, "C"][1] for expiry in expiries]) > 0).all()


def test_any_split_into_batches_gives_the_same_quotes() -> None:
    whole = np.concatenate(list(GeneratedDay(cells=10_000, options=False).batches()))
    instruments = GeneratedDay(cells=10_000, options=False).instruments
    rng = np.random.Generator(np.random.PCG64(5))
    results = []
    for cuts in ([], [1, 2, 3, 500, 501], sorted(rng.integers(1, len(whole), 60).tolist())):
        feed = ListFeed(*np.split(whole, cuts))
        feed.instruments = instruments
        cells = np.concatenate(list(SeededChain(feed, 1).batches()))
        record_starts(cells)
        results.append(cells.tobytes())
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize(
    ("records", "reference"),
    [
        ([record(Kind.TRADE, 100_000)], 100_000),
        ([record(Kind.MBO, 100_000)], 100_000),
        ([record(Kind.TRADE, 100_000), record(Kind.TRADE, 100_400)], 100_100),
        ([record(Kind.QUOTE, 0)], None),
        ([record(Kind.MBO, 100_000, action=Action.ADD)], None),
        ([record(Kind.TRADE, UNDEFINED)], None),
        (
            [
                record(Kind.MBP, 99_000, action=Action.ADD),
                record(Kind.MBP, 101_000, action=Action.ADD, side=Side.ASK),
            ],
            100_000,
        ),
    ],
)
def test_what_moves_the_reference(records: list[Cells], reference: int | None) -> None:
    chained = SeededChain(ListFeed(np.concatenate(records)), records_per_quote=len(records))
    cells = np.concatenate(list(chained.batches()))
    if reference is None:
        assert chained.chain == ()
        assert cells.tobytes() == np.concatenate(records).tobytes()
        return
    (start,) = quotes_of(cells).tolist()
    assert cells[start + 2 : start + 3].view(OPTION_EXTENSION)["forward"][0] == reference


def test_the_mid_of_a_quote() -> None:
    quote = record(Kind.QUOTE, 99_000)
    quote["price"][1] = 101_001
    cells = np.concatenate(list(SeededChain(ListFeed(quote), records_per_quote=1).batches()))
    (start,) = quotes_of(cells).tolist()
    assert start == 2
    assert cells[start + 2 : start + 3].view(OPTION_EXTENSION)["forward"][0] == 100_000


def test_no_quote_inside_an_event_nor_after_the_expiry() -> None:
    inside = [record(Kind.TRADE, 10**11, flags=0)] * 5
    late = record(Kind.TRADE, 10**11)
    late["ts_recv"] += YEAR_NS
    chained = SeededChain(ListFeed(np.concatenate([*inside, late])), records_per_quote=1)
    assert len(np.concatenate(list(chained.batches()))) == 6


def test_wishes_that_cannot_be_granted() -> None:
    with pytest.raises(UsageError, match="no instrument 9"):
        SeededChain(ListFeed(), underlying=9)
    with pytest.raises(UsageError, match="records"):
        SeededChain(ListFeed(), records_per_quote=0)


def test_other_units_of_price() -> None:
    chained = SeededChain(ListFeed(record(Kind.TRADE, 6_012_345), price_exponent=-2), records_per_quote=1)
    strikes = sorted({item.strike for item in chained.chain})
    assert strikes[3] == 6_000_000
    assert {item.tick_size for item in chained.chain} == {1}
    assert len(np.concatenate(list(chained.batches()))) == 4
