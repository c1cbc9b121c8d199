"""Append a known run of messages to a log that nobody else writes, fast and provably in order.

Every append carries its fence (the sequence that must be last), so none can land in a wrong place however it travels:
several may be under way at once, and one that comes too early is refused, not misplaced. Every acknowledged sequence
must be the one expected. After a lost acknowledgement or a refusal all appends under way are awaited, what the log
holds beyond the acknowledged is read and compared, and what is not there is sent again under the same fences.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from tapehouse.core.errors import (
    AmbiguousAppendError,
    BusUnavailableError,
    ConflictError,
    IntegrityError,
    TapehouseError,
)
from tapehouse.log.port import Log, Message

APPENDS_UNDER_WAY = 64
BYTES_UNDER_WAY = 8 * 1024 * 1024
ATTEMPTS_MAX = 40  # without one message more being there
RETRY_PAUSE_S = 0.25


@dataclass(slots=True)
class _Sent:
    message: Message
    task: asyncio.Task[int]


class Refill:
    """The only writer of a log while it is restored."""

    def __init__(
        self,
        log: Log,
        *,
        last: int,
        under_way: int = APPENDS_UNDER_WAY,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Go on after `last`, the log's last sequence, with at most `under_way` appends at once."""
        self._log = log
        self._under_way = under_way
        self._pause = pause
        self._sent: deque[_Sent] = deque()
        self._bytes = 0
        self.last = last  # acknowledged
        self.resent = 0
        self._failures = 0  # in a row

    async def run(self, messages: AsyncIterator[Message]) -> int:
        """Append all messages; return how many were appended.

        Raises:
            ConflictError: Somebody else writes to the log.
            IntegrityError: The log gave a message another sequence than its own.
            BusUnavailableError: ATTEMPTS_MAX attempts in a row brought nothing forward.
        """
        before = self.last
        try:
            async for message in messages:
                self._send(message)
                # The first goes alone: it shows that nobody has appended since `last` was read.
                width = self._under_way if self.last > before else 1
                while len(self._sent) >= width or self._bytes > BYTES_UNDER_WAY:
                    await self._settle_one()
            while self._sent:
                await self._settle_one()
        finally:
            for sent in self._sent:
                sent.task.cancel()
            await asyncio.gather(*(sent.task for sent in self._sent), return_exceptions=True)
        return self.last - before

    def _send(self, message: Message) -> None:
        self._sent.append(_Sent(message, asyncio.create_task(self._append(message))))
        self._bytes += len(message.payload)

    async def _append(self, message: Message) -> int:
        return await self._log.append(
            message.payload,
            expected_last=message.sequence - 1,
            subject=message.subject,
            headers=message.headers or None,
        )

    async def _settle_one(self) -> None:
        """Wait for the oldest append; where it failed, find out what is there and send the rest again."""
        oldest = self._sent[0]
        try:
            sequence = await oldest.task
        except (ConflictError, AmbiguousAppendError, BusUnavailableError) as error:
            await self._recover(error)
            return
        self._accept(oldest.message, sequence)

    def _accept(self, message: Message, sequence: int) -> None:
        if sequence != message.sequence or message.sequence != self.last + 1:
            raise IntegrityError(
                f"message {message.sequence} was stored as {sequence}, after {self.last}",
                subject=self._log.name,
                hint="somebody else writes to this log: restore into an empty cluster",
            )
        self.last = sequence
        self._failures = 0
        self._sent.popleft()
        self._bytes -= len(message.payload)

    async def _recover(self, cause: TapehouseError) -> None:
        """After a failed append: await the others, look at the log's end, and send again what is not there."""
        self._failures += 1
        if self._failures > ATTEMPTS_MAX:
            raise BusUnavailableError(
                f"no message was taken in {ATTEMPTS_MAX} attempts: {cause.message}",
                subject=self._log.name,
                position=f"after sequence {self.last}",
                hint="run the restore again when the cluster is up: it goes on where it stopped",
            ) from cause
        if self._failures > 1:
            await self._pause(RETRY_PAUSE_S)
        await asyncio.gather(*(sent.task for sent in self._sent), return_exceptions=True)
        try:
            await self._believe(cause)
        except BusUnavailableError:
            return  # The oldest append has still failed, so the next look comes soon.
        waiting = [sent.message for sent in self._sent]
        self._sent.clear()
        self._bytes = 0
        self.resent += len(waiting)
        for again in waiting:
            self._send(again)

    async def _believe(self, cause: TapehouseError) -> None:
        """Take as stored what the log shows to be stored, message by message.

        The last one alone would not do: after another writer's message, the next of ours fits its fence again.
        """
        end = await self._log.last()
        last = end.sequence if end else (await self._log.extent()).last
        if last < self.last:
            raise IntegrityError(
                f"the log ends at {last}, behind the acknowledged {self.last}",
                subject=self._log.name,
                hint="the cluster lost an acknowledged message: its storage cannot be trusted",
            ) from cause
        if last == self.last:
            return
        async for message in self._log.read(self.last + 1, through=last):
            if not self._sent or message != self._sent[0].message:
                raise ConflictError(
                    f"message {message.sequence} is not ours",
                    subject=self._log.name,
                    hint="somebody else writes to this log: restore into an empty cluster",
                ) from cause
            self._accept(message, message.sequence)
