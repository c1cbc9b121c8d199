"""What waits for a frame of one gateway, frames on their way, and how those who wait are answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tapehouse.core.errors import BusyError, TapehouseError
from tapehouse.kv.layout import OLD_BYTES
from tapehouse.kv.view import ViewAnswer

RIDERS_MAX = 65_536  # readers who wait for one frame


@dataclass(frozen=True, slots=True)
class Applied:
    """Where in the log a caller's entries stand, and what became of each."""

    sequence: int
    answers: list[ViewAnswer]


@dataclass(frozen=True, slots=True)
class AppliedPack:
    """Where in the log a pack's entries stand, and what became of each: (n, 2) int64, status and revision."""

    sequence: int
    rows: Any


@dataclass(slots=True, eq=False)
class Submission:
    """Entries of one caller: they stay together in one frame.

    Attributes:
        is_pack: It is answered with an `AppliedPack`, else with `Applied`.
    """

    bodies: Sequence[bytes]
    count: int
    size: int
    deadline: int
    done: asyncio.Future[Any]
    is_pack: bool = False
    refusals: int = 0


@dataclass(slots=True, eq=False)
class Ride:
    """Readers who wait for the same frame, each with a future of its own that gives its sequence."""

    deadline: int
    waiting: list[asyncio.Future[int]] = field(default_factory=list)

    def join(self) -> asyncio.Future[int]:
        """One more reader.

        Raises:
            BusyError: RIDERS_MAX wait for this frame.
        """
        if len(self.waiting) >= RIDERS_MAX:
            raise BusyError(f"{RIDERS_MAX} readers wait for one frame", hint="ask again in a moment")
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.waiting.append(done)
        return done


@dataclass(slots=True, eq=False)
class Flight:
    """A frame that was taken and is not known to be applied."""

    number: int
    payload: bytes
    taken: int  # monotonic ns, before its first append
    submissions: list[Submission]
    rides: list[Ride]
    settled: asyncio.Future[None] = field(repr=False)


def answer(
    submissions: list[Submission], sequence: int, rows: Any, answers_of: Callable[[Any], list[ViewAnswer]]
) -> None:
    """Answer each caller with its part of a frame's rows."""
    has_packs = any(submission.is_pack for submission in submissions)
    answers = [] if has_packs else answers_of(rows)  # All at once is cheaper, where there are many callers.
    start = 0
    for submission in submissions:
        end = start + submission.count
        if not submission.done.done():
            if submission.is_pack:
                submission.done.set_result(AppliedPack(sequence, rows[start:end, :OLD_BYTES].copy()))
            else:
                told = answers_of(rows[start:end]) if has_packs else answers[start:end]
                submission.done.set_result(Applied(sequence, told))
        start = end


def settle(flight: Flight) -> None:
    """Nobody need send this frame again."""
    if not flight.settled.done():
        flight.settled.set_result(None)


def tell(done: asyncio.Future[Any], error: TapehouseError) -> None:
    """End a future with an error, which need not be heard: who waited may have left."""
    if not done.done():
        done.set_exception(error)
        done.exception()
