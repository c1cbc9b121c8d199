"""One reader of EVENTS for all that a client has sent to a desk: who waits is told when the outcome is durable.

It begins at the end that EVENTS has before the first append and then follows, so no outcome can pass between an append
and the wait for it. A reader that fails is opened again at the next message; where that does not help, everybody who
waits gets the error, and the next one to wait starts anew.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tapehouse.client.outcomes import told_in
from tapehouse.core.clock import Clock
from tapehouse.core.errors import BusUnavailableError, TapehouseError, TransientError
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.desk.commands import EVENTS, CommandOutcome
from tapehouse.desk.names import Names
from tapehouse.log import Log, Message, decode_frame
from tapehouse.market import ANSWER_EXTENSION, Cells, Kind

WAITING_MAX = 4096  # callers; more of them wait for their turn
READ_ATTEMPTS_MAX = 8  # in a row, of a reader that fails without a message
READ_PAUSE_NS = NS_PER_SECOND // 4
UNREAD_MAX = 1024  # outcomes of messages that have no id, kept for who asks after its append only
_UNREAD = "cmds:"  # begins the id of a message that has no readable one


def unread_id(sequence: int) -> str:
    """What outcomes call a message of CMDS that has no id of its own, such as a frame of orders."""
    return f"{_UNREAD}{sequence}"


@dataclass(slots=True, eq=False)
class Answers:
    """What became of consecutive orders of a bulk client; `done` when there is an answer to each.

    Args:
        action: Of the record that answered each, 0 where none did; with it order id, reason and input ordinal.
    """

    client: int
    first: int
    action: npt.NDArray[np.uint8]
    order_id: npt.NDArray[np.uint64]
    reason: npt.NDArray[np.int64]
    position: npt.NDArray[np.uint64]
    done: asyncio.Future[None] = field(repr=False)

    @property
    def missing(self) -> npt.NDArray[np.int64]:
        """The numbers without an answer."""
        return self.first + np.flatnonzero(self.action == 0)

    def take(self, records: Cells, said: npt.NDArray[np.void]) -> None:
        """Take up the first answer to each number among these; `said` are their ANSWER_EXTENSIONs."""
        numbers = said["number"].astype(np.int64) - self.first
        mine = (said["client"] == self.client) & (numbers >= 0) & (numbers < len(self.action))
        places, chosen = np.unique(numbers[mine], return_index=True)
        chosen = np.flatnonzero(mine)[chosen][self.action[places] == 0]
        places = places[self.action[places] == 0]
        self.action[places] = records["action"][chosen]
        self.order_id[places] = said["order_id"][chosen]
        self.reason[places] = said["reason"][chosen]
        self.position[places] = records["sequence"][chosen]
        if not self.done.done() and self.action.all():
            self.done.set_result(None)


class Listener:
    """Follows EVENTS of one desk for one client; `close` ends it."""

    def __init__(self, events: Log, *, clock: Clock) -> None:
        self._events = events
        self._clock = clock
        self._room = asyncio.Semaphore(WAITING_MAX)
        self._opening = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._heard = 0  # the sequence through which messages were taken
        self._waiting: dict[str, asyncio.Future[CommandOutcome]] = {}
        self._orders: list[Answers] = []
        self._unread: OrderedDict[str, CommandOutcome] = OrderedDict()
        self._names = Names()
        self._named = 0  # the sequence through which names were learnt; 0: nobody asked yet
        self._learning = False

    async def open(self) -> None:
        """See that it follows; what is appended to CMDS after this is heard of.

        Raises:
            BusUnavailableError: The broker does not answer.
        """
        async with self._opening:
            if self._task is not None and not self._task.done():
                return
            self._heard = (await self._events.extent()).last
            self._learning = False
            self._task = asyncio.create_task(self._follow())

    @property
    def heard(self) -> int:
        """The sequence of EVENTS through which outcomes were taken; 0 before any."""
        return self._heard

    async def close(self) -> None:
        """Stop following; who still waits is told so."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._fail(BusUnavailableError("the client was closed", hint="what was sent may be decided all the same"))

    async def expect(self, command_id: str) -> asyncio.Future[CommandOutcome]:
        """The outcome of a command, to be awaited after its append; `forget` it where that was in vain.

        Waits while WAITING_MAX others do.
        """
        await self._room.acquire()
        waiting = asyncio.get_running_loop().create_future()
        self._waiting[command_id] = waiting
        told = self._unread.pop(command_id, None)
        if told is not None:
            waiting.set_result(told)
        return waiting

    def forget(self, command_id: str) -> None:
        """Nobody waits for this one any more."""
        if self._waiting.pop(command_id, None) is not None:
            self._room.release()

    def expect_orders(self, client: int, first: int, count: int) -> Answers:
        """The answers to consecutive orders of a bulk client; `forget_orders` them at last."""
        answers = Answers(
            client=client,
            first=first,
            action=np.zeros(count, np.uint8),
            order_id=np.zeros(count, np.uint64),
            reason=np.zeros(count, np.int64),
            position=np.zeros(count, np.uint64),
            done=asyncio.get_running_loop().create_future(),
        )
        self._orders.append(answers)
        return answers

    def forget_orders(self, answers: Answers) -> None:
        """Nobody waits for these any more."""
        self._orders = [other for other in self._orders if other is not answers]

    async def names(self) -> Names:
        """What instruments and accounts are called on this desk, up to what was heard; learnt on from then on.

        Raises:
            MissingError, GapError, BusUnavailableError: EVENTS cannot be read from its beginning.
        """
        await self.open()
        while not self._learning:
            extent = await self._events.extent()
            through = max(extent.last, self._heard)
            async for message in self._events.read(max(extent.first, self._named + 1), through=through):
                self._names.learn(decode_frame(message.payload)[1])
                self._named = message.sequence
            self._named = max(self._named, through)
            self._learning = self._named >= self._heard  # No await since: what comes next is learnt as it comes.
        return self._names

    # Following.

    async def _follow(self) -> None:
        attempts = 0
        try:
            while True:
                before = self._heard
                try:
                    async for message in self._events.read(self._heard + 1, follow=True):
                        self._take(message)
                    raise BusUnavailableError("the log of events ended", subject=self._events.name)
                except TransientError:
                    attempts = attempts + 1 if self._heard == before else 1
                    if attempts >= READ_ATTEMPTS_MAX:
                        raise
                    await self._clock.sleep_until(self._clock.monotonic_ns() + READ_PAUSE_NS)
        except TapehouseError as error:
            self._fail(error)
        except Exception as error:
            self._fail(error)
            raise

    def _fail(self, error: Exception) -> None:
        futures: list[asyncio.Future[Any]] = [*self._waiting.values(), *(answers.done for answers in self._orders)]
        for waiting in futures:
            if not waiting.done():
                waiting.set_exception(error)
                waiting.exception()  # Who gave up waiting must not be told by the event loop's log.

    def _take(self, message: Message) -> None:
        """Tell who waits for what this message holds."""
        if self._waiting or self._orders or self._learning:
            _, cells = decode_frame(message.payload)
            if self._learning and message.sequence > self._named:
                self._names.learn(cells)
                self._named = message.sequence
            if self._orders:
                self._take_answers(cells)
            self._take_outcomes(cells)
        self._heard = message.sequence

    def _take_outcomes(self, cells: Cells) -> None:
        for told in told_in(cells):
            waiting = self._waiting.get(told.command_id)
            if waiting is None and not told.command_id.startswith(_UNREAD):
                continue
            _, body = EVENTS.decode(told.payload)
            if not isinstance(body, CommandOutcome):
                continue  # That it is parked; its outcome follows.
            if waiting is None:
                self._unread[told.command_id] = body
                if len(self._unread) > UNREAD_MAX:
                    self._unread.popitem(last=False)
            elif not waiting.done():
                waiting.set_result(body)

    def _take_answers(self, cells: Cells) -> None:
        starts = np.flatnonzero((cells["kind"] == Kind.ORDER) & (cells["cells"] > 2))
        if not len(starts):
            return
        records = cells[starts]
        said = cells[starts + records["cells"] - 1].view(ANSWER_EXTENSION)
        for answers in self._orders:
            answers.take(records, said)
