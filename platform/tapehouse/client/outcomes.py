"""What became of commands: how EVENTS tells it, and one follower of EVENTS for all who wait in a service.

A command's outcome is the `command.outcome` event that its id caused, or `command.parked` where it could not be
understood. Whoever sends a command waits for its id *before* it is appended, so that no outcome can be missed.
`told_in` finds outcomes by what stands in the bytes; they are parsed for those alone who ask.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tapehouse.core.errors import BusUnavailableError, BusyError, TapehouseError
from tapehouse.log import Log, Message, decode_message
from tapehouse.market import Cells, Kind, records_of, unpack_payload

WAITING_MAX = 200  # who may wait for an outcome at the same time
OUTCOMES_KEPT = 65_536  # of those heard last
FRAMES_BACK_MAX = 1024  # of EVENTS, read before it follows
_OUTCOME, _PARKED = b'"type":"command.outcome"', b'"type":"command.parked"'
_CAUSATION = b'"causation":"'
_JSON = json.JSONDecoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """The event that answered a command.

    Args:
        outcome: `accepted`, `rejected`, `repeated`, `expired` or `parked`.
        position: The input ordinal at which it was decided.
        body: All that the event says, `reason`, `order_id`, `first` and so on.
        event_id: Of the event.
    """

    outcome: str
    position: int
    body: dict[str, Any]
    event_id: str


@dataclass(frozen=True, slots=True)
class Told:
    """The event that answered a command, as EVENTS has it."""

    command_id: str
    position: int
    payload: bytes

    @property
    def decided(self) -> Decided:
        """What it says."""
        event = json.loads(self.payload)
        body = event["body"]
        return Decided(
            outcome=str(body.get("outcome", "parked")), position=self.position, body=body, event_id=str(event["id"])
        )


@dataclass(slots=True)
class Waiting:
    """One who waits for the outcome of a command."""

    command_id: str
    answer: asyncio.Future[Decided | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    async def decided(self, timeout_s: float) -> Decided | None:
        """The outcome; None where none came in time, or the follower was closed. Raises what ended it."""
        done, _ = await asyncio.wait({self.answer}, timeout=timeout_s)
        return self.answer.result() if done else None


class Outcomes:
    """The follower of one EVENTS; `open` it, then `run` it as a task."""

    def __init__(self, events: Log, *, waiting_max: int = WAITING_MAX, kept: int = OUTCOMES_KEPT) -> None:
        self._events = events
        self._waiting_max = waiting_max
        self._kept = kept
        self._waiting: dict[str, list[Waiting]] = {}
        self._known: OrderedDict[str, Told] = OrderedDict()
        self._next = 0
        self._failure: TapehouseError | None = None
        self.waiting = 0

    @property
    def waiting_max(self) -> int:
        """Who may wait at the same time."""
        return self._waiting_max

    async def open(self, *, frames_back: int = FRAMES_BACK_MAX) -> None:
        """Hear what was decided lately; what comes from now on will be heard by `run`."""
        extent = await self._events.extent()
        self._next = max(extent.first, extent.last + 1 - frames_back)
        async for message in self._events.read(self._next, through=extent.last):
            self._hear(message)
        self._next = extent.last + 1

    async def run(self) -> None:
        """Hear what is decided, until cancelled; what ends it otherwise ends all waiting too."""
        try:
            async for message in self._events.read(self._next, follow=True):
                self._hear(message)
            raise BusUnavailableError("the log of events ended", subject=self._events.name)
        except TapehouseError as error:
            self._failure = error
            for waiting in [each for group in self._waiting.values() for each in group]:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            raise

    def close(self) -> None:
        """Let all who wait go without an outcome, and take no more."""
        self._failure = BusyError(
            "the host is stopping", subject=self._events.name, hint="nothing was stored: send it again in a moment"
        )
        for waiting in [each for group in self._waiting.values() for each in group]:
            if not waiting.answer.done():
                waiting.answer.set_result(None)

    def known(self, command_id: str) -> Decided | None:
        """What became of a command, if it was heard and is kept."""
        told = self._known.get(command_id)
        return None if told is None else told.decided

    @contextmanager
    def expect(self, command_id: str) -> Iterator[Waiting]:
        """Wait for the outcome of a command that is yet to be sent, or to be decided.

        Raises:
            BusyError: As many wait as may.
            TapehouseError: What ended the follower.
        """
        if self._failure is not None:
            raise self._failure
        if self.waiting >= self._waiting_max:
            raise BusyError(
                f"{self.waiting} commands wait for their outcomes already",
                subject=self._events.name,
                hint="nothing was stored: send it again in a moment",
            )
        waiting = Waiting(command_id)
        self._waiting.setdefault(command_id, []).append(waiting)
        self.waiting += 1
        try:
            yield waiting
        finally:
            self.waiting -= 1
            group = self._waiting[command_id]
            group.remove(waiting)
            if not group:
                del self._waiting[command_id]
            if waiting.answer.done() and not waiting.answer.cancelled():
                waiting.answer.exception()  # Nobody may be left to take it.

    def _hear(self, message: Message) -> None:
        _, cells = decode_message(message)
        self._next = message.sequence + 1
        for command_id, told in {told.command_id: told for told in told_in(cells)}.items():
            self._known.pop(command_id, None)
            self._known[command_id] = told
            if len(self._known) > self._kept:
                self._known.popitem(last=False)
            for waiting in self._waiting.get(command_id, ()):
                if not waiting.answer.done():
                    waiting.answer.set_result(told.decided)


def told_in(cells: Cells) -> Iterator[Told]:
    """The outcomes among the records of EVENTS, in their order; the last one of a command is what counts."""
    answered = set()
    for _, record in records_of(cells, Kind.EVENT):
        payload = unpack_payload(record)
        is_outcome = _OUTCOME in payload
        if not is_outcome and _PARKED not in payload:
            continue
        # An envelope is canonical: only `body` stands before it, and quotes in the texts behind it are escaped.
        begin = payload.rfind(_CAUSATION)
        if begin < 0:
            continue
        command_id, _ = _JSON.raw_decode(payload[begin + len(_CAUSATION) - 1 :].decode())
        if not is_outcome and command_id in answered:
            continue  # Its outcome says as much.
        answered.add(command_id)
        yield Told(command_id, int(record["sequence"][0]), payload)
