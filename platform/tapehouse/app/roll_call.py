"""The hosts of a tape, asked who they are; and the word to a leader that it shall hand over.

Core NATS: `host.v1.<tape>.roll` is answered by every host, `host.v1.<tape>.handover` by the leader. Answers are JSON.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from tapehouse.bus import Bus
from tapehouse.core.ids import check_name

ROLL_S = 0.4  # for which answers are awaited
ANSWERS_MAX = 64
HAND_OVER_TIMEOUT_S = 5.0

Answer = Callable[[], dict[str, Any]]


def _subject(tape: str, verb: str) -> str:
    return f"host.v1.{check_name(tape, 'tape')}.{verb}"


@asynccontextmanager
async def answering(
    bus: Bus, tape: str, *, roll: Answer, hand_over: Callable[[], dict[str, Any] | None]
) -> AsyncIterator[None]:
    """Meanwhile, answer for this host.

    Args:
        roll: What it says of itself.
        hand_over: Called where a leader shall hand over; None where this host does not lead, which stays silent.
    """

    async def on_roll(message: Any) -> None:
        await bus.publish(message.reply, json.dumps(roll()).encode())

    async def on_hand_over(message: Any) -> None:
        told = hand_over()
        if told is not None:
            await bus.publish(message.reply, json.dumps(told).encode())

    async with bus.listening(_subject(tape, "roll"), on_roll), bus.listening(_subject(tape, "handover"), on_hand_over):
        yield


async def call_roll(bus: Bus, tape: str, *, wait_s: float = ROLL_S) -> list[dict[str, Any]]:
    """Every host of a tape that answers in time: the leader first, then by name."""
    found = await _ask(bus, _subject(tape, "roll"), wait_s=wait_s, enough=ANSWERS_MAX)
    return sorted(found, key=lambda host: (host["role"] != "leader", host["holder"]))


async def ask_hand_over(bus: Bus, tape: str) -> dict[str, Any] | None:
    """Have the leader hand over; what it answered, None where no leader answers."""
    answers = await _ask(bus, _subject(tape, "handover"), wait_s=HAND_OVER_TIMEOUT_S, enough=1)
    return answers[0] if answers else None


async def _ask(bus: Bus, subject: str, *, wait_s: float, enough: int) -> list[dict[str, Any]]:
    """What came in answer within a time; it ends earlier with `enough` answers."""
    found: list[dict[str, Any]] = []
    complete = asyncio.Event()

    async def on_answer(message: Any) -> None:
        if message.data and len(found) < enough:  # The server itself answers with nothing where nobody listens.
            found.append(json.loads(message.data))
        if not message.data or len(found) == enough:
            complete.set()

    inbox = f"_INBOX.{secrets.token_hex(12)}"
    async with bus.listening(inbox, on_answer):
        await bus.publish(subject, b"", reply=inbox)
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await complete.wait()
    return found
