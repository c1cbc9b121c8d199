"""The latest frames that a view has applied, kept for watchers: bounded, so a watcher that falls behind is told so."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tapehouse.core.check import check
from tapehouse.core.errors import UsageError
from tapehouse.kv.entries import Answer, Entry, EntryFlag, Op, Status, read_entries
from tapehouse.kv.errors import WatchLaggedError
from tapehouse.kv.reference import KEYED

RECENT_FRAMES_MAX = 65_536
RECENT_BYTES_MAX = 64 * 1024 * 1024
FRAME_BYTES = 512  # that a frame takes beside its body and answers, about
READ_FRAMES_MAX = 16  # whose changes are kept for the next watcher


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What an entry did to a key.

    Attributes:
        value: That the key has since; None where it was deleted, where its expiry alone was set, and after an addition
            whose caller asked for no old value.
        revision: That the key has since; of a delete, its own; 0 where an expiry took the key away at once.
        expiry: UTC ns, 0 for none; None where it stayed as it was.
        sequence, index: Where the entry stands in its shard's log.
    """

    op: Op
    key: bytes
    value: bytes | None
    revision: int
    expiry: int | None
    shard: int
    sequence: int
    index: int


@dataclass(frozen=True, slots=True)
class _Frame:
    body: bytes | memoryview
    answers: Any  # (n, 2) int64: status and revision of each entry
    olds: dict[int, bytes]  # by the place of an entry, what a sum needs
    size: int


class Recent:
    """Applied frames of one shard, oldest first; those that do not fit any more are forgotten."""

    def __init__(
        self, shard: int, *, sequence: int, frames_max: int = RECENT_FRAMES_MAX, bytes_max: int = RECENT_BYTES_MAX
    ) -> None:
        """Empty: whoever has seen through `sequence` misses nothing yet."""
        self._shard = shard
        self._frames: deque[_Frame] = deque()
        self._frames_max = frames_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self._through = sequence  # what was forgotten, or was never here
        self._read: dict[int, list[Change]] = {}  # the frames that were asked for last, by their sequence

    def add(self, sequence: int, body: bytes | memoryview, answers: Any, olds: dict[int, bytes]) -> None:
        """Keep a frame that was just applied; none of it is looked at before somebody asks.

        Args:
            body: Its entries, which must not change; empty where nothing was applied.
            answers: (n, 2) int64, status and revision of each entry; the caller's own copy.
            olds: Old values by the entries' places, of those that asked for them and had short ones.
        """
        check(sequence == self._through + len(self._frames) + 1, f"frame {sequence} is not the next")
        size = len(body) + answers.nbytes + FRAME_BYTES
        self._frames.append(_Frame(body, answers, olds, size))
        self._bytes += size
        while len(self._frames) > self._frames_max or self._bytes > self._bytes_max:
            oldest = self._frames.popleft()
            self._bytes -= oldest.size
            self._through += 1

    def changes(self, sequence: int) -> list[Change]:
        """What the frame at a sequence changed; it must have been applied.

        Raises:
            WatchLaggedError: It is not kept any more.
        """
        if sequence <= self._through:
            raise WatchLaggedError(
                f"changes are kept from sequence {self._through + 1} on",
                subject=f"shard {self._shard}",
                position=f"sequence {sequence}",
                hint="scan the prefix and watch from there",
            )
        found = self._read.get(sequence)
        if found is None:
            found = self._changes(sequence, self._frames[sequence - self._through - 1])
            if len(self._read) == READ_FRAMES_MAX:
                del self._read[next(iter(self._read))]
            self._read[sequence] = found
        return found

    def _changes(self, sequence: int, frame: _Frame) -> list[Change]:
        entries = read_entries(bytes(frame.body), len(frame.answers))
        answers = [
            Answer(status=Status(status), revision=revision, old=frame.olds.get(place))
            for place, (status, revision) in enumerate(frame.answers.tolist())
        ]
        return list(changes_of(self._shard, sequence, entries, answers))


def changes_of(shard: int, sequence: int, entries: list[Entry], answers: list[Answer]) -> Iterator[Change]:
    """What the entries of one frame changed, of those that were applied."""
    for index, (entry, answer) in enumerate(zip(entries, answers, strict=True)):
        if answer.status is not Status.APPLIED or entry.op not in KEYED:
            continue
        value: bytes | None = None
        expiry: int | None = None
        if entry.op is Op.PUT:
            value = entry.value
            expiry = None if entry.flags & EntryFlag.KEEP_EXPIRY else entry.expiry
        elif entry.op is Op.ADD and entry.flags & EntryFlag.RETURN_OLD:
            value = b"%d" % sum_of(entry, answer)
        elif entry.op is Op.EXPIRE:
            expiry = entry.expiry
        yield Change(
            op=entry.op, key=entry.key, value=value, revision=answer.revision, expiry=expiry, shard=shard,
            sequence=sequence, index=index,
        )  # fmt: skip


def sum_of(entry: Entry, answer: Answer) -> int:
    """What an addition came to that was applied, and asked for the value before.

    Raises:
        UsageError: It did not ask for it.
    """
    if entry.op is not Op.ADD or not entry.flags & EntryFlag.RETURN_OLD:
        raise UsageError("an addition's sum is known from the value before alone", hint="ask for it: RETURN_OLD")
    return int(answer.old or b"0") + int.from_bytes(entry.value, "little", signed=True)
