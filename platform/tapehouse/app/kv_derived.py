"""A desk's projections as derived keys of the replicated KV, asked of the host that serves the tape.

What a level means here: `eventual` is what the host's projector has folded. Every other level, `eventual` with a bound
included, first looks at what TAPE and EVENTS hold and waits until the projector has folded that: whoever was told a
command's outcome reads what it led to. Readers share such a look, and join the next one, never one in flight, since
that may have been answered before their command was.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from tapehouse.app.bootstrap import Platform
from tapehouse.app.kv_service import ask_find, ask_items
from tapehouse.app.projections import NAMES, READS
from tapehouse.bus import Bus
from tapehouse.core.errors import MissingError
from tapehouse.core.ids import check_name
from tapehouse.kv.levels import EVENTUAL, Level
from tapehouse.kv.reference import Stored
from tapehouse.log import Log

_BY_MARKET = "tapehouse record"
_BY_DESK = "tapehouse send"

Place = tuple[int, int]  # what TAPE and EVENTS hold: their last sequences


def derived_prefixes() -> dict[bytes, str]:
    """Each prefix of the projections, and by which command what is below it changes."""
    market = set(NAMES["tape"])
    return {f"{name}/".encode(): _BY_MARKET if name in market else _BY_DESK for name in sorted(READS)}


class NextLook:
    """Looks at something, one at a time, each for all who asked before it began."""

    def __init__(self, look: Callable[[], Awaitable[Place]]) -> None:
        self._look = look
        self._running: asyncio.Task[Place] | None = None
        self._next: asyncio.Task[Place] | None = None

    async def look(self) -> Place:
        """What is found by a look that begins after this call."""
        if self._next is None:
            self._next = asyncio.create_task(self._after(self._running))
        return await asyncio.shield(self._next)

    async def _after(self, before: asyncio.Task[Place] | None) -> Place:
        if before is not None:
            await asyncio.wait([before])
        self._running, self._next = self._next, None
        return await self._look()

    async def close(self) -> None:
        """Give up what is under way."""
        for task in (self._running, self._next):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


class DerivedProjections:
    """`kv.derived.Derived` over the micro service of one tape's host.

    Args:
        open_tape, open_events: The tape's logs; they are opened when first needed, as the tape may come later.
    """

    def __init__(
        self, bus: Bus, tape: str, *, open_tape: Callable[[], Awaitable[Log]], open_events: Callable[[], Awaitable[Log]]
    ) -> None:
        self._bus, self._name = bus, tape
        self._open = (open_tape, open_events)
        self._logs: list[Log] = []
        self._next = NextLook(self._ends)
        self._prefixes = derived_prefixes()

    @property
    def prefixes(self) -> Mapping[bytes, str]:
        """See `kv.derived.Derived`."""
        return self._prefixes

    async def get(self, key: bytes, level: Level) -> Stored | None:
        """See `kv.derived.Derived`."""
        try:
            text = key.decode()
        except UnicodeDecodeError:
            return None  # No projection has such a key.
        tape, events = await self._place(level)
        value, _ = await ask_find(self._bus, self._name, text, after=events, after_tape=tape)
        return None if value is None else _stored(value)

    async def scan(self, prefix: bytes, level: Level, *, after: bytes | None, limit: int) -> list[tuple[bytes, Stored]]:
        """See `kv.derived.Derived`; all keys below the prefix are asked for, of one moment."""
        try:
            text = prefix.decode()
        except UnicodeDecodeError:
            return []
        tape, events = await self._place(level)
        items = await ask_items(self._bus, self._name, text, after=events, after_tape=tape)
        rows = sorted((key.encode(), value) for key, value in items)
        return [(key, _stored(value)) for key, value in rows if after is None or key > after][:limit]

    async def close(self) -> None:
        """Give up looks that are under way."""
        await self._next.close()

    async def _place(self, level: Level) -> Place:
        return (0, 0) if level == EVENTUAL else await self._next.look()

    async def _ends(self) -> Place:
        """What both logs hold now; a tape that is not there yet holds nothing."""
        if not self._logs:
            try:
                self._logs = [await make() for make in self._open]
            except MissingError:
                return 0, 0
        tape, events = await asyncio.gather(*(log.extent() for log in self._logs))
        return tape.last, events.last


def _stored(value: Any) -> Stored:
    return Stored(json.dumps(value, separators=(",", ":")).encode(), 0, 0)


@asynccontextmanager
async def derived_of(platform: Platform, tape: str) -> AsyncIterator[DerivedProjections]:
    """The projections of one tape's desk on a platform.

    Raises:
        UsageError: A tape cannot have that name.
    """
    check_name(tape, "tape")
    derived = DerivedProjections(
        platform.bus, tape, open_tape=lambda: platform.tape(tape), open_events=lambda: platform.events(tape)
    )
    try:
        yield derived
    finally:
        await derived.close()
