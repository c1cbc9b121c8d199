"""The slow, obvious desk: a pure fold from the records of a tape to decisions, in dictionaries and Python's integers.

It is the oracle of the whole engine with a strategy that never acts: clients and their outcomes, accounts, kill
switches, limits, orders and money, parked commands. What a resting or marketable order does is `paper_oracle`; bodies
are read by the registry, which is the definition of what a body may say. A new type of command is a method and a row of
`HANDLERS`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from tapehouse.core.errors import DataError
from tapehouse.core.units import to_fixed
from tapehouse.desk.commands import COMMANDS
from tapehouse.desk.requests import REASONS
from tapehouse.log import Envelope, deterministic_id, read_envelope
from tapehouse.market import Action, Cells, Instrument, Kind, Side, read_definition, unpack_payload, words
from tests.support.paper_oracle import BUY, GTC, IOC, POST_ONLY, SELL, PaperMarket

Told = dict[str, Any]  # one decision, or one command's outcome
MAKER_PPM, TAKER_PPM = 0, 30
WORKING_MAX = 64
MONEY = ("position", "cash", "fees")
OLD_ANSWERS = {("order.submit", 1), ("order.cancel", 1), ("account.kill", 1)}
LETTERS = {BUY: int(Side.BID), SELL: int(Side.ASK)}
KILLED, BAD_SIZE, BAD_PRICE, TOO_LARGE, POSITION_LIMIT, OPEN_LIMIT, WOULD_CROSS, UNKNOWN_ORDER = range(1, 9)


@dataclass
class Limits:
    """Of one account."""

    order_size: int = 10_000
    position: int = 100_000
    notional: int = 10**17
    open_orders: int = WORKING_MAX


class Market(PaperMarket):
    """One instrument: its displayed levels, all accounts' resting orders in it, and what each account has."""

    def __init__(self, desk: SlowDesk, instrument: Instrument) -> None:
        exponent = instrument.price_exponent + instrument.size_exponent - instrument.currency_exponent
        super().__init__(self.best_first, exponent, MAKER_PPM, TAKER_PPM, instrument.multiplier)
        self.desk, self.instrument = desk, instrument
        self.sides: dict[int, dict[int, int]] = {BUY: {}, SELL: {}}
        self.money: dict[int, PaperMarket] = {}
        self.owners: dict[int, tuple[int, int]] = {}  # (account, number) of an order

    def best_first(self, side: int) -> list[tuple[int, int]]:
        return sorted(self.sides[side].items(), reverse=side == BUY)

    def level(self, side: int, price: int, size: int) -> None:
        """A level was stated."""
        before = self.sides[side].pop(price, 0)
        if size:
            self.sides[side][price] = size
        if size > before:
            self.liquidity(side, price, size - before)
        self.shrink()

    def of(self, account: int) -> PaperMarket:
        """What an account has in this instrument."""
        if account not in self.money:
            self.money[account] = PaperMarket(
                self.best_first, self.money_exponent, MAKER_PPM, TAKER_PPM, self.multiplier
            )
        return self.money[account]

    def fill(self, order_id: int, side: int, price: int, size: int, fee_ppm: int) -> None:
        account, _ = self.owners[order_id]
        money = self.of(account)
        fees = money.fees
        money.fill(order_id, side, price, size, fee_ppm)
        self.desk.matches += 1
        self.desk.tell(
            kind="fill", instrument=self.instrument.id, side=LETTERS[side], order_id=order_id, price=price, size=size,
            liquidity=int(fee_ppm == TAKER_PPM), match=self.desk.matches, fee=money.fees - fees, account=account,
            position=money.position, cash=money.cash,
        )  # fmt: skip

    def say(self, action: Action, order_id: int, side: int, price: int, left: int, reason: int = 0) -> None:
        """An ORDER record."""
        account, number = self.owners[order_id]
        self.desk.tell(
            kind="order", action=int(action), instrument=self.instrument.id, side=LETTERS[side], reason=reason,
            order_id=order_id, price=price, size=left, account=account, number=number,
        )  # fmt: skip

    def waiting(self, account: int, side: int) -> int:
        """The size of an account's resting orders on a side."""
        return sum(o.left for o in self.working if o.side == side and self.owners[o.order_id][0] == account)


@dataclass
class SlowDesk:
    """See the module."""

    outcomes_max: int = 256
    now: int = 0
    input: int = 0
    index: int = 0
    matches: int = 0
    strategy_runs: bool = True
    poison: str = "halt"
    markets: dict[int, Market] = field(default_factory=dict)  # by instrument id
    accounts: dict[str, int] = field(default_factory=lambda: {"strategy": 0})
    limits: dict[int, Limits] = field(default_factory=dict)
    killed: set[int | str] = field(default_factory=set)  # accounts, and "all"
    clients: dict[str, dict[int, Told]] = field(default_factory=dict)
    cash: dict[tuple[int, str, int, str], int] = field(default_factory=dict)  # by account, currency, unit and kind
    parked: dict[int, tuple[int, bytes]] = field(default_factory=dict)  # by input: sequence and bytes
    settled: dict[int, str] = field(default_factory=dict)
    decisions: list[Told] = field(default_factory=list)

    # The fold.

    def fold(self, ordinal: int, record: Cells) -> None:
        """One record of the tape."""
        first = record[0]
        self.input, self.index = ordinal, 0
        self.now = max(self.now, int(first["ts_recv"]))
        kind, instrument = int(first["kind"]), int(first["instrument"])
        if kind == Kind.DEFINITION:
            defined = read_definition(record)
            self.markets.setdefault(defined.id, Market(self, defined))
            self.tell(kind="definition", instrument=defined.id)
        elif kind == Kind.COMMAND:
            self._command(int(first["sequence"]), unpack_payload(record))
        elif kind == Kind.TRADE:
            aggressor = {int(Side.BID): BUY, int(Side.ASK): SELL}.get(int(first["side"]))
            self.markets[instrument].trade(int(first["price"]), int(first["size"]), aggressor)
        elif kind == Kind.MBP:
            side = BUY if first["side"] == Side.BID else SELL
            self.markets[instrument].level(side, int(first["price"]), int(first["size"]))
        else:
            assert kind in (Kind.CLOCK, Kind.EPOCH, Kind.STATUS, Kind.GAP), f"no rule for kind {kind}"

    def tell(self, **what: Any) -> None:
        """Add a decision."""
        self.decisions.append({"input": self.input, "index": self.index, "now": self.now, **what})
        self.index += 1

    def event(self, kind: str, version: int, causation: str, correlation: str, body: Told) -> None:
        """Add an EVENT."""
        self.tell(
            kind="event", id=deterministic_id(kind, self.input, self.index), type=kind, version=version,
            causation=causation, correlation=correlation, body=body,
        )  # fmt: skip

    # Commands.

    def _command(self, sequence: int, payload: bytes) -> None:
        try:
            envelope = read_envelope(payload)
        except DataError as error:
            name = f"cmds:{sequence}"
            outcome = self._park(sequence, payload, None, error)
            self.event("command.outcome", 2, name, name, {**outcome, "input": sequence, "position": self.input})
            return
        known = self._known(envelope)
        if known is None:
            known = self._first_time(sequence, payload, envelope)
            if envelope.client:
                window = self.clients.pop(envelope.client, {})
                window[envelope.number] = known
                self.clients[envelope.client] = window  # The client that spoke last comes last.
                while len(window) > self.outcomes_max:
                    del window[min(window)]
        body, version = {**known, "position": self.input}, 1
        if (envelope.type, envelope.version) not in OLD_ANSWERS or "parked" in (known["outcome"], known.get("first")):
            body, version = {**body, "input": sequence, "number": envelope.number}, 2
        self.event("command.outcome", version, envelope.id, envelope.correlation, body)

    def _known(self, envelope: Envelope) -> Told | None:
        window = self.clients.get(envelope.client)
        if not envelope.client or window is None:
            return None
        if envelope.number in window:
            first = window[envelope.number]
            return {**first, "outcome": "repeated", "first": first["outcome"]}
        if envelope.number < min(window):
            return {"outcome": "expired", "reason": f"number {envelope.number} is below this client's window"}
        return None

    def _first_time(self, sequence: int, payload: bytes, envelope: Envelope) -> Told:
        try:
            _, command = COMMANDS.decode(payload)
        except DataError as error:
            return self._park(sequence, payload, envelope, error)
        try:
            outcome = HANDLERS[envelope.type](self, command, envelope)
        except DataError as error:
            return {"outcome": "rejected", "reason": str(error)[:400]}
        tag = getattr(command, "tag", "")
        return {**outcome, "tag": tag} if tag else outcome

    def _park(self, sequence: int, payload: bytes, envelope: Envelope | None, error: DataError) -> Told:
        self.parked[self.input] = sequence, payload
        name = f"cmds:{sequence}"
        causation, correlation = (envelope.id, envelope.correlation) if envelope else (name, name)
        body = {
            "reason": str(error)[:400], "sequence": sequence, "client": envelope.client if envelope else "",
            "number": envelope.number if envelope else 0, "type": envelope.type if envelope else "",
            "version": envelope.version if envelope else 0, "size": len(payload),
            "hash": blake3(payload).hexdigest(),
        }  # fmt: skip
        self.event("command.parked", 1, causation, correlation, body)
        return {"outcome": "parked", "reason": body["reason"]}

    def _account(self, name: str, envelope: Envelope) -> int:
        if name not in self.accounts:
            if len(self.accounts) >= 63:
                raise DataError(f"no room for account {name!r}", hint="a desk keeps 63 accounts")
            self.accounts[name] = len(self.accounts)
            body = {"account": name, "number": self.accounts[name]}
            self.event("account.opened", 1, envelope.id, envelope.correlation, body)
        return self.accounts[name]

    def _market(self, symbol: str) -> Market:
        for market in self.markets.values():
            if market.instrument.symbol == symbol:
                return market
        known = ", ".join(sorted(market.instrument.symbol for market in self.markets.values())) or "none yet"
        raise DataError(f"unknown instrument {symbol!r}", hint=f"known: {known}")

    # Orders.

    def submit(self, command: Any, envelope: Envelope) -> Told:
        market = self._market(command.instrument)
        price = market.instrument.fixed_price(command.price)
        size = market.instrument.fixed_size(command.size)
        account = self._account(command.account, envelope)
        order_id = self.input * 4096 + self.index
        side = BUY if command.side == "buy" else SELL
        market.owners[order_id] = account, envelope.number
        reason = self._risk(market, account, side, price, size)
        best = market.best(1 - side)
        crosses = best is not None and (best <= price if side == BUY else best >= price)
        if not reason and command.post_only and crosses:
            reason = WOULD_CROSS
        if reason:
            market.say(Action.REJECTED, order_id, side, price, size, reason)
            return {"outcome": "rejected", "reason": REASONS[reason], "order_id": order_id}
        market.say(Action.ACCEPTED, order_id, side, price, size)
        filled = len(self.decisions)
        force = IOC if command.time_in_force == "ioc" else POST_ONLY if command.post_only else GTC
        assert market.submit(order_id, side, price, size, force)
        left = size - sum(told["size"] for told in self.decisions[filled:])
        if left and force == IOC:
            market.say(Action.CANCELLED, order_id, side, price, left)
        return {"outcome": "accepted", "order_id": order_id}

    def _risk(self, market: Market, account: int, side: int, price: int, size: int) -> int:
        limits, terms = self.limits.get(account, Limits()), market.instrument
        lots = size // terms.lot_size
        held = market.of(account).position
        after = (
            held + market.waiting(account, BUY) + size if side == BUY else -held + market.waiting(account, SELL) + size
        )
        if self.killed & {account, "all"}:
            return KILLED
        if size <= 0 or size > limits.order_size * terms.lot_size or lots * terms.lot_size != size:
            return BAD_SIZE
        if price <= 0 or price % terms.tick_size:
            return BAD_PRICE
        if market.notional(price, size) > limits.notional:
            return TOO_LARGE
        if after > limits.position * terms.lot_size:
            return POSITION_LIMIT
        own = sum(market.owners[order.order_id][0] == account for order in market.working)
        if own >= limits.open_orders:
            return OPEN_LIMIT
        return 0

    def cancel(self, command: Any, envelope: Envelope) -> Told:
        wanted = None if command.instrument is None else self._market(command.instrument)
        account = self.accounts.get(command.account)
        for market in self.markets.values():
            for order in market.working:
                ours = order.order_id == command.order_id and market.owners[order.order_id][0] == account
                if ours and wanted in (None, market):
                    self._cancel(market, order)
                    return {"outcome": "accepted", "order_id": command.order_id}
        return {"outcome": "rejected", "reason": REASONS[UNKNOWN_ORDER], "order_id": command.order_id}

    def mass_cancel(self, command: Any, envelope: Envelope) -> Told:
        markets = None if command.instrument is None else [self._market(command.instrument)]
        account = None if command.account is None else self.accounts.get(command.account, -1)
        sides = (BUY, SELL) if command.side is None else (BUY if command.side == "buy" else SELL,)
        return {"outcome": "accepted", "count": self._cancel_all(account, markets, sides)}

    def _cancel_all(
        self, account: int | None, markets: list[Market] | None = None, sides: tuple[int, ...] = (BUY, SELL)
    ) -> int:
        """Cancel by instrument, then side, price and age; None for all accounts, or instruments."""
        count = 0
        for market in markets or [self.markets[number] for number in sorted(self.markets)]:
            for side in sides:
                for order in list(market.working):
                    if order.side == side and account in (None, market.owners[order.order_id][0]):
                        self._cancel(market, order)
                        count += 1
        return count

    def _cancel(self, market: Market, order: Any) -> None:
        market.say(Action.CANCELLED, order.order_id, order.side, order.price, order.left)
        market.working.remove(order)

    # Control.

    def kill_account(self, command: Any, envelope: Envelope) -> Told:
        account = self._account(command.account, envelope)
        self._switch(account, command.on)
        return {"outcome": "accepted"}

    def kill_switch(self, command: Any, envelope: Envelope) -> Told:
        body: Told = {"scope": command.scope, "on": command.on}
        if command.scope == "all":
            body["count"] = self._switch("all", command.on)
        elif command.scope == "strategy":
            body["count"] = self._switch(0, command.on)
        else:
            body["count"] = self._switch(self._account(command.account, envelope), command.on)
            body["account"] = command.account
        self.event("kill.switched", 1, envelope.id, envelope.correlation, body)
        return {"outcome": "accepted", "count": body["count"]}

    def _switch(self, who: int | str, on: bool) -> int:
        if not on:
            self.killed.discard(who)
            return 0
        self.killed.add(who)
        return self._cancel_all(None if who == "all" else int(who))

    def set_limits(self, command: Any, envelope: Envelope) -> Told:
        values = {name: int(value) for name, value in command.given.items() if name != "notional"}
        if command.notional is not None:
            values["notional"] = to_fixed(command.notional, -9)
        account = self._account(command.account, envelope)
        limits = self.limits.setdefault(account, Limits())
        for name, value in values.items():
            setattr(limits, name, value)
        body = {"account": command.account, "limits": values}
        self.event("limits.set", 1, envelope.id, envelope.correlation, body)
        return {"outcome": "accepted"}

    def open_account(self, command: Any, envelope: Envelope) -> Told:
        self._account(command.account, envelope)
        return {"outcome": "accepted"}

    def book_cash(self, command: Any, envelope: Envelope) -> Told:
        terms = [market.instrument for market in self.markets.values()]
        exponent = next((one.currency_exponent for one in terms if one.currency == command.currency), -9)
        amount = to_fixed(command.amount, exponent)
        account = self._account(command.account, envelope)
        place = account, command.currency, exponent, command.kind
        sign = -1 if command.kind in ("withdrawal", "fee") else 1
        self.cash[place] = self.cash.get(place, 0) + sign * amount
        body = command.model_dump(mode="json") | {"exponent": exponent}
        self.event("cash.booked", 1, envelope.id, envelope.correlation, body)
        return {"outcome": "accepted"}

    def ping(self, command: Any, envelope: Envelope) -> Told:
        return {"outcome": "accepted"}

    def start_strategy(self, command: Any, envelope: Envelope) -> Told:
        if not self.strategy_runs:
            self.event("strategy.started", 1, envelope.id, envelope.correlation, {"strategy": "idler"})
        self.strategy_runs = True
        return {"outcome": "accepted"}

    def stop_strategy(self, command: Any, envelope: Envelope) -> Told:
        count = self._cancel_all(0) if command.cancel_orders else 0
        if self.strategy_runs:
            body = {"strategy": "idler", "count": count}
            self.event("strategy.stopped", 1, envelope.id, envelope.correlation, body)
        self.strategy_runs = False
        return {"outcome": "accepted", "count": count}

    # What is parked. With the code that parked it, a command can never be read again: a replay is refused.

    def set_poison(self, command: Any, envelope: Envelope) -> Told:
        self.poison = command.policy
        self.event("desk.poison_set", 1, envelope.id, envelope.correlation, {"policy": command.policy})
        return {"outcome": "accepted"}

    def drop_parked(self, command: Any, envelope: Envelope) -> Told:
        sequence, _ = self._find_parked(command.position)
        del self.parked[command.position]
        self.settled[command.position] = f"was dropped at {self.input}"
        body = {"position": command.position, "sequence": sequence, "why": "asked"}
        self.event("command.dropped", 1, envelope.id, envelope.correlation, body)
        return {"outcome": "accepted"}

    def replay_parked(self, command: Any, envelope: Envelope) -> Told:
        COMMANDS.decode(self._find_parked(command.position)[1])
        raise AssertionError("a command that was parked is read by the same code")

    def _find_parked(self, position: int) -> tuple[int, bytes]:
        if position in self.parked:
            return self.parked[position]
        said = f"nothing is parked at {position}"
        if position in self.settled:
            said = f"the command parked at {position} {self.settled[position]}"
        raise DataError(said, hint="see tapehouse parked list")

    # What is compared.

    def state(self) -> Told:
        """Money, working orders, limits, kill switches and outcomes, as `state_of` tells them of an engine."""
        return {
            "money": {
                (account, number): tuple(getattr(money, name) for name in MONEY)
                for number, market in self.markets.items()
                for account, money in market.money.items()
                if money.fills
            },
            "working": {
                number: [
                    (order.order_id, order.side, order.price, order.left, order.ahead, *market.owners[order.order_id])
                    for order in sorted(market.working, key=lambda order: order.order_id)
                ]
                for number, market in self.markets.items()
            },
            "cash": {place: amount for place, amount in self.cash.items() if amount},
            "accounts": self.accounts,
            "killed": {number for number in range(16) if self.killed & {number, "all"}},
            "clients": [[client, sorted(window.items())] for client, window in self.clients.items()],
        }  # fmt: skip


Handler = Callable[[SlowDesk, Any, Envelope], Told]
HANDLERS: dict[str, Handler] = {
    "order.submit": SlowDesk.submit,
    "order.cancel": SlowDesk.cancel,
    "order.mass_cancel": SlowDesk.mass_cancel,
    "account.kill": SlowDesk.kill_account,
    "kill.switch": SlowDesk.kill_switch,
    "risk.set_limits": SlowDesk.set_limits,
    "desk.ping": SlowDesk.ping,
    "account.open": SlowDesk.open_account,
    "cash.book": SlowDesk.book_cash,
    "strategy.start": SlowDesk.start_strategy,
    "strategy.stop": SlowDesk.stop_strategy,
    "desk.poison": SlowDesk.set_poison,
    "parked.drop": SlowDesk.drop_parked,
    "parked.replay": SlowDesk.replay_parked,
}


def told_by(record: Cells) -> Told:
    """One record of EVENTS as the oracle tells it."""
    first = record[0]
    told: Told = {"input": int(first["sequence"]), "index": int(first["count"]), "now": int(first["ts_recv"])}
    kind = int(first["kind"])
    if kind == Kind.EVENT:
        said = json.loads(unpack_payload(record))
        told |= {"kind": "event"} | {name: said[name] for name in ("id", "type", "version", "causation", "correlation")}
        return told | {"body": said["body"]}
    told["instrument"] = int(first["instrument"])
    if kind == Kind.DEFINITION:
        return {**told, "kind": "definition"}
    extension = words(record)[1].tolist()
    told |= {name: int(first[name]) for name in ("side", "order_id", "price", "size")}
    if kind == Kind.ORDER:
        return told | {
            "kind": "order", "action": int(first["action"]), "reason": int(first["depth"]), "account": extension[0],
            "number": extension[1],
        }  # fmt: skip
    assert kind == Kind.FILL
    return told | {
        "kind": "fill", "liquidity": int(first["depth"]), "match": extension[0], "fee": extension[1],
        "account": extension[3], "position": extension[4], "cash": extension[5],
    }  # fmt: skip
