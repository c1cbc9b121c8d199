"""Find out whether a store keeps the promises that a repository rests on, before relying on them.

Not every S3-compatible server does: some ignore `If-None-Match`, some let several racing writers win. A store that
fails is refused in words; nothing is downgraded silently.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from tapehouse.core.errors import ConflictError, UsageError
from tapehouse.dr.store import ObjectMissingError, ObjectStore

RACERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeReport:
    """The promises that the store kept, each tried for real."""

    url: str
    promises: tuple[str, ...]


async def probe(store: ObjectStore, token: str) -> ProbeReport:
    """Try a store's promises under `probe/<token>` and clean up.

    Args:
        token: Unused so far in this store; hexadecimal, from the caller's randomness.

    Raises:
        UsageError: The store breaks one of them; the message says which.
        MissingError, StoreThrottledError: It cannot be reached or used at all.
    """
    plain, raced = f"probe/{token}/plain", f"probe/{token}/raced"
    try:
        await _reads_its_writes(store, plain)
        await _lets_one_racer_win(store, raced)
        await _swaps_only_what_it_read(store, raced)
        await _lists(store, f"probe/{token}/", [plain, raced])
    finally:
        for key in (plain, raced):
            await store.delete(key)
    await _forgets(store, plain)
    return ProbeReport(
        url=store.url,
        promises=("read after write", f"one of {RACERS} racing writes wins", "compare and swap", "list", "delete"),
    )


async def _reads_its_writes(store: ObjectStore, key: str) -> None:
    for content in (b"first", b"second " * 1000):
        await store.put(key, content)
        if await store.get(key) != content or (await store.head(key)).size != len(content):
            raise _refusal(store, "does not give back what was just written")


async def _lets_one_racer_win(store: ObjectStore, key: str) -> None:
    async def race(number: int) -> int | None:
        try:
            await store.put(key, f"racer {number}".encode(), if_none_match=True)
        except ConflictError:
            return None
        return number

    winners = [number for number in await asyncio.gather(*map(race, range(RACERS))) if number is not None]
    if len(winners) != 1:
        raise _refusal(store, f"let {len(winners)} of {RACERS} racing conditional writes win, instead of one")
    if await store.get(key) != f"racer {winners[0]}".encode():
        raise _refusal(store, "kept another content than that of the conditional write that it let win")


async def _swaps_only_what_it_read(store: ObjectStore, key: str) -> None:
    before = (await store.head(key)).etag
    after = await store.put(key, b"swapped", if_match=before)
    if after == before:
        raise _refusal(store, "gives two contents the same etag")
    try:
        await store.put(key, b"stale", if_match=before)
    except ConflictError:
        pass
    else:
        raise _refusal(store, "wrote over a newer object although If-Match named an older one")
    if await store.get(key) != b"swapped":
        raise _refusal(store, "refused a conditional write and changed the object all the same")


async def _lists(store: ObjectStore, prefix: str, keys: list[str]) -> None:
    if [info.key async for info in store.list(prefix)] != keys:
        raise _refusal(store, "does not list what was just written")
    if [info.key async for info in store.list(prefix, after=keys[0])] != keys[1:]:
        raise _refusal(store, "does not list from a given key on")


async def _forgets(store: ObjectStore, key: str) -> None:
    try:
        await store.get(key)
    except ObjectMissingError:
        return
    raise _refusal(store, "still gives an object that was deleted")


def _refusal(store: ObjectStore, what: str) -> UsageError:
    return UsageError(
        f"this store {what}",
        subject=store.url,
        hint="two backups at once could damage each other here: choose another store or a newer server",
    )
