"""A real morning as orders: every order, cancel and trade of AMZN sent to the venue and to the slow venue alike.

Adds become limit orders, partial cancels shrink them, trades become immediate orders of their aggressor's side. The
venue decides anew who trades, so it leaves the recording's path; what it decides must be what the slow venue decides.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tapehouse.desk import BUY, SELL
from tapehouse.desk.requests import SELF_MATCH_POLICIES
from tapehouse.desk.state import FILL_COUNT
from tapehouse.desk.venue import AccountLimits, Listing
from tapehouse.feeds import LobsterFeed
from tapehouse.market import Action, Cells, Instrument, Kind, Side
from tests.support.venue_pair import Request, VenuePair

AMZN = "LOBSTER_SampleFile_AMZN_2012-06-21_5.zip"
TICK = 10_000_000  # a cent
CELLS = 40_000
ACCOUNTS = 12
CHUNK = 400
SIDES = {int(Side.BID): BUY, int(Side.ASK): SELL}


def requests_of(cells: Cells) -> list[Request]:
    """Requests whose order ids are those that the venue gives: the number of the request x 4,096."""
    made: list[Request] = []
    live: dict[int, tuple[int, int, int, int]] = {}  # the venue's id, account, price, size
    for cell in cells:
        if cell["kind"] != Kind.MBO or int(cell["side"]) not in SIDES:
            continue
        order_id, side, price, size = (
            int(cell["order_id"]),
            SIDES[int(cell["side"])],
            int(cell["price"]),
            int(cell["size"]),
        )
        time, account = int(cell["ts_recv"]), order_id % ACCOUNTS
        if cell["action"] == Action.ADD:
            made.append(("limit", account, 0, side, price, size, 0, order_id, time))
            live[order_id] = (len(made) << 12, account, price, size)
        elif cell["action"] == Action.CANCEL and order_id in live:
            target, account, price, left = live.pop(order_id)
            if size < left:
                live[order_id] = (target, account, price, left - size)
                made.append(("replace", account, 0, side, price, left - size, target, 0, time))
            else:
                made.append(("cancel", account, 0, side, 0, 0, target, 0, time))
        elif cell["action"] == Action.TRADE:
            made.append(("ioc", (order_id + 5) % ACCOUNTS, 0, side, price, size, 0, 0, time))
    return made


@pytest.fixture(scope="module")
def requests(market_data: Path) -> list[Request]:
    feed = LobsterFeed([market_data / "lobster" / AMZN])
    return requests_of(np.concatenate(list(feed.batches()))[:CELLS])


def pair_for(requests: list[Request]) -> VenuePair:
    share = Instrument(id=1, symbol="AMZN", tick_size=TICK)
    limits = [
        AccountLimits(order_size=2_000, position=3_000, notional=10**15, self_match=SELF_MATCH_POLICIES[account % 4])
        for account in range(ACCOUNTS)
    ]
    listing = Listing(instrument=share, reference=requests[0][4], band_ticks=150)
    return VenuePair([listing], limits, capacity=4_096, levels=1 << 16)


def test_a_real_morning_is_decided_alike(requests: list[Request]) -> None:
    pair = pair_for(requests)
    reasons: Counter[str] = Counter()
    for start in range(0, len(requests), CHUNK):
        reasons.update(pair.do(*requests[start : start + CHUNK]))
        pair.compare()
    fills = int(pair.venue.state.counters[FILL_COUNT])
    print(f"{len(requests)} requests, {fills} matches, {dict(reasons)}")
    assert len(requests) > 20_000
    assert fills > 1_000
    assert set(reasons) >= {"", "unknown", "position"}


def test_control_a_slow_venue_that_matches_otherwise_is_caught(
    requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = pair_for(requests)
    monkeypatch.setattr(
        "tapehouse.desk.matching_reference.Order.priority",
        property(lambda order: (-order.price if order.side == BUY else order.price, -order.order_id)),
    )
    with pytest.raises(AssertionError):
        pair.do(*requests[:2_000])
