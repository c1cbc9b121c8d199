"""Calls about one stream, where a server that does not know it yet must not be believed.

A new stream is known to one server of a cluster after another: the answer to its making comes from the stream's own
leader, and until the others have caught up one of them may say that there is no such stream. Who makes a stream waits
until all know it (`settle`); who is told that a stream is missing asks its leader first (`call_stream`).
"""

from __future__ import annotations

import asyncio
from typing import Any

from tapehouse.bus.api import NoStreamError
from tapehouse.bus.connection import RETRY_PAUSE_S, Bus
from tapehouse.core import BusUnavailableError

DOUBTS_MAX = 40  # with RETRY_PAUSE_S between them; a server that is this late is down
SETTLE_LOOKS_MAX = 100
SETTLE_PAUSE_S = 0.05


async def stream_info(bus: Bus, name: str, *, patience_s: float | None = None) -> dict[str, Any]:
    """What the stream's leader says of it; raises MissingError where there is no such stream."""
    call = f"STREAM.INFO.{name}"
    if patience_s is None:
        return await bus.patient_api(call)
    return await bus.patient_api(call, patience_s=patience_s)


async def call_stream(bus: Bus, call: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
    """Make a call that may be repeated, such as `STREAM.MSG.GET`, on one stream.

    Raises:
        MissingError: There is no such stream, and none leads it; or no such message.
        BusUnavailableError: No answer, or the servers do not agree that there is this stream.
    """
    for _ in range(DOUBTS_MAX):
        try:
            return await bus.patient_api(f"{call}.{name}", body)
        except NoStreamError:
            await stream_info(bus, name)
        await asyncio.sleep(RETRY_PAUSE_S)
    raise BusUnavailableError("a server does not know the stream that another leads", subject=name, hint="try again")


async def settle(bus: Bus, name: str, subject: str) -> None:
    """Wait until each server that is up knows a new stream, and one of them leads it.

    Args:
        subject: One that the stream takes.

    Raises:
        BusUnavailableError: It does not come to that.
    """
    for _ in range(SETTLE_LOOKS_MAX):
        # The leader of the servers alone answers this one, and of what it has taken in.
        known = await bus.patient_api("STREAM.NAMES", {"subject": subject})
        if name in (known.get("streams") or []) and await _is_settled(bus, name):
            return
        await asyncio.sleep(SETTLE_PAUSE_S)
    raise BusUnavailableError("the stream was made, and some server does not know it", subject=name, hint="try again")


async def _is_settled(bus: Bus, name: str) -> bool:
    try:
        cluster = (await stream_info(bus, name)).get("cluster") or {}
    except NoStreamError:
        return False
    copies = cluster.get("replicas") or []
    has_leader = bool(cluster.get("leader")) or not copies
    return has_leader and all(copy.get("current") or copy.get("offline") for copy in copies)
