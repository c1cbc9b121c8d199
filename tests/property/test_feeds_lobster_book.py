"""Made-up LOBSTER days, cut from a full-depth order book: orders beyond the view come, go and return unseen.

A consumer that is the product's own book shows every row exactly, and the check finds nothing to complain about.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.book import apply, define, levels, make_books
from tapehouse.feeds import LobsterFeed, check_lobster
from tapehouse.market import Flag, words

EMPTY = 9_999_999_999
TICK = 100
Side = dict[int, list[list[int]]]  # price: orders of [id, size], oldest first


class Exchange:
    """A whole book, of which only the best levels are written down, and only what happens within them."""

    def __init__(self, seed: int, view: int) -> None:
        self.random = random.Random(seed)
        self.view = view
        self.sides: dict[int, Side] = {1: {}, -1: {}}
        self.next_id = 1
        self.time = 34_200_000_000_000
        self.messages: list[str] = []
        self.rows: list[str] = []

    def shown(self, direction: int) -> list[int]:
        return sorted(self.sides[direction], reverse=direction == 1)[: self.view]

    def row(self) -> str:
        fields = []
        asks, bids = self.shown(-1), self.shown(1)
        for at in range(self.view):
            for direction, prices, empty in ((-1, asks, EMPTY), (1, bids, -EMPTY)):
                there = at < len(prices)
                fields.append(prices[at] if there else empty)
                fields.append(sum(size for _, size in self.sides[direction][prices[at]]) if there else 0)
        return ",".join(map(str, fields))

    def write(self, kind: int, order: int, size: int, price: int, direction: int) -> None:
        self.time += self.random.choice([0, 1, 1_000, 10**9])
        seconds = f"{self.time // 10**9}.{self.time % 10**9:09d}".rstrip("0").rstrip(".")
        self.messages.append(f"{seconds},{kind},{order},{size},{price},{direction}")
        self.rows.append(self.row())

    def step(self) -> None:
        direction = self.random.choice([1, -1])
        side = self.sides[direction]
        kind = self.random.choice([1, 1, 2, 3, 3, 4, 5, 7])
        if kind == 5 and self.shown(1) and self.shown(-1) and self.shown(-1)[0] - self.shown(1)[0] > 1:
            self.write(5, 0, 5, self.shown(1)[0] + 1, direction)
        elif kind == 7 and self.messages:
            self.write(7, 0, 0, 1, -1)
        elif kind == 1 or not side:
            self.add(direction)
        elif kind in (2, 3, 4):
            self.take(kind, direction)

    def add(self, direction: int) -> None:
        opposite = self.shown(-direction)
        anchor = opposite[0] if opposite else 100_000 + direction * -TICK
        price = anchor - direction * TICK * self.random.randint(1, self.view + 3)
        size = self.random.choice([10, 20])  # few sizes, so that what changes unseen often looks the same
        self.sides[direction].setdefault(price, []).append([self.next_id, size])
        self.next_id += 1
        if price in self.shown(direction):
            self.write(1, self.next_id - 1, size, price, direction)

    def take(self, kind: int, direction: int) -> None:
        side = self.sides[direction]
        price = self.shown(direction)[0] if kind == 4 else self.random.choice(sorted(side))
        visible = price in self.shown(direction)
        order = side[price][0] if kind == 4 else self.random.choice(side[price])
        size = order[1] if kind == 3 else self.random.choice([10, order[1]])
        order[1] -= size
        if order[1] == 0:
            side[price].remove(order)
            kind = 3 if kind == 2 else kind
        if not side[price]:
            del side[price]
        if visible:
            self.write(kind, order[0], size, price, direction)

    def save(self, folder: Path) -> list[Path]:
        paths = []
        for role, lines in (("message", self.messages), ("orderbook", self.rows)):
            path = folder / f"TEST_2012-06-21_34200000_57600000_{role}_{self.view}.csv"
            path.write_text("".join(line + "\n" for line in lines))
            paths.append(path)
        return paths


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("made-up")


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32), view=st.integers(1, 4), warm_up=st.integers(0, 60), batch=st.sampled_from([1, 65_536])
)
def test_a_consumer_shows_every_row(folder: Path, seed: int, view: int, warm_up: int, batch: int) -> None:
    exchange = Exchange(seed, view)
    for _ in range(warm_up):
        exchange.step()
    exchange.messages.clear()  # what happened before the file begins
    exchange.rows.clear()
    while len(exchange.rows) < 200:
        exchange.step()
    paths = exchange.save(folder)

    check = check_lobster(paths)
    assert (check.rows, check.mismatches, check.first_mismatch) == (len(exchange.rows), 0, None)

    books = make_books(1, orders=1 << 10, levels=1 << 10)
    define(books, 0, TICK * 100_000)
    shown = 0
    for cells in LobsterFeed(paths, batch_cells=batch).batches():
        array = words(cells)
        for at in np.flatnonzero(cells["cells"]).tolist():
            apply(books, 0, array, at)
            if cells["flags"][at] & Flag.LAST:
                assert shown_row(books, view) == exchange.rows[shown], f"line {shown + 1}"
                shown += 1
    assert shown == len(exchange.rows)


def shown_row(books: object, view: int) -> str:
    bids, asks = (levels(books, 0, side)[:view] for side in (0, 1))  # type: ignore[arg-type]
    fields = []
    for at in range(view):
        for prices, empty in ((asks, EMPTY), (bids, -EMPTY)):
            price, size = (prices[at][0] // 100_000, prices[at][1]) if at < len(prices) else (empty, 0)
            fields += [price, size]
    return ",".join(map(str, fields))
