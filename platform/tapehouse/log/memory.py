"""A log in memory: the `Log` port's shipped double, for backtests, tests and fault injection.

It obeys the same contract suite as the JetStream adapter. `fail_next_append` makes the next append ambiguous, as a
broker's leader change does: the message is there, or it is not, and the caller gets no acknowledgement.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

from tapehouse.core.errors import AmbiguousAppendError, ConflictError, GapError, UsageError
from tapehouse.core.ids import new_log_id
from tapehouse.log.port import Branch, Extent, Message


class MemoryLog:
    """Messages in a list; see `log.port.Log` for the contract."""

    def __init__(
        self, name: str, *, log_id: bytes | None = None, first: int = 1, branches: tuple[Branch, ...] | None = None
    ) -> None:
        self._name = name
        self._branches = branches or (Branch(log_id=log_id or new_log_id()),)
        self._first = first
        self._messages: list[Message] = []
        self._grown = asyncio.Event()
        self._fault: bool | None = None

    @property
    def name(self) -> str:
        return self._name

    async def extent(self) -> Extent:
        return Extent(first=self._first, last=self._last, branches=self._branches)

    async def append(
        self,
        payload: bytes,
        *,
        expected_last: int | None,
        subject: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> int:
        reserved = [name for name in headers or {} if name.lower().startswith("nats-")]
        if reserved:
            raise UsageError(f"header {reserved[0]} is the broker's own", subject=self._name)
        if expected_last is not None and expected_last != self._last:
            raise ConflictError(
                f"the last sequence is {self._last}, not {expected_last}",
                subject=self._name,
                hint="another writer got there first",
            )
        fault, self._fault = self._fault, None
        if fault is not False:
            message = Message(
                sequence=self._last + 1,
                subject=subject or self._name.lower(),
                payload=bytes(payload),
                headers=dict(headers or {}),
            )
            self._messages.append(message)
            grown, self._grown = self._grown, asyncio.Event()
            grown.set()
        if fault is not None:
            raise AmbiguousAppendError("no acknowledgement came", subject=self._name, hint="read the last message")
        return self._last

    def fail_next_append(self, *, stored: bool) -> None:
        """Make the next append ambiguous; `stored` says whether the message is there all the same."""
        self._fault = stored

    async def last(self) -> Message | None:
        return self._messages[-1] if self._messages else None

    async def last_under(self, pattern: str) -> Message | None:
        """The last message on a subject, or below one that ends with `.>`; None where there is none."""
        prefix = pattern.removesuffix(">")
        for message in reversed(self._messages):
            if message.subject == pattern or (prefix != pattern and message.subject.startswith(prefix)):
                return message
        return None

    async def read(self, first: int, *, through: int | None = None, follow: bool = False) -> AsyncIterator[Message]:
        end = self._last if through is None and not follow else through
        sequence = first
        while end is None or sequence <= end:
            if sequence < self._first:
                raise GapError(
                    f"sequence {sequence} was trimmed; the log begins at {self._first}",
                    subject=self._name,
                    hint="read the older range from segments",
                )
            if sequence <= self._last:
                yield self._messages[sequence - self._first]
                sequence += 1
            elif follow:
                await self._grown.wait()
            else:
                return

    async def trim(self, below: int) -> None:
        below = min(below, self._last)
        if below > self._first:
            del self._messages[: below - self._first]
            self._first = below

    def corrupt(self, sequence: int, payload: bytes) -> None:
        """Replace a stored payload, for negative controls."""
        if not self._first <= sequence <= self._last:
            raise UsageError(f"sequence {sequence} is not there to corrupt", subject=self._name)
        at = sequence - self._first
        self._messages[at] = replace(self._messages[at], payload=payload)

    @property
    def _last(self) -> int:
        return self._first + len(self._messages) - 1
