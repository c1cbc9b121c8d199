"""Logs with something in them."""

from __future__ import annotations

from tapehouse.log.memory import MemoryLog
from tapehouse.log.port import Branch, Message

OLD_ID = b"o" * 16


async def filled(
    name: str, last: int, *, first: int = 1, payload: bytes = b"payload", branches: tuple[Branch, ...] | None = None
) -> MemoryLog:
    """A log in memory with messages `first` to `last`, no two alike."""
    log = MemoryLog(name, first=first, branches=branches or (Branch(log_id=OLD_ID),))
    await extend(log, last, payload=payload)
    return log


async def extend(log: MemoryLog, last: int, *, payload: bytes = b"payload") -> None:
    """Append messages until `last` is the last."""
    extent = await log.extent()
    for sequence in range(extent.last + 1, last + 1):
        await log.append(
            payload + str(sequence).encode(),
            expected_last=sequence - 1,
            subject=f"s.{sequence % 3}",
            headers={"n": str(sequence)} if sequence % 2 else None,
        )


async def messages_of(log: MemoryLog, first: int, last: int) -> list[Message]:
    """The messages in a range."""
    return [message async for message in log.read(first, through=last)]
