"""Whether what reads gave can be true: pure, told of each request as it begins and ends, and without a clock.

Every value is written once, so a read says which write it saw. What is judged is what follows for certain, never more:
of two writes of a key the first is *overwritten* once it is known to have taken effect (it was acknowledged, or a read
gave it) before the second began and the second is known to have taken effect too. A read then must not give the first,
- at `linearizable`, where all that was known before the read began;
- at `session`, where the read's own connection wrote or read the second before.
At every level a read must give a value that is whole, of its key and of this run, and no write that was refused.

Source: the necessary conditions of a register with unique values (P. Gibbons and E. Korach, "Testing shared
memories", 1997), as far as they can be judged in one pass and constant time; the full check is Porcupine's in tests.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from tapehouse.app.kv_load.values import read_value
from tapehouse.core.check import check
from tapehouse.core.errors import DecodeError

LevelName = Literal["eventual", "session", "linearizable"]
EXAMPLES_MAX = 20  # violations that are told in full
_REFUSED = -1  # of `_known`


class Wrong(Enum):
    """What a read can be found out in; the value is its name in reports."""

    CORRUPT = "corrupt"  # not whole, or no value of a load
    OTHER_KEY = "other_key"  # was written to another key
    FOREIGN = "foreign"  # of another run
    NEVER_WRITTEN = "never_written"  # says of itself what nobody wrote
    REFUSED = "refused"  # of a write that was answered "nothing was done"
    LOST = "lost"  # no value, where one was written and nothing deletes
    STALE = "stale"  # overwritten before the read began
    WENT_BACK = "went_back"  # overwritten by what this connection had seen or written


class End(Enum):
    """How a write ended."""

    DONE = "done"
    REFUSED = "refused"  # it was answered that nothing was done
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One read that cannot be true; numbers as in `values.Written`."""

    what: Wrong
    key: int
    connection: int
    told: str


@dataclass(slots=True)
class Verdict:
    """What was found so far.

    Attributes:
        reads: That were judged.
        absent: Reads without a value where the level allows it.
        examples: The first EXAMPLES_MAX violations.
    """

    reads: int = 0
    absent: int = 0
    counts: dict[Wrong, int] = field(default_factory=lambda: dict.fromkeys(Wrong, 0))
    examples: list[Violation] = field(default_factory=list)

    @property
    def violations(self) -> int:
        """How many."""
        return sum(self.counts.values())


class ReadChecker:
    """Judges the reads of one run, whose requests are all told in the order in which they happen.

    It holds 24 bytes for each write and 8 for each key; at `session` also an entry for each connection and key it met.
    """

    def __init__(self, *, run: int, level: LevelName, keys: int, writes_max: int) -> None:
        self.verdict = Verdict()
        self._run, self._level = run, level
        self._tick = 0  # counts what happened, so that of two moments the earlier is known
        self._writes = 0
        self._key_of = array("I", bytes(4 * writes_max))
        self._writer_of = array("I", bytes(4 * writes_max))
        self._begun = array("q", bytes(8 * writes_max))
        self._known = array("q", bytes(8 * writes_max))  # when it was known to have taken effect; 0: it is not
        self._floor = array("q", bytes(8 * keys))  # the latest beginning of a key's writes that are known
        self._seen: dict[tuple[int, int], int] = {}  # the same of what one connection has seen

    def begin_write(self, connection: int, key: int) -> int:
        """A write is about to be sent; its number."""
        number = self._writes
        check(number < len(self._begun), "more writes than were announced")
        self._writes += 1
        self._tick += 1
        self._key_of[number], self._writer_of[number], self._begun[number] = key, connection, self._tick
        return number

    def end_write(self, number: int, end: End) -> None:
        """A write was answered, or will never be."""
        key, connection = self._key_of[number], self._writer_of[number]
        if end is End.DONE:
            self._take_effect(number, connection)
        elif end is End.REFUSED:
            if self._known[number] > 0:
                self._wrong(Wrong.REFUSED, key, connection, f"write {number} was read, and then answered as not done")
            self._known[number] = _REFUSED

    def begin_read(self, key: int) -> int:
        """A read is about to be sent; what `end_read` wants to know of this moment."""
        return self._floor[key]

    def end_read(self, connection: int, key: int, value: bytes | None, floor: int) -> None:
        """Judge what a read gave.

        Args:
            floor: What `begin_read` answered.
        """
        verdict = self.verdict
        verdict.reads += 1
        seen = self._seen.get((connection, key), 0) if self._level == "session" else 0
        least = floor if self._level == "linearizable" else seen
        if value is None:
            if least:
                self._wrong(Wrong.LOST, key, connection, "no value, and nobody deletes")
            else:
                verdict.absent += 1
            return
        number = self._number(connection, key, value)
        if number is None:
            return
        known = self._known[number]
        if known == _REFUSED:
            self._wrong(Wrong.REFUSED, key, connection, f"write {number} was answered as not done")
            return
        if 0 < known < least:
            what = Wrong.STALE if self._level == "linearizable" else Wrong.WENT_BACK
            who = f"write {number} of connection {self._writer_of[number]}"
            self._wrong(what, key, connection, f"{who} was overwritten by write {self._at(least)}")
        self._take_effect(number, connection)

    def forget(self, connection: int) -> None:
        """A connection was made anew: its session has seen nothing."""
        for place in [place for place in self._seen if place[0] == connection]:
            del self._seen[place]

    def _number(self, connection: int, key: int, value: bytes) -> int | None:
        """Which write of this key a value is of; None where it is of none, which is told."""
        try:
            written = read_value(value)
        except DecodeError as error:
            self._wrong(Wrong.CORRUPT, key, connection, error.message)
            return None
        number = written.number
        if written.run != self._run:
            self._wrong(Wrong.FOREIGN, key, connection, f"write {number} of run {written.run:x}")
        elif written.key != key:
            self._wrong(Wrong.OTHER_KEY, key, connection, f"write {number} of key {written.key}")
        elif number >= self._writes or (self._key_of[number], self._writer_of[number]) != (key, written.connection):
            self._wrong(Wrong.NEVER_WRITTEN, key, connection, f"write {number} of connection {written.connection}")
        else:
            return number
        return None

    def _take_effect(self, number: int, connection: int) -> None:
        """A write is known to have taken effect by now, and this connection knows it."""
        key, begun = self._key_of[number], self._begun[number]
        if self._known[number] == 0:
            self._tick += 1
            self._known[number] = self._tick
            self._floor[key] = max(self._floor[key], begun)
        if self._level == "session":
            place = (connection, key)
            self._seen[place] = max(self._seen.get(place, 0), begun)

    def _at(self, begun: int) -> int:
        """The number of the write that began then; writes are numbered as they begin."""
        return bisect_left(self._begun, begun, 0, self._writes)

    def _wrong(self, what: Wrong, key: int, connection: int, told: str) -> None:
        self.verdict.counts[what] += 1
        if len(self.verdict.examples) < EXAMPLES_MAX:
            self.verdict.examples.append(Violation(what=what, key=key, connection=connection, told=told))
