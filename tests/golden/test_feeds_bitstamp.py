"""The real Bitstamp log of 2015-05-01: its published truths, its one gap, and a plain replay that says the same."""

from __future__ import annotations

import json
import lzma
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapehouse.feeds import check_source, open_feed
from tapehouse.market import Action, Cause, Cells, Confidence, Flag, Kind, Side

GAP_MS = 1_430_448_692_286
PHANTOM = 65_610_664


@pytest.fixture(scope="module")
def log(market_data: Path) -> Path:
    return market_data / "bitstamp_l3" / "2015-05-01.log.xz"


@pytest.fixture(scope="module")
def lines(log: Path) -> list[bytes]:
    return lzma.decompress(log.read_bytes()).splitlines(keepends=True)


@pytest.fixture(scope="module")
def cells(log: Path) -> Cells:
    return np.concatenate(list(open_feed("bitstamp", [log]).batches()))


def test_the_published_truths(log: Path) -> None:
    found = check_source("bitstamp", [log, log.with_name("orders.csv.xz")])
    assert (found.rows, found.mismatches, found.first_mismatch) == (56_000, 0, None)
    assert (found.truths["hour_1"], found.truths["hour_2"]) == ("1001/1054", "1103/1103")
    assert (found.truths["gaps"], found.truths["first_gap_ms"]) == (1, GAP_MS)
    assert found.truths["trades_matched"] == "575/575"
    assert (found.truths["orders_rows"], found.truths["orders_cut_volumes"]) == (50_414, 4_066)


def test_the_gap_and_its_recovery(cells: Cells) -> None:
    gaps = cells[cells["kind"] == Kind.GAP]
    told = [(int(gap["action"]), int(gap["depth"])) for gap in gaps]
    assert told == [
        (Cause.UNKNOWN, Confidence.SUSPECT),  # the log begins without a book
        (Cause.SNAPSHOT, Confidence.GOOD),
        (Cause.CROSSED, Confidence.SUSPECT),
        (Cause.SNAPSHOT, Confidence.REBUILDING),
        (Cause.SNAPSHOT, Confidence.GOOD),
    ]
    assert gaps["ts_recv"][2] == GAP_MS * 1_000_000
    assert (gaps["sequence"][2], gaps["order_id"][2]) == (34_758, 34_759)
    made = cells[(cells["flags"] & int(Flag.SYNTHETIC) != 0) & (cells["kind"] == Kind.MBO)]
    assert made["action"].tolist() == [Action.CLEAR, Action.CANCEL]
    assert (made["order_id"][1], made["price"][1], made["size"][1]) == (PHANTOM, 238_990_000_000, 223_414_920)


class Levels:
    """A dict book in the log's own decimals, or of cells."""

    def __init__(self) -> None:
        self.orders: dict[int, tuple[int, Decimal, Decimal]] = {}
        self.sides: tuple[Counter[Decimal], Counter[Decimal]] = (Counter(), Counter())

    def put(self, order: int, side: int, price: Decimal, size: Decimal) -> None:
        old = self.orders.pop(order, None)
        if old:
            self.sides[old[0]][old[1]] -= old[2]  # type: ignore[assignment]
            if not self.sides[old[0]][old[1]]:
                del self.sides[old[0]][old[1]]
        if size:
            self.orders[order] = (side, price, size)
            self.sides[side][price] += size  # type: ignore[assignment]


def test_a_book_of_the_cells_is_a_book_of_the_lines(lines: list[bytes], cells: Cells) -> None:
    """Replay the JSON with decimals and the cells with dicts; up to the repair both hold the same orders."""
    told, fed = Levels(), Levels()
    events = iter(cells[cells["kind"] == Kind.MBO].tolist())
    waiting: Any = next(events)
    compared = 0
    for number, line in enumerate(lines[:34_767], 1):
        _, event, body = line.decode().split(" ", 2)
        while waiting[2] <= number:
            feed_cell(fed, waiting)
            waiting = next(events)
        if event == "trade":
            continue
        order = json.loads(body)
        if event == "order_book":
            compared += 1
            if compared % 50 == 0:
                assert fed.orders == told.orders, f"line {number}"
                assert fed.sides == told.sides
            continue
        size = Decimal(0) if event == "order_deleted" else Decimal(order["amount"])
        told.put(order["id"], order["order_type"], Decimal(order["price"]), size)
    assert fed.orders == told.orders
    assert compared > 3_000


def feed_cell(book: Levels, cell: tuple[int, ...]) -> None:
    order, price, size = cell[3], Decimal(cell[4]).scaleb(-9), Decimal(cell[5]).scaleb(-8)
    action, side = cell[10], int(cell[11] == Side.ASK)
    if action == Action.CLEAR:
        return
    if action == Action.CANCEL:
        side, price, before = book.orders[order]
        size = before - size
    else:
        assert action in (Action.ADD, Action.MODIFY)
    book.put(order, side, price, size)


def test_trades_are_rounded_to_what_their_floats_mean(lines: list[bytes], cells: Cells) -> None:
    trades = cells[cells["kind"] == Kind.TRADE]
    said = [json.loads(line.split(b" ", 2)[2]) for line in lines if b" trade " in line]
    assert trades["order_id"].tolist() == [trade["id"] for trade in said]
    assert trades["price"].tolist() == [round(trade["price"] * 100) * 10_000_000 for trade in said]
    assert trades["size"].tolist() == [round(trade["amount"] * 10**8) for trade in said]


def test_control_one_changed_digit_in_the_middle(lines: list[bytes], tmp_path: Path) -> None:
    middle = lines[:30_000]
    at = next(number for number in range(20_000, 30_000) if b"order_created" in middle[number])
    place = middle[at].index(b'"price": "2') + len(b'"price": "')
    middle[at] = middle[at][: place + 2] + bytes([middle[at][place + 2] ^ 1]) + middle[at][place + 3 :]
    path = tmp_path / "flipped.log"
    path.write_bytes(b"".join(middle))
    found = check_source("bitstamp", [path])
    assert found.mismatches >= 1
    assert found.first_mismatch is not None
    assert "line " in found.first_mismatch
