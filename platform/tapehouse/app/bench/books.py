"""Order books: one update by order and by price, the best prices and ten levels after it, from kernels and from Python.

The records are those of each data set's busiest instrument. Market by price is derived from the same records: after
each of them, the sizes of the levels that it touched; the two books must end alike, or nothing is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt

from tapehouse.app.bench.book_loops import (
    apply_timed,
    depth_timed,
    derive_levels,
    top_timed,
)
from tapehouse.app.bench.material import Material
from tapehouse.app.bench.measure import Goal, Measure, Peer, measure, not_measured
from tapehouse.app.bench.peer import answered
from tapehouse.app.bench.registry import Options
from tapehouse.app.bench.timer import middle, new_histogram
from tapehouse.book import ASK, BID, Books, apply, apply_cells, best_price, counts, define, depth, levels, make_books
from tapehouse.core.check import check
from tapehouse.core.units import UNDEFINED
from tapehouse.market import Action, Cells, Instrument, Kind, Side, words

WINDOW = 1 << 20  # ticks: wide enough for every recording's stray prices
ORDERS = 1 << 17
DEPTH = 10
CALLS = 50_000  # from Python
PEER_RECORDS_MAX = 300_000  # of a peer in plain Python
FENCED = "single updates between fences"

Words = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Flow:
    """One instrument's records, by order and by price."""

    name: str
    instrument: Instrument
    by_order: Words
    by_price: Words
    by_price_with_trades: Words

    @property
    def tick(self) -> int:
        """The price of a tick."""
        return self.instrument.tick_size

    def books(self) -> Books:
        """Fresh books for it, every page of them touched."""
        books = make_books(1, orders=ORDERS, levels=WINDOW)
        define(books, 0, self.tick)
        apply_cells(books, SLOTS, self.by_order)  # Warms the pages; the clear forgets the orders.
        apply(books, 0, CLEAR, 0)
        books.stats[:] = 0
        return books


def _clear() -> Words:
    cell = np.zeros((1, 8), np.int64)
    cell[0, 6] = (int(Kind.MBO) << 48) | (1 << 56)
    cell[0, 7] = int(Action.CLEAR)
    return cell


SLOTS = np.array([0], np.int64)
CLEAR = _clear()


def run(options: Options) -> Iterator[Measure]:
    """All rows, a data set at a time."""
    for material in options.materials:
        if material.feed is None:
            yield not_measured("L3 and L2 update", "ns", material.missing, data=material.name)
            continue
        options.on_step(f"{material.name}: derive the levels")
        flow = derive(material)
        yield _update(options, flow, flow.by_order, "L3 update", 80.0, _plain_peer(options, flow, flow.by_order, "L3"))
        yield _update(options, flow, flow.by_price, "L2 update", 20.0, _plain_peer(options, flow, flow.by_price, "L2"))
        yield from _replayed(options, flow)
        yield from _queries(options, flow)
        yield from _calls(options, flow)


@lru_cache(maxsize=4)
def derive(material: Material) -> Flow:
    """The busiest instrument's records, and the level changes that they mean."""
    cells = material.feed_cells
    cells = cells[np.isin(cells["kind"], (Kind.MBO, Kind.MBP)) & (cells["cells"] > 0)]
    busiest = int(np.bincount(cells["instrument"]).argmax())
    instrument = next(item for item in material.there.instruments if item.id == busiest)
    cells = cells[cells["instrument"] == busiest]
    cells["instrument"] = 0
    by_order = words(cells).copy()
    books = make_books(1, orders=ORDERS, levels=WINDOW)
    define(books, 0, instrument.tick_size)
    out = np.zeros((2 * len(by_order), 8), np.int64)
    with_trades = out[: derive_levels(books, by_order, _previous_places(cells), out)].copy()
    by_price = with_trades[(with_trades[:, 7] & 0xFF) != Action.TRADE]
    flow = Flow(
        name=material.name,
        instrument=instrument,
        by_order=by_order,
        by_price=by_price,
        by_price_with_trades=with_trades,
    )
    second = make_books(1, orders=ORDERS, levels=WINDOW)
    define(second, 0, flow.tick)
    apply_cells(second, SLOTS, by_price)
    for side in (BID, ASK):
        one, other = (_sizes(filled, side) for filled in (books, second))
        check(one == other, f"levels derived of side {side} end elsewhere", subject=flow.name)
    return flow


def _sizes(books: Books, side: int) -> list[tuple[int, int]]:
    return [(price, size) for price, size, _ in levels(books, 0, side)]


def _previous_places(cells: Cells) -> Words:
    """Side and price where each record's order last was said to be; UNDEFINED where nobody knows."""
    places = np.full((len(cells), 2), UNDEFINED, np.int64)
    known: dict[int, tuple[int, int]] = {}
    sides = {int(Side.BID): BID, int(Side.ASK): ASK}
    columns = (cells[name].tolist() for name in ("action", "side", "order_id", "price"))
    for row, (action, side, order_id, price) in enumerate(zip(*columns, strict=True)):
        if order_id in known:
            places[row] = known[order_id]
        if action in (Action.ADD, Action.MODIFY) and side in sides:
            known[order_id] = (sides[side], price)
    return places


def _update(options: Options, flow: Flow, records: Words, name: str, goal_ns: float, peer: Peer) -> Measure:
    """The mean of an update in a loop, and the percentiles of single ones."""
    options.on_step(f"{flow.name}: {name}")
    timer = options.timer
    means, spreads = [], []
    apply_timed(flow.books(), records[:1], timer.overhead, new_histogram())
    books = flow.books()
    for _ in range(options.repeat):
        books = flow.books()
        means.append(timer.ns_each(partial(apply_cells, books, SLOTS, records), len(records)))
        histogram = new_histogram()
        apply_timed(flow.books(), records, timer.overhead, histogram)
        spreads.append(timer.spread(histogram))
    odd = sum(value for status, value in counts(books, 0).items() if status != "ok")
    note = f"{len(records):,} records in a loop; percentiles of {FENCED}; {odd:,} with another status than ok"
    return measure(
        name, "ns", means, data=flow.name, goals=(Goal(at_most=goal_ns),), peers=(peer,), note=note, **middle(spreads)
    )


def _plain_peer(options: Options, flow: Flow, records: Words, kind: str) -> Peer:
    """A book of dicts and a sorted list of prices, in Python."""
    name = "sortedcontainers"
    options.on_step(f"{flow.name}: {kind} of the peer {name}")
    few = records[:PEER_RECORDS_MAX]
    answer = options.peers.ask("sorted_book", {"records": few}, repeat=options.repeat, by_order=kind == "L3")
    return answered(name, answer, "ns", f"plain Python, the first {len(few):,} records")


def _replayed(options: Options, flow: Flow) -> Iterator[Measure]:
    """A loop of updates as a rate, beside hftbacktest's: its Python API has no single update."""
    records = flow.by_price
    settings = {"tick": flow.tick, "repeat": options.repeat}
    final = flow.books()
    apply_cells(final, SLOTS, records)
    bests = [best_price(final, 0, side) / flow.tick for side in (BID, ASK)]
    peers = []
    for depth_name in ("ROIVectorMarketDepth", "HashMapMarketDepth"):
        options.on_step(f"{flow.name}: {depth_name}")
        answer = options.peers.ask("hftbacktest_depth", {"records": records}, depth=depth_name, **settings)
        if answer is not None:
            check(answer["bests"] == bests, f"its best prices are {answer['bests']}, ours {bests}", subject=depth_name)
        peers.append(answered(f"hftbacktest {depth_name}", answer, "per_second", "", 1e-6))
    rates = [
        1e3 / options.timer.ns_each(partial(apply_cells, flow.books(), SLOTS, records), len(records))
        for _ in range(options.repeat)
    ]
    note = "one loop; the peer: the same records as local depth events through its backtester's loop, no orders"
    yield measure("L2 updates replayed", "M records/s", rates, data=flow.name, peers=tuple(peers), note=note)


def _queries(options: Options, flow: Flow) -> Iterator[Measure]:
    """Best prices with sizes, and ten levels of both sides, after every update."""
    timer, records = options.timer, flow.by_order
    prices, sizes = np.zeros((2, DEPTH), np.int64)
    subjects: list[tuple[str, str, Callable[..., object]]] = [
        ("top of book", "best price and size of both sides", top_timed),
        ("depth(10)", "ten levels of both sides", depth_timed),
    ]
    for name, what, timed in subjects:
        options.on_step(f"{flow.name}: {name}")
        spreads = []
        for _ in range(1 + options.repeat):
            histogram = new_histogram()
            timed(flow.books(), records, prices, sizes, timer.overhead, histogram)
            spreads.append(timer.spread(histogram))
        means = [spread.mean for spread in spreads[1:]]
        note = f"{what} after every L3 update, each look between fences; the mean is theirs too"
        yield measure(name, "ns", means, data=flow.name, note=note, **middle(spreads[1:]))


def _calls(options: Options, flow: Flow) -> Iterator[Measure]:
    """One call from CPython."""
    timer = options.timer
    calls = min(options.count(CALLS, 500), len(flow.by_order))
    records = flow.by_order
    prices, sizes = np.zeros((2, DEPTH), np.int64)

    def updates(books: Books) -> None:
        for row in range(calls):
            apply(books, 0, records, row)

    def tops(books: Books) -> None:
        for _ in range(calls):
            best_price(books, 0, BID)

    def depths(books: Books) -> None:
        for _ in range(calls):
            depth(books, 0, BID, prices, sizes)

    for name, work in (("L3 update", updates), ("best price", tops), ("depth(10), one side", depths)):
        options.on_step(f"{flow.name}: {name} from CPython")
        values = []
        for _ in range(options.repeat):
            books = flow.books()
            best_price(books, 0, BID), depth(books, 0, BID, prices, sizes)  # compiled before the clock starts
            values.append(timer.ns_each(partial(work, books), calls))
        yield measure(
            f"{name}, one call from CPython", "ns", values, data=flow.name, note="the loop of Python included"
        )
