"""A lease: at most one holder at a time acts, as far as clocks that merely *run* alike can promise.

No two machines' clocks are compared. The holder counts its time from before it sent the renewal; a challenger counts
from when it first saw the value that has not changed since; both on their own monotonic clock. So a challenger waits
longer than the holder believes. A paused holder may still act late: fences protect the logs, not leases.

The entry is one key in a store with compare-and-swap by revision. In production that is the native NATS KV bucket
`leases`, readable with `nats kv get leases <name>`.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Protocol

from tapehouse.core import AmbiguousAppendError, Clock, ConflictError, IntegrityError, TransientError, UsageError
from tapehouse.core.ids import check_name

TTL_S = 15.0  # longer than a broker election (4 to 9 s)
POLLS_PER_TTL = 20
RENEWALS_PER_TTL = 3
SWAP_ATTEMPTS_MAX = 3
SOON_LOOKS = 8  # after news of a write, which may be on its way still: each look waits twice as long as the one before
SOON_NS = 1_000_000
_NS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is stored: `life` tells one acquisition of a holder from another, `renewals` one write from another.

    `process` says which process of which machine the holder is, where it says so; `idle_ms`, in a released entry, how
    long the holder had already stopped acting.
    """

    holder: str
    generation: int
    ttl_ms: int
    life: str
    renewals: int = 0
    released: bool = False
    process: str = ""
    idle_ms: int = 0

    def encode(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, data: bytes) -> Entry:
        """The entry that these bytes are; raises IntegrityError where they are none."""
        try:
            return cls(**json.loads(data))
        except (TypeError, ValueError) as error:
            raise IntegrityError("a lease entry cannot be read", hint="delete it: nats kv del leases <name>") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """How a lease was taken; times on the taker's monotonic clock, ns."""

    how: str  # "new", "released", "silent" (for its whole time to live), "dead" (its process has ended) or "ours"
    holder: str  # the one before
    sign_ns: int  # the last sign of life of the one before
    free_ns: int  # when it was found free
    acquired_ns: int
    idle_ms: int  # how long the one before had stopped acting when it released it


class LeaseStore(Protocol):
    """One value per key, replaced by compare-and-swap."""

    async def get(self, key: str) -> tuple[bytes | None, int]:
        """The value and its revision, read from the leader; None where there is none, with the revision to replace."""
        ...

    async def put(self, key: str, value: bytes, revision: int) -> int:
        """Replace the value of that revision (0: there never was one) and return the new one.

        Raises:
            ConflictError: The revision is another.
            AmbiguousAppendError: No answer: it is replaced, or not.
            BusUnavailableError: Nothing was written.
        """
        ...


class MemoryLeaseStore:
    """A store in memory; `fail_next_put` makes one replacement ambiguous."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[bytes | None, int]] = {}
        self._revision = 0
        self._fault: bool | None = None

    async def get(self, key: str) -> tuple[bytes | None, int]:
        return self._values.get(key, (None, 0))

    async def put(self, key: str, value: bytes, revision: int) -> int:
        present = self._values.get(key, (None, 0))[1]
        if present != revision:
            raise ConflictError(f"revision {present}, not {revision}", subject=key)
        fault, self._fault = self._fault, None
        if fault is not False:
            self._revision += 1
            self._values[key] = (value, self._revision)
        if fault is not None:
            raise AmbiguousAppendError("no acknowledgement", subject=key)
        return self._revision

    def fail_next_put(self, *, stored: bool) -> None:
        """Make the next put ambiguous; `stored` says whether it happens all the same."""
        self._fault = stored


class Lease:
    """One name to hold, for one would-be holder."""

    def __init__(
        self,
        store: LeaseStore,
        name: str,
        *,
        holder: str,
        clock: Clock,
        ttl_s: float = TTL_S,
        process: str = "",
        is_dead: Callable[[str], bool] | None = None,
        news: asyncio.Event | None = None,
    ) -> None:
        """A lease that nobody has asked for yet.

        Args:
            name: One or more names, joined by dots.
            process: Which process the holder is.
            is_dead: Whether the process that an entry names is known to have ended: it need not be waited for.
            news: Set where the entry may have been written; looked at besides the polls, and cleared.
        """
        if ttl_s <= 0:
            raise UsageError(f"a lease of {ttl_s} s")
        for part in name.split("."):
            check_name(part, "lease")
        self.name = name
        self.taken: Taken | None = None
        self._process = process
        self._is_dead = is_dead
        self._news = news
        self._soon_looks = 0
        self.holder = holder
        self._store = store
        self._clock = clock
        self._ttl_ns = int(ttl_s * _NS)
        self._life = ""
        self._attempts = 0
        self._entry: Entry | None = None
        self._revision = 0
        self._valid_until_ns = 0

    @property
    def generation(self) -> int:
        """One more with each acquisition by anyone; 0 before the first."""
        return self._entry.generation if self._entry else 0

    @property
    def ttl_ns(self) -> int:
        """How long it lives after a renewal."""
        return self._ttl_ns

    @property
    def valid_until_ns(self) -> int:
        """Until when the holder may act, on its own monotonic clock."""
        return self._valid_until_ns

    @property
    def held(self) -> bool:
        """Whether the holder may act now."""
        return self._clock.monotonic_ns() < self._valid_until_ns

    async def acquire(self, *, patience_s: float | None, while_silent: bool = False) -> int:
        """Take the lease when it is free, or when its holder has been silent for its whole time to live.

        Args:
            patience_s: None to wait for ever.
            while_silent: Give up as soon as the holder shows that it lives.

        Returns:
            The generation; `taken` says how it came.

        Raises:
            ConflictError: Another holds it, and did so to the end of `patience_s`.
            BusUnavailableError: The store stayed away.
        """
        self._life = secrets.token_hex(8)
        give_up_ns = None if patience_s is None else self._clock.monotonic_ns() + int(patience_s * _NS)
        seen_revision, seen_ns = -1, 0
        trouble: TransientError | None = None
        owner = "nobody"
        while True:
            lives = False
            try:
                data, revision = await self._store.get(self.name)
                entry = Entry.decode(data) if data is not None else None
                now_ns = self._clock.monotonic_ns()  # After the read: the value was there before this moment.
                if revision != seen_revision:
                    lives, seen_revision, seen_ns = seen_revision >= 0, revision, now_ns
                how = self._free(entry, now_ns - seen_ns)
                if how:
                    await self._take(entry, revision, how == "ours")
                    self.taken = Taken(
                        how=how, holder=entry.holder if entry else "", sign_ns=seen_ns, free_ns=now_ns,
                        acquired_ns=self._clock.monotonic_ns(), idle_ms=entry.idle_ms if entry else 0,
                    )  # fmt: skip
                    return self.generation
                owner, trouble = entry.holder if entry else owner, None
            except ConflictError:
                seen_revision = -1  # Someone else took it just now: its time begins anew.
            except TransientError as error:
                trouble = error
            now_ns = self._clock.monotonic_ns()
            if (give_up_ns is not None and now_ns >= give_up_ns) or (lives and while_silent):
                if trouble is not None:
                    raise trouble
                raise ConflictError(
                    f"the lease is held by {owner}", subject=self.name, hint="stop that one, or wait for its end"
                )
            until_ns = now_ns + self._ttl_ns // POLLS_PER_TTL
            await self._pause(until_ns if give_up_ns is None else min(until_ns, give_up_ns))

    def _free(self, entry: Entry | None, silent_ns: int) -> str:
        """How an entry may be taken; empty where it may not."""
        if entry is None:
            return "new"
        if entry.life == self._life:
            return "ours"  # An attempt that had no answer.
        if entry.released:
            return "released"
        if entry.process and self._is_dead is not None and self._is_dead(entry.process):
            return "dead"
        return "silent" if silent_ns >= entry.ttl_ms * 1_000_000 else ""

    async def _pause(self, until_ns: int) -> None:
        """Wait for a time, or for news; after news look again soon, as what was sent may not be stored yet."""
        if self._news is None:
            await self._clock.sleep_until(until_ns)
            return
        if self._soon_looks:
            self._soon_looks -= 1
            soon = SOON_NS << (SOON_LOOKS - self._soon_looks)
            await self._clock.sleep_until(min(until_ns, self._clock.monotonic_ns() + soon))
            return
        arrival = asyncio.ensure_future(self._news.wait())
        timer = asyncio.ensure_future(self._clock.sleep_until(until_ns))
        try:
            await asyncio.wait({arrival, timer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            arrival.cancel()
            timer.cancel()
        if self._news.is_set():
            self._news.clear()
            self._soon_looks = SOON_LOOKS

    async def look(self) -> Entry | None:
        """The entry as it stands; None where there is none.

        Raises:
            TransientError: The store does not answer.
        """
        data, _ = await self._store.get(self.name)
        return Entry.decode(data) if data is not None else None

    async def renew(self, *, late: bool = False) -> None:
        """Extend the lease by a whole time to live, counted from now.

        Args:
            late: Also where it ran out, if nobody has taken it since: who waits for it compares and swaps the same
                entry, so that only one of the two succeeds.

        Raises:
            ConflictError: It is lost: the holder must stop acting.
            TransientError: Not known; it may be tried again while `held`.
        """
        entry = self._entry
        if entry is None:
            raise ConflictError("a lease that is not held cannot be renewed", subject=self.name)
        if not self.held and not late:
            self._lose()
            raise ConflictError("the lease ran out before it was renewed", subject=self.name, hint="stop acting")
        await self._swap(entry, self._revision)

    async def keep(self) -> None:
        """Renew for ever, until cancelled.

        Raises:
            ConflictError: The lease is lost.
        """
        while True:
            pause_ns = self._ttl_ns // RENEWALS_PER_TTL
            try:
                await self.renew()
            except TransientError:
                # Until it runs out the holder may try again; `renew` says when it has.
                pause_ns = self._ttl_ns // POLLS_PER_TTL
            await self._clock.sleep_until(self._clock.monotonic_ns() + pause_ns)

    async def release(self, *, idle_ms: int = 0) -> None:
        """Let others take it at once; harmless where it is not held.

        Args:
            idle_ms: For how long the holder has not acted any more.

        Raises:
            TransientError: Not known; it runs out by itself.
        """
        entry, revision = self._entry, self._revision
        self._lose()
        if entry is None:
            return
        try:
            await self._store.put(self.name, replace(entry, released=True, idle_ms=idle_ms).encode(), revision)
        except ConflictError:
            return  # It was lost before: nothing is left to release.

    async def _take(self, present: Entry | None, revision: int, ours: bool) -> None:
        if present is None or not ours:
            present = Entry(
                holder=self.holder,
                generation=present.generation + 1 if present else 1,
                ttl_ms=self._ttl_ns // 1_000_000,
                life=self._life,
                process=self._process,
            )
        await self._swap(present, revision)

    async def _swap(self, entry: Entry, revision: int) -> None:
        """Write our entry over `revision` with a number of its own, and find out what came of it.

        Each attempt is unlike all others, so that finding it in the store proves that *this* one arrived, after
        `sent_ns`. Finding an earlier one of ours proves only which revision to replace next.
        """
        for _ in range(SWAP_ATTEMPTS_MAX):
            self._attempts += 1
            entry = replace(entry, renewals=self._attempts)
            sent_ns = self._clock.monotonic_ns()
            try:
                self._revision = await self._store.put(self.name, entry.encode(), revision)
            except (ConflictError, AmbiguousAppendError) as error:
                data, found_revision = await self._store.get(self.name)
                found = Entry.decode(data) if data is not None else None
                if found != entry:
                    if found_revision == revision:  # Not there, as far as can be seen now.
                        if isinstance(error, AmbiguousAppendError):
                            raise
                        # Refused for a write that is not to be seen yet: of somebody else, or ours that came late.
                        raise AmbiguousAppendError(
                            "the lease was just written, by whom is not to be seen yet", subject=self.name
                        ) from error
                    if found is None or found.life != self._life:
                        self._lose()
                        who = f"{found.holder}, generation {found.generation}," if found else "nobody"
                        raise ConflictError(
                            f"another holder took the lease: {who} has it", subject=self.name
                        ) from error
                    revision = found_revision
                    continue
                self._revision = found_revision
            self._entry = entry
            self._valid_until_ns = sent_ns + self._ttl_ns
            return
        raise AmbiguousAppendError("the lease changes under our hands", subject=self.name, hint="try again")

    def _lose(self) -> None:
        self._entry = None
        self._valid_until_ns = 0
