"""JSON commands inside the engine: decoded, deduplicated, decided through the desk's kernels, answered by an event."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tapehouse.core.errors import DataError, IntegrityError
from tapehouse.core.sections import pack_sections, unpack_sections
from tapehouse.desk import (
    BUY,
    GTC,
    IOC,
    POST_ONLY,
    POWERS,
    REASONS,
    SELL,
    UNKNOWN_ORDER,
    cancel_order,
    mass_cancel,
    next_order_id,
    submit,
)
from tapehouse.desk.clients import Clients, Outcome
from tapehouse.desk.commands import COMMANDS, CancelOrder, SubmitOrder, SwitchKill
from tapehouse.desk.state import INDEX, ORDINAL, STREET, SWITCHED_OFF
from tapehouse.log.envelope import Body, Envelope, deterministic_id, read_envelope
from tapehouse.market import Cells, Kind, pack_payload, unpack_payload

if TYPE_CHECKING:
    from tapehouse.engine.machine import Engine

STRATEGY_ACCOUNT = "strategy"  # the name of account 0
_TIME_IN_FORCE = {"gtc": GTC, "ioc": IOC, "post_only": POST_ONLY}


class CommandDesk:
    """Handles the COMMAND records of one engine. Account 0 is the strategy's."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._clients = Clients()
        self._accounts: dict[str, int] = {STRATEGY_ACCOUNT: 0}

    def handle(self, record: Cells) -> None:
        """Decide one command; whatever is wrong with it becomes its outcome, never an exception."""
        unread = f"cmds:{int(record['sequence'][0])}"  # stands for the id of what has none
        try:
            payload = unpack_payload(record)
            envelope = read_envelope(payload)
        except DataError as error:
            self._answer(unread, unread, _rejected(error))
            return
        known = self._clients.find(envelope.client, envelope.number) if envelope.client else None
        if known is not None:
            if known["outcome"] != "expired":
                known = {**known, "outcome": "repeated", "first": known["outcome"]}
            self._answer(envelope.id, envelope.correlation, known)
            return
        try:
            outcome = self._decide(envelope, payload)
        except DataError as error:
            outcome = _rejected(error)
        if envelope.client:
            self._clients.remember(envelope.client, envelope.number, outcome)
        self._answer(envelope.id, envelope.correlation, outcome)

    def _decide(self, envelope: Envelope, data: bytes) -> Outcome:
        _, command = COMMANDS.decode(data)
        if isinstance(command, SubmitOrder):
            return self._submit(command, envelope)
        if isinstance(command, CancelOrder):
            return self._cancel(command)
        if isinstance(command, SwitchKill):
            return self._kill(command, envelope)
        raise DataError(f"type {envelope.type} has no handler")

    def _submit(self, command: SubmitOrder, envelope: Envelope) -> Outcome:
        engine = self._engine
        slot = engine.slot_of(command.instrument)
        instrument = engine.instrument_at(slot)
        price = instrument.fixed_price(command.price)
        size = instrument.fixed_size(command.size)
        account = self._account(command.account, envelope)
        order_id = int(next_order_id(engine.desk.counters))
        reason = submit(
            engine.desk,
            engine.books,
            engine.ladder,
            engine.out,
            POWERS,
            slot,
            account,
            BUY if command.side == "buy" else SELL,
            price,
            size,
            _TIME_IN_FORCE[command.time_in_force],
            envelope.number,
        )
        if reason:
            return {"outcome": "rejected", "reason": REASONS[reason], "order_id": order_id}
        return {"outcome": "accepted", "order_id": order_id}

    def _cancel(self, command: CancelOrder) -> Outcome:
        engine = self._engine
        slot = engine.slot_of(command.instrument)
        account = self._accounts.get(command.account)
        if account is None or cancel_order(engine.desk, engine.out, slot, account, command.order_id):
            return {"outcome": "rejected", "reason": REASONS[UNKNOWN_ORDER], "order_id": command.order_id}
        return {"outcome": "accepted", "order_id": command.order_id}

    def _kill(self, command: SwitchKill, envelope: Envelope) -> Outcome:
        engine = self._engine
        account = self._account(command.account, envelope)
        engine.desk.conduct[account, SWITCHED_OFF] = 1 if command.on else 0
        if command.on:
            while mass_cancel(engine.desk, engine.out, account, -1, -1):
                engine.collect()
        return {"outcome": "accepted"}

    def _account(self, name: str, command: Envelope) -> int:
        """The number of an account; a new name opens one."""
        number = self._accounts.get(name)
        if number is None:
            number = len(self._accounts)
            if number >= STREET:
                raise DataError(f"no room for account {name!r}", hint=f"a desk keeps {STREET} accounts")
            self._accounts[name] = number
            self._emit("account.opened", command.id, command.correlation, {"account": name, "number": number})
        return number

    def _answer(self, causation: str, correlation: str, outcome: Outcome) -> None:
        position = int(self._engine.desk.counters[ORDINAL])
        self._emit("command.outcome", causation, correlation, {**outcome, "position": position})

    def _emit(self, kind: str, causation: str, correlation: str, body: Body) -> None:
        engine = self._engine
        counters = engine.desk.counters
        event = Envelope(
            id=deterministic_id(kind, int(counters[ORDINAL]), int(counters[INDEX])),
            type=kind,
            version=1,
            causation=causation,
            correlation=correlation,
            time=engine.now,
            body=body,
        )
        engine.write(pack_payload(Kind.EVENT, event.encode(), ts_event=engine.now, ts_recv=engine.now))

    def snapshot(self) -> bytes:
        """Accounts and clients, canonical."""
        accounts = json.dumps(self._accounts, sort_keys=True).encode()
        return pack_sections({"accounts": accounts, "clients": self._clients.snapshot()})

    def restore(self, data: bytes) -> None:
        """Become what `snapshot` returned."""
        sections = unpack_sections(data)
        try:
            accounts = {str(name): int(number) for name, number in json.loads(sections["accounts"]).items()}
            clients = Clients.restore(sections["clients"])
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise IntegrityError("the accounts of a snapshot are damaged", hint="refold the log") from error
        self._accounts, self._clients = accounts, clients


def _rejected(error: DataError) -> Outcome:
    return {"outcome": "rejected", "reason": str(error)[:400]}
