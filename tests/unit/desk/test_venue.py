"""A venue's rules one by one, and what its Python side refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapehouse.core.errors import DataError, InvariantError, UsageError
from tapehouse.desk import BUY, SELL
from tapehouse.desk import requests as r
from tapehouse.desk.crossing import MATCHES_MAX
from tapehouse.desk.reference import AMOUNT_MAX, Request
from tapehouse.desk.reference import MATCHES_MAX as SLOW_MATCHES_MAX
from tapehouse.desk.risk import LEDGER_MAX
from tapehouse.desk.state import CASH, COST, FEES, ORDER_ACCOUNT, POSITION, SWITCHED_OFF
from tapehouse.desk.venue import ACCOUNTS, NOTIONAL_MAX, OUT_ROWS_MADE, AccountLimits, Venue
from tapehouse.desk.venue_loop import REQUEST_ROWS_MAX
from tapehouse.market import Instrument, Kind, Side
from tests.support.desk_pair import read_records
from tests.support.venue_pair import Sent, VenuePair, row_of

SHARE = Instrument(id=7, symbol="X", venue="XNAS", tick_size=10, lot_size=1)
WIDE = AccountLimits(band_ppm=500_000)
ALICE, BOB, CAROL = range(3)


def pair(*policies: str, limits: AccountLimits = WIDE) -> VenuePair:
    names = [*policies, *["cancel_newest"] * (3 - len(policies))]
    return VenuePair([SHARE], [1_000], [replace(limits, self_match=name) for name in names])


def send(account: int, side: int, price: int, size: int, time: int = 0, **more: int) -> Sent:
    return Request(account=account, side=side, price=price, size=size, **more), time


def change(account: int, target: int, price: int, size: int) -> Sent:
    return Request(kind=r.REPLACE, account=account, price=price, size=size, target=target << 12), 0


def cancel(account: int, target: int) -> Sent:
    return Request(kind=r.CANCEL, account=account, target=target << 12), 0


def fok(account: int, side: int, price: int, size: int) -> Sent:
    return send(account, side, price, size, time_in_force=r.FOK)


def venue() -> Venue:
    return Venue([SHARE])


def traded() -> Venue:
    made = venue()
    made.order(ALICE, 0, SELL, 1_000, 5, time=0)
    made.order(BOB, 0, BUY, 1_000, 3, time=0)
    made.verify()
    return made


def test_the_oldest_at_the_best_price_trades_first_and_at_its_own_price() -> None:
    made = venue()
    for price, account in ((1_010, ALICE), (1_000, ALICE), (1_000, BOB)):
        made.order(account, 0, SELL, price, 5, time=0, number=price)
    fills = [record for record in read_records(made.order(BOB, 0, BUY, 1_020, 4, time=1)) if record[0] == "fill"]
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
def test_an_account_never_trades_with_itself(policy: str, said: list[object], rests: list[int]) -> None:
    made = venue()
    made.limit(ALICE, AccountLimits(self_match=policy))
    made.order(ALICE, 0, SELL, 1_000, 4, time=0)
    made.order(BOB, 0, SELL, 1_000, 5, time=0)
    records = read_records(made.order(ALICE, 0, BUY, 1_000, 9, time=0))
    own = [(record[1], int(str(record[3])) >> 12, record[6]) for record in records if record[2] == r.OWN_ORDER]
    assert own == said
    assert [order.order_id >> 12 for order in made.resting(0, SELL)] == rests
    assert {record[8] for record in records if record[0] == "fill"} in (set(), {ALICE, BOB})
    made.verify()


def test_a_replace_keeps_its_place_only_where_it_shrinks() -> None:
    both = pair()
    both.do(*[send(account, BUY, 1_000, 9) for account in (ALICE, BOB, CAROL)])
    both.do(change(ALICE, 1, 1_000, 5))
    assert both.venue.resting(0, BUY)[0].order_id == 1 << 12
    both.do(change(ALICE, 1, 1_000, 6), change(BOB, 2, 1_010, 9))
    assert [order.order_id >> 12 for order in both.venue.resting(0, BUY)] == [6, 3, 5]
    assert both.do(change(ALICE, 1, 1_000, 6)) == [r.UNKNOWN_ORDER]
    both.compare()


def test_a_rejected_replace_leaves_the_order_as_it_was() -> None:
    both = pair()
    both.do(send(ALICE, BUY, 1_000, 9))
    assert both.do(change(ALICE, 1, 1_001, 9)) == [r.BAD_PRICE]
    assert [order.left for order in both.venue.resting(0, BUY)] == [9]
    both.compare()


def test_a_replaced_order_does_not_count_against_its_account() -> None:
    both = pair(limits=AccountLimits(position=10, open_orders=1))
    both.do(send(ALICE, BUY, 1_000, 9))
    assert both.do(change(ALICE, 1, 990, 10)) == [r.OK]
    assert both.do(change(ALICE, 2, 990, 11)) == [r.POSITION_LIMIT]
    assert both.do(send(ALICE, SELL, 1_100, 1)) == [r.OPEN_LIMIT]
    both.compare()


@pytest.mark.parametrize(
    ("requests", "reason"),
    [
        ([send(ALICE, BUY, 1_000, 10_001)], r.BAD_SIZE),
        ([send(ALICE, BUY, 1_000, 0)], r.BAD_SIZE),
        ([send(ALICE, BUY, 1_005, 1)], r.BAD_PRICE),
        ([send(ALICE, BUY, -10, 1)], r.BAD_PRICE),
        ([send(ALICE, BUY, 1_510, 1)], r.OUT_OF_BAND),
        ([send(ALICE, SELL, 490, 1)], r.OUT_OF_BAND),
        ([send(ALICE, SELL, 9_000, 1)], r.OK),
        ([send(ALICE, BUY, 0, 1, order_type=r.MARKET)], r.NO_MARKET),
        ([send(BOB, BUY, 1_000, 3), fok(ALICE, SELL, 600, 4)], r.NOT_FILLABLE),
        ([send(BOB, BUY, 1_000, 3), send(BOB, BUY, 990, 1), fok(ALICE, SELL, 600, 4)], r.OK),
        ([send(BOB, BUY, 1_000, 3), send(ALICE, BUY, 990, 3), fok(ALICE, SELL, 600, 4)], r.NOT_FILLABLE),
        ([send(ALICE, BUY, 1_000, 3), send(ALICE, SELL, 1_000, 1, time_in_force=r.POST_ONLY)], r.WOULD_CROSS),
        ([send(ALICE, BUY, 1_000, 3), cancel(BOB, 1)], r.UNKNOWN_ORDER),
        ([send(ACCOUNTS, BUY, 1_000, 3)], r.UNKNOWN_ACCOUNT),
        ([send(-1, BUY, 1_000, 3)], r.UNKNOWN_ACCOUNT),
        ([send(ALICE, 2, 1_000, 3)], r.BAD_REQUEST),
        ([send(ALICE, BUY, 1_000, 3, slot=1)], r.BAD_REQUEST),
        ([send(ALICE, BUY, 1_000, 3, slot=-1)], r.BAD_REQUEST),
        ([send(ALICE, BUY, 1_000, 3, kind=3)], r.BAD_REQUEST),
    ],
)
def test_a_reason_of_a_rejection(requests: list[Sent], reason: int) -> None:
    both = pair()
    assert both.do(*requests)[-1] == reason
    both.compare()


def test_a_sale_counts_what_it_may_get_not_its_limit() -> None:
    both = pair(limits=AccountLimits(notional=50_000))  # of prices and an instrument's unit of 10^-9
    both.do(send(BOB, BUY, 12_500, 4))
    assert both.do(send(ALICE, SELL, 10_000, 5)) == [r.TOO_LARGE]
    assert both.do(send(ALICE, SELL, 10_000, 4)) == [r.OK]


def test_a_cancel_and_a_shrink_are_let_through_by_every_limit() -> None:
    both = pair(limits=AccountLimits(messages=2))
    both.do(send(ALICE, BUY, 1_000, 9), send(ALICE, BUY, 1_000, 9))
    assert both.do(send(ALICE, BUY, 1_000, 9)) == [r.TOO_MANY_MESSAGES]
    assert both.do(change(ALICE, 1, 1_000, 3)) == [r.OK]
    both.slow.account(ALICE).off = True
    both.venue.desk.conduct[ALICE, SWITCHED_OFF] = 1
    assert both.do(cancel(ALICE, 2), change(ALICE, 1, 1_000, 2)) == [r.OK, r.OK]
    assert both.do(send(ALICE, BUY, 1_000, 9, time=10**9)) == [r.KILLED]
    both.compare()


def test_the_kill_switch_cancels_what_works() -> None:
    both = pair()
    both.do(*[send(account, BUY, 900 + 10 * at, 2) for at in range(10) for account in (ALICE, BOB)])
    both.do(send(ALICE, SELL, 1_000, 2, order_type=r.STOP, stop=800))
    both.kill(ALICE, True)
    assert both.do(send(ALICE, BUY, 1_000, 1)) == [r.KILLED]
    both.kill(ALICE, False)
    assert both.do(send(ALICE, BUY, 1_000, 1)) == [r.OK]
    assert {order.account for order in both.venue.working(0)[1:]} == {BOB}
    both.compare()


def test_one_order_meets_only_so_many_others() -> None:
    assert MATCHES_MAX == SLOW_MATCHES_MAX
    made = venue()
    rows = [row_of(send(BOB, SELL, 1_000, 1)[0])] * (MATCHES_MAX + 1)
    rows += [row_of(fok(ALICE, BUY, 1_000, MATCHES_MAX + 1)[0]), row_of(send(ALICE, BUY, 1_000, MATCHES_MAX + 2)[0])]
    reasons, cells = made.run(np.array(rows, np.int64), np.zeros(len(rows), np.int64))
    assert reasons[-2:].tolist() == [r.NOT_FILLABLE, r.OK]
    assert read_records(cells)[-1][1:3] == ("cancelled", r.TOO_MANY_MATCHES)
    assert (len(made.resting(0, SELL)), made.resting(0, BUY)) == (1, [])
    made.verify()


def test_one_order_fits_into_the_rows_that_are_kept_for_it() -> None:
    made = venue()
    made.limit(ALICE, AccountLimits(self_match="decrement"))
    for _ in range(MATCHES_MAX):
        made.order(ALICE, 0, SELL, 1_000, 2, time=0)
    cells = made.order(ALICE, 0, BUY, 1_000, 2 * MATCHES_MAX + 1, time=0)
    assert 4 * MATCHES_MAX < len(cells) <= REQUEST_ROWS_MAX


def test_however_many_are_due_at_once_what_is_said_is_the_same() -> None:
    """Orders that expire before a request take more rows than there are: they go on in pieces, before it."""
    wide = AccountLimits(open_orders=8_000)
    count = OUT_ROWS_MADE - REQUEST_ROWS_MAX
    both = pair(limits=wide)
    rows = [
        row_of(send(ALICE, BUY, 990, 1, time_in_force=r.GTD, expiry=10 + at % 3, number=at)[0]) for at in range(count)
    ]
    both.venue.run(np.array(rows, np.int64), np.zeros(count, np.int64))
    cells = both.venue.order(BOB, 0, BUY, 1_000, 1, time=100)
    said = read_records(cells)
    assert [record[1] for record in said] == ["expired"] * count + ["accepted"]
    assert [record[11] for record in said[:-1]] == sorted(10 + at % 3 for at in range(count))
    assert said[-1][3] == (count + 1) << 12
    both.venue.verify()


def test_an_account_that_cannot_be_counted_further_trades_no_more() -> None:
    assert LEDGER_MAX == AMOUNT_MAX
    both = pair()
    both.do(send(BOB, BUY, 1_000, 5), send(CAROL, BUY, 1_000, 5))
    for account, amount in ((BOB, LEDGER_MAX + 1), (CAROL, -LEDGER_MAX - 1)):
        both.venue.money(account, 0)[CASH] += amount
        both.venue.money(account, 0)[COST] -= amount
        both.slow.ledger(account, 0).cash += amount
        both.slow.ledger(account, 0).cost -= amount
    assert both.do(fok(ALICE, SELL, 1_000, 5), send(BOB, BUY, 1_000, 5)) == [r.NOT_FILLABLE, r.LEDGER_FULL]
    both.do(send(ALICE, SELL, 1_000, 5))
    assert [order.account for order in both.venue.resting(0, SELL)] == [ALICE]
    assert both.venue.resting(0, BUY) == []


@pytest.mark.parametrize("column", [POSITION, CASH, FEES, COST])
def test_control_money_out_of_nothing_is_caught(column: int) -> None:
    made = traded()
    made.money(BOB, 0)[column] += 1
    with pytest.raises(InvariantError):
        made.verify()


def test_control_an_order_that_is_counted_wrongly_is_caught() -> None:
    made = traded()
    made.desk.orders[:, ORDER_ACCOUNT] = BOB
    with pytest.raises(InvariantError, match="open"):
        made.verify()


def test_records_are_of_the_instrument_and_alternate_with_their_extensions() -> None:
    cells = venue().order(ALICE, 0, SELL, 1_000, 5, time=3)
    assert cells["instrument"].tolist() == [7, 7]
    assert cells["kind"].tolist() == [Kind.ORDER] * 2
    assert cells["side"][0] == Side.ASK
    assert cells["ts_recv"][0] == 3


def test_an_iceberg_a_stop_and_a_replace_by_name() -> None:
    made = venue()
    made.order(ALICE, 0, SELL, 1_000, 9, time=0, display=2, post_only=True)
    made.order(BOB, 0, BUY, 0, 4, time=0, order_type="stop", stop=1_010)
    made.order(CAROL, 0, SELL, 1_010, 5, time=0, time_in_force="day")
    assert [(order.shown, order.left, order.waits) for order in made.working(0)] == [
        (2, 9, False), (5, 5, False), (4, 4, True),
    ]  # fmt: skip
    made.replace(ALICE, 0, 1 << 12, 1_020, 9, time=0)
    said = [record[:3] for record in read_records(made.order(ALICE, 0, BUY, 1_010, 1, time=0)) if record[0] == "order"]
    assert ("order", "triggered", r.OK) in said
    made.cancel(ALICE, 0, 4 << 12, time=0)
    assert [(order.account, order.left) for order in made.working(0)] == []
    made.verify()


def test_the_example_of_the_documentation_runs() -> None:
    text = (Path(__file__).parents[3] / "docs" / "trading.md").read_text(encoding="utf-8")
    code = text.split("## An exchange in memory")[1].split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {
        "requests": np.array([row_of(Request(size=1, price=10))], np.int64),
        "times": np.array([5], np.int64),
    }
    exec(code, names)
    assert names["reasons"].tolist() == [r.OK]
    assert [order.price for order in names["venue"].resting(0, BUY)] == [10]


def test_what_cannot_be_is_refused() -> None:
    made = venue()
    row, now = np.zeros((1, r.REQUEST_COLUMNS), np.int64), np.zeros(1, np.int64)
    for rows, times in ((row[:, 1:], now), (row, now[:0]), (row[0], now)):
        with pytest.raises(UsageError, match="shape"):
            made.run(rows, times)
    with pytest.raises(UsageError, match="int32"):
        made.run(row.astype(np.int32), now)
    with pytest.raises(UsageError, match="iceberg"):
        made.order(0, 0, BUY, 1_000, 1, time=0, order_type="iceberg")
    with pytest.raises(UsageError, match="time in force"):
        made.order(0, 0, BUY, 1_000, 1, time=0, time_in_force="never")
    with pytest.raises(UsageError, match="account"):
        made.kill(ACCOUNTS)
    with pytest.raises(UsageError, match="slot"):
        made.cancel_all(slot=1)
    with pytest.raises(UsageError, match="policy"):
        made.limit(0, AccountLimits(self_match="never"))
    with pytest.raises(UsageError, match="limits"):
        made.limit(0, AccountLimits(notional=NOTIONAL_MAX + 1))
    with pytest.raises(UsageError, match="messages"):
        made.limit(0, AccountLimits(messages=-1))
    with pytest.raises(UsageError, match="instruments"):
        Venue([])
    with pytest.raises(UsageError, match="fee"):
        Venue([SHARE], taker_fee_ppm=1_000_001)
    for price in (1_005, 0):
        with pytest.raises(UsageError, match="reference"):
            made.open_at(0, price)
    with pytest.raises(DataError, match="tick"):
        Venue([replace(SHARE, tick_size=0)])
