"""One log that many in a process follow: each message is asked for once, and told to all of them in their order.

A host has a dozen followers of three logs. With a reader each, the brokers send every message as often, and the process
parses it as often, in the way of the one that everybody waits for. Here one reader fills a window of the last messages.
A follower that is behind the window reads the log itself up to it. What this process appends is in the window when it
is acknowledged, since from then on it is durable and will never change, without the way back through the broker.

Who decides, or answers somebody, follows at once. Who may come a moment later follows `unhurried`: these are woken a
millisecond after, when the append that a message led to is on its way, and one by one, so that its acknowledgement is
heard between them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

from tapehouse.core.errors import BusUnavailableError, GapError, IntegrityError, TapehouseError
from tapehouse.log.port import MESSAGES_PER_READ_MAX, Log, Message
from tapehouse.log.wrapped import WrappedLog

WINDOW_MESSAGES = MESSAGES_PER_READ_MAX
WINDOW_BYTES = 32 * 1024 * 1024  # of payloads; the newest message stays whatever its size
UNHURRIED_S = 0.001  # long enough for a frame to be folded and its append sent


class SharedLog(WrappedLog):
    """Any log; see `port.Log` for the contract. Only following is shared: whoever reads a range reads the log.

    Args:
        subject: The log's only one, where it has one: then appends that name none are heard when acknowledged too.
        pause: Waits before the unhurried are woken.
    """

    def __init__(
        self, log: Log, *, subject: str | None = None, pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        super().__init__(log)
        self._subject = subject
        self._pause = pause
        self._window: _Window | None = None  # while somebody follows
        self._joining = asyncio.Lock()

    def unhurried(self) -> Log:
        """The same log, for those whom nobody waits for."""
        return _Unhurried(self)

    async def append(
        self,
        payload: bytes,
        *,
        expected_last: int | None,
        subject: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> int:
        """As the log does; followers here hear of it with the acknowledgement."""
        sequence = await self._log.append(payload, expected_last=expected_last, subject=subject, headers=headers)
        told = subject or self._subject
        if told is not None and self._window is not None and sequence == self._window.last + 1:
            self._window.add(
                Message(sequence=sequence, subject=told, payload=bytes(payload), headers=dict(headers or {}))
            )
        return sequence

    def read(self, first: int, *, through: int | None = None, follow: bool = False) -> AsyncIterator[Message]:
        """Messages in order and without a hole; see `port.Log`."""
        return self._follow(first, through, is_hurried=True) if follow else self._log.read(first, through=through)

    async def _follow(self, first: int, through: int | None, *, is_hurried: bool) -> AsyncIterator[Message]:
        window = await self._join()
        try:
            at = first
            while through is None or at <= through:
                if at < window.first:
                    behind = window.first - 1 if through is None else min(through, window.first - 1)
                    async for message in self._log.read(at, through=behind):
                        yield message
                        at = message.sequence + 1
                    if at <= behind:
                        raise GapError(f"sequence {at} is missing", subject=self.name)
                elif (held := window.get(at)) is not None:
                    yield held
                    at += 1
                else:
                    await window.more(at, is_hurried=is_hurried)
        finally:
            await self._leave(window)

    async def _join(self) -> _Window:
        """The window that this one follows too; the first has it filled from the log's end on."""
        async with self._joining:
            if self._window is None:
                window = _Window((await self._log.extent()).last + 1)
                self._window = window
                window.tasks = [asyncio.create_task(self._fill(window)), asyncio.create_task(self._wake_late(window))]
            self._window.followers += 1
            return self._window

    async def _leave(self, window: _Window) -> None:
        window.followers -= 1
        if window.followers == 0:
            tasks = window.tasks
            if self._window is window:
                self._window = None
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _wake_late(self, window: _Window) -> None:
        """Wake those who are in no hurry, as there is news for them, until cancelled."""
        while True:
            await window.late_news.wait()
            window.late_news.clear()
            await self._pause(UNHURRIED_S)
            for waiting in window.take_late():
                if not waiting.done():
                    waiting.set_result(None)
                    await asyncio.sleep(0)  # It does its work, and what came from the broker meanwhile is heard.

    async def _fill(self, window: _Window) -> None:
        """Read into a window until cancelled. What ends the reader ends all who follow; the next ones start anew."""
        try:
            async for message in self._log.read(window.last + 1, follow=True):
                held = window.get(message.sequence)
                if held is None:
                    window.add(message)
                elif held.payload != message.payload:
                    raise IntegrityError(
                        "the log holds another message than the one that was acknowledged",
                        subject=self.name,
                        position=f"sequence {message.sequence}",
                        hint="another writer, or a damaged replica: see tapehouse dr verify",
                    )
            raise BusUnavailableError("the log ended", subject=self.name)
        except TapehouseError as error:
            window.fail(error)
        except Exception as error:
            window.fail(error)
            raise
        finally:
            if self._window is window:
                self._window = None


class _Window:
    """The last messages of a log, `first` to `last` without a hole, and those who wait for the next."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.followers = 0
        self.tasks: list[asyncio.Task[None]] = []  # one fills it, one wakes the unhurried
        self.late_news = asyncio.Event()
        self._messages: deque[Message] = deque()
        self._bytes = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._late: list[asyncio.Future[None]] = []
        self._failure: Exception | None = None

    @property
    def last(self) -> int:
        return self.first + len(self._messages) - 1

    def get(self, sequence: int) -> Message | None:
        """That message; None where it has not come."""
        at = sequence - self.first
        return self._messages[at] if 0 <= at < len(self._messages) else None

    def add(self, message: Message) -> None:
        """The next message; one that is here is passed over."""
        if message.sequence <= self.last:
            return
        if message.sequence != self.last + 1:
            raise GapError(f"sequence {self.last + 1} is missing", position=f"sequence {message.sequence}")
        self._messages.append(message)
        self._bytes += len(message.payload)
        while len(self._messages) > WINDOW_MESSAGES or (self._bytes > WINDOW_BYTES and len(self._messages) > 1):
            self._bytes -= len(self._messages.popleft().payload)
            self.first += 1
        self._wake()

    def fail(self, error: Exception) -> None:
        """Nothing more comes."""
        self._failure = error
        self._wake()

    async def more(self, sequence: int, *, is_hurried: bool) -> None:
        """Return when there is more than the messages before this one; raises what ended the reader."""
        while self.last < sequence:
            if self._failure is not None:
                raise self._failure
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            (self._waiting if is_hurried else self._late).append(waiting)
            await waiting

    def take_late(self) -> list[asyncio.Future[None]]:
        """Those in no hurry who wait."""
        late, self._late = self._late, []
        return late

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(None)
        if self._late:
            self.late_news.set()


class _Unhurried(WrappedLog):
    """A shared log for those who may come a moment later."""

    def __init__(self, shared: SharedLog) -> None:
        super().__init__(shared)
        self._shared = shared

    def read(self, first: int, *, through: int | None = None, follow: bool = False) -> AsyncIterator[Message]:
        if follow:
            return self._shared._follow(first, through, is_hurried=False)
        return super().read(first, through=through)
