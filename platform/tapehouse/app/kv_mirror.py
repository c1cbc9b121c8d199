"""The replicated KV, or a prefix of it, in a native NATS bucket, for whoever reads those: `nats kv watch`.

Where a mirror stands is in the bucket itself: each entry names the revision and the expiry of the key that it holds. A
start compares the bucket with the KV and writes what differs; then changed keys are written as the KV has them at that
moment, so an entry never goes back, whatever is killed when. Each write carries the fence of its entry: a late copy of
an earlier one, and a second mirror, are refused by it.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from tapehouse.app.kv_keys import scan_all
from tapehouse.bus import Bucket, BucketEntry
from tapehouse.core.clock import Clock
from tapehouse.core.errors import (
    AmbiguousAppendError,
    BusUnavailableError,
    ConflictError,
    DecodeError,
    TapehouseError,
    UsageError,
)
from tapehouse.core.tasks import cancel_all
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.kv.bucket_keys import bucket_key, kv_key
from tapehouse.kv.client import SCAN_LIMIT_MAX, Kv
from tapehouse.kv.errors import WatchLaggedError
from tapehouse.kv.levels import EVENTUAL, LINEARIZABLE, Session
from tapehouse.kv.reference import Stored

REVISION, EXPIRY = "Tapehouse-Revision", "Tapehouse-Expiry"
TOGETHER = 128  # keys that are written at once
ATTEMPTS_MAX = 120  # of a write, RETRY_PAUSE_NS apart: longer than a broker election
RETRY_PAUSE_NS = NS_PER_SECOND // 2
GONE = -1  # the revision of an entry that is marked as deleted
DIFFERENCES_TOLD = 20
IDLE_NS = 60 * NS_PER_SECOND  # at most, between two looks at what has expired

Progress = Callable[[int, int], None]  # keys compared or written, of how many


@dataclass(frozen=True, slots=True)
class Place:
    """What the bucket holds of a key."""

    sequence: int
    revision: int
    expiry: int


@dataclass(slots=True)
class MirrorCounts:
    """What a mirror did.

    Attributes:
        same: Keys that the bucket had already, when it was compared.
        compared: How often the whole bucket was: at the start, and after a watcher fell behind.
        refused: Writes that another one came before; they were looked at again.
    """

    puts: int = 0
    deletes: int = 0
    same: int = 0
    compared: int = 0
    refused: int = 0


class Mirror:
    """One run of a mirror."""

    def __init__(self, kv: Kv, bucket: Bucket, *, prefix: bytes, clock: Clock) -> None:
        self.counts = MirrorCounts()
        self._kv, self._bucket, self._prefix, self._clock = kv, bucket, prefix, clock
        self._places: dict[bytes, Place] = {}
        self._changed: dict[bytes, None] = {}  # in the order in which they changed
        self._expiries: list[tuple[int, bytes]] = []  # a heap
        self._news = asyncio.Event()

    async def compare(self, progress: Progress = lambda *_: None) -> None:
        """Bring the bucket to where the KV is.

        Raises:
            UsageError: The bucket holds what no mirror wrote.
            BusUnavailableError: The broker is away for longer than ATTEMPTS_MAX tries.
        """
        self.counts.compared += 1
        self._places = {key: place async for key, place, _ in read_bucket(self._bucket)}
        rows = await scan_all(self._kv, self._prefix, LINEARIZABLE)  # After the bucket was read: it holds no less.
        self._expiries += [(row.expiry, key) for key, row in rows if row.expiry]
        heapq.heapify(self._expiries)
        wanted = {key for key, _ in rows}
        extra = [key for key, place in self._places.items() if place.revision != GONE and key not in wanted]
        changed = [key for key, row in rows if self._differs(key, row)]
        changed += [key for key in extra if key.startswith(self._prefix)]
        self.counts.same += len(rows) - sum(key in wanted for key in changed)
        self._changed.update(dict.fromkeys(changed))
        total = len(self._changed)
        while self._changed:
            await self._write_some()
            progress(total - len(self._changed), total)

    async def follow(
        self, progress: Progress = lambda *_: None, ready: Callable[[MirrorCounts], None] = lambda _: None
    ) -> None:
        """Compare, then write what changes and what expires, until cancelled; errors as `compare`.

        Args:
            ready: Called each time that the bucket has been compared.
        """
        while True:
            seen = Session()
            await self._kv.scan(self._prefix, seen, limit=1)
            watching = asyncio.create_task(self._watch(Session.parse(seen.text)))
            try:
                await self.compare(progress)
                ready(self.counts)
                while not watching.done():
                    await self._step(watching)
                watching.result()
            except WatchLaggedError:
                continue  # What was missed is found by comparing.
            finally:
                await cancel_all([watching])

    async def _watch(self, after: Session) -> None:
        async for change in self._kv.watch(self._prefix, after):
            self._changed[change.key] = None
            if change.expiry:
                self._expires(change.expiry, change.key)
            self._news.set()

    async def _step(self, watching: asyncio.Task[None]) -> None:
        """Write what has changed; where nothing has, wait for news or the next expiry."""
        now = self._clock.time_ns()
        while self._expiries and self._expiries[0][0] <= now:
            self._changed[heapq.heappop(self._expiries)[1]] = None
        if self._changed:
            await self._write_some()
            return
        self._news.clear()
        due = min(self._expiries[0][0] - now, IDLE_NS) if self._expiries else IDLE_NS
        sleeping = asyncio.ensure_future(self._clock.sleep_until(self._clock.monotonic_ns() + due))
        waiting = asyncio.ensure_future(self._news.wait())
        try:
            await asyncio.wait({sleeping, waiting, watching}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sleeping, waiting):
                task.cancel()
            await asyncio.gather(sleeping, waiting, return_exceptions=True)

    async def _write_some(self) -> None:
        keys = list(self._changed)[:TOGETHER]
        for key in keys:
            del self._changed[key]
        rows = await self._kv.get_each(keys, EVENTUAL)
        for row in rows:
            if isinstance(row, TapehouseError):
                raise row
        await asyncio.gather(
            *(self._write(key, row) for key, row in zip(keys, rows, strict=True) if not isinstance(row, TapehouseError))
        )

    async def _write(self, key: bytes, row: Stored | None) -> None:
        name = bucket_key(key)
        for _ in range(ATTEMPTS_MAX):
            if not self._differs(key, row):
                return
            held = self._places.get(key)
            value = row.value if row is not None else None
            headers = {REVISION: str(row.revision), EXPIRY: str(row.expiry)} if row is not None else {}
            try:
                sequence = await self._bucket.write(name, value, headers, expected=held.sequence if held else 0)
            except (ConflictError, AmbiguousAppendError, BusUnavailableError):
                self.counts.refused += 1
                await self._clock.sleep_until(self._clock.monotonic_ns() + RETRY_PAUSE_NS)
                entry = await self._bucket.get(name)
                if entry is not None:
                    self._places[key] = _place(entry)
                row = await self._kv.get(key, EVENTUAL)
                continue
            if row is None:
                self._places[key] = Place(sequence, GONE, 0)
                self.counts.deletes += 1
            else:
                self._places[key] = Place(sequence, row.revision, row.expiry)
                self.counts.puts += 1
            return
        raise BusUnavailableError(
            f"an entry was not written in {ATTEMPTS_MAX} tries", subject=f"bucket {self._bucket.name}, {name}",
            hint="is a majority of the brokers up? Then start the mirror again: it goes on from what is there",
        )  # fmt: skip

    def _differs(self, key: bytes, row: Stored | None) -> bool:
        """Whether the bucket must be written; what is newer there was written by another mirror."""
        held = self._places.get(key)
        if row is None:
            return held is not None and held.revision != GONE
        if held is None:
            return True
        return held.revision <= row.revision and (held.revision, held.expiry) != (row.revision, row.expiry)

    def _expires(self, expiry: int, key: bytes) -> None:
        heapq.heappush(self._expiries, (expiry, key))
        if len(self._expiries) > 2 * len(self._places) + SCAN_LIMIT_MAX:  # Expiries that were put off leave old ones.
            latest = {key: when for when, key in sorted(self._expiries)}
            self._expiries = [(when, key) for key, when in latest.items()]
            heapq.heapify(self._expiries)


async def read_bucket(bucket: Bucket) -> AsyncIterator[tuple[bytes, Place, bytes | None]]:
    """Key, place and value of every entry of a mirror's bucket.

    Raises:
        UsageError: It holds what no mirror wrote.
    """
    async for entry in bucket.entries():
        yield _key_of(bucket, entry), _place(entry), entry.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A bucket beside the KV.

    Attributes:
        keys: Of the KV.
        differences: The first DIFFERENCES_TOLD, in words.
        different: How many there are.
    """

    keys: int
    different: int
    differences: list[str]


async def verify_mirror(kv: Kv, bucket: Bucket, prefix: bytes) -> Comparison:
    """Compare every key, value, revision and expiry; what differs is looked at a second time, as both may move.

    Raises:
        UsageError: The bucket holds what no mirror wrote.
    """
    held = {key: (place, value) async for key, place, value in read_bucket(bucket) if key.startswith(prefix)}
    rows = dict(await scan_all(kv, prefix, LINEARIZABLE))
    different = []
    for key in sorted(held.keys() | rows.keys()):
        if not _difference(rows.get(key), *held.get(key, (None, None))):
            continue
        row, entry = await kv.get(key, LINEARIZABLE), await bucket.get(bucket_key(key))
        place, value = (_place(entry), entry.value) if entry is not None else (None, None)
        problem = _difference(row, place, value)
        if problem:
            different.append(f"{bucket_key(key)}: {problem}")
    return Comparison(keys=len(rows), different=len(different), differences=different[:DIFFERENCES_TOLD])


def _difference(row: Stored | None, place: Place | None, value: bytes | None) -> str:
    """What is not the same; empty where all is."""
    if row is None:
        return "" if value is None else "the bucket has it, the KV does not"
    if place is None or value is None:
        return "the KV has it, the bucket does not"
    if place.revision != row.revision:
        return f"revision {place.revision} in the bucket, {row.revision} in the KV"
    if place.expiry != row.expiry:
        return f"expiry {place.expiry} in the bucket, {row.expiry} in the KV"
    return "" if value == row.value else "another value of the same revision"


def _place(entry: BucketEntry) -> Place:
    if entry.value is None:
        return Place(entry.sequence, GONE, 0)
    return Place(entry.sequence, int(entry.headers.get(REVISION, 0)), int(entry.headers.get(EXPIRY, 0)))


def _key_of(bucket: Bucket, entry: BucketEntry) -> bytes:
    try:
        key = kv_key(entry.key)
    except DecodeError as error:
        raise _foreign(bucket, entry) from error
    if entry.value is not None and REVISION not in entry.headers:
        raise _foreign(bucket, entry)
    return key


def _foreign(bucket: Bucket, entry: BucketEntry) -> UsageError:
    return UsageError(
        "the bucket holds what no mirror wrote", subject=f"bucket {bucket.name}, {entry.key}",
        hint="a mirror needs a bucket of its own",
    )  # fmt: skip
