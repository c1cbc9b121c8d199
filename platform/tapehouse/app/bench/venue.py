"""A venue of our own: risk, price-time matching and the records of both sides, a request at a time.

The stream has new orders of every kind, cancels and replaces on one instrument of 64 accounts, some two thousand orders
resting. Every pass must reject what the first one rejected, and end with money that adds up to zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from tapehouse.app.bench.measure import Goal, Measure, Peer, measure, peer_of
from tapehouse.app.bench.registry import Options
from tapehouse.app.bench.timer import middle, new_histogram
from tapehouse.app.bench.venue_loops import decide, decide_timed
from tapehouse.app.bench.venue_stream import (
    ACCOUNTS,
    BAND,
    OUT_ROWS_NEEDED,
    REFERENCE,
    TICK,
    Ints,
    make_stream,
    make_venue,
)
from tapehouse.book import Books
from tapehouse.core.check import check
from tapehouse.desk import POWERS
from tapehouse.desk.matching import run_requests
from tapehouse.desk.matching_reference import Limits, ReferenceVenue, Terms
from tapehouse.desk.requests import SELF_MATCH_POLICIES
from tapehouse.desk.state import CASH, DECISIONS, FEES, FILL_COUNT, OUT_ROWS, POSITION
from tapehouse.desk.venue_state import KINDS, VenueState

REQUESTS = 2_000_000
CALLS = 50_000  # from Python
PEER_REQUESTS = 3_000  # of the plain venue, which sorts all that rests for each
GOALS = (
    Goal(at_most=80.0),
    Goal(figure="p99", at_most=1_000.0),
    Goal(figure="throughput", at_least=5.0),
)


def run(options: Options) -> Iterator[Measure]:
    """Two rows."""
    options.on_step("requests")
    requests, reasons = make_stream(options.count(REQUESTS, 5_000))
    yield _decided(options, requests, reasons)
    yield _calls(options, requests)


def _touched() -> tuple[VenueState, Books]:
    """A fresh venue, every page of it touched."""
    venue, books = make_venue()
    for array in (books.levels, books.orders, books.table, venue.orders):
        array[:] = array
    return venue, books


def _decided(options: Options, requests: Ints, wanted: Ints) -> Measure:
    options.on_step("risk, matching, records")
    timer = options.timer
    out = np.zeros((OUT_ROWS_NEEDED, 8), np.int64)
    reasons = np.zeros(len(requests), np.int64)
    means, spreads = [], []
    for attempt in range(1 + options.repeat):
        venue, books = _touched()
        mean = timer.ns_each(partial(decide, venue, books, requests, reasons, out, POWERS), len(requests))
        check(np.array_equal(reasons, wanted), "the requests were decided otherwise")
        money = venue.accounts[:, 0].astype(object)
        check(money[:, POSITION].sum() == 0, "positions do not add up to zero")
        check((money[:, CASH] + money[:, FEES]).sum() == 0, "cash does not add up to zero")
        histogram = new_histogram()
        decide_timed(*_touched(), requests, out, POWERS, timer.overhead, histogram)
        if attempt:
            means.append(mean)
            spreads.append(timer.spread(histogram))
    matches, records = int(venue.counters[FILL_COUNT]), int(venue.counters[DECISIONS])
    note = f"{len(requests):,} requests, {matches:,} matches, {records:,} records of 128 bytes; {ACCOUNTS} accounts"
    return measure(
        "venue: risk and match", "ns", means, goals=GOALS, peers=(_reference(options, requests),), note=note,
        **middle(spreads),
    )  # fmt: skip


def _reference(options: Options, requests: Ints) -> Peer:
    """The plain venue that the kernels are held against."""
    few = [(KINDS[row[0]], *row[1:]) for row in requests[: options.count(PEER_REQUESTS, 200)].tolist()]

    def work() -> None:
        venue = ReferenceVenue(
            [Terms(TICK, 1, 1, 0, REFERENCE * TICK, BAND * TICK)],
            [Limits(5_000, 3_000_000, 10**18, 10_000, 10**6, SELF_MATCH_POLICIES[0]) for _ in range(ACCOUNTS)],
            maker_fee_ppm=-10,
            taker_fee_ppm=30,
            capacity=len(few),
        )
        for request in few:
            venue.request(*request)

    values = [options.timer.ns_each(work, len(few)) for _ in range(options.repeat)]
    return peer_of("plain Python", values, "the oracle of the tests")


def _calls(options: Options, requests: Ints) -> Measure:
    """One call from CPython for each request."""
    options.on_step("one request from CPython")
    calls = min(options.count(CALLS, 200), len(requests))
    out, reasons = np.zeros((OUT_ROWS_NEEDED, 8), np.int64), np.zeros(1, np.int64)
    rows = [requests[row : row + 1] for row in range(calls)]

    def work(venue: VenueState, books: Books) -> None:
        for row in rows:
            venue.counters[OUT_ROWS] = 0
            run_requests(venue, books, row, reasons, 0, out, POWERS)

    values = [options.timer.ns_each(partial(work, *_touched()), calls) for _ in range(1 + options.repeat)]
    return measure(
        "venue: one call from CPython", "ns", values[1:], note="any kind of request; the loop of Python included"
    )
