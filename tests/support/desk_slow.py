"""The slow order core and the slow ledger as one desk that tells its decisions as EVENTS has them.

`desk.reference` says what becomes of an order, `desk.ledger_reference` how a fill is booked; here accounts get their
own rates and modes, limits hold for instruments that are still to come, and orders of frames run once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tapehouse.core.units import UNDEFINED
from tapehouse.desk import requests as r
from tapehouse.desk.ledger_reference import ReferenceLedger
from tapehouse.desk.reference import (
    AMOUNT_MAX,
    STREET,
    Ledger,
    Limits,
    Market,
    Order,
    Record,
    ReferenceDesk,
    Request,
    half_away,
)
from tapehouse.market import ORDER_EXTENSION, Action, Cells, Instrument, Side

Told = dict[str, Any]  # one decision, or one command's outcome
MAKER_PPM, TAKER_PPM = 0, 30
LOTS_MAX = 30
ACCOUNTS_MAX = 63  # and the street
LETTERS = {r.BUY: int(Side.BID), r.SELL: int(Side.ASK)}
ACTIONS = {
    "accepted": int(Action.ACCEPTED),
    "rejected": int(Action.REJECTED),
    "cancelled": int(Action.CANCELLED),
    "triggered": int(Action.TRIGGERED),
    "expired": int(Action.EXPIRED),
}
ANNOUNCING = (ACTIONS["accepted"], ACTIONS["rejected"])
KINDS = {int(Action.ADD): r.SUBMIT, int(Action.MODIFY): r.REPLACE, int(Action.CANCEL): r.CANCEL}


class AccountLedger(ReferenceLedger):
    """What one account has in one instrument, as the order core asks for it."""

    @property
    def position(self) -> int:
        """Long less short."""
        return self.held(r.BUY) - self.held(r.SELL)

    @property
    def costs(self) -> int:
        """Of both legs."""
        return self.cost(r.BUY) + self.cost(r.SELL)

    @property
    def full(self) -> bool:
        """Whether its amounts are too large to cross with others."""
        return max(abs(self.cash), abs(self.costs), abs(self.realised), abs(self.fees)) > AMOUNT_MAX


@dataclass
class Booking:
    """How an account's fills are booked."""

    mode: str = "netting"
    method: str = "average"
    maker_fee_ppm: int | None = None
    taker_fee_ppm: int | None = None


@dataclass
class Sender:
    """A client of frames: its highest number, and what became of those in its window."""

    last: int = 0
    outcomes: dict[int, tuple[int, int]] = field(default_factory=dict)  # (order, reason) of a number


class SlowCore(ReferenceDesk):
    """Orders, fills and frames; decisions are told one by one."""

    def __init__(self, *, senders_max: int, window: int) -> None:
        super().__init__([], maker_fee_ppm=MAKER_PPM, taker_fee_ppm=TAKER_PPM)
        self.senders_max, self.window = senders_max, window
        self.senders: dict[int, Sender] = {}  # the one that spoke last comes last
        self.instruments: list[Instrument] = []  # by slot
        self.shown_levels: list[dict[int, dict[int, int]]] = []  # by slot, side and price
        self.accounts_open: dict[str, int] = {"strategy": 0}
        self.bookings: dict[int, Booking] = {}
        self.usual_limits: dict[int, Limits] = {}  # of an account, in instruments that nothing else was said of
        self.announced: dict[int, Order] = {}
        self.decisions: list[Told] = []

    # What accounts have and may do.

    def ledger(self, account: int, slot: int) -> Any:
        """An account's amounts in an instrument."""
        place = account, slot
        if account == STREET:
            return self.ledgers.setdefault(place, Ledger())
        if place not in self.ledgers:
            market, booking = self.markets[slot], self.booking(account)
            made = AccountLedger(
                hedging=booking.mode == "hedging", fifo=booking.method == "fifo", multiplier=market.multiplier,
                money_exponent=market.money_exponent, lots_max=LOTS_MAX,
            )  # fmt: skip
            self.ledgers[place] = made  # type: ignore[assignment]
        return self.ledgers[place]

    def booking(self, account: int) -> Booking:
        """How an account's fills are booked."""
        return self.bookings.setdefault(account, Booking())

    def configure(self, account: int, booking: Booking) -> None:
        """Book an account's fills so from now on; it is flat."""
        self.bookings[account] = booking
        for (owner, _), ledger in self.ledgers.items():
            if owner == account:
                ledger.hedging, ledger.fifo = booking.mode == "hedging", booking.method == "fifo"  # type: ignore[attr-defined]

    def is_flat(self, account: int) -> bool:
        """Whether it holds nothing and nothing works for it."""
        held = any(sum(lot[0] for lots in ledger.lots.values() for lot in lots)
                   for (owner, _), ledger in self.ledgers.items() if owner == account)  # type: ignore[attr-defined]  # fmt: skip
        return not held and not any(order.account == account for order in self.working)

    def limit(self, account: int, slot: int) -> Limits:
        """An account's limits in an instrument."""
        usual = self.usual_limits.setdefault(account, Limits())
        return self.limits.setdefault((account, slot), replace(usual))

    def closable(self, account: int, slot: int, side: int) -> int:
        """How much an order of a side can close."""
        return int(self.ledger(account, slot).closable(side))

    def fee(self, account: int, liquidity: str, value: int) -> int:
        """What an account pays for a fill of that value."""
        rate = getattr(self.booking(account), f"{liquidity}_fee_ppm")
        if rate is None:
            return super().fee(account, liquidity, value)
        sign = -1 if (value < 0) != (rate < 0) else 1
        return sign * ((abs(value * rate) * 2 + 1_000_000) // 2_000_000)

    def book(self, order: Order, price: int, size: int, value: int, fee: int) -> Any:
        """Book a fill of an order."""
        ledger = self.ledger(order.account, order.slot)
        assert ledger.worth(price, size) == value
        ledger.fill(order.side, price, size, fee, closing=order.reducing)
        return ledger

    def correct(self, account: int, slot: int, size: int, price: int) -> None:
        """A trade with the street that no order led to."""
        side = r.BUY if size > 0 else r.SELL
        ledger = self.ledger(account, slot)
        ledger.trade(side, price, abs(size), 0, closing=True)
        self.book_street(slot, side, abs(size), ledger.worth(price, abs(size)))

    # The recorded market.

    def define(self, instrument: Instrument) -> None:
        """A new instrument, or a new revision of one."""
        for slot, known in enumerate(self.instruments):
            if known.id == instrument.id:
                self.instruments[slot] = instrument
                self.markets[slot].session_close = instrument.session_close_ns
                return
        sides: dict[int, dict[int, int]] = {r.BUY: {}, r.SELL: {}}

        def levels(side: int) -> list[tuple[int, int]]:
            return sorted(sides[side].items(), reverse=side == r.BUY)

        exponent = instrument.price_exponent + instrument.size_exponent - instrument.currency_exponent
        self.instruments.append(instrument)
        self.shown_levels.append(sides)
        self.markets.append(
            Market(
                levels=levels, money_exponent=exponent, tick=instrument.tick_size, lot=instrument.lot_size,
                multiplier=instrument.multiplier, crossing=instrument.venue == "internal",
                session_close=instrument.session_close_ns, unit=instrument.currency_exponent,
            )
        )  # fmt: skip

    def slot_of(self, instrument: int) -> int | None:
        """The slot of an instrument id."""
        return next((slot for slot, known in enumerate(self.instruments) if known.id == instrument), None)

    def level(self, slot: int, side: int, price: int, size: int) -> None:
        """A level was stated."""
        sides = self.shown_levels[slot]
        before = sides[side].pop(price, 0)
        if size:
            sides[side][price] = size
        if size > before and not self.markets[slot].crossing:
            self.liquidity(slot, side, price, size - before)
        self.shorten(slot)
        self.follow_up(slot)

    # Frames.

    def order_of_frame(self, record: Cells) -> None:
        """One order of a frame: decided, repeated or refused, and answered once."""
        first, said = record[0], record[1:2].view(ORDER_EXTENSION)[0]
        client, number = int(said["client"]), int(said["number"])
        sender = self.senders.pop(client, None) or Sender()
        self.senders[client] = sender
        if len(self.senders) > self.senders_max:
            del self.senders[next(iter(self.senders))]
        slot = self.slot_of(int(first["instrument"]))
        if number in sender.outcomes and number > sender.last - self.window:
            order_id, reason = sender.outcomes[number]
            self._tell_input(
                record, int(Action.REPEATED), order_id, reason, int(first["instrument"]) if slot is not None else 0
            )
            self.decisions[-1]["answer"] = client, number, order_id, reason
            return
        start = len(self.decisions)
        is_stale = number <= sender.last - self.window
        if is_stale:
            reason = r.STALE_NUMBER
        elif slot is None:
            reason = r.BAD_REQUEST
        elif int(first["count"]) >= len(self.accounts_open):
            reason = r.UNKNOWN_ACCOUNT
        else:
            reason = self.decide(request_of(record, slot))
        orders = [told for told in self.decisions[start:] if told["kind"] == "order"]
        if not orders:
            self._tell_input(record, ACTIONS["rejected"], self.next_id, reason, 0)
            orders = self.decisions[-1:]
        answer = next((told for told in orders if told["action"] in ANNOUNCING), orders[0])
        answer["answer"] = client, number, answer["order_id"], reason
        if not is_stale:
            sender.outcomes[number] = answer["order_id"], reason
            sender.last = max(sender.last, number)

    def _tell_input(self, record: Cells, action: int, order_id: int, reason: int, instrument: int) -> None:
        first, said = record[0], record[1:2].view(ORDER_EXTENSION)[0]
        self.add(
            kind="order", action=action, reason=reason, instrument=instrument, side=int(first["side"]),
            order_id=order_id, price=int(first["price"]), size=int(first["size"]), account=int(first["count"]),
            number=int(said["number"]), stop=UNDEFINED, display=int(first["size"]), expiry=0, replaced=0,
        )  # fmt: skip

    @property
    def next_id(self) -> int:
        """The id of an order that is announced now."""
        return self.ordinal * 4096 + self.index - self.base

    # What is told.

    def say(self, action: str, order: Order, reason: int, *, replaced: int = 0) -> None:
        """Write an ORDER record."""
        self.announced[order.order_id] = order
        super().say(action, order, reason, replaced=replaced)

    def tell(self, *records: Record) -> None:
        """Add decisions on orders."""
        for record in records:
            form: Callable[..., None] = self._tell_order if record[0] == "order" else self._tell_fill
            form(*record[1:])

    def _tell_order(
        self, action: str, reason: int, order_id: int, side: int, price: int, left: int, account: int, number: int,
        stop: int, display: int, expiry: int, replaced: int,
    ) -> None:  # fmt: skip
        self.add(
            kind="order", action=ACTIONS[action], reason=reason, instrument=self._instrument(order_id),
            side=LETTERS[side], order_id=order_id, price=price, size=left, account=account, number=number, stop=stop,
            display=display, expiry=expiry, replaced=replaced,
        )  # fmt: skip

    def _tell_fill(
        self, liquidity: str, order_id: int, side: int, price: int, size: int, fee: int, counter: int, account: int,
        position: int, cash: int, match: int,
    ) -> None:  # fmt: skip
        closes = self.announced[order_id].reducing and self.booking(account).mode == "hedging"
        self.add(
            kind="fill", instrument=self._instrument(order_id), side=LETTERS[side], order_id=order_id, price=price,
            size=size, liquidity=("maker", "taker").index(liquidity), match=match, fee=fee, counter=counter,
            account=account, position=position, cash=cash, closes=closes,
        )  # fmt: skip

    def _instrument(self, order_id: int) -> int:
        return self.instruments[self.announced[order_id].slot].id

    def add(self, **what: Any) -> None:
        """Add a decision."""
        self.decisions.append({"input": self.ordinal, "index": self.index, "now": self.now, **what})
        self.index += 1


def request_of(record: Cells, slot: int) -> Request:
    """What an order of a frame asks for."""
    first, said = record[0], record[1:2].view(ORDER_EXTENSION)[0]
    kind, stop = KINDS[int(first["action"])], int(said["stop"])
    return Request(
        kind=kind, account=int(first["count"]), slot=slot,
        side=r.BUY if first["side"] == Side.BID else r.SELL, order_type=int(first["depth"]) & 15,
        time_in_force=int(first["depth"]) >> 4, flags=int(first["flags"]) & 127, price=int(first["price"]),
        size=int(first["size"]), stop=0 if kind == r.REPLACE and stop == UNDEFINED else stop,
        display=int(said["display"]), expiry=int(said["expiry"]), target=int(first["order_id"]),
        number=int(said["number"]),
    )  # fmt: skip


__all__ = ["MAKER_PPM", "TAKER_PPM", "Booking", "SlowCore", "Told", "half_away"]
