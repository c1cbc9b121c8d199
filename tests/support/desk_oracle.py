"""The slow, obvious desk: a pure fold from the records of a tape to decisions, in dictionaries and Python's integers.

It is the oracle of the whole engine with a strategy that never acts: clients and their outcomes, accounts, kill
switches, limits, orders and money, parked commands. What becomes of an order is `desk_slow`; bodies are read by the
registry, which is the definition of what a body may say. A new type of command is a method and a row of `HANDLERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from blake3 import blake3

from tapehouse.core.errors import DataError
from tapehouse.core.units import to_fixed
from tapehouse.desk import requests as r
from tapehouse.desk.commands import COMMANDS
from tapehouse.desk.order_frames import refuse_frame
from tapehouse.desk.reference import Limits, Order, Request
from tapehouse.engine.registration import registered
from tapehouse.log import Envelope, deterministic_id, read_envelope
from tapehouse.market import Cells, Instrument, Kind, Side, read_definition, unpack_payload
from tests.support.desk_slow import ACCOUNTS_MAX, Booking, SlowCore, Told

OLD_ANSWERS = {("order.submit", 1), ("order.cancel", 1), ("account.kill", 1)}
SIDES = {"buy": r.BUY, "sell": r.SELL}
STRATEGY, PARAMETERS = "idler", {"width": 3, "depth": 5}
LIMIT_NAMES = {"price_band_ppm": "band"}  # what the core calls them
OF_THE_ACCOUNT = {"messages_per_second": "messages", "self_match": "policy"}
DESK_SOURCE = 2
MONEY = ("position", "cash", "fees", "costs", "realised", "fills")


class SlowDesk(SlowCore):
    """See the module."""

    def __init__(self, *, outcomes_max: int = 256, senders_max: int = 256, window: int = 8192) -> None:
        super().__init__(senders_max=senders_max, window=window)
        self.outcomes_max = outcomes_max
        self.strategy_runs, self.parameters = True, dict(PARAMETERS)
        self.poison = "halt"
        self.killed: set[int | str] = set()  # accounts, and "all"
        self.clients: dict[str, dict[int, Told]] = {}
        self.cash: dict[tuple[int, str, int, str], int] = {}  # by account, currency, unit and kind
        self.parked: dict[int, tuple[int, bytes]] = {}  # by input: sequence and bytes
        self.settled: dict[int, str] = {}

    # The fold.

    def fold(self, ordinal: int, record: Cells) -> None:
        """One record of the tape."""
        first = record[0]
        self.begin(ordinal, int(first["ts_recv"]))
        kind, instrument = int(first["kind"]), int(first["instrument"])
        if kind == Kind.DEFINITION:
            defined = read_definition(record)
            self.define(defined)
            self.add(kind="definition", instrument=defined.id)
        elif kind == Kind.COMMAND:
            self._command(int(first["sequence"]), unpack_payload(record))
        elif kind == Kind.ORDER and first["source"] == DESK_SOURCE:
            self.order_of_frame(record)
        elif kind == Kind.TRADE:
            aggressor = {int(Side.BID): r.BUY, int(Side.ASK): r.SELL}.get(int(first["side"]))
            slot = self._slot(instrument)
            self.trade(slot, int(first["price"]), int(first["size"]), aggressor)
            self.follow_up(slot)
        elif kind == Kind.MBP:
            side = r.BUY if first["side"] == Side.BID else r.SELL
            self.level(self._slot(instrument), side, int(first["price"]), int(first["size"]))
        else:
            assert kind in (Kind.CLOCK, Kind.EPOCH, Kind.STATUS, Kind.GAP), f"no rule for kind {kind}"

    def _slot(self, instrument: int) -> int:
        slot = self.slot_of(instrument)
        assert slot is not None, f"instrument {instrument} before its definition"
        return slot

    def event(self, kind: str, version: int, causation: str, correlation: str, body: Told) -> None:
        """Add an EVENT."""
        self.add(
            kind="event", id=deterministic_id(kind, self.ordinal, self.index), type=kind, version=version,
            causation=causation, correlation=correlation, body=body,
        )  # fmt: skip

    # Commands.

    def _command(self, sequence: int, payload: bytes) -> None:
        try:
            refuse_frame(payload)
            envelope = read_envelope(payload)
        except DataError as error:
            name = f"cmds:{sequence}"
            outcome = self._park(sequence, payload, None, error)
            self.event("command.outcome", 2, name, name, {**outcome, "input": sequence, "position": self.ordinal})
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
        body, version = {**known, "position": self.ordinal}, 1
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
        self.parked[self.ordinal] = sequence, payload
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
        names = self.accounts_open
        if name not in names:
            if len(names) >= ACCOUNTS_MAX:
                raise DataError(f"no room for account {name!r}", hint=f"a desk keeps {ACCOUNTS_MAX} accounts")
            names[name] = len(names)
            self.event("account.opened", 1, envelope.id, envelope.correlation, {"account": name, "number": names[name]})
        return names[name]

    def _traded(self, symbol: str) -> int:
        """The slot of a symbol."""
        for slot, instrument in enumerate(self.instruments):
            if instrument.symbol == symbol:
                return slot
        known = ", ".join(sorted(instrument.symbol for instrument in self.instruments)[:10]) or "none yet"
        raise DataError(f"unknown instrument {symbol!r}", hint=f"known: {known}")

    # Orders.

    def submit(self, command: Any, envelope: Envelope) -> Told:
        slot = self._traded(command.instrument)
        terms = self.instruments[slot]
        request = Request(
            slot=slot, side=SIDES[command.side], order_type=r.ORDER_TYPES.index(command.type),
            time_in_force=r.TIMES_IN_FORCE.index(command.in_force),
            flags=command.post_only * r.POST_ONLY_FLAG + command.reduce_only * r.REDUCE_ONLY_FLAG,
            price=_price(terms, command.price), size=terms.fixed_size(command.size), stop=_price(terms, command.stop),
            display=_size(terms, command.display), expiry=command.expires_at or 0, number=envelope.number,
        )  # fmt: skip
        request = replace(request, account=self._account(command.account, envelope))
        order_id = self.next_id
        reason = self.decide(request)
        if reason:
            return {"outcome": "rejected", "reason": r.REASONS[reason], "order_id": order_id}
        return {"outcome": "accepted", "order_id": order_id}

    def replace_order(self, command: Any, envelope: Envelope) -> Told:
        order = self._find(command)
        if order is None:
            return _unknown(command.order_id)
        terms = self.instruments[order.slot]
        request = Request(
            kind=r.REPLACE, account=order.account, slot=order.slot, side=order.side, target=order.order_id,
            price=_price(terms, command.price), size=_size(terms, command.size), stop=_price(terms, command.stop),
            display=_size(terms, command.display), number=envelope.number,
        )  # fmt: skip
        announced = self.next_id
        reason = self.decide(request)
        if reason:
            return {"outcome": "rejected", "reason": r.REASONS[reason], "order_id": command.order_id}
        stands = self._find(command) is not None
        return {"outcome": "accepted", "order_id": command.order_id if stands else announced}

    def cancel(self, command: Any, envelope: Envelope) -> Told:
        order = self._find(command)
        if order is None:
            return _unknown(command.order_id)
        request = Request(kind=r.CANCEL, account=order.account, slot=order.slot, target=order.order_id)
        assert self.decide(request) == r.OK
        return {"outcome": "accepted", "order_id": command.order_id}

    def _find(self, command: Any) -> Order | None:
        slot = None if command.instrument is None else self._traded(command.instrument)
        account = self.accounts_open.get(command.account)
        for order in self.working:
            if (order.order_id, order.account) == (command.order_id, account) and slot in (None, order.slot):
                return order
        return None

    def cancel_many(self, command: Any, envelope: Envelope) -> Told:
        slots = None if command.instrument is None else [self._traded(command.instrument)]
        account = None if command.account is None else self.accounts_open.get(command.account, -1)
        sides = (r.BUY, r.SELL) if command.side is None else (SIDES[command.side],)
        return {"outcome": "accepted", "count": self._cancel_all(account, slots, sides)}

    def _cancel_all(
        self, account: int | None, slots: list[int] | None = None, sides: tuple[int, ...] = (r.BUY, r.SELL)
    ) -> int:
        """Cancel by instrument, then side, then age; None for all accounts, or instruments."""
        before = len(self.working)
        if slots is None:
            slots = sorted(range(len(self.instruments)), key=lambda slot: self.instruments[slot].id)
        for slot in slots:
            for side in sides:
                self.mass_cancel(account, slot, side)
        return before - len(self.working)

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
        if on:
            self.killed.add(who)
        else:
            self.killed.discard(who)
        for account in range(ACCOUNTS_MAX):
            self.account(account).off = bool(self.killed & {account, "all"})
        return self._cancel_all(None if who == "all" else int(who)) if on else 0

    def set_limits(self, command: Any, envelope: Envelope) -> Told:
        slot = None if command.instrument is None else self._traded(command.instrument)
        values: dict[str, int] = {}
        for name, value in command.given.items():
            if name in OF_THE_ACCOUNT and slot is not None:
                raise DataError("this limit is of an account in all instruments", subject=name)
            if name == "notional":
                values[name] = to_fixed(value, -9)
            else:
                values[name] = r.SELF_MATCH_POLICIES.index(value) if name == "self_match" else int(value)
        if values.get("open_orders", 0) > 8192:
            raise DataError("one instrument holds 8192 working orders at most", subject="open_orders")
        account = self._account(command.account, envelope)
        everywhere = range(len(self.instruments)) if slot is None else [slot]
        for name, value in values.items():
            if name in OF_THE_ACCOUNT:
                setattr(self.account(account), OF_THE_ACCOUNT[name], value)
                continue
            for at in everywhere:
                setattr(self.limit(account, at), LIMIT_NAMES.get(name, name), value)
            if slot is None:
                setattr(self.usual_limits.setdefault(account, Limits()), LIMIT_NAMES.get(name, name), value)
        self.event("limits.set", 1, envelope.id, envelope.correlation, {"account": command.account, "limits": values})
        return {"outcome": "accepted"}

    def open_account(self, command: Any, envelope: Envelope) -> Told:
        self._account(command.account, envelope)
        return {"outcome": "accepted"}

    def configure_account(self, command: Any, envelope: Envelope) -> Told:
        account = self._account(command.account, envelope)
        given = command.model_dump(exclude={"account"}, exclude_none=True)
        booking = Booking(**(asdict(self.booking(account)) | given))
        if not self.is_flat(account):
            raise DataError("the account is not flat", hint="close its positions and cancel its orders first")
        self.configure(account, booking)
        body = {"account": command.account, **asdict(booking)}
        self.event("account.configured", 1, envelope.id, envelope.correlation, body)
        return {"outcome": "accepted"}

    def correct_position(self, command: Any, envelope: Envelope) -> Told:
        slot = self._traded(command.instrument)
        terms = self.instruments[slot]
        size, price = terms.fixed_size(command.size), terms.fixed_price(command.price)
        account = self._account(command.account, envelope)
        self.correct(account, slot, size, price)
        body = command.model_dump(mode="json")
        self.event("position.corrected", 1, envelope.id, envelope.correlation, body)
        self.follow_up(slot)
        return {"outcome": "accepted"}

    def register(self, command: Any, envelope: Envelope) -> Told:
        known = {instrument.id: instrument for instrument in self.instruments}
        made = registered(command, known)
        assert known.get(made.id) == made, "no definition stands before the command that registers"
        body = {"instrument": made.id, "symbol": command.symbol, "venue": command.venue}
        self.event("instrument.registered", 1, envelope.id, envelope.correlation, body)
        return {"outcome": "accepted", "instrument": made.id}

    def book_cash(self, command: Any, envelope: Envelope) -> Told:
        terms = self.instruments
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

    def _require(self, strategy: str | None) -> None:
        if strategy not in (None, STRATEGY):
            raise DataError(f"strategy {strategy!r} does not run here", hint=f"this desk runs {STRATEGY}")

    def configure_strategy(self, command: Any, envelope: Envelope) -> Told:
        self._require(command.strategy)
        for name in command.parameters:
            if name not in self.parameters:
                raise DataError(
                    f"strategy {STRATEGY} has no parameter {name!r}", hint=f"it has {', '.join(self.parameters)}"
                )
        self.parameters |= command.parameters
        body = {"strategy": STRATEGY, "parameters": command.parameters}
        self.event("strategy.configured", 1, envelope.id, envelope.correlation, body)
        return {"outcome": "accepted"}

    def start_strategy(self, command: Any, envelope: Envelope) -> Told:
        self._require(command.strategy)
        if not self.strategy_runs:
            self.event("strategy.started", 1, envelope.id, envelope.correlation, {"strategy": STRATEGY})
        self.strategy_runs = True
        return {"outcome": "accepted"}

    def stop_strategy(self, command: Any, envelope: Envelope) -> Told:
        self._require(command.strategy)
        count = self._cancel_all(0) if command.cancel_orders else 0
        if self.strategy_runs:
            body = {"strategy": STRATEGY, "count": count}
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
        self.settled[command.position] = f"was dropped at {self.ordinal}"
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
        money = {
            (account, self.instruments[slot].id): tuple(getattr(ledger, name) for name in MONEY)
            for (account, slot), ledger in self.ledgers.items()
            if account < ACCOUNTS_MAX
        }
        limits = [self.limit(account, slot) for account in range(ACCOUNTS_MAX) for slot in range(len(self.instruments))]
        return {
            "money": {place: row for place, row in money.items() if any(row)},
            "working": {
                instrument.id: [
                    (o.order_id, o.account, o.side, o.price, o.left, o.shown, o.ahead, o.waits)
                    for o in sorted(self.listed(slot), key=lambda o: o.waits)
                ]
                for slot, instrument in enumerate(self.instruments)
            },
            "limits": [(one.order_size, one.position, one.notional, one.open_orders, one.band) for one in limits],
            "conduct": [(self.account(at).off, self.account(at).policy, self.account(at).messages)
                        for at in range(ACCOUNTS_MAX)],
            "bookings": [tuple(asdict(self.booking(account)).values()) for account in range(ACCOUNTS_MAX)],
            "cash": {place: amount for place, amount in self.cash.items() if amount},
            "accounts": self.accounts_open,
            "clients": [[client, sorted(window.items())] for client, window in self.clients.items()],
            "senders": {
                client: (one.last, {n: told for n, told in one.outcomes.items() if n > one.last - self.window})
                for client, one in self.senders.items()
            },
            "strategy": (self.strategy_runs, self.parameters),
        }  # fmt: skip


def _price(terms: Instrument, price: Any) -> int:
    return 0 if price is None else terms.fixed_price(price)


def _size(terms: Instrument, size: Any) -> int:
    return 0 if size is None else terms.fixed_size(size)


def _unknown(order_id: int) -> Told:
    return {"outcome": "rejected", "reason": r.REASONS[r.UNKNOWN_ORDER], "order_id": order_id}


Handler = Callable[[SlowDesk, Any, Envelope], Told]
HANDLERS: dict[str, Handler] = {
    "order.submit": SlowDesk.submit,
    "order.replace": SlowDesk.replace_order,
    "order.cancel": SlowDesk.cancel,
    "order.mass_cancel": SlowDesk.cancel_many,
    "account.kill": SlowDesk.kill_account,
    "kill.switch": SlowDesk.kill_switch,
    "risk.set_limits": SlowDesk.set_limits,
    "desk.ping": SlowDesk.ping,
    "account.open": SlowDesk.open_account,
    "account.configure": SlowDesk.configure_account,
    "instrument.register": SlowDesk.register,
    "position.correct": SlowDesk.correct_position,
    "strategy.configure": SlowDesk.configure_strategy,
    "cash.book": SlowDesk.book_cash,
    "strategy.start": SlowDesk.start_strategy,
    "strategy.stop": SlowDesk.stop_strategy,
    "desk.poison": SlowDesk.set_poison,
    "parked.drop": SlowDesk.drop_parked,
    "parked.replay": SlowDesk.replay_parked,
}
