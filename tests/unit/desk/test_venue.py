"""A venue's rules one by one, and what its Python side refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tapehouse.core.errors import DataError, InvariantError, UsageError
from tapehouse.desk import BUY, SELL
from tapehouse.desk.matching_reference import AMOUNT_MAX
from tapehouse.desk.matching_reference import MATCHES_MAX as SLOW_MATCHES_MAX
from tapehouse.desk.state import CASH, COST, FEES, POSITION
from tapehouse.desk.venue import AccountLimits, Listing, Venue
from tapehouse.desk.venue_state import LEDGER_MAX, MATCHES_MAX, REQUEST_COLUMNS, REQUEST_ROWS_MAX, VENUE_REASONS
from tapehouse.market import Instrument, Kind
from tests.support.venue_pair import REASONS, VenuePair, read_records

SHARE = Instrument(id=7, symbol="X", tick_size=10, lot_size=1)
LISTING = Listing(instrument=SHARE, reference=1_000, band_ticks=50)
WIDE = AccountLimits()
ALICE, BOB, CAROL = range(3)


def pair(*policies: str, limits: AccountLimits = WIDE, capacity: int = 64) -> VenuePair:
    names = [*policies, *["cancel_newest"] * (3 - len(policies))]
    return VenuePair([LISTING], [replace(limits, self_match=name) for name in names], capacity=capacity)


def limit(account: int, side: int, price: int, size: int, kind: str = "limit", target: int = 0, time: int = 0) -> tuple:
    return (kind, account, 0, side, price, size, target, 0, time)


def venue() -> Venue:
    return Venue([LISTING], accounts=2)


def test_the_oldest_at_the_best_price_trades_first_and_at_its_own_price() -> None:
    made = venue()
    for price, account in ((1_010, 0), (1_000, 0), (1_000, 1)):
        made.order(account, 0, SELL, price, 5, time=0, number=price)
    fills = [record for record in read_records(made.order(1, 0, BUY, 1_020, 4, time=1)) if record[0] == "fill"]
    assert [(fill[1], fill[2], fill[4], fill[5]) for fill in fills] == [
        ("maker", 2 << 12, 1_000, 4),
        ("taker", 4 << 12, 1_000, 4),
    ]
    assert [(order.order_id >> 12, order.left) for order in made.resting(0, SELL)] == [(2, 1), (3, 5), (1, 5)]
    made.verify()


@pytest.mark.parametrize(
    ("policy", "said", "rests"),
    [
        ("cancel_newest", [("cancelled", 3, 9)], [1, 2]),
        ("cancel_oldest", [("cancelled", 1, 4)], []),
        ("cancel_both", [("cancelled", 1, 4), ("cancelled", 3, 9)], [2]),
        ("decrement", [("cancelled", 1, 4), ("accepted", 3, 5)], []),
    ],
)
def test_an_account_never_trades_with_itself(policy: str, said: list, rests: list[int]) -> None:
    both = pair(policy)
    both.do(limit(ALICE, SELL, 1_000, 4), limit(BOB, SELL, 1_000, 5))
    cells = both.venue.order(ALICE, 0, BUY, 1_000, 9, time=0)
    both.slow.request(*limit(ALICE, BUY, 1_000, 9))
    both.compare()
    records = read_records(cells)
    own = [(record[1], int(record[3]) >> 12, record[6]) for record in records if record[2] == "own"]
    assert own == said
    assert [order.order_id >> 12 for order in both.venue.resting(0, SELL)] == rests
    assert {record[8] for record in records if record[0] == "fill"} in (set(), {ALICE, BOB})


def test_a_replace_keeps_its_place_only_where_it_shrinks() -> None:
    both = pair()
    both.do(limit(ALICE, BUY, 1_000, 9), limit(BOB, BUY, 1_000, 9), limit(CAROL, BUY, 1_000, 9))
    first, second = 1 << 12, 2 << 12
    both.do(limit(ALICE, BUY, 1_000, 5, "replace", first))
    assert both.venue.resting(0, BUY)[0].order_id == first
    both.do(limit(ALICE, BUY, 1_000, 6, "replace", first), limit(BOB, BUY, 1_010, 9, "replace", second))
    assert [order.order_id >> 12 for order in both.venue.resting(0, BUY)] == [6, 3, 5]
    assert both.do(limit(ALICE, BUY, 1_000, 6, "replace", first)) == ["unknown"]
    both.compare()


def test_a_rejected_replace_leaves_the_order_as_it_was() -> None:
    both = pair()
    both.do(limit(ALICE, BUY, 1_000, 9))
    assert both.do(limit(ALICE, BUY, 1_001, 9, "replace", 1 << 12)) == ["price"]
    assert [order.left for order in both.venue.resting(0, BUY)] == [9]
    both.compare()


def test_a_replaced_order_does_not_count_against_its_account() -> None:
    both = pair(limits=AccountLimits(position=10, open_orders=1))
    both.do(limit(ALICE, BUY, 1_000, 9))
    assert both.do(limit(ALICE, BUY, 990, 10, "replace", 1 << 12)) == [""]
    assert both.do(limit(ALICE, BUY, 990, 11, "replace", 2 << 12)) == ["position"]
    assert both.do(limit(ALICE, SELL, 1_100, 1)) == ["open"]
    both.compare()


@pytest.mark.parametrize(
    ("requests", "reason"),
    [
        ([limit(ALICE, BUY, 1_000, 10_001)], "size"),
        ([limit(ALICE, BUY, 1_000, 0)], "size"),
        ([limit(ALICE, BUY, 1_005, 1)], "price"),
        ([limit(ALICE, BUY, -10, 1)], "price"),
        ([limit(ALICE, BUY, 1_510, 1)], "band"),
        ([limit(ALICE, SELL, 490, 1)], "band"),
        ([limit(ALICE, SELL, 9_000, 1)], ""),
        ([limit(BOB, BUY, 1_000, 3), limit(ALICE, SELL, 600, 4, "fok")], "fok"),
        ([limit(BOB, BUY, 1_000, 3), limit(BOB, BUY, 990, 1), limit(ALICE, SELL, 600, 4, "fok")], ""),
        ([limit(BOB, BUY, 1_000, 3), limit(ALICE, BUY, 990, 3), limit(ALICE, SELL, 600, 4, "fok")], "fok"),
        ([limit(ALICE, BUY, 1_000, 3), limit(ALICE, SELL, 1_000, 1, "post_only")], "cross"),
        ([limit(ALICE, BUY, 1_000, 3), limit(BOB, BUY, 0, 0, "cancel", 1 << 12)], "unknown"),
    ],
)
def test_a_reason_of_a_rejection(requests: list, reason: str) -> None:
    both = pair()
    assert both.do(*requests)[-1] == reason
    both.compare()


def test_a_sale_counts_what_it_may_get_not_its_limit() -> None:
    both = pair(limits=AccountLimits(notional=5_000))
    both.do(limit(BOB, BUY, 1_250, 4))
    assert both.do(limit(ALICE, SELL, 1_000, 5)) == ["notional"]
    assert both.do(limit(ALICE, SELL, 1_000, 4)) == [""]


def test_a_cancel_and_a_shrink_are_let_through_by_every_limit() -> None:
    both = pair(limits=AccountLimits(messages=2))
    both.do(limit(ALICE, BUY, 1_000, 9), limit(ALICE, BUY, 1_000, 9))
    assert both.do(limit(ALICE, BUY, 1_000, 9)) == ["messages"]
    assert both.do(limit(ALICE, BUY, 1_000, 3, "replace", 1 << 12)) == [""]
    both.slow.limits[ALICE].killed = True
    both.venue.state.limits[ALICE, 4] = 1
    assert both.do(limit(ALICE, BUY, 0, 0, "cancel", 2 << 12), limit(ALICE, BUY, 1_000, 2, "replace", 1 << 12)) == [
        "",
        "",
    ]
    assert both.do(limit(ALICE, BUY, 1_000, 9, time=10**9)) == ["killed"]
    both.compare()


def test_the_kill_switch_cancels_what_rests() -> None:
    both = pair()
    both.do(*[limit(account, BUY, 900 + 10 * at, 2) for at in range(10) for account in (ALICE, BOB)])
    both.kill(ALICE, True)
    assert both.do(limit(ALICE, BUY, 1_000, 1)) == ["killed"]
    both.kill(ALICE, False)
    assert both.do(limit(ALICE, BUY, 1_000, 1)) == [""]
    assert {order.account for order in both.venue.resting(0, BUY)[1:]} == {BOB}
    both.compare()


def test_one_order_meets_only_so_many_others() -> None:
    assert MATCHES_MAX == SLOW_MATCHES_MAX
    both = pair(capacity=2 * MATCHES_MAX + 2)
    both.do(*[limit(BOB, SELL, 1_000, 1)] * (MATCHES_MAX + 1))
    assert both.do(limit(ALICE, BUY, 1_000, MATCHES_MAX + 1, "fok")) == ["fok"]
    both.do(limit(ALICE, BUY, 1_000, MATCHES_MAX + 2))
    both.compare()
    assert len(both.venue.resting(0, SELL)) == 1
    assert both.venue.resting(0, BUY) == []


def test_one_order_fits_into_the_rows_that_are_kept_for_it() -> None:
    both = pair("decrement", capacity=2 * MATCHES_MAX)
    both.do(*[limit(ALICE, SELL, 1_000, 2)] * MATCHES_MAX)
    cells = both.venue.order(ALICE, 0, BUY, 1_000, 2 * MATCHES_MAX + 1, time=0)
    assert 4 * MATCHES_MAX < len(cells) <= REQUEST_ROWS_MAX


def test_what_finds_no_room_is_cancelled() -> None:
    both = pair(capacity=2)
    both.do(*[limit(ALICE, BUY, 1_000, 1)] * 3)
    both.compare()
    assert len(both.venue.resting(0, BUY)) == 2


def test_an_account_that_cannot_be_counted_further_trades_no_more() -> None:
    assert LEDGER_MAX == AMOUNT_MAX
    both = pair()
    both.do(limit(BOB, BUY, 1_000, 5), limit(CAROL, BUY, 1_000, 5))
    for account, amount in ((BOB, LEDGER_MAX + 1), (CAROL, -LEDGER_MAX - 1)):
        both.venue.state.accounts[account, 0, CASH] += amount
        both.venue.state.accounts[account, 0, COST] -= amount
        both.slow.ledgers[account][0].cash += amount
        both.slow.ledgers[account][0].cost -= amount
    assert both.do(limit(ALICE, SELL, 1_000, 5, "fok"), limit(BOB, BUY, 1_000, 5)) == ["fok", "ledger"]
    both.do(limit(ALICE, SELL, 1_000, 5))
    assert [order.account for order in both.venue.resting(0, SELL)] == [ALICE]
    assert both.venue.resting(0, BUY) == []


@pytest.mark.parametrize("column", [POSITION, CASH, FEES, COST])
def test_control_money_out_of_nothing_is_caught(column: int) -> None:
    made = venue()
    made.order(0, 0, SELL, 1_000, 5, time=0)
    made.order(1, 0, BUY, 1_000, 5, time=0)
    made.verify()
    made.state.accounts[1, 0, column] += 1
    with pytest.raises(InvariantError):
        made.verify()


def test_control_an_order_that_is_counted_wrongly_is_caught() -> None:
    made = venue()
    made.order(0, 0, SELL, 1_000, 5, time=0)
    made.state.orders[:, 0] = 1
    with pytest.raises(InvariantError):
        made.verify()


def test_every_reason_has_words_and_a_name() -> None:
    assert len(VENUE_REASONS) == len(REASONS) == len(set(VENUE_REASONS))


def test_records_are_of_the_instrument_and_alternate_with_their_extensions() -> None:
    cells = venue().order(0, 0, SELL, 1_000, 5, time=3)
    assert cells["instrument"].tolist() == [7, 7]
    assert cells["kind"].tolist() == [Kind.ORDER] * 2
    assert cells["ts_recv"][0] == 3


@pytest.mark.parametrize("column", [0, 1, 2, 3])
def test_a_request_of_nothing_known_is_refused_before_any_is_carried_out(column: int) -> None:
    made = venue()
    rows = np.array([[0, 0, 0, 0, 1_000, 1, 0, 0, 0]] * 2, np.int64)
    rows[1, column] = 7
    with pytest.raises(DataError, match="request 1"):
        made.run(rows)
    assert made.resting(0, BUY) == []


def test_what_cannot_be_is_refused() -> None:
    made = venue()
    with pytest.raises(UsageError, match="shape"):
        made.run(np.zeros((1, REQUEST_COLUMNS + 1), np.int64))
    with pytest.raises(UsageError, match="kind"):
        made.order(0, 0, BUY, 1_000, 1, time=0, kind="iceberg")
    with pytest.raises(UsageError, match="account"):
        made.kill(2)
    with pytest.raises(UsageError, match="policy"):
        made.limit(0, AccountLimits(self_match="never"))
    with pytest.raises(UsageError, match="limits"):
        made.limit(0, AccountLimits(notional=LEDGER_MAX + 1))
    with pytest.raises(UsageError, match="messages"):
        made.limit(0, AccountLimits(messages=-1))
    with pytest.raises(UsageError, match="accounts"):
        Venue([LISTING], accounts=0)
    with pytest.raises(UsageError, match="fee"):
        Venue([LISTING], accounts=1, taker_fee_ppm=1_000_001)
    for wrong in (replace(LISTING, reference=1_005), replace(LISTING, band_ticks=0)):
        with pytest.raises(DataError):
            Venue([wrong], accounts=1)
    with pytest.raises(DataError, match="lot"):
        Venue([replace(LISTING, instrument=replace(SHARE, lot_size=2**31))], accounts=1)
