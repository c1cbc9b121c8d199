"""JSON commands inside the engine: decoded, deduplicated, given to who handles their type, answered by an event.

Handlers are functions of (desk, command, envelope) in `order_handlers`, `risk_handlers` and `strategy_handlers`; this
file has what they share: accounts, events, and the one outcome that ends each command.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tapehouse.core.errors import DataError, IntegrityError
from tapehouse.core.sections import pack_sections, unpack_sections
from tapehouse.desk.clients import Clients, Outcome
from tapehouse.desk.commands import COMMANDS, EVENTS
from tapehouse.desk.state import ACCOUNTS_MAX, INDEX, ORDINAL
from tapehouse.engine import order_handlers, risk_handlers, strategy_handlers
from tapehouse.log.envelope import Body, Envelope, deterministic_id, read_envelope
from tapehouse.market import Cells, Kind, pack_payload, unpack_payload

if TYPE_CHECKING:
    from tapehouse.engine.machine import Engine

STRATEGY_ACCOUNT = "strategy"  # the name of account 0
REASON_MAX = 400  # characters of an answer
# Answered as they were when they came first, so that an old tape leads to the same bytes.
_OUTCOME_V1 = {("order.submit", 1), ("order.cancel", 1), ("account.kill", 1)}

Handler = Callable[["CommandDesk", Any, Envelope], Outcome]


class CommandDesk:
    """Handles the COMMAND records of one engine. Account 0 is the strategy's."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._clients = Clients()
        self._accounts: dict[str, int] = {STRATEGY_ACCOUNT: 0}

    def handle(self, record: Cells) -> None:
        """Decide one command; whatever is wrong with it becomes its outcome, never an exception."""
        sequence = int(record["sequence"][0])
        unread = f"cmds:{sequence}"  # stands for the id of what has none
        try:
            payload = unpack_payload(record)
            envelope = read_envelope(payload)
        except DataError as error:
            self._emit_outcome(unread, unread, _rejected(error), version=1)
            return
        known = self._clients.find(envelope.client, envelope.number) if envelope.client else None
        if known is not None:
            if known["outcome"] != "expired":
                known = {**known, "outcome": "repeated", "first": known["outcome"]}
            self._answer(envelope, sequence, known)
            return
        try:
            outcome = self._decide(envelope, payload)
        except DataError as error:
            outcome = _rejected(error)
        if envelope.client:
            self._clients.remember(envelope.client, envelope.number, outcome)
        self._answer(envelope, sequence, outcome)

    def _decide(self, envelope: Envelope, data: bytes) -> Outcome:
        _, command = COMMANDS.decode(data)
        handler = HANDLERS.get(type(command))
        if handler is None:
            raise DataError(f"type {envelope.type} has no handler")
        outcome = handler(self, command, envelope)
        tag = getattr(command, "tag", "")
        return {**outcome, "tag": tag} if tag else outcome

    # What handlers use.

    def account(self, name: str, command: Envelope) -> int:
        """The number of an account; a new name opens one.

        Raises:
            DataError: There is no room for another.
        """
        number = self._accounts.get(name)
        if number is None:
            number = len(self._accounts)
            if number >= ACCOUNTS_MAX:
                raise DataError(f"no room for account {name!r}", hint=f"a desk keeps {ACCOUNTS_MAX} accounts")
            self._accounts[name] = number
            self.emit("account.opened", command, {"account": name, "number": number})
        return number

    def known_account(self, name: str) -> int | None:
        """The number of an account that was opened, None where none was."""
        return self._accounts.get(name)

    @property
    def account_numbers(self) -> list[int]:
        """Those of all open accounts, ascending."""
        return sorted(self._accounts.values())

    def emit(self, kind: str, command: Envelope, body: Body) -> None:
        """Write an event that a command led to."""
        self._emit(kind, command.id, command.correlation, body)

    # Answers.

    def _answer(self, envelope: Envelope, sequence: int, outcome: Outcome) -> None:
        is_old = (envelope.type, envelope.version) in _OUTCOME_V1 or envelope.type not in COMMANDS.names()
        if not is_old:
            outcome = {**outcome, "input": sequence, "number": envelope.number}
        self._emit_outcome(envelope.id, envelope.correlation, outcome, version=1 if is_old else None)

    def _emit_outcome(self, causation: str, correlation: str, outcome: Outcome, *, version: int | None) -> None:
        position = int(self.engine.desk.counters[ORDINAL])
        self._emit("command.outcome", causation, correlation, {**outcome, "position": position}, version=version)

    def _emit(self, kind: str, causation: str, correlation: str, body: Body, *, version: int | None = None) -> None:
        engine = self.engine
        counters = engine.desk.counters
        event = Envelope(
            id=deterministic_id(kind, int(counters[ORDINAL]), int(counters[INDEX])),
            type=kind,
            version=version or EVENTS.version(kind),
            causation=causation,
            correlation=correlation,
            time=engine.now,
            body=body,
        )
        engine.write(pack_payload(Kind.EVENT, event.encode(), ts_event=engine.now, ts_recv=engine.now))

    # State.

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
    return {"outcome": "rejected", "reason": str(error)[:REASON_MAX]}


HANDLERS: dict[type, Handler] = {**order_handlers.HANDLERS, **risk_handlers.HANDLERS, **strategy_handlers.HANDLERS}
