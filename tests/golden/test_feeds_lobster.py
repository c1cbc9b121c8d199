"""Real LOBSTER days: no row contradicts its message, and a book fed with the cells shows every row exactly."""

from __future__ import annotations

import zipfile
from bisect import bisect_left, insort
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tapehouse.core import parse_time_ns
from tapehouse.feeds import LobsterFeed, check_lobster
from tapehouse.market import Action, Cells, Flag, Kind, Side

AMZN_1 = "LOBSTER_SampleFile_AMZN_2012-06-21_1.zip"
AMZN_5 = "LOBSTER_SampleFile_AMZN_2012-06-21_5.zip"
AAPL_10 = "excerpt_AAPL_2012-06-21_34200000_57600000_{}_10.csv"
SETS = {
    "amzn-1": ((AMZN_1,), 57_515, 13_953),
    "amzn-5": ((AMZN_5,), 155_935, 33_840),
    "aapl-10": ((AAPL_10.format("message"), AAPL_10.format("orderbook")), 999, 318),
}
LETTERS = {int(Side.BID): 0, int(Side.ASK): 1}


def paths_of(market_data: Path, name: str) -> list[Path]:
    return [market_data / "lobster" / file for file in SETS[name][0]]


def lines_of(paths: list[Path], role: str) -> list[str]:
    if len(paths) == 1:
        with zipfile.ZipFile(paths[0]) as archive:
            member = next(name for name in archive.namelist() if role in name)
            return archive.read(member).decode().split()
    return next(path for path in paths if role in path.name).read_text().split()


class ConsumerBook:
    """A book as a consumer of cells keeps it: known orders by level, and a quantity that nobody explained."""

    def __init__(self) -> None:
        self.prices: tuple[list[int], list[int]] = ([], [])
        self.levels: tuple[dict[int, dict[int, int]], dict[int, dict[int, int]]] = ({}, {})
        self.anonymous: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
        self.where: dict[int, tuple[int, int]] = {}

    def size(self, side: int, price: int) -> int:
        return self.anonymous[side][price] + sum(self.levels[side].get(price, {}).values())

    def settle(self, side: int, price: int) -> None:
        prices = self.prices[side]
        at = bisect_left(prices, price)
        there = at < len(prices) and prices[at] == price
        if self.size(side, price) > 0:
            if not there:
                insort(prices, price)
        elif there:
            del prices[at]

    def apply(self, kind: int, action: int, side_letter: int, order: int, price: int, size: int) -> None:
        if action == Action.CLEAR:
            self.__init__()
            return
        if side_letter not in LETTERS or action in (Action.TRADE, Action.FILL):
            return
        side = LETTERS[side_letter]
        known = self.levels[side].setdefault(price, {})
        if kind == Kind.MBP:
            while known and (action == Action.CANCEL or sum(known.values()) > size):
                self.where.pop(known.popitem()[0])  # the newest goes first
            self.anonymous[side][price] = 0 if action == Action.CANCEL else size - sum(known.values())
        elif action == Action.ADD:
            known[order] = size
            self.where[order] = (side, price)
        elif order in self.where:
            side, price = self.where[order]
            known = self.levels[side][price]
            known[order] -= size
            if known[order] <= 0:
                del known[order], self.where[order]
        else:
            self.anonymous[side][price] -= min(size, self.anonymous[side][price])
        self.settle(side, price)

    def best(self, levels: int) -> list[int]:
        """As a row of the book file shows it, in units of 1e-9."""
        bids = self.prices[0][: -levels - 1 : -1]
        asks = self.prices[1][:levels]
        row: list[int] = []
        for at in range(levels):
            for side, prices in ((1, asks), (0, bids)):
                row += [prices[at], self.size(side, prices[at])] if at < len(prices) else [0, 0]
        return row


def wanted(line: str) -> list[int]:
    values = [int(text) for text in line.split(",")]
    for at in range(0, len(values), 2):
        values[at] = 0 if abs(values[at]) == 9_999_999_999 else values[at] * 100_000
    return values


@pytest.mark.parametrize("name", SETS)
def test_every_row_follows_from_the_row_before_it(market_data: Path, name: str) -> None:
    _, rows, revealed = SETS[name]
    check = check_lobster(paths_of(market_data, name))
    assert (check.rows, check.compared, check.mismatches, check.first_mismatch) == (rows, rows, 0, None)
    assert check.revealed == revealed


@pytest.mark.parametrize("name", SETS)
def test_a_book_fed_with_the_cells_shows_every_row(market_data: Path, name: str) -> None:
    paths = paths_of(market_data, name)
    feed = LobsterFeed(paths)
    rows = lines_of(paths, "orderbook")
    book = ConsumerBook()
    shown = 0
    for cells in feed.batches():
        columns = ("kind", "action", "side", "order_id", "price", "size", "flags", "sequence")
        for *change, flags, sequence in zip(*(cells[column].tolist() for column in columns), strict=True):
            book.apply(*change)
            if flags & Flag.LAST:
                shown += 1
                assert sequence == shown
                assert book.best(feed.levels) == wanted(rows[sequence - 1]), f"line {sequence}"
    assert shown == len(rows) == SETS[name][1]


@pytest.mark.parametrize("name", SETS)
def test_cells_say_what_the_messages_say(market_data: Path, name: str) -> None:
    paths = paths_of(market_data, name)
    feed = LobsterFeed(paths)
    cells = np.concatenate(list(feed.batches()))
    messages = [line.split(",") for line in lines_of(paths, "message")]
    types = Counter(int(fields[1]) for fields in messages)
    orders = cells[cells["kind"] == Kind.MBO]

    def count(action: Action) -> int:
        return int((orders["action"] == action).sum())

    assert count(Action.ADD) == types[1]
    assert count(Action.CANCEL) == types[2] + types[3] + types[4]
    assert count(Action.TRADE) == types[4] + types[5]
    assert count(Action.FILL) == types[4]
    assert count(Action.CLEAR) == 1
    assert_same_times(cells, [fields[0] for fields in messages])
    added = orders[orders["action"] == Action.ADD]
    assert added["order_id"].tolist() == [int(fields[2]) for fields in messages if fields[1] == "1"]
    assert added["size"].tolist() == [int(fields[3]) for fields in messages if fields[1] == "1"]
    assert added["price"].tolist() == [int(fields[4]) * 100_000 for fields in messages if fields[1] == "1"]


def assert_same_times(cells: Cells, seconds: list[str]) -> None:
    """Against exact decimals; midnight in New York was 04:00 UTC on that day."""
    midnight = parse_time_ns("2012-06-21T04:00:00Z")
    expected = []
    for text in seconds:
        whole, _, fraction = text.partition(".")
        expected.append(midnight + int(whole) * 10**9 + int(fraction[:9].ljust(9, "0")))
    assert cells["ts_event"].tolist() == [expected[row - 1] for row in cells["sequence"].tolist()]
    assert (cells["ts_recv"] == cells["ts_event"]).all()
    assert (np.diff(cells["ts_recv"]) >= 0).all()


def test_what_an_n_level_file_leaves_out_is_counted(market_data: Path) -> None:
    feed = LobsterFeed(paths_of(market_data, "amzn-5"))
    cells = sum(len(batch) for batch in feed.batches())
    reducing = 450 + 66_685 + 8_974
    assert 0.05 < feed.unknown_orders / reducing < 0.29
    assert (cells, feed.unknown_orders) == (207_295, 8_491)
    assert (feed.revealed_levels, feed.stale_levels, feed.restated_levels) == (11_005, 4_322, 6_052)


def test_the_smaller_file_is_a_projection_of_the_larger(market_data: Path) -> None:
    """The best level of the five-level cells passes through every row of the one-level file, in order."""
    small = iter(lines_of(paths_of(market_data, "amzn-1"), "orderbook"))
    wanted_row = next(small)
    for line in lines_of(paths_of(market_data, "amzn-5"), "orderbook"):
        if ",".join(line.split(",")[:4]) == wanted_row:
            wanted_row = next(small, "")
    assert wanted_row == ""


@pytest.mark.parametrize("batch_cells", [1, 7, 1000])
def test_any_batch_size_gives_the_same_cells(market_data: Path, batch_cells: int) -> None:
    paths = paths_of(market_data, "aapl-10")
    whole = np.concatenate(list(LobsterFeed(paths).batches()))
    batches = list(LobsterFeed(paths, batch_cells=batch_cells).batches())
    assert (np.concatenate(batches) == whole).all()
    assert len(batches) > 1
