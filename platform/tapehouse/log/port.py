"""The `Log` port: an append-only sequence of messages, whoever stores it.

Sequences count from `first_sequence` without a hole. A *single-writer* log takes appends only under a fence (the
sequence that must be last); a *plain* log (CMDS, SNAPS, OUT, PARKED) takes them from anyone. Adapters: in memory
(`log.memory`), JetStream (`bus.jetstream`), segments of a backup (`dr.segment_log`). One contract suite runs them all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

MESSAGES_PER_READ_MAX = 1024  # how far a reader may run ahead of its consumer


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One stored message. `headers` are ours alone: those of the broker never appear here."""

    sequence: int
    subject: str
    payload: bytes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """A log's life under one `log_id`: it holds the sequences up to `through` (None: the living branch)."""

    log_id: bytes
    through: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """What a log holds now: sequences `first` to `last`; empty where `last` = `first` - 1."""

    first: int
    last: int
    branches: tuple[Branch, ...]  # oldest first; the last is the living one

    @property
    def log_id(self) -> bytes:
        """The identity of the living branch."""
        return self.branches[-1].log_id

    def log_id_at(self, sequence: int) -> bytes:
        """The identity under which that sequence was, or will be, written."""
        for branch in self.branches:
            if branch.through is None or sequence <= branch.through:
                return branch.log_id
        return self.log_id


class Log(Protocol):
    """Messages in one order."""

    @property
    def name(self) -> str:
        """The stream's name, such as `TAPE_demo`."""
        ...

    async def extent(self) -> Extent:
        """What the log holds now.

        Raises:
            MissingError: There is no such log.
            BusUnavailableError: The broker does not answer.
        """
        ...

    async def append(
        self,
        payload: bytes,
        *,
        expected_last: int | None,
        subject: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> int:
        """Store one message durably and return its sequence.

        Args:
            expected_last: The fence: the sequence that must be the log's last; None in a plain log.
            subject: Where the log takes several subjects; None for its only one.
            headers: Kept with the message; names must not begin with `Nats-`.

        Raises:
            ConflictError: Another message is last; nothing was written.
            AmbiguousAppendError: No acknowledgement came: it is there or it is not; read the last message to know.
            BusUnavailableError: The broker does not answer; nothing was written.
        """
        ...

    async def last(self) -> Message | None:
        """The last message, read from the leader; None where the log is empty."""
        ...

    def read(self, first: int, *, through: int | None = None, follow: bool = False) -> AsyncIterator[Message]:
        """Messages from sequence `first` on, in order and without a hole.

        Args:
            through: The last sequence wanted; None for all that are there when reading starts.
            follow: Go on with what is appended later, until the caller stops.

        Raises:
            GapError: `first` was trimmed away, or a sequence is missing.
            BusUnavailableError: The broker stayed away for longer than the adapter's bound.
        """
        ...

    async def trim(self, below: int) -> None:
        """Forget messages with a sequence below `below`; the last message is never forgotten."""
        ...
