"""Order placement: risk, matching against a recorded book, the records of the decision, their copy in a journal.

One order follows each market record, near the best prices of that moment: most rest, some trade at once, some are
post-only; beyond a number of working orders all of a side are cancelled. The rate is of all that together; the fenced
pass times the orders alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import numpy.typing as npt

from tapehouse.app.bench.books import Flow, derive
from tapehouse.app.bench.material import SEED
from tapehouse.app.bench.measure import Goal, Measure, Peer, measure, not_measured, peer_of
from tapehouse.app.bench.order_loops import OUT_ROWS_NEEDED, place, place_timed
from tapehouse.app.bench.registry import Options
from tapehouse.app.bench.ring import scratch_ring
from tapehouse.app.bench.timer import middle, new_histogram
from tapehouse.book import ASK, BID, Books, apply_cells, levels
from tapehouse.core.check import check
from tapehouse.core.units import UNDEFINED
from tapehouse.desk import GTC, IOC, LADDER, POST_ONLY, POWERS, Desk, define_instrument, make_desk, submit
from tapehouse.desk.reference import Limits, Market, ReferenceDesk, Request
from tapehouse.desk.state import FILL_COUNT, LIMIT_OPEN_ORDERS, MONEY_EXPONENT, OUT_ROWS, REJECTED, WORKING_MAX

OFFSETS = (-3, 3)  # ticks from the best price of the order's own side, towards the other one where positive
MIX = ((GTC, 0.7), (IOC, 0.2), (POST_ONLY, 0.1))
WORKING = 32  # orders that may rest on both sides together before a side is cancelled
CALLS = 20_000  # from Python
LATENCY_GOALS = (Goal(figure="p99", at_most=1_000.0),)
RATE_GOALS = (Goal(at_least=5.0),)
POSITION_MAX = 1 << 40

Ints = npt.NDArray[np.int64]


def run(options: Options) -> Iterator[Measure]:
    """Five rows a data set."""
    for material in options.materials:
        if material.feed is None:
            yield not_measured("order placement", "ns", material.missing, data=material.name)
            continue
        options.on_step(f"{material.name}: derive the levels")
        flow = derive(material)
        orders = make_orders(flow)
        yield from _placed(options, flow, orders, journal=0)
        with scratch_ring() as ring:
            yield from _placed(options, flow, orders, journal=ring.address)
        yield _calls(options, flow, orders)


def make_orders(flow: Flow) -> Ints:
    """Shape (n, 4), one to a market record: side, ticks from the best price, size, time in force."""
    chance = np.random.default_rng(SEED)
    count = len(flow.by_order)
    kinds, shares = zip(*MIX, strict=True)
    lot = flow.instrument.lot_size
    columns = (
        chance.integers(0, 2, count),
        chance.integers(OFFSETS[0], OFFSETS[1] + 1, count),
        lot * chance.integers(1, 6, count),
        chance.choice(kinds, count, p=shares),
    )
    return np.stack(columns, axis=1).astype(np.int64)


def make_trading_desk(flow: Flow) -> Desk:
    """A desk whose risk checks all run and whose position is never too large."""
    desk = make_desk()
    define_instrument(desk, 0, flow.instrument)
    desk.limits[:, :, : LIMIT_OPEN_ORDERS + 1] = (POSITION_MAX, POSITION_MAX, (1 << 62), WORKING_MAX)
    return desk


def _placed(options: Options, flow: Flow, orders: Ints, *, journal: int) -> Iterator[Measure]:
    with_journal = ", with the journal" if journal else ""
    options.on_step(f"{flow.name}: order placement{with_journal}")
    timer = options.timer
    out = np.zeros((OUT_ROWS_NEEDED, 8), np.int64)
    arguments = (flow.by_order, orders, np.zeros((2, LADDER), np.int64), out, POWERS, WORKING, journal)
    rates, spreads, placed, desk = [], [], 0, make_trading_desk(flow)
    for attempt in range(1 + options.repeat):
        desk, books = make_trading_desk(flow), flow.books()
        seconds = timer.seconds(partial(place, desk, books, *arguments))
        histogram = new_histogram()
        placed = int(place_timed(make_trading_desk(flow), flow.books(), *arguments, timer.overhead, histogram))
        check(placed > 0, "no order could be placed", subject=flow.name)
        if attempt:  # The first run pays for kernels.
            rates.append(placed / seconds / 1e6)
            spreads.append(timer.spread(histogram))
    fills, rejected = int(desk.counters[FILL_COUNT]), int(desk.counters[REJECTED])
    counted = f"{placed:,} orders, {fills:,} fills, {rejected:,} rejected"
    yield measure(
        f"order placement{with_journal}",
        "ns",
        [spread.mean for spread in spreads],
        data=flow.name,
        goals=LATENCY_GOALS,
        peers=() if journal else (_reference(options, flow, orders),),
        note=f"{counted}; risk, match and records of each order between fences; the mean is theirs too",
        **middle(spreads),
    )
    name, note = f"market record, order and cancels{with_journal}", f"{counted}; one loop"
    yield measure(name, "M orders/s", rates, data=flow.name, goals=RATE_GOALS, note=note)


def _final_books(flow: Flow) -> Books:
    books = flow.books()
    apply_cells(books, np.zeros(1, np.int64), flow.by_order)
    return books


def _reference(options: Options, flow: Flow, orders: Ints) -> Peer:
    """The plain desk that the kernels are held against, over the same orders on the book as it ended."""
    books = _final_books(flow)
    shown = {side: [(price, size) for price, size, _ in levels(books, 0, side)[:LADDER]] for side in (BID, ASK)}
    desk = make_trading_desk(flow)
    few = orders[: options.count(CALLS, 200)].tolist()

    def work() -> None:
        market = Market(
            levels=lambda side: shown[side], money_exponent=int(desk.instruments[0, MONEY_EXPONENT]), tick=flow.tick
        )
        plain = ReferenceDesk([market], maker_fee_ppm=int(desk.fees[0]), taker_fee_ppm=int(desk.fees[1]))
        plain.limits[0, 0] = Limits(order_size=POSITION_MAX, position=POSITION_MAX, open_orders=WORKING_MAX)
        for number, (side, offset, size, time_in_force) in enumerate(few):
            ticks = offset if side == BID else -offset
            plain.begin(number, 0)
            price = shown[side][0][0] + ticks * flow.tick
            plain.decide(Request(side=side, price=price, size=size, time_in_force=time_in_force))
            if len(plain.working) > WORKING:
                plain.mass_cancel(0, 0, side)

    values = [options.timer.ns_each(work, len(few)) for _ in range(options.repeat)]
    return peer_of("plain Python", values, "the oracle of the tests")


def _calls(options: Options, flow: Flow, orders: Ints) -> Measure:
    """One call from CPython, each order on the book as it ended."""
    options.on_step(f"{flow.name}: one order from CPython")
    calls = min(options.count(CALLS, 200), len(orders))
    books, desk = _final_books(flow), make_trading_desk(flow)
    out = np.zeros((OUT_ROWS_NEEDED, 8), np.int64)
    ladder = np.zeros((2, LADDER), np.int64)
    best = levels(books, 0, BID)[0][0]
    sizes = orders[:calls, 2].tolist()
    check(best != UNDEFINED, "there is no bid", subject=flow.name)

    def work() -> None:
        for size in sizes:
            desk.counters[OUT_ROWS] = 0
            submit(desk, books, ladder, out, POWERS, 0, 0, ASK, best, size, IOC, 0)

    work()
    values = [options.timer.ns_each(work, calls) for _ in range(options.repeat)]
    note = "an order that trades at once; the loop of Python included"
    return measure("order placement, one call from CPython", "ns", values, data=flow.name, note=note)
