"""The object store port: where backups live, in six verbs.

Adapters: in memory (here), a directory (`file_store`), S3 and all that speak it (`s3`). Wrappers with the same face:
`Retrying` (bounded attempts) and `Counting` (requests and bytes). One contract suite runs them all. `open_store`
makes the right one from a URL, and `probe` finds out whether a store keeps its promises before a backup relies on it.

Keys are `/`-separated paths without `.` or `..` parts, of the characters that need no escape anywhere.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from blake3 import blake3

from tapehouse.core.errors import ConflictError, MissingError, StoreThrottledError, UsageError
from tapehouse.core.metrics import Metrics

OBJECT_BYTES_MAX = 72 * 1024 * 1024  # one PUT; no part of a repository is larger
ATTEMPTS_MAX = 6
PAUSE_FIRST_S = 0.2
PAUSE_MAX_S = 5.0
KEY_CHARS_MAX = 512
_KEY = re.compile(r"[A-Za-z0-9_%=+-][A-Za-z0-9_.%=+-]*(/[A-Za-z0-9_%=+-][A-Za-z0-9_.%=+-]*)*")
_T = TypeVar("_T")


class ObjectMissingError(MissingError):
    """There is no object of that key; the store itself is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """What a store says of an object without sending it. `etag` names this content, for `if_match`."""

    key: str
    size: int
    etag: str


class ObjectStore(Protocol):
    """Whole objects by key. Every write is atomic and seen by every later read and list."""

    @property
    def url(self) -> str:
        """Where it is, for people; holds no secret."""
        ...

    async def get(self, key: str) -> bytes:
        """The object; raises ObjectMissingError where there is none."""
        ...

    async def put(self, key: str, data: bytes, *, if_none_match: bool = False, if_match: str | None = None) -> str:
        """Write an object whole and return its etag.

        Args:
            if_none_match: Only if there is none of that key.
            if_match: Only over the object with this etag.

        Raises:
            ConflictError: The condition does not hold; nothing was written.
            StoreThrottledError: The store failed; the object may be written or not.
        """
        ...

    async def head(self, key: str) -> ObjectInfo:
        """Size and etag; raises ObjectMissingError where there is none."""
        ...

    def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        """All objects whose key begins with `prefix` and sorts behind `after`, in order of their keys.

        The etag may be empty in a listing.
        """
        ...

    async def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        ...

    async def close(self) -> None:
        """Let go of connections; the store is not used afterwards."""
        ...


def check_key(key: str) -> str:
    """The key itself; raises UsageError where a store could take it for something else."""
    if len(key) > KEY_CHARS_MAX or not _KEY.fullmatch(key):
        raise UsageError(f"{key!r} is no object key", hint="letters, digits, '_', '-', '.', '%' between slashes")
    return key


def check_prefix(prefix: str) -> str:
    """The prefix itself: empty, a key, or a key and a slash; raises UsageError for anything else."""
    if prefix:
        check_key(prefix.removesuffix("/"))
    return prefix


def check_condition(if_none_match: bool, if_match: str | None) -> None:
    """Refuse two conditions at once, and an empty etag, which would match nothing or everything."""
    if (if_none_match and if_match is not None) or if_match == "":
        raise UsageError("a write has one condition, or none")


def missing(url: str, key: str) -> ObjectMissingError:
    """The error for an object that is not there."""
    return ObjectMissingError("no such object", subject=f"{url}/{key}")


def conflict(url: str, key: str, why: str) -> ConflictError:
    """The error for a condition that does not hold."""
    return ConflictError(why, subject=f"{url}/{key}", hint="another writer got there first: load and decide again")


class MemoryStore:
    """Objects in a dictionary: the port's shipped double, with faults that tests can order."""

    def __init__(self, name: str = "memory") -> None:
        self._objects: dict[str, bytes] = {}
        self._name = name

    @property
    def url(self) -> str:
        return f"memory://{self._name}"

    async def get(self, key: str) -> bytes:
        await asyncio.sleep(0)
        try:
            return self._objects[check_key(key)]
        except KeyError:
            raise missing(self.url, key) from None

    async def put(self, key: str, data: bytes, *, if_none_match: bool = False, if_match: str | None = None) -> str:
        check_key(key)
        check_condition(if_none_match, if_match)
        await asyncio.sleep(0)
        there = self._objects.get(key)
        if if_none_match and there is not None:
            raise conflict(self.url, key, "it is there already")
        if if_match is not None and (there is None or _etag(there) != if_match):
            raise conflict(self.url, key, "it has changed")
        self._objects[key] = bytes(data)
        return _etag(data)

    async def head(self, key: str) -> ObjectInfo:
        data = await self.get(key)
        return ObjectInfo(key=key, size=len(data), etag=_etag(data))

    async def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        check_prefix(prefix)
        await asyncio.sleep(0)
        for key in sorted(self._objects):
            if key.startswith(prefix) and key > after and key in self._objects:
                yield ObjectInfo(key=key, size=len(self._objects[key]), etag="")

    async def delete(self, key: str) -> None:
        await asyncio.sleep(0)
        self._objects.pop(check_key(key), None)

    async def close(self) -> None:
        return

    def flip(self, key: str, at: int) -> None:
        """Damage one byte, for negative controls."""
        data = bytearray(self._objects[key])
        data[at] ^= 0xFF
        self._objects[key] = bytes(data)


def _etag(data: bytes) -> str:
    return blake3(data).hexdigest()


class Retrying:
    """Tries again, a bounded number of times, what failed on the store's side.

    A conditional write whose first attempt got no answer may conflict with itself; the object is then read, and if it
    is ours the write has succeeded.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        jitter: Callable[[], float],
        attempts_max: int = ATTEMPTS_MAX,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Pauses grow from PAUSE_FIRST_S, doubling up to PAUSE_MAX_S, each times 0.5 to 1.5 by `jitter` in [0, 1)."""
        self._store = store
        self._jitter = jitter
        self._attempts_max = attempts_max
        self._pause = pause
        self.retries = 0

    @property
    def url(self) -> str:
        return self._store.url

    async def get(self, key: str) -> bytes:
        return await self._attempt(lambda: self._store.get(key))

    async def put(self, key: str, data: bytes, *, if_none_match: bool = False, if_match: str | None = None) -> str:
        failed = False

        async def write() -> str:
            nonlocal failed
            try:
                return await self._store.put(key, data, if_none_match=if_none_match, if_match=if_match)
            except StoreThrottledError:
                failed = True
                raise
            except ConflictError:
                if not failed:
                    raise
                etag = await self._etag_of_ours(key, data)
                if etag is None:
                    raise
                return etag

        return await self._attempt(write)

    async def head(self, key: str) -> ObjectInfo:
        return await self._attempt(lambda: self._store.head(key))

    async def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        reached = after
        for attempt in range(self._attempts_max):
            try:
                async for info in self._store.list(prefix, after=reached):
                    reached = info.key
                    yield info
                return
            except StoreThrottledError:
                if attempt + 1 == self._attempts_max:
                    raise
            await self._back_off(attempt)

    async def delete(self, key: str) -> None:
        await self._attempt(lambda: self._store.delete(key))

    async def close(self) -> None:
        await self._store.close()

    async def _attempt(self, call: Callable[[], Awaitable[_T]]) -> _T:
        for attempt in range(self._attempts_max - 1):
            try:
                return await call()
            except StoreThrottledError:
                await self._back_off(attempt)
        return await call()

    async def _back_off(self, attempt: int) -> None:
        self.retries += 1
        await self._pause(min(PAUSE_MAX_S, PAUSE_FIRST_S * 2**attempt) * (0.5 + self._jitter()))

    async def _etag_of_ours(self, key: str, data: bytes) -> str | None:
        """The etag of the object if it is what we wrote; read before the content, so it is never too new."""
        try:
            info = await self._store.head(key)
            return info.etag if await self._store.get(key) == data else None
        except ObjectMissingError:
            return None


class Counting:
    """Counts requests and bytes, for reports and for the price of a backup."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.metrics = Metrics()

    @property
    def url(self) -> str:
        return self._store.url

    @property
    def requests(self) -> int:
        """Requests of all kinds so far; a listing counts as one for each started thousand of objects."""
        return sum(int(self.metrics.get(f"store_{verb}_total")) for verb in ("get", "put", "head", "list", "delete"))

    @property
    def bytes_sent(self) -> int:
        """Bytes of all objects put."""
        return int(self.metrics.get("store_sent_bytes_total"))

    @property
    def bytes_received(self) -> int:
        """Bytes of all objects got."""
        return int(self.metrics.get("store_received_bytes_total"))

    async def get(self, key: str) -> bytes:
        self.metrics.add("store_get_total")
        data = await self._store.get(key)
        self.metrics.add("store_received_bytes_total", len(data))
        return data

    async def put(self, key: str, data: bytes, *, if_none_match: bool = False, if_match: str | None = None) -> str:
        self.metrics.add("store_put_total")
        self.metrics.add("store_sent_bytes_total", len(data))
        return await self._store.put(key, data, if_none_match=if_none_match, if_match=if_match)

    async def head(self, key: str) -> ObjectInfo:
        self.metrics.add("store_head_total")
        return await self._store.head(key)

    async def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        self.metrics.add("store_list_total")
        count = 0
        async for info in self._store.list(prefix, after=after):
            count += 1
            if count % 1000 == 1 and count > 1:
                self.metrics.add("store_list_total")
            yield info

    async def delete(self, key: str) -> None:
        self.metrics.add("store_delete_total")
        await self._store.delete(key)

    async def close(self) -> None:
        await self._store.close()
