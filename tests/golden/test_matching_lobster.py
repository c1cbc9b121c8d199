"""Real days as orders. What NASDAQ executed must be what the venue fills: the same order, its price, its size. And a
morning of AMZN sent to venue and slow desk, with limits and policies in its way, must be decided alike.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tapehouse.desk import BUY, SELL
from tapehouse.desk import requests as r
from tapehouse.desk.reference import Order, ReferenceDesk, Request
from tapehouse.desk.requests import SELF_MATCH_POLICIES
from tapehouse.desk.state import FILL_COUNT
from tapehouse.desk.venue import AccountLimits
from tapehouse.feeds import LobsterFeed
from tapehouse.market import Action, Cells, Instrument, Kind, Side
from tests.support.recorded_orders import RecordedOrders
from tests.support.venue_pair import Sent, VenuePair

AMZN = ("LOBSTER_SampleFile_AMZN_2012-06-21_5.zip",)
AAPL = tuple(f"excerpt_AAPL_2012-06-21_34200000_57600000_{part}_10.csv" for part in ("message", "orderbook"))
SHARE = Instrument(id=1, symbol="SHARE", venue="XNAS", tick_size=10_000_000)  # a cent
EXECUTIONS_OF, CELLS = 40_000, 12_000
ACCOUNTS = 12
CHUNK = 400
SIDES = {int(Side.BID): BUY, int(Side.ASK): SELL}


def cells_of(market_data: Path, names: tuple[str, ...]) -> Cells:
    parts, found = [], 0
    for batch in LobsterFeed([market_data / "lobster" / name for name in names]).batches():
        parts.append(batch)
        found += len(batch)
        if found >= EXECUTIONS_OF:
            break
    return np.concatenate(parts)[:EXECUTIONS_OF]


@pytest.fixture(scope="module")
def amazon(market_data: Path) -> Cells:
    return cells_of(market_data, AMZN)


def sent_to_a_venue(cells: Cells, *, requeue: bool = False) -> Counter[str]:
    recorded = RecordedOrders(SHARE, requeue=requeue)
    recorded.send(cells)
    recorded.venue.verify()
    print(dict(recorded.told))
    return recorded.told


def test_every_execution_of_apple_fills_the_order_that_the_exchange_filled(market_data: Path) -> None:
    told = sent_to_a_venue(cells_of(market_data, AAPL))
    assert told["of_known"] > 80
    assert told["at_its_price"] == told["executions"]
    assert told["same"] == told["of_known"]
    assert told["queued_same"] > 10
    assert told["youngest"] == 0


def test_executions_of_amazon_fill_the_orders_that_the_exchange_filled(amazon: Cells) -> None:
    """All but some where an order stood in the queue since before the file began, so that nobody knows its place."""
    told = sent_to_a_venue(amazon)
    assert told["of_known"] > 1_000
    assert told["at_its_price"] == told["executions"]
    assert told["same"] > 0.985 * told["of_known"]
    assert told["queued"] > 200
    assert told["queued_same"] > 0.95 * told["queued"]
    assert told["youngest"] < 0.02 * told["queued"]


def test_control_queues_in_another_order_are_not_those_of_the_exchange(amazon: Cells) -> None:
    told = sent_to_a_venue(amazon[: EXECUTIONS_OF // 4], requeue=True)
    assert told["queued"] > 30
    assert told["queued_same"] < 0.3 * told["queued"]


def requests_of(cells: Cells) -> list[Sent]:
    """Adds become limit orders, partial cancels shrink them, trades become immediate orders of their aggressor's side.

    The desk decides anew who trades, so it leaves the recording's path. Order ids are those that a venue gives.
    """
    made: list[Sent] = []
    live: dict[int, tuple[int, int, int, int]] = {}  # the venue's id, account, price, size
    for cell in cells:
        if cell["kind"] != Kind.MBO or int(cell["side"]) not in SIDES:
            continue
        order_id, side = int(cell["order_id"]), SIDES[int(cell["side"])]
        price, size, time = int(cell["price"]), int(cell["size"]), int(cell["ts_recv"])
        account = order_id % ACCOUNTS
        if cell["action"] == Action.ADD:
            made.append((Request(account=account, side=side, price=price, size=size, number=order_id), time))
            live[order_id] = (len(made) << 12, account, price, size)
        elif cell["action"] == Action.CANCEL and order_id in live:
            target, account, price, left = live.pop(order_id)
            if size < left:
                live[order_id] = (target, account, price, left - size)
                request = Request(kind=r.REPLACE, account=account, price=price, size=left - size, target=target)
            else:
                request = Request(kind=r.CANCEL, account=account, target=target)
            made.append((request, time))
        elif cell["action"] == Action.TRADE:
            taker = (order_id + 5) % ACCOUNTS
            request = Request(account=taker, side=side, time_in_force=r.IOC, price=price, size=size)
            made.append((request, time))
    return made


@pytest.fixture(scope="module")
def requests(amazon: Cells) -> list[Sent]:
    return requests_of(amazon[:CELLS])


def pair_for(requests: list[Sent]) -> VenuePair:
    limits = [
        AccountLimits(
            order_size=2_000, position=1_500, band_ppm=6_000, notional=10**15,
            self_match=SELF_MATCH_POLICIES[account % 4],
        )
        for account in range(ACCOUNTS)
    ]  # fmt: skip
    return VenuePair([SHARE], [requests[0][0].price], limits)


def test_a_real_morning_is_decided_alike(requests: list[Sent]) -> None:
    pair = pair_for(requests)
    reasons: Counter[str] = Counter()
    for start in range(0, len(requests), CHUNK):
        reasons.update(r.REASONS[reason] for reason in pair.do(*requests[start : start + CHUNK]))
        pair.compare()
    fills = int(pair.venue.desk.counters[FILL_COUNT])
    print(f"{len(requests)} requests, {fills} matches, {dict(reasons)}")
    assert len(requests) > 8_000
    assert fills > 500
    assert set(reasons) >= {"", r.REASONS[r.UNKNOWN_ORDER], r.REASONS[r.POSITION_LIMIT]}


def test_control_a_slow_desk_that_matches_otherwise_is_caught(
    requests: list[Sent], monkeypatch: pytest.MonkeyPatch
) -> None:
    def youngest_first(self: ReferenceDesk, slot: int, side: int) -> list[Order]:
        resting = [o for o in self.working if (o.slot, o.side, o.waits) == (slot, side, False)]
        return sorted(resting, key=lambda o: (-o.price if side == BUY else o.price, -o.since))

    pair = pair_for(requests)
    monkeypatch.setattr(ReferenceDesk, "queue", youngest_first)
    with pytest.raises(AssertionError):
        pair.do(*requests[:2_000])
