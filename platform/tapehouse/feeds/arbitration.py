"""Several lines of one numbered feed as one: first wins, what one line lacks is taken from another. No I/O, no clock.

Messages come out in the order of their numbers, each once. A hole stops the stream: what is behind it waits, in bounded
memory, until the hole is filled or given up. As soon as every line is past the hole (at once, where there is only one)
a gap is told; a hole that another line fills before that was never one of the feed, and is only counted for its line.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from tapehouse.core.errors import UsageError
from tapehouse.market.gap import Cause, Confidence

BUFFERED_MAX = 65_536  # messages that wait behind a hole
BUFFERED_BYTES_MAX = 16 << 20
PATIENCE_NS = 1_000_000_000  # for a line that is behind, and for a hole that nothing fills
LINES_MAX = 8
RANGES_MAX = 4_096  # holes that are remembered one by one; further ones are only counted
SEQUENCE_END = 2**64
SESSIONS_MAX = 64  # sessions that are over and whose late packets are known as such


@dataclass(frozen=True, slots=True)
class Run:
    """Messages in order, the first of them bearing `sequence`."""

    sequence: int
    messages: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """What a GAP record of the feed says.

    Args:
        sequence: The last number in order.
        following: The first after the hole, 0 where the hole is closed.
        missing: How many are missing; 0 where the hole is closed.
    """

    cause: Cause
    confidence: Confidence
    sequence: int
    following: int = 0
    missing: int = 0


@dataclass(frozen=True, slots=True)
class Reset:
    """Numbers begin anew: what comes belongs to this session."""

    session: bytes


Event = Run | Gap | Reset


@dataclass(slots=True)
class Line:
    """What one line brought.

    Args:
        following: One past the highest number that it brought or said would come next; 0 before its first packet.
        first: Messages that it was the first to bring.
        duplicates: Messages that were there already.
        gaps, missing: How often its numbers jumped, and by how many messages in all.
        late: Messages that came behind later ones, but in time.
        too_late: Messages of holes that had been given up.
        strays: Packets of a session that is over.
    """

    following: int = 0
    first: int = 0
    duplicates: int = 0
    gaps: int = 0
    missing: int = 0
    late: int = 0
    too_late: int = 0
    strays: int = 0


@dataclass(slots=True)
class Lost:
    """Ranges of messages that never came, as half-open pairs of numbers, in order."""

    messages: int = 0
    ranges: list[tuple[int, int]] = field(default_factory=list)  # at most RANGES_MAX, the first ones

    def add(self, begin: int, end: int) -> None:
        """Note one more range, behind all others of its session."""
        self.messages += end - begin
        if self.ranges and self.ranges[-1][1] == begin:
            self.ranges[-1] = (self.ranges[-1][0], end)
        elif len(self.ranges) < RANGES_MAX:
            self.ranges.append((begin, end))

    def holds(self, sequence: int) -> bool:
        """Whether a number is in one of the ranges that are remembered."""
        at = bisect_right(self.ranges, (sequence, SEQUENCE_END)) - 1
        return at >= 0 and sequence < self.ranges[at][1]


class Arbiter:
    """Merges lines.

    Args:
        lines: How many; each packet says by its number, from 0, from which it came.
        first: The number of a session's first message; None to begin wherever the feed is met.
        patience_ns: How long a hole waits for a line that is behind before it is told, and how long a told one waits
            to be filled before it is given up; None: a told one waits until `give_up`.
    """

    def __init__(
        self,
        lines: int = 1,
        *,
        first: int | None = 1,
        patience_ns: int | None = PATIENCE_NS,
        buffered_max: int = BUFFERED_MAX,
    ) -> None:
        if not 1 <= lines <= LINES_MAX:
            raise UsageError(f"{lines} lines", hint=f"1 to {LINES_MAX} lines of one feed are merged")
        self.lines = tuple(Line() for _ in range(lines))
        self.lost = Lost()
        self.repaired = 0  # messages that were asked for and came
        self.session: bytes | None = None
        self.ended = False
        self._first = first
        self._patience_ns = patience_ns
        self._buffered_max = buffered_max
        self._over: list[bytes] = []
        self._events: list[Event] = []
        self._lossy = False
        self._clear(1 if first is None else first)

    def _clear(self, first: int) -> None:
        self._next = first  # the number of the first message that was not handed out
        self._following = first  # one past the highest known number
        self._waiting: dict[int, bytes] = {}
        self._order: list[int] = []  # heap of the numbers that wait
        self._waiting_bytes = 0
        self._told = first  # holes below this number were told; above `_next` while one of them is open
        self._since: int | None = None  # when the hole at `_next` was met, or told
        self._filled_by = Cause.RESUMED
        self._end: int | None = None
        for line in self.lines:
            line.following = 0

    @property
    def next_sequence(self) -> int:
        """The number of the first message that was not handed out yet."""
        return self._next

    @property
    def waiting(self) -> int:
        """Messages behind a hole."""
        return len(self._waiting)

    def hole(self) -> tuple[int, int] | None:
        """The first range that is missing, as [begin, end), where it was told; None where nothing is."""
        if self._next < self._told and self._next < self._following:
            return self._next, self._hole_end()
        return None

    def receive(
        self,
        line: int | None,
        session: bytes,
        sequence: int,
        messages: Sequence[bytes],
        now: int,
        *,
        ended: bool = False,
        repair: Cause = Cause.RETRANSMITTED,
    ) -> None:
        """Take one packet.

        Args:
            line: From which it came; None where it was asked for.
            sequence: The number of its first message; without messages, of the next to come.
            ended: Nothing from `sequence` on will come.
            now: Any time in ns that never decreases.
            repair: What is said of a hole that a packet of no line closes.
        """
        if session != self.session and not self._changes(line, session, sequence, now):
            return
        following = sequence + len(messages)
        at_line = self.lines[line] if line is not None else None
        behind = at_line is not None and self._account(at_line, sequence, following)
        cause = repair if at_line is None else Cause.RESUMED if len(self.lines) == 1 else Cause.FILLED
        for number, message in enumerate(messages, sequence):
            self._take_in(number, message, at_line, cause, behind=behind)
        self._following = max(self._following, following)
        if ended and (self._end is None or sequence > self._end):
            self._end = sequence
        self._advance(now)

    def elapsed(self, now: int) -> None:
        """Time passed: holes that waited long enough are told, or given up."""
        self._advance(now)
        while self._since is not None and self._patience_ns is not None and now - self._since >= self._patience_ns:
            if self._next < self._told:
                self.give_up(now)
            else:
                self._tell(now)
                break

    def give_up(self, now: int) -> None:
        """The first missing range will not come: what waits behind it goes on; the books stay suspect."""
        if self._next >= self._following:
            return
        end = self._hole_end()
        self._tell(now)
        self.lost.add(self._next, end)
        self._lossy = True
        since, self._next = self._since, end
        self._advance(now)
        if self.hole() is not None:
            self._since = since  # another part of a hole that was told at the same time

    def take(self) -> list[Event]:
        """What came out since the last call, in order."""
        events, self._events = self._events, []
        return events

    def _changes(self, line: int | None, session: bytes, sequence: int, now: int) -> bool:
        """Whether a packet of another session begins that session."""
        if line is None or session in self._over:
            if line is not None:
                self.lines[line].strays += 1
            return False
        if self.session is not None:
            while self._next < self._following:
                self.give_up(now)
            self._over = [*self._over, self.session][-SESSIONS_MAX:]
            self._events.append(Reset(session))
            self.lost.ranges.clear()
            self._lossy = False
        self.session = session
        self.ended = False
        self._clear(sequence if self._first is None else self._first)
        return True

    def _account(self, line: Line, sequence: int, following: int) -> bool:
        """What a packet says about its own line; whether a later one of it came before."""
        expected = line.following or (sequence if self._first is None else self._first)
        if sequence > expected:
            line.gaps += 1
            line.missing += sequence - expected
        line.following = max(expected, following)
        return sequence < expected

    def _take_in(self, number: int, message: bytes, line: Line | None, cause: Cause, *, behind: bool) -> None:
        if number in self._waiting or number < self._next:
            if line is not None:
                if number < self._next and self.lost.holds(number):
                    line.too_late += 1
                else:
                    line.duplicates += 1
            return
        if line is not None:
            line.first += 1
            line.late += behind
        else:
            self.repaired += 1
        if number < self._told:
            self._filled_by = cause
        self._waiting[number] = message
        self._waiting_bytes += len(message)
        heapq.heappush(self._order, number)

    def _advance(self, now: int) -> None:
        """Hand out what is in order, and meet the hole behind it."""
        self._hand_out()
        while len(self._waiting) > self._buffered_max or self._waiting_bytes > BUFFERED_BYTES_MAX:
            self.give_up(now)
        if self._next >= self._following:
            self._since = None
            self.ended = self._end is not None and self._next >= self._end
            return
        if self._since is None:
            self._since = now
        if self._hole_end() > self._told and all(line.following >= self._hole_end() for line in self.lines):
            self._tell(now)

    def _hand_out(self) -> None:
        begin, run = self._next, list[bytes]()
        while True:
            message = self._waiting.pop(self._next, None)
            if message is None:
                break
            self._waiting_bytes -= len(message)
            heapq.heappop(self._order)
            run.append(message)
            self._next += 1
            if self._next == self._told:  # the last message of a hole that was told
                self._events.append(Run(begin, tuple(run)))
                begin, run = self._next, []
                self._events.append(
                    Gap(
                        cause=self._filled_by,
                        confidence=Confidence.SUSPECT if self._lossy else Confidence.GOOD,
                        sequence=self._next - 1,
                    )
                )
        if run:
            self._events.append(Run(begin, tuple(run)))
        if self._next > begin:
            self._since = None

    def _hole_end(self) -> int:
        return self._order[0] if self._order else self._following

    def _tell(self, now: int) -> None:
        """Tell what is missing at `_next`, but for what was told before."""
        end, begin = self._hole_end(), max(self._next, self._told)
        if end <= begin:
            return
        self._events.append(
            Gap(
                cause=Cause.SEQUENCE,
                confidence=Confidence.SUSPECT,
                sequence=begin - 1,
                following=end,
                missing=end - begin,
            )
        )
        self._told = end
        self._filled_by = Cause.RESUMED
        self._since = now
