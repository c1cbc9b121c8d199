"""Histories of what clients asked of a key-value store and what they were told, as JSON lines.

    with History(path) as history:
        async with history.call("put-if", "a", client="c1", value="x", expected=3) as call:
            answer = await store.put_if("a", "x", 3)
            call.ok(revision=answer.revision)        # or refused(found=...), failed(), unknown()

A block that is left by an exception is recorded as `unknown`: it may have happened, or happen at any time after. Times
are of the machine's monotonic clock, so histories of several processes on one machine can be joined line by line. Give
every write a value of its own: a checker then knows whose value was read, and stays quick. Keys with a TTL do not
belong here, for expiry is no operation of a client. A process that is killed takes the line of its call with it, so
record in one that outlives the faults. `linearizable.py` and `consistency.py` check what was recorded.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

MAX_OPERATIONS = 2_000_000  # what the checker reads
KINDS = ("get", "put", "put-if", "delete")
LEVELS = ("", "eventual", "session", "linearizable")


class HistoryError(ValueError):
    """A history that cannot be recorded, read or checked as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One call and its answer.

    Attributes:
        kind: get, put, put-if (only where `expected` is the key's revision, 0 for absent) or delete (may have one too).
        value: What was written or read; None of a get that found nothing.
        call, returned: Monotonic ns; no return where there was no answer.
        outcome: ok; refused (put-if, delete: `found` is the revision that was there, 0 for none); unknown (ambiguous);
            failed (certainly no effect).
        revision: The write's, or that of the value that was read; 0 where it was not told.
        found: Of a delete that is ok, the revision that it removed, where it was told.
        level: Of a get; a get without one counts as linearizable.
        session: Whose order counts at level session; the client's own where it is empty.
        shard, sequence: How far the view that answered had applied its log; 0 where it was not told.
    """

    client: str
    key: str
    kind: str
    call: int
    returned: int | None = None
    outcome: str = "unknown"
    value: str | None = None
    expected: int | None = None
    revision: int = 0
    found: int | None = None
    level: str = ""
    session: str = ""
    shard: int = 0
    sequence: int = 0

    @property
    def writes(self) -> bool:
        """Whether it changed the key, or may have."""
        return self.kind != "get" and self.outcome in ("ok", "unknown")

    def line(self) -> str:
        """The operation as JSON, what is empty left out."""
        fields = {name: value for name, value in asdict(self).items() if value not in (None, "")}
        if "returned" in fields:
            fields["return"] = fields.pop("returned")
        return json.dumps(fields, separators=(",", ":"))


def read_history(path: Path) -> list[Operation]:
    """The operations of a file, in its order.

    Raises:
        HistoryError: A line is no operation.
    """
    operations = []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                fields = json.loads(line)
                fields["returned"] = fields.pop("return", None)
                operations.append(Operation(**fields))
            except (ValueError, TypeError, AttributeError) as error:
                raise HistoryError(f"{path}:{number}: {error}") from error
    return operations


def write_history(path: Path, operations: Iterable[Operation]) -> Path:
    """Write operations to a file and return its path."""
    with open(path, "w", encoding="utf-8") as output:
        output.writelines(operation.line() + "\n" for operation in operations)
    return path


def text(value: bytes | str) -> str:
    """Bytes as text, one to one, so that no two values become one; text by way of its UTF-8."""
    return (value.encode() if isinstance(value, str) else value).decode("latin-1")


class Call(AbstractAsyncContextManager["Call", None]):
    """An operation on its way; ends with one of `ok`, `refused`, `failed`, `unknown`."""

    def __init__(self, history: History, operation: Operation) -> None:
        self._history = history
        self._operation = operation
        self._answer: Operation | None = None

    async def __aenter__(self) -> Call:
        self._operation = replace(self._operation, call=self._history.clock())
        return self

    def ok(
        self,
        *,
        value: bytes | str | None = None,
        revision: int = 0,
        found: int | None = None,
        shard: int = 0,
        sequence: int = 0,
    ) -> None:
        """It was done; `value` is what a get found."""
        if self._operation.kind == "get":
            self._end(
                "ok", value=None if value is None else text(value), revision=revision, shard=shard, sequence=sequence
            )
        elif value is not None:
            raise HistoryError("a write's value is given with the call")
        else:
            self._end("ok", revision=revision, found=found, shard=shard, sequence=sequence)

    def refused(self, *, found: int, shard: int = 0, sequence: int = 0) -> None:
        """The key was at another revision than expected, or there was nothing to delete (found 0)."""
        if self._operation.kind not in ("put-if", "delete"):
            raise HistoryError(f"a {self._operation.kind} is never refused: failed() says that it had no effect")
        self._end("refused", found=found, shard=shard, sequence=sequence)

    def failed(self) -> None:
        """It certainly had no effect and never will: a full queue, a bad request."""
        self._end("failed")

    def unknown(self) -> None:
        """It may have happened, or happen at any time from now on."""
        self._answer = self._answered("unknown")

    def _answered(self, outcome: str, **fields: Any) -> Operation:
        if self._answer is not None:
            raise HistoryError(f"a call has one outcome; this one was {self._answer.outcome} already")
        return replace(self._operation, outcome=outcome, **fields)

    def _end(self, outcome: str, **fields: Any) -> None:
        self._answer = self._answered(outcome, returned=self._history.clock(), **fields)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        forgotten = self._answer is None and kind is None
        self._history.add(self._answer or self._operation)
        if forgotten:
            raise HistoryError(f"the call {self._operation.kind} {self._operation.key!r} ended without an outcome")


class History(AbstractContextManager["History", None]):
    """Records calls to a file, at most `max_operations` of them; a call beyond is refused before it is made."""

    def __init__(
        self, path: Path, *, max_operations: int = MAX_OPERATIONS, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self.path = path
        self.clock = clock
        self.operations = 0
        self._left = max_operations
        self._output: TextIO | None = open(path, "w", encoding="utf-8")  # noqa: SIM115  (closed by close)

    def call(
        self,
        kind: str,
        key: bytes | str,
        *,
        client: str,
        value: bytes | str | None = None,
        expected: int | None = None,
        level: str = "",
        session: str = "",
    ) -> Call:
        """A call to be made within `async with`; `value` is what a write writes.

        Raises:
            HistoryError: No such operation, or the history is full.
        """
        if kind not in KINDS or level not in LEVELS:
            raise HistoryError(f"kind {kind!r} is one of {KINDS}, level {level!r} one of {LEVELS}")
        if (value is not None) != (kind in ("put", "put-if")) or (kind == "put-if" and expected is None):
            raise HistoryError("a put and a put-if have a value, a put-if its expected revision, others have none")
        if kind == "delete" and expected == 0:
            raise HistoryError("a delete expects a revision above 0")
        if self._left == 0:
            raise HistoryError(f"{self.path} is full with {self.operations} operations: record for a shorter time")
        self._left -= 1
        return Call(
            self,
            Operation(
                client=client,
                key=text(key),
                kind=kind,
                call=0,
                value=None if value is None else text(value),
                expected=expected,
                level=level,
                session=session,
            ),
        )

    def add(self, operation: Operation) -> None:
        """Write one operation that is over."""
        if self._output is None:
            raise HistoryError(f"{self.path} is closed, but a call was still on its way: await the clients first")
        self._output.write(operation.line() + "\n")
        self.operations += 1

    def close(self) -> None:
        """Write out what is buffered; no call may end after this."""
        if self._output is not None:
            self._output.close()
            self._output = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
