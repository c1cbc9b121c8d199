"""The desk's kernels and the slow desk, side by side: the same market, the same requests, all that they say compared.

Slot 0 is on paper: its recorded book is changed by `level` and `trade`. Slot 1 crosses: accounts trade there with each
other. Ordinals count the events.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tapehouse.book import best_price, define, levels, make_books, set_level
from tapehouse.core.units import UNDEFINED
from tapehouse.desk import (
    POWERS,
    catch_up,
    decide,
    define_instrument,
    follow_up,
    make_desk,
    mass_cancel,
    on_liquidity,
    on_trade,
    shrink_queues,
    stored,
    working_orders,
)
from tapehouse.desk import requests as r
from tapehouse.desk.conservation import verify_conservation
from tapehouse.desk.reference import Account, Limits, Market, Record, ReferenceDesk, Request
from tapehouse.desk.state import (
    CASH,
    COST,
    FEES,
    ID_BASE,
    INDEX,
    LIMIT_MESSAGES,
    NOW,
    OPEN_BUY,
    OPEN_ORDERS,
    OPEN_SELL,
    ORDINAL,
    OUT_ROWS,
    OVERFLOWS,
    POSITION,
    REALISED,
    REDUCING_BUY,
    REDUCING_SELL,
    SELF_MATCH,
    SESSION_CLOSE,
    SWITCHED_OFF,
    UNSETTLED,
)
from tapehouse.market import (
    FILL_EXTENSION,
    ORDER_EXTENSION,
    Action,
    Cells,
    Flag,
    Instrument,
    Kind,
    Side,
    from_words,
    record_starts,
)

TICK = 1_000
MAKER_PPM, TAKER_PPM = -20, 300
ACCOUNTS = 3
SWITCH_OF_ALL = 2  # the bit of SWITCHED_OFF that the kill switch of everybody sets
OUT_ROWS_MADE = 60_000
SIDES = {Side.BID: r.BUY, Side.ASK: r.SELL}
ACTIONS = {
    Action.ACCEPTED: "accepted",
    Action.REJECTED: "rejected",
    Action.CANCELLED: "cancelled",
    Action.TRIGGERED: "triggered",
    Action.EXPIRED: "expired",
}
INSTRUMENTS = (
    Instrument(id=7, symbol="PAPER", tick_size=TICK, price_exponent=-5, currency_exponent=-4, multiplier=7),
    Instrument(id=9, symbol="CROSS", venue="internal", tick_size=TICK, lot_size=2, price_exponent=-5,
               currency_exponent=-4),
)  # fmt: skip


def read_records(cells: Cells) -> list[Record]:
    """What a desk decided, as the slow desk tells it; what all records have in common is checked on the way."""
    told: list[Record] = []
    ordinal, index = -1, 0
    for start in record_starts(cells).tolist():
        first, extension = cells[start], cells[start + 1 : start + 2]
        index = index + 1 if int(first["sequence"]) == ordinal else 0
        ordinal = int(first["sequence"])
        assert (int(first["cells"]), int(first["count"]), int(first["flags"])) == (2, index, Flag.LAST)
        side, order_id = SIDES[Side(int(first["side"]))], int(first["order_id"])
        price, size, depth = int(first["price"]), int(first["size"]), int(first["depth"])
        if int(first["kind"]) == Kind.ORDER:
            more = extension.view(ORDER_EXTENSION)[0]
            told.append(
                ("order", ACTIONS[Action(int(first["action"]))], depth, order_id, side, price, size,
                 int(more["client"]), int(more["number"]), int(more["stop"]), int(more["display"]),
                 int(more["expiry"]), int(more["replaced"]))
            )  # fmt: skip
        else:
            assert (int(first["kind"]), int(first["action"])) == (Kind.FILL, Action.FILL)
            more = extension.view(FILL_EXTENSION)[0]
            told.append(
                ("fill", ("maker", "taker")[depth], order_id, side, price, size, int(more["fee"]),
                 int(more["counter_order"]), int(more["client"]), int(more["position"]), int(more["cash"]),
                 int(more["match_id"]))
            )  # fmt: skip
    return told


class DeskPair:
    """Both desks, and the recorded book of slot 0."""

    def __init__(self) -> None:
        self.books = make_books(2, orders=64, levels=256)
        self.desk = make_desk(maker_fee_ppm=MAKER_PPM, taker_fee_ppm=TAKER_PPM)
        markets = []
        for slot, instrument in enumerate(INSTRUMENTS):
            define(self.books, slot, TICK)
            define_instrument(self.desk, slot, instrument)
            market = Market(money_exponent=-1, tick=TICK, lot=instrument.lot_size, multiplier=instrument.multiplier,
                            unit=instrument.currency_exponent)  # fmt: skip
            market.crossing = slot == 1
            markets.append(market)
        markets[0].levels = self.displayed
        self.slow = ReferenceDesk(markets, maker_fee_ppm=MAKER_PPM, taker_fee_ppm=TAKER_PPM)
        self.out = np.zeros((OUT_ROWS_MADE, 8), np.int64)
        self.ladder = np.zeros((2, 8), np.int64)
        self.ordinal, self.now = 0, 0
        self.written = from_words(self.out[:0])  # what the kernels wrote at the last input

    def displayed(self, side: int) -> list[tuple[int, int]]:
        """The levels of the recorded book."""
        return [(price, size) for price, size, _ in levels(self.books, 0, side)]

    def do(self, name: str, *values: Any) -> Any:
        """One input: what is due before it, the event, and the comparison of all that was said."""
        self.ordinal += 1
        counters = self.desk.counters
        counters[ORDINAL], counters[INDEX], counters[ID_BASE], counters[OUT_ROWS] = self.ordinal, 0, 0, 0
        if name == "wait":
            self.now += values[0]
        counters[NOW] = self.now
        assert catch_up(self.desk, self.books, self.ladder, self.out, POWERS, OUT_ROWS_MADE - 4_096) == 0
        self.slow.records.clear()
        self.slow.begin(self.ordinal, self.now)
        result = None if name == "wait" else getattr(self, name)(*values)
        self.written = from_words(self.out[: int(counters[OUT_ROWS])].copy())
        assert read_records(self.written) == self.slow.records
        assert counters[OVERFLOWS] == 0
        return result

    # Events.

    def level(self, side: int, price: int, size: int) -> None:
        """The recorded book states a level; a crossed one is left out, since no venue shows it."""
        opposite = best_price(self.books, 0, 1 - side)
        if size and opposite != UNDEFINED and (price >= opposite if side == 0 else price <= opposite):
            return
        before = dict(self.displayed(side)).get(price, 0)
        set_level(self.books, 0, side, price, size)
        if size > before:
            on_liquidity(self.desk, self.books, self.out, POWERS, 0, side, price, size - before)
            self.slow.liquidity(0, side, price, size - before)
        shrink_queues(self.desk, self.books, 0)
        self.slow.shorten(0)
        self.follow()

    def trade(self, aggressor: int | None, price: int, size: int) -> None:
        """The recorded market trades."""
        letter = int(Side.NONE) if aggressor is None else (int(Side.BID), int(Side.ASK))[aggressor]
        on_trade(self.desk, self.books, self.out, POWERS, 0, price, size, letter)
        self.slow.trade(0, price, size, aggressor)
        self.follow()

    def follow(self) -> None:
        """As the loop does after a record."""
        if self.desk.instruments[0, UNSETTLED]:
            assert follow_up(self.desk, self.books, self.ladder, self.out, POWERS, 0, 0) == 0
        self.slow.follow_up(0)

    def ask(self, request: Request) -> int:
        """A request to both."""
        row = np.zeros(r.REQUEST_COLUMNS, np.int64)
        for name, value in vars(request).items():
            row[getattr(r, f"REQUEST_{'TYPE' if name == 'order_type' else name.upper()}")] = value
        reason = int(decide(self.desk, self.books, self.ladder, self.out, POWERS, row))
        assert reason == self.slow.decide(request)
        return reason

    def cancel_all(self, account: int, slot: int, side: int) -> None:
        """A mass cancel; -1 for any."""
        assert mass_cancel(self.desk, self.out, account, slot, side) == 0
        known = [None if value < 0 else value for value in (account, slot, side)]
        self.slow.mass_cancel(*known)

    def limit(self, account: int, slot: int, limits: Limits) -> None:
        """Set an account's limits in an instrument."""
        self.slow.limits[account, slot] = limits
        values = (limits.order_size, limits.position, limits.notional, limits.open_orders, limits.band)
        self.desk.limits[account, slot, :5] = values

    def settings(self, account: int, policy: int, messages: int, off: int) -> None:
        """Set what holds for an account."""
        kept = self.slow.account(account).window
        self.slow.accounts[account] = Account(off=bool(off), policy=policy, messages=messages, window=kept)
        switches = int(off) | SWITCH_OF_ALL * self.slow.all_off
        self.desk.conduct[account, [SWITCHED_OFF, SELF_MATCH, LIMIT_MESSAGES]] = switches, policy, messages

    def close_session(self, slot: int, after: int) -> None:
        """Say when DAY orders of an instrument end."""
        self.desk.instruments[slot, SESSION_CLOSE] = self.slow.markets[slot].session_close = self.now + after

    def all_off(self, on: int) -> None:
        """The kill switch of everybody."""
        self.desk.conduct[:, SWITCHED_OFF] &= ~SWITCH_OF_ALL
        self.desk.conduct[:, SWITCHED_OFF] |= SWITCH_OF_ALL * on
        self.slow.all_off = bool(on)

    def restore(self) -> None:
        """Snapshot and restore; the second snapshot is the first."""
        data = stored.snapshot(self.desk)
        restored = stored.restore(data)
        assert stored.snapshot(restored) == data
        for column in (ORDINAL, INDEX, OUT_ROWS):
            restored.counters[column] = self.desk.counters[column]
        self.desk = restored

    # What both hold.

    def compare(self) -> None:
        """Everything that both hold, and that nothing came from nowhere."""
        slow, desk = self.slow, self.desk
        verify_conservation(desk.accounts, desk.legs, desk.booking, desk.instruments, len(INSTRUMENTS))
        for slot in range(len(INSTRUMENTS)):
            mine = [(o.order_id, o.account, o.side, o.price, o.left, o.shown, o.ahead, o.waits)
                    for o in sorted(working_orders(self.desk, slot), key=lambda o: (o.waits, o.side))]  # fmt: skip
            assert mine == [
                (o.order_id, o.account, o.side, o.price, o.left, o.shown, o.ahead, o.waits) for o in slow.listed(slot)
            ]
            for account in (*range(ACCOUNTS), 63):
                money, ledger = self.desk.accounts[account, slot], slow.ledger(account, slot)
                assert money[[POSITION, CASH, FEES, COST, REALISED]].tolist() == [
                    ledger.position, ledger.cash, ledger.fees, ledger.cost, ledger.realised,
                ]  # fmt: skip
                assert money[[OPEN_BUY, OPEN_SELL, REDUCING_BUY, REDUCING_SELL]].tolist() == [
                    slow.open_size(account, slot, side, reducing=reducing)
                    for reducing in (False, True) for side in range(2)
                ]  # fmt: skip
                assert money[OPEN_ORDERS] == sum((o.account, o.slot) == (account, slot) for o in slow.working)
            everybody = self.desk.accounts[:, slot]
            assert everybody[:, POSITION].sum() == 0
            assert (everybody[:, CASH] + everybody[:, FEES]).sum() == 0
