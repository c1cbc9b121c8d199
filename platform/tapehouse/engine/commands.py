"""JSON commands inside the engine: decoded, deduplicated, given to who handles their type, answered by an event.

Handlers are functions of (desk, command, envelope) in `order_handlers`, `risk_handlers`, `booking_handlers` and
`strategy_handlers`; this file has what they share: accounts, events, and the one outcome that ends each command.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from tapehouse.core.errors import DataError, IntegrityError
from tapehouse.core.sections import pack_sections, unpack_sections
from tapehouse.desk.cash_book import CashBook
from tapehouse.desk.clients import Clients, Outcome
from tapehouse.desk.commands import COMMANDS, EVENTS
from tapehouse.desk.order_frames import refuse_frame
from tapehouse.desk.state import ACCOUNTS_MAX, INDEX, ORDINAL, STREET
from tapehouse.engine import booking_handlers, order_handlers, risk_handlers, strategy_handlers
from tapehouse.engine.parked_commands import ABOUT_PARKING, ParkedCommands
from tapehouse.engine.parking import Parking
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
        self.cash = CashBook(ACCOUNTS_MAX)
        self.parked = ParkedCommands(self)
        self._clients = Clients()
        self._accounts: dict[str, int] = {STRATEGY_ACCOUNT: 0}
        self._sequence = 0  # in CMDS, of the command that is handled

    @property
    def accounts(self) -> int:
        """How many accounts are open: their numbers are below."""
        return len(self._accounts)

    def handle(self, record: Cells) -> None:
        """Decide one command; whatever is wrong with it becomes its outcome, never an exception."""
        self._sequence = int(record["sequence"][0])
        payload = b""
        try:
            payload = unpack_payload(record)
            refuse_frame(payload)
            envelope = read_envelope(payload)
        except DataError as error:
            unread = f"cmds:{self._sequence}"  # stands for the id of what has none
            outcome = self.parked.park(payload, self._sequence, None, error)
            self._end(unread, unread, {**outcome, "input": self._sequence})
            return
        known = self._clients.find(envelope.client, envelope.number) if envelope.client else None
        if known is not None:
            if known["outcome"] != "expired":
                known = {**known, "outcome": "repeated", "first": known["outcome"]}
            self._answer(envelope, known)
            return
        try:
            _, command = COMMANDS.decode(payload)
        except DataError as error:
            self.settle(envelope, self.parked.park(payload, self._sequence, envelope, error))
            return
        try:
            outcome = self.decide(envelope, command)
        except DataError as error:
            outcome = _rejected(error)
        self.settle(envelope, outcome)

    @property
    def ordinal(self) -> int:
        """The present input ordinal."""
        return int(self.engine.desk.counters[ORDINAL])

    def decide(self, envelope: Envelope, command: BaseModel) -> Outcome:
        """Decide one command that was read; raises DataError where it is refused."""
        if isinstance(command, ABOUT_PARKING):
            return self.parked.handle(command, envelope)
        handler = HANDLERS.get(type(command))
        if handler is None:
            raise DataError(f"type {envelope.type} has no handler")
        outcome = handler(self, command, envelope)
        tag = getattr(command, "tag", "")
        return {**outcome, "tag": tag} if tag else outcome

    def settle(self, envelope: Envelope, outcome: Outcome) -> None:
        """Remember an outcome under the command's client and number, and answer with it."""
        if envelope.client:
            self._clients.remember(envelope.client, envelope.number, outcome)
        self._answer(envelope, outcome)

    # What handlers use.

    def account(self, name: str, command: Envelope) -> int:
        """The number of an account; a new name opens one.

        Raises:
            DataError: There is no room for another.
        """
        number = self._accounts.get(name)
        if number is None:
            number = len(self._accounts)
            if number >= STREET:
                raise DataError(f"no room for account {name!r}", hint=f"a desk keeps {STREET} accounts")
            self._accounts[name] = number
            self.tell("account.opened", command, {"account": name, "number": number})
        return number

    def known_account(self, name: str) -> int | None:
        """The number of an account that was opened, None where none was."""
        return self._accounts.get(name)

    @property
    def account_numbers(self) -> list[int]:
        """Those of all open accounts, ascending."""
        return sorted(self._accounts.values())

    def tell(self, kind: str, command: Envelope, body: Body) -> None:
        """Write an event that a command led to."""
        self.emit(kind, command.id, command.correlation, body)

    def emit(self, kind: str, causation: str, correlation: str, body: Body, *, version: int | None = None) -> None:
        """Write an event, of the newest version unless another is said."""
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

    # Answers.

    def _answer(self, envelope: Envelope, outcome: Outcome) -> None:
        if (envelope.type, envelope.version) in _OUTCOME_V1 and "parked" not in outcome.values():
            self._end(envelope.id, envelope.correlation, outcome, version=1)
            return
        told = {**outcome, "input": self._sequence, "number": envelope.number}
        self._end(envelope.id, envelope.correlation, told)

    def _end(self, causation: str, correlation: str, outcome: Outcome, *, version: int | None = None) -> None:
        self.emit("command.outcome", causation, correlation, {**outcome, "position": self.ordinal}, version=version)

    # State.

    def snapshot(self) -> bytes:
        """Accounts, cash, clients and what is parked, canonical."""
        return pack_sections(
            {
                "accounts": json.dumps(self._accounts, sort_keys=True).encode(),
                "cash": self.cash.snapshot(),
                "clients": self._clients.snapshot(),
                "parked": self.parked.parking.snapshot(),
            }
        )

    def restore(self, data: bytes) -> None:
        """Become what `snapshot` returned."""
        sections = unpack_sections(data)
        try:
            accounts = {str(name): int(number) for name, number in json.loads(sections["accounts"]).items()}
            cash = CashBook.restore(sections["cash"], ACCOUNTS_MAX)
            clients = Clients.restore(sections["clients"])
            parking = Parking.restore(sections["parked"])
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise IntegrityError("the accounts of a snapshot are damaged", hint="refold the log") from error
        self._accounts, self.cash, self._clients, self.parked.parking = accounts, cash, clients, parking


def _rejected(error: DataError) -> Outcome:
    return {"outcome": "rejected", "reason": str(error)[:REASON_MAX]}


HANDLERS: dict[type, Handler] = {
    **booking_handlers.HANDLERS,
    **order_handlers.HANDLERS,
    **risk_handlers.HANDLERS,
    **strategy_handlers.HANDLERS,
}
