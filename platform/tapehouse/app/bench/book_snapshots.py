"""Depth snapshots of a book in memory: how fast a replay keeps 100,000 of them, what they take, how one is found.

Each is the ten best levels of both sides after a record of the data set's busiest instrument. The peer is what a script
writes first: a list of dictionaries with a list of (price, size) a side, from the same book.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from tapehouse.app.bench.book_snapshots_loops import find_all, replay_keeping
from tapehouse.app.bench.books import Flow, derive
from tapehouse.app.bench.material import SEED, Material
from tapehouse.app.bench.measure import Measure, Peer, measure, not_measured, peer_of
from tapehouse.app.bench.registry import Options
from tapehouse.book import ASK, BID, Books, apply, depth
from tapehouse.book.history import BookHistory, kept, look_at, make_history
from tapehouse.core.check import check
from tapehouse.core.units import UNDEFINED

SNAPSHOTS, SNAPSHOTS_QUICK = 100_000, 2_000
DEPTH = 10
LOOKUPS = 100_000
PEER_SNAPSHOTS_MAX = 20_000  # of a peer in plain Python, where each call is one from CPython
CHECKED = 50  # snapshots that are held against a book folded anew


def run(options: Options) -> Iterator[Measure]:
    """Rate, memory and search, a data set at a time."""
    for material in options.materials:
        if material.feed is None:
            yield not_measured("book snapshots kept", "M snapshots/s", material.missing, data=material.name)
            continue
        yield from _measured(options, material)


def _measured(options: Options, material: Material) -> Iterator[Measure]:
    flow = derive(material)
    wanted = options.count(SNAPSHOTS, SNAPSHOTS_QUICK)
    count = min(wanted, len(flow.by_order))
    options.on_step(f"{flow.name}: {count:,} snapshots")
    rates: list[float] = []
    history = make_history(wanted, depth=DEPTH)
    for attempt in range(1 + options.repeat):
        history = make_history(wanted, depth=DEPTH)
        for array in history:
            array[:] = 0  # Its pages are there before the clock starts.
        work = partial(replay_keeping, history, flow.books(), flow.by_order, count)
        spent = options.timer.seconds(work)
        if attempt:  # The first run pays for kernels.
            rates.append(count / spent / 1e6)
    check(kept(history) == count, f"{kept(history)} snapshots of {count}", subject=flow.name)
    _check(flow, history, count)
    options.on_step(f"{flow.name}: snapshots as dictionaries")
    peer_rates, peer_bytes = _plain(options, flow, min(count, PEER_SNAPSHOTS_MAX))
    name = "list of dicts"
    total = f"{history.nbytes / 1e6:.1f} MB for {wanted:,}"
    note = f"{count:,} records replayed, {DEPTH} levels of both sides kept after each; {total}"
    yield measure(
        "book snapshots kept", "M snapshots/s", rates, data=flow.name, note=note,
        peers=(peer_of(name, peer_rates, "one call from CPython a side"),),
    )  # fmt: skip
    yield measure(
        "memory of a book snapshot", "bytes", [float(history.row_bytes)], data=flow.name,
        peers=(Peer(name=name, median=peer_bytes, note="as tracemalloc counts"),), note=f"{total}, made once",
    )  # fmt: skip
    yield _found(options, flow, history)


def _check(flow: Flow, history: BookHistory, count: int) -> None:
    """Hold some snapshots against a book that is folded to the same record anew."""
    books, done = flow.books(), 0
    prices, sizes = np.zeros((2, DEPTH), np.int64)
    last = np.append(flow.by_order[1:count, 1], UNDEFINED) > np.maximum.accumulate(flow.by_order[:count, 1])
    whole = np.flatnonzero(last)  # rows after which time moves on, so that a time names one snapshot
    for row in whole[:: max(1, len(whole) // CHECKED)].tolist():
        for at in range(done, row + 1):
            apply(books, 0, flow.by_order, at)
        done = row + 1
        look = look_at(history, int(flow.by_order[: row + 1, 1].max()))
        check(look.ordinal == row, f"snapshot {look.ordinal} was found instead of {row}", subject=flow.name)
        for side in (BID, ASK):
            there = int(depth(books, 0, side, prices, sizes))
            same = (look.prices[side, :there] == prices[:there]).all() and (
                look.sizes[side, :there] == sizes[:there]
            ).all()
            rest = (look.prices[side, there:] == UNDEFINED).all()
            check(bool(same and rest), f"snapshot {row} is not the book's", subject=flow.name)


def _plain(options: Options, flow: Flow, count: int) -> tuple[list[float], float]:
    """The peer's rates in millions a second, and the bytes that one of its snapshots takes."""
    rates = []
    for _ in range(options.repeat):
        rates.append(count / options.timer.seconds(partial(_dictionaries, flow.books(), flow, count)) / 1e6)
    books = flow.books()
    tracemalloc.start()
    try:
        held = _dictionaries(books, flow, count)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    return rates, taken / len(held)


def _dictionaries(books: Books, flow: Flow, count: int) -> list[dict[str, Any]]:
    """The same snapshots as Python objects."""
    prices, sizes = np.zeros((2, DEPTH), np.int64)
    records = flow.by_order
    snapshots: list[dict[str, Any]] = []
    for row in range(count):
        apply(books, 0, records, row)
        snapshot: dict[str, Any] = {"time": int(records[row, 1]), "ordinal": row}
        for name, side in (("bids", BID), ("asks", ASK)):
            there = depth(books, 0, side, prices, sizes)
            snapshot[name] = list(zip(prices[:there].tolist(), sizes[:there].tolist(), strict=True))
        snapshots.append(snapshot)
    return snapshots


def _found(options: Options, flow: Flow, history: BookHistory) -> Measure:
    """How long the search for a time takes."""
    count = options.count(LOOKUPS, 1_000)
    there = history.times[: kept(history)]
    times = np.random.default_rng(SEED).integers(there[0], there[-1] + 1, count)
    find_all(history, times[:1])
    values = [options.timer.ns_each(partial(find_all, history, times), count) for _ in range(options.repeat)]
    return measure(
        "book snapshot found by time", "ns", values, data=flow.name, note=f"{count:,} random times, in a loop"
    )
