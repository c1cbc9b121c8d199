"""What became of commands, heard by one follower of EVENTS for all who wait.

A command's outcome is the `command.outcome` event that its id caused, or `command.parked` where it could not be
understood. Whoever sends a command waits for its id *before* it is appended, so that no outcome can be missed.
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
from tapehouse.log import Log, decode_frame
from tapehouse.market import Cells, Kind, records_of, unpack_payload

WAITING_MAX = 200  # who may wait for an outcome at the same time
OUTCOMES_KEPT = 65_536  # of those heard last
FRAMES_BACK_MAX = 1024  # of EVENTS, read before it follows
_TYPES = (b'"command.outcome"', b'"command.parked"')
_PARKED = "command.parked"


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
        self._known: OrderedDict[str, Decided] = OrderedDict()
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
            self._hear(message.sequence, message.payload)
        self._next = extent.last + 1

    async def run(self) -> None:
        """Hear what is decided, until cancelled; what ends it otherwise ends all waiting too."""
        try:
            async for message in self._events.read(self._next, follow=True):
                self._hear(message.sequence, message.payload)
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
        return self._known.get(command_id)

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

    def _hear(self, sequence: int, payload: bytes) -> None:
        _, cells = decode_frame(payload)
        self._next = sequence + 1
        for command_id, decided in decided_in(cells).items():
            self._known.pop(command_id, None)
            self._known[command_id] = decided
            if len(self._known) > self._kept:
                self._known.popitem(last=False)
            for waiting in self._waiting.get(command_id, ()):
                if not waiting.answer.done():
                    waiting.answer.set_result(decided)


def decided_in(cells: Cells) -> dict[str, Decided]:
    """The outcomes among the records of EVENTS, by the id of the command; of an id that has two, the last."""
    found: dict[str, Decided] = {}
    for _, record in records_of(cells, Kind.EVENT):
        payload = unpack_payload(record)
        if not any(kind in payload for kind in _TYPES):
            continue
        event = json.loads(payload)
        cause, kind, body = event.get("causation"), event["type"], event["body"]
        if not cause or f'"{kind}"'.encode() not in _TYPES:
            continue
        if kind == _PARKED and cause in found:
            continue  # Its outcome says as much.
        found[cause] = Decided(
            outcome=str(body.get("outcome", "parked")),
            position=int(record["sequence"][0]),
            body=body,
            event_id=str(event["id"]),
        )
    return found
