"""The replicated KV for one command: its logs followed in this process, and left when the command ends.

The view is kept in `<home>/kv/here` between commands, by one at a time; a command beside another folds the logs.
"""

from __future__ import annotations

import fcntl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from tapehouse.app.bootstrap import DEFAULT_TAPE, Platform, home_directory, open_platform
from tapehouse.app.kv_derived import derived_of
from tapehouse.app.kv_gateway import ServeOptions, open_kv
from tapehouse.bus import kv_spec
from tapehouse.core.errors import MissingError
from tapehouse.kv.client import SCAN_LIMIT_MAX, Kv
from tapehouse.kv.levels import Level
from tapehouse.kv.reference import Stored


@asynccontextmanager
async def open_keys(
    nats: str | None = None,
    *,
    home: Path | None = None,
    tape: str = DEFAULT_TAPE,
    create: bool = False,
    name: str = "here",
) -> AsyncIterator[tuple[Platform, Kv]]:
    """The KV of a broker.

    Args:
        create: Make it where there is none.
        name: Of the directory that the view is kept in.

    Raises:
        MissingError: There is none.
        BusUnavailableError: No broker answers.
    """
    async with open_platform(nats, home=home, patient=True) as platform, derived_of(platform, tape) as derived:
        if not create:
            await _require_kv(platform)
        with _kept(home_directory(home) / "kv" / name) as kept:
            options = ServeOptions(nats=nats, home=home, tape=tape)
            async with await open_kv(platform, options, kept, derived) as kv:
                yield platform, kv


async def scan_all(kv: Kv, prefix: bytes, level: Level, *, limit: int | None = None) -> list[tuple[bytes, Stored]]:
    """All keys that begin with a prefix, page by page; each page as of its own moment."""
    found: list[tuple[bytes, Stored]] = []
    while limit is None or len(found) < limit:
        room = SCAN_LIMIT_MAX if limit is None else min(limit - len(found), SCAN_LIMIT_MAX)
        page = await kv.scan(prefix, level, after=found[-1][0] if found else None, limit=room)
        found += page
        if len(page) < room:
            break
    return found


async def _require_kv(platform: Platform) -> None:
    streams = {stream.name: stream.messages for stream in await platform.admin.list()}
    if not streams.get(kv_spec(0).name):
        raise MissingError("there is no KV yet", hint="begin one: tapehouse kv put KEY VALUE, or tapehouse kv serve")


@contextmanager
def _kept(place: Path) -> Iterator[Path | None]:
    """The directory, where no other process of ours has it; else None."""
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield place
