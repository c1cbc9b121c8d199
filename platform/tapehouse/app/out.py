"""OUT: every record of EVENTS as a JSON message, for people and programs in any language; see docs/formats/out.md.

The projector publishes in windows: a window is sent at once, and the next one only when all of it is acknowledged and
a moment has passed, in which events gather: a quiet desk's are sent at once, a busy one's cost its brokers little. Each
message says in a header below which ordinal of EVENTS everything is in OUT for certain, so that OUT itself is the
checkpoint: a successor goes on from its last message, and repeats one window at the most, with the same ids and bytes.
A successor that waits for its turn folds EVENTS meanwhile and holds what OUT may lack.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from xxhash import xxh3_128_intdigest

from tapehouse.core.errors import BusUnavailableError, DecodeError, IntegrityError, TransientError
from tapehouse.core.ids import check_name
from tapehouse.core.metrics import Metrics
from tapehouse.desk.out_events import OutEvents, OutMessage
from tapehouse.log import FrameHeader, Host, Log, Message, SnapshotStore, read_header
from tapehouse.log.writer import read_tail

WINDOW_MESSAGES = 256  # in flight together, and so what a successor repeats at the most
ATTEMPTS_MAX = 120  # of one message, with PAUSE_S between them: longer than an election
PAUSE_S = 0.25
ASIDE_CELLS = 256  # of a frame; folding one costs some 20 us a cell
SNAPSHOT_MESSAGES = 100_000  # published between two snapshots of the fold
GATHER_S = (
    0.02  # from a window to the next, unless that is full: commands that follow each other share the brokers' work
)
GATHERED_FRAMES_MAX = 64  # of EVENTS, read ahead meanwhile
HELD_MESSAGES_MAX = 4096  # that who does not publish keeps, as OUT may lack them when its turn comes
LOOK_S = 1.0  # between two looks at OUT, while it lacks so many
COMPLETE = "Tapehouse-Complete-Below"  # every record of EVENTS below this ordinal is in OUT
LOG_ID = "Tapehouse-Log"  # of the EVENTS that it was told from


class OutLog(Log, Protocol):
    """OUT: a plain log that can be asked for the end of one tape."""

    async def last_under(self, pattern: str) -> Message | None:
        """The last message on a subject, or below one that ends with `.>`; None where there is none."""
        ...


def out_subject(tape: str, kind: str = ">") -> str:
    """The subject of a type of events, by default of all of a tape."""
    return f"out.v1.{check_name(tape, 'tape')}.{kind}"


class OutProjector:
    """Publishes the events of one tape."""

    def __init__(
        self,
        tape: str,
        events: Log,
        out: OutLog,
        *,
        snapshots: SnapshotStore | None = None,
        window: int = WINDOW_MESSAGES,
        metrics: Metrics | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """A projector that `open` gives its place.

        Args:
            snapshots: Where the fold is kept, so that a restart need not read all of EVENTS.
            window: Messages in flight together.
            pause: Waits between two attempts.
        """
        self._tape = tape
        self._events = events
        self._out = out
        self._snapshots = snapshots
        self._window = window
        self._pause = pause
        self._machine = OutEvents(tape)
        self._host = Host(self._machine, events, snapshots=snapshots, snapshot_cells=2**62)
        self._log_id = ""
        self._since_snapshot = 0
        self._is_aside = False
        self._held: list[OutMessage] = []  # made and not published, by one who does not publish yet
        self.complete_below = 0
        self.metrics = metrics or Metrics()

    async def open(self) -> None:
        """Find where OUT ends, and a snapshot of the fold that is not beyond it.

        Raises:
            IntegrityError: OUT holds events of another log, or of records that EVENTS does not have.
        """
        await self._find_end()
        progress = await self._host.open()
        if progress.next_ordinal > self.complete_below:  # OUT was made anew: fold from the beginning.
            self._machine = OutEvents(self._tape)
            store = None if self._snapshots is None else _Unread(self._snapshots)
            self._host = Host(self._machine, self._events, snapshots=store, snapshot_cells=2**62)
            await self._host.open()

    async def _find_end(self) -> None:
        """Learn from OUT's last message how far it is."""
        extent = await self._events.extent()
        self._log_id = extent.log_id.hex()
        last = await self._out.last_under(out_subject(self._tape))
        self.complete_below = 0 if last is None else complete_below(last)
        if last is None:
            return
        told = {branch.log_id.hex() for branch in extent.branches}
        ends = (await read_tail(self._events)).next_ordinal
        if last.headers.get(LOG_ID) not in told or self.complete_below > ends:
            raise IntegrityError(
                f"it holds events of tape {self._tape} that {self._events.name} does not have",
                subject=self._out.name,
                position=f"sequence {last.sequence}",
                hint=f"let them go: nats stream purge OUT --subject '{out_subject(self._tape)}', or use --no-out",
            )

    async def wait(self) -> None:
        """Fold EVENTS as it comes and publish nothing, until cancelled; `take_turn` is next.

        What OUT may lack is held. Where that is too much, because nobody publishes, the fold waits for OUT.

        Raises:
            As `run`, and as `open`.
        """
        progress = self._host.progress or await self._host.open()
        async for message in self._events.read(progress.sequence + 1, follow=True):
            await self._fold(message)
            self._held += self._machine.take()
            while len(self._held) > HELD_MESSAGES_MAX:
                if not await self.take_turn():
                    raise BusUnavailableError("OUT was emptied meanwhile", subject=self._out.name, hint="open it again")
                if len(self._held) > HELD_MESSAGES_MAX:
                    await self._pause(LOOK_S)

    async def take_turn(self) -> bool:
        """Go on from where OUT ends now; False where that cannot be, and this projector must be made anew.

        Raises:
            IntegrityError: As `open`.
        """
        before = self.complete_below
        if self._is_aside:
            return False  # It was cancelled in the middle of a fold.
        await self._find_end()
        self._held = [each for each in self._held if each.ordinal >= self.complete_below]
        return self.complete_below >= before

    async def run(self, *, follow: bool = False) -> None:
        """Publish what is there; with `follow`, go on with what comes until cancelled.

        Raises:
            GapError, DecodeError, IntegrityError: EVENTS is damaged; the sequence is named.
            BusUnavailableError: OUT did not take a message in ATTEMPTS_MAX attempts; nothing was left out.
        """
        progress = self._host.progress or await self._host.open()
        held, self._held = self._held, []
        await self._publish(held)
        if self._machine.is_between_appends:
            self.complete_below = max(self.complete_below, progress.next_ordinal)
        reading = self._events.read(progress.sequence + 1, follow=follow)
        async for frames in _gathered(reading):
            for message in frames:
                header = await self._fold(message)
            made = [each for each in self._machine.take() if each.ordinal >= self.complete_below]
            await self._publish(made)
            if self._machine.is_between_appends:
                self.complete_below = max(self.complete_below, header.next_ordinal)
            self.metrics.set("out_lag_cells", header.next_ordinal - self.complete_below)
            if self._since_snapshot >= SNAPSHOT_MESSAGES:
                self.save()
            if follow and 0 < len(made) < self._window:
                await self._pause(GATHER_S)

    async def _fold(self, message: Message) -> FrameHeader:
        """Fold a frame; a large one in a thread, so that the desk beside it is not kept waiting."""
        if read_header(message.payload).count <= ASIDE_CELLS:
            return self._host.fold(message)[0]
        self._is_aside = True  # Where this is cancelled, the thread goes on: the fold is no state then.
        header, _ = await asyncio.to_thread(self._host.fold, message)
        self._is_aside = False
        return header

    def save(self) -> None:
        """Keep the fold where everything that it told is in OUT; elsewhere the snapshot before stands."""
        progress = self._host.progress
        if self._is_aside:
            return
        if progress and self._machine.is_between_appends and progress.next_ordinal <= self.complete_below:
            self._host.save()
            self._since_snapshot = 0

    async def lag(self) -> int:
        """Cells of EVENTS that are not in OUT yet."""
        return max((await read_tail(self._events)).next_ordinal - self.complete_below, 0)

    async def _publish(self, made: list[OutMessage]) -> None:
        at = attempts = 0
        while at < len(made):
            window = made[at : at + self._window]
            headers = {COMPLETE: str(max(self.complete_below, window[0].ordinal)), LOG_ID: self._log_id}
            appends = (
                self._out.append(
                    each.payload, expected_last=None, subject=out_subject(self._tape, each.type), headers=headers
                )
                for each in window
            )
            answers = await asyncio.gather(*appends, return_exceptions=True)
            failed = next((index for index, answer in enumerate(answers) if isinstance(answer, BaseException)), None)
            stored = len(window) if failed is None else failed
            at += stored
            self._since_snapshot += stored
            self.metrics.add("out_messages_total", stored)
            if stored:
                attempts = 0
                self.complete_below = window[stored - 1].after
            if failed is not None:
                # What follows it in the window is sent again behind it, stored or not: so the order is there whole.
                attempts += 1
                error = answers[failed]
                if not isinstance(error, TransientError) or attempts >= ATTEMPTS_MAX:
                    assert isinstance(error, BaseException)
                    raise error
                self.metrics.add("out_repeated_windows_total")
                await self._pause(PAUSE_S)


async def _gathered(messages: AsyncIterator[Message]) -> AsyncIterator[list[Message]]:
    """What has come while the one before was dealt with, one message at least, and GATHERED_FRAMES_MAX at the most."""
    queue: asyncio.Queue[Message | None] = asyncio.Queue(GATHERED_FRAMES_MAX)

    async def read() -> None:
        try:
            async for message in messages:
                await queue.put(message)
        finally:
            with suppress(asyncio.QueueFull):  # Then the end is seen where the queue is empty.
                queue.put_nowait(None)

    reading = asyncio.create_task(read())
    try:
        while not (reading.done() and queue.empty()):
            taken = [await queue.get()]
            while not queue.empty():
                taken.append(queue.get_nowait())
            frames = [message for message in taken if message is not None]
            if frames:
                yield frames
        reading.result()
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


class _Unread:
    """Snapshots that are written alone."""

    def __init__(self, snapshots: SnapshotStore) -> None:
        self._snapshots = snapshots

    def load(self, name: str) -> bytes | None:
        return None

    def save(self, name: str, data: bytes) -> None:
        self._snapshots.save(name, data)


def complete_below(message: Message) -> int:
    """The ordinal of EVENTS below which OUT had everything when this was sent; raises DecodeError without one."""
    text = message.headers.get(COMPLETE, "")
    if not text.isascii() or not text.isdigit():
        raise DecodeError(
            f"a message without {COMPLETE}: another program wrote it",
            subject="OUT",
            position=f"sequence {message.sequence}",
            hint="only tapehouse may publish below out.v1",
        )
    return int(text)


# Reading.


@dataclass(frozen=True, slots=True, kw_only=True)
class OutEvent:
    """A message of OUT, read."""

    sequence: int
    event: dict[str, Any]
    complete_below: int

    @property
    def ordinal(self) -> int:
        """Of its record in EVENTS."""
        return int(self.event["position"]["events"])

    @property
    def previous(self) -> int:
        """The ordinal of the event before it; -1 of the first."""
        return int(self.event["position"]["previous"])


class InOrder:
    """The reader's rule: takes each event once, in the order of EVENTS, whatever comes twice or out of turn.

    An event is taken where the one before it is the one that was taken last. Whoever begins anywhere begins with an
    event behind which everything was complete when it was sent.
    """

    def __init__(self, *, after: int | None = None) -> None:
        """Begin behind the event with this ordinal; None: anywhere."""
        self._last = after

    def takes(self, event: OutEvent) -> bool:
        """Whether this is the next event."""
        if event.previous != self._last if self._last is not None else event.previous >= event.complete_below:
            return False
        self._last = event.ordinal
        return True


def read_out_event(message: Message) -> OutEvent:
    """A message of OUT; raises DecodeError where it is none."""
    try:
        event = OutEvent(
            sequence=message.sequence, event=json.loads(message.payload), complete_below=complete_below(message)
        )
        if event.ordinal < 0 or not isinstance(event.event["id"], str):
            raise ValueError("no ordinal, or no id")
        _ = event.previous
    except (ValueError, KeyError, TypeError) as error:
        raise DecodeError(f"no event: {error!r}", subject="OUT", position=f"sequence {message.sequence}") from error
    return event


async def read_out(
    out: Log, tape: str, *, kind: str | None = None, from_position: int = 0, follow: bool = False
) -> AsyncIterator[OutEvent]:
    """The events of a tape, each once and in order.

    Args:
        kind: Of this type alone.
        from_position: With an ordinal in EVENTS from this one on.
        follow: Go on with what comes.
    """
    prefix, rule = out_subject(tape, ""), InOrder()
    async for message in out.read((await out.extent()).first, follow=follow):
        if not message.subject.startswith(prefix):
            continue
        event = read_out_event(message)
        if rule.takes(event) and event.ordinal >= from_position and kind in (None, event.event["type"]):
            yield event


# Checking.


@dataclass(frozen=True, slots=True, kw_only=True)
class OutCheck:
    """What `check_out` found.

    Args:
        events: That EVENTS tells.
        behind: Those at its end that are not in OUT yet.
        repeated: Messages that OUT holds more than once, or out of turn and again.
    """

    events: int
    behind: int
    repeated: int


async def check_out(tape: str, events: Log, out: Log) -> OutCheck:
    """Hold OUT against EVENTS: each event there, in order, with its id and every byte as EVENTS tells it.

    Raises:
        IntegrityError: One is missing before others, was changed, or was never decided; it is named.
    """
    extent = await out.extent()  # Before EVENTS is read: what comes meanwhile is in neither.
    machine = OutEvents(tape)
    host = Host(machine, events)
    wanted: dict[int, tuple[int, str]] = {}  # by ordinal, in order: a hash of the message, and its subject
    progress = await host.open()
    async for message in events.read(progress.sequence + 1):
        host.fold(message)
        for each in machine.take():
            wanted[each.ordinal] = xxh3_128_intdigest(each.payload), out_subject(tape, each.type)
    due, awaited = iter(wanted), InOrder(after=-1)
    taken = repeated = 0
    prefix = out_subject(tape, "")
    seen: set[int] = set()
    async for message in out.read(extent.first, through=extent.last):
        if not message.subject.startswith(prefix):
            continue
        event = read_out_event(message)
        if wanted.get(event.ordinal) != (xxh3_128_intdigest(message.payload), message.subject):
            raise IntegrityError(
                "an event is not what EVENTS says", subject=out.name, position=f"sequence {message.sequence}"
            )
        seen.add(event.ordinal)
        if awaited.takes(event):
            next(due)
            taken += 1
        else:
            repeated += 1
    lacking = next(due, None)
    if lacking is not None and max(seen, default=-1) >= lacking:
        raise IntegrityError(
            "an event is missing, while later ones are there", subject=out.name, position=f"cell {lacking}"
        )
    return OutCheck(events=len(wanted), behind=len(wanted) - taken, repeated=repeated)
