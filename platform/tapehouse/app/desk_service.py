"""Commands from any language: the micro service `tapehouse.desk.<tape>`; see docs/services.md.

Requests and answers are JSON. `send` stores a command in CMDS and answers with its outcome; `outcome` says what became
of an earlier one; `info` says which types there are and how the desk fares. The service decides nothing: an outcome is
what EVENTS holds, so an answer can never be taken back by a crash.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tapehouse.bus import Bus
from tapehouse.bus.service import SIDE_BY_SIDE_MAX, ServiceHost, serve
from tapehouse.client.commands import make_command
from tapehouse.client.outcomes import Decided, Outcomes
from tapehouse.core.check import check
from tapehouse.core.clock import Clock
from tapehouse.core.errors import (
    AmbiguousAppendError,
    BusUnavailableError,
    BusyError,
    DataError,
    DecodeError,
    MissingError,
    TransientError,
)
from tapehouse.core.ids import check_name
from tapehouse.desk.clients import OUTCOMES_MAX
from tapehouse.desk.commands import COMMANDS
from tapehouse.engine.sequencer import COMMANDS_QUEUED_MAX
from tapehouse.log import Envelope, Log
from tapehouse.log.envelope import read_envelope
from tapehouse.market import PAYLOAD_BYTES_MAX

VERSION = "1.0.0"
WAIT_S = 4.0  # for an outcome; those who ask wait for five as a rule
WAIT_MS_MAX = 30_000  # that a request may ask for
APPEND_ATTEMPTS_MAX = 3
COMMANDS_BACK_MAX = 4096  # of CMDS, read before it is followed
COMMANDS_KEPT = 65_536  # whose client and number are known
_ENVELOPE_ONLY = {"id", "version", "correlation", "causation", "time", "traceparent"}
_SHORT = {"type", "body", "client", "number", "wait_ms"}

Status = Callable[[], Awaitable[dict[str, Any]]]


def desk_service_name(tape: str) -> str:
    """The service of one tape's desk."""
    return f"tapehouse.desk.{check_name(tape, 'tape')}"


async def serve_desk(bus: Bus, service: DeskService) -> ServiceHost:
    """Take commands until the host that is returned is stopped."""
    return await serve(
        bus,
        desk_service_name(service.tape),
        VERSION,
        {"send": service.send, "outcome": service.outcome, "info": service.info},
        description=f"commands to the desk of tape {service.tape}",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """Where a command is in CMDS, and under which names."""

    sequence: int
    command_id: str
    client: str
    number: int


class CommandIndex:
    """The commands of CMDS by client and number and by id, as far as they are kept; one follower of CMDS."""

    def __init__(self, commands: Log, *, kept: int = COMMANDS_KEPT) -> None:
        self._commands = commands
        self._kept = kept
        self._by_number: OrderedDict[tuple[str, int], Sent] = OrderedDict()
        self._by_id: OrderedDict[str, Sent] = OrderedDict()
        self._moved = asyncio.Event()  # replaced at each move
        self.last = 0

    async def open(self, *, back: int = COMMANDS_BACK_MAX) -> None:
        """Read the last commands."""
        extent = await self._commands.extent()
        first = max(extent.first, extent.last + 1 - back)
        async for message in self._commands.read(first, through=extent.last):
            self._note(message.sequence, message.payload)
        self.last = extent.last

    async def run(self) -> None:
        """Note what comes, until cancelled."""
        async for message in self._commands.read(self.last + 1, follow=True):
            self._note(message.sequence, message.payload)
            self.last = message.sequence
            moved, self._moved = self._moved, asyncio.Event()
            moved.set()

    async def caught_up(self) -> None:
        """Return when everything that CMDS holds now was noted."""
        last = (await self._commands.extent()).last
        while self.last < last:
            await self._moved.wait()

    def by_id(self, command_id: str) -> Sent | None:
        """The command with that id."""
        return self._by_id.get(command_id)

    def by_number(self, client: str, number: int) -> Sent | None:
        """The command that carried a client's number first, of those that are kept."""
        return self._by_number.get((client, number))

    def _note(self, sequence: int, payload: bytes) -> None:
        try:
            told = json.loads(payload)
            sent = Sent(
                sequence=sequence, command_id=told["id"], client=told.get("client", ""), number=told.get("number", 0)
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            return  # No envelope: the desk will say so; nobody can ask for it by name.
        if not isinstance(sent.command_id, str) or not isinstance(sent.client, str) or type(sent.number) is not int:
            return
        self._by_id[sent.command_id] = sent
        if sent.client:
            self._by_number.setdefault((sent.client, sent.number), sent)
        for index in (self._by_id, self._by_number):
            if len(index) > self._kept:
                index.popitem(last=False)


class DeskService:
    """The handlers: request bytes to answer bytes."""

    def __init__(
        self,
        tape: str,
        commands: Log,
        outcomes: Outcomes,
        index: CommandIndex,
        *,
        clock: Clock,
        status: Status,
        consumed: Callable[[], int],
        queued_max: int = COMMANDS_QUEUED_MAX,
        wait_s: float = WAIT_S,
    ) -> None:
        """Handlers of one desk.

        Args:
            outcomes, index: Followers that are open, and run meanwhile.
            status: What `info` says besides.
            consumed: The sequence of CMDS through which the sequencer has taken commands.
            queued_max: Commands that may be stored and not taken yet.
        """
        # What waits must leave room for those who are told that there is none, and for a client's outcomes.
        check(outcomes.waiting_max < min(SIDE_BY_SIDE_MAX, OUTCOMES_MAX), "more may wait than are served side by side")
        self.tape = tape
        self._commands = commands
        self._outcomes = outcomes
        self._index = index
        self._clock = clock
        self._status = status
        self._consumed = consumed
        self._queued_max = queued_max
        self._wait_s = wait_s
        self._own = f"desk-{uuid.uuid4().hex[:12]}"
        self._last_number = 0
        self._first_own = asyncio.Lock()
        self._own_began = False

    @property
    def queued(self) -> int:
        """Commands that are stored and that the sequencer has not taken."""
        return max(self._index.last - self._consumed(), 0)

    async def send(self, data: bytes) -> bytes:
        """Store a command and say what became of it.

        Raises:
            DataError: It is not valid; the field is named. Nothing was stored.
            BusyError: As many commands wait as may. Nothing was stored.
            BusUnavailableError: It was not acknowledged; whether it is stored is not known.
        """
        told = _read(data)
        envelope, wait_s = self._envelope(told)
        if self.queued >= self._queued_max:
            raise BusyError(
                f"{self.queued} commands are stored and not yet taken",
                subject=desk_service_name(self.tape),
                hint="nothing was stored: send it again in a moment",
            )
        with self._outcomes.expect(envelope.id) as waiting:
            sequence = await self._store(envelope)
            decided = await waiting.decided(wait_s)
        sent = Sent(sequence=sequence, command_id=envelope.id, client=envelope.client, number=envelope.number)
        return _write(_answer(sent, decided))

    async def outcome(self, data: bytes) -> bytes:
        """What became of an earlier command: as it is known, else by waiting for it.

        Raises:
            MissingError: No such command is among those that are kept.
        """
        asked = _read(data)
        _only(asked, {"id", "client", "number", "wait_ms"})
        wait_s = self._wait(asked)
        sent = await self._find(asked)
        decided = self._outcomes.known(sent.command_id)
        if decided is None:
            with self._outcomes.expect(sent.command_id) as waiting:
                decided = await waiting.decided(wait_s)
        return _write(_answer(sent, decided))

    async def info(self, data: bytes) -> bytes:
        """Types of commands with their JSON schemas, positions, and how much waits."""
        types = {
            name: {"version": COMMANDS.version(name), "schema": COMMANDS.model(name).model_json_schema()}
            for name in COMMANDS.names()
        }
        queue = {
            "waiting": self._outcomes.waiting,
            "waiting_max": self._outcomes.waiting_max,
            "queued": self.queued,
            "queued_max": self._queued_max,
        }
        return _write({"tape": self.tape, **await self._status(), "queue": queue, "types": types})

    def _envelope(self, told: dict[str, Any]) -> tuple[Envelope, float]:
        """The command that a request stands for, checked; a short one gets what it lacks."""
        if _ENVELOPE_ONLY & set(told):
            data = json.dumps(told).encode()
            envelope = read_envelope(data)
            COMMANDS.decode(data)
            return envelope, self._wait_s
        _only(told, _SHORT)
        kind, body = told.get("type"), told.get("body")
        if not isinstance(kind, str) or not isinstance(body, dict):
            raise DataError(
                "type: a text, and body: an object, make a command",
                subject="tapehouse.desk",
                hint='such as {"type":"account.kill","body":{"account":"manual"}}',
            )
        client, number = told.get("client"), told.get("number")
        if number is not None and client is None:
            raise DataError("number: says nothing without client", subject=kind, hint="a number is one client's")
        if number is not None and (type(number) is not int or number < 0):
            raise DataError(f"number: {number!r} is no whole number", subject=kind)
        if client is not None and (not isinstance(client, str) or not client):
            raise DataError(f"client: {client!r} is no name", subject=kind)
        wait_s = self._wait(told)
        now = self._clock.time_ns()
        if number is None:
            self._last_number = number = max(self._last_number + 1, now)
        envelope = make_command(
            kind, body, command_id=str(uuid.uuid4()), client=client or self._own, number=number, time_ns=now
        )
        return envelope, wait_s

    async def _store(self, envelope: Envelope) -> int:
        # A client's lowest number must be its first in CMDS: one below it would be told that it is expired.
        if envelope.client != self._own or self._own_began:
            return await self._append(envelope)
        async with self._first_own:
            sequence = await self._append(envelope)
            self._own_began = True
            return sequence

    async def _append(self, envelope: Envelope) -> int:
        subject, data = f"cmd.v1.{self.tape}.{envelope.type}", envelope.encode()
        failure: TransientError | None = None
        for _ in range(APPEND_ATTEMPTS_MAX):
            try:
                return await self._commands.append(data, expected_last=None, subject=subject)
            except AmbiguousAppendError as error:
                failure = error
                if not envelope.client:
                    break  # The desk would run it twice.
        raise BusUnavailableError(
            "whether it was stored is not known",
            subject=envelope.type,
            position=self._commands.name,
            hint=f"send client {envelope.client!r} and number {envelope.number} again: it has one effect"
            if envelope.client
            else "without a client and a number, a repeat would have a second effect",
        ) from failure

    async def _find(self, asked: dict[str, Any]) -> Sent:
        command_id, client, number = asked.get("id"), asked.get("client"), asked.get("number")
        if isinstance(command_id, str):
            name = command_id

            def look() -> Sent | None:
                return self._index.by_id(command_id)

        elif isinstance(client, str) and type(number) is int:
            name = f"{client} {number}"

            def look() -> Sent | None:
                return self._index.by_number(client, number)

        else:
            raise DataError("id, or client and number, name a command", subject="tapehouse.desk")
        sent = look()
        if sent is None:
            await self._index.caught_up()
            sent = look()
        if sent is None:
            raise MissingError(
                "no such command is among the last ones",
                subject=name,
                hint="send it with the same client and number: what was decided before is answered with its outcome",
            )
        return sent

    def _wait(self, asked: dict[str, Any]) -> float:
        wait_ms = asked.get("wait_ms")
        if wait_ms is None:
            return self._wait_s
        if type(wait_ms) is not int or not 0 <= wait_ms <= WAIT_MS_MAX:
            raise DataError(f"wait_ms: {wait_ms!r}, not 0 to {WAIT_MS_MAX}", subject="tapehouse.desk")
        return wait_ms / 1e3


def _answer(sent: Sent, decided: Decided | None) -> dict[str, Any]:
    names = {
        "command_id": sent.command_id, "client": sent.client, "number": sent.number, "sequence": sent.sequence,
    }  # fmt: skip
    if decided is not None:
        return {**decided.body, "outcome": decided.outcome, "position": decided.position, **names}
    again = "the same client and number can be sent again: it has one effect"
    alone = "without a client and a number, sending it again would be another command"
    return {
        "outcome": "stored",
        "reason": f"stored under sequence {sent.sequence}, may be decided later; {again if sent.client else alone}",
        **names,
    }


def _only(asked: dict[str, Any], known: set[str]) -> None:
    unknown = sorted(set(asked) - known)
    if unknown:
        raise DataError(f"{unknown[0]}: unknown", subject="tapehouse.desk", hint=f"known: {', '.join(sorted(known))}")


def _read(data: bytes) -> dict[str, Any]:
    if len(data) > 2 * PAYLOAD_BYTES_MAX:
        raise DecodeError(f"{len(data)} bytes are too long", subject="tapehouse.desk")
    try:
        value = json.loads(data or b"{}")
    except ValueError as error:
        raise DecodeError(f"no JSON: {error}", subject="tapehouse.desk") from error
    if not isinstance(value, dict):
        raise DecodeError("no JSON object", subject="tapehouse.desk")
    return value


def _write(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
