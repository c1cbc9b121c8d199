"""Who leads a tape: its lease taken, kept and given up, and how long nobody led.

The lease says who should lead; the fences of TAPE and EVENTS say who can. So a lease that could not be renewed is not
lost: it is lost when another has taken it. While no broker answers nobody can take it from a host that had it, as far
as that host can see, and it goes on; what leaves past the logs (the ring of orders in `ahead` mode) leaves only until a
deadline that this task moves on, so that a host that slept does not send before it has looked.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tapehouse.bus.lease import POLLS_PER_TTL, RENEWALS_PER_TTL, Lease, Taken
from tapehouse.bus.process import ProcessIdentity, identify, is_alive
from tapehouse.core.clock import Clock
from tapehouse.core.errors import ConflictError, TransientError
from tapehouse.core.metrics import Metrics
from tapehouse.core.units import NS_PER_SECOND

LOOK_S = 2.0  # for one attempt to renew
ALONE_NS = NS_PER_SECOND  # beyond the next attempt, for which outputs may leave while no broker answers
_NS_PER_MS = 1e6


def lease_name(tape: str) -> str:
    """The name of a tape's lease."""
    return f"tape.{tape}"


def holder_name() -> str:
    """This host, for people."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _where() -> str:
    """This boot of this machine, and this process's view of its pids: containers have views of their own."""
    return f"{identify(os.getpid()).boot_id}/{os.readlink('/proc/self/ns/pid')}"


def process_name() -> str:
    """This process, for other processes of this machine."""
    return f"{_where()}/{os.getpid()}/{identify(os.getpid()).start_ticks}"


def is_dead(process: str) -> bool:
    """Whether `process_name` of a process was said on this machine, and that process has ended."""
    where, _, rest = process.rpartition("/")
    where, _, pid = where.rpartition("/")
    if where != _where() or not (pid.isdigit() and rest.isdigit()):
        return False
    return not is_alive(ProcessIdentity(pid=int(pid), start_ticks=int(rest), boot_id=where.partition("/")[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeOver:
    """One take-over: monotonic times of the host that took over, ns."""

    generation: int
    taken: Taken
    folded_ns: int  # the engine stood at the end of TAPE, EVENTS complete
    served_ns: int

    def table(self) -> dict[str, Any]:
        """How and from whom, and the times in ms.

        `leaderless_ms` counts from when the leader before stopped admitting, where it said so; else from its last
        sign of life that was seen here.
        """
        taken = self.taken
        silent = 0 if taken.how in ("new", "released", "ours") else taken.free_ns - taken.sign_ns
        parts = {
            "silent_ms": silent / _NS_PER_MS,
            "closing_ms": float(taken.idle_ms),
            "acquire_ms": (taken.acquired_ns - taken.free_ns) / _NS_PER_MS,
            "fold_ms": (self.folded_ns - taken.acquired_ns) / _NS_PER_MS,
            "serve_ms": (self.served_ns - self.folded_ns) / _NS_PER_MS,
        }
        times = {name: round(value, 3) for name, value in {**parts, "leaderless_ms": sum(parts.values())}.items()}
        return {"generation": self.generation, "how": taken.how, "before": taken.holder, **times}


class Leadership:
    """One generation of one host at the head of a tape, once its lease is taken."""

    def __init__(self, lease: Lease, *, clock: Clock, metrics: Metrics) -> None:
        self.lease = lease
        self.on_deadline: Callable[[int], None] | None = None  # told until when outputs may leave, monotonic ns
        self.take_over: TakeOver | None = None
        self.is_alone = False  # no broker answers
        self._clock = clock
        self._metrics = metrics
        self._folded_ns = 0
        self._stopped_ns = 0
        self._renewing = asyncio.Lock()
        self._is_given_up = False
        self._reconnects = 0
        self._reconnected = asyncio.Event()

    def note(self) -> dict[str, object]:
        """What the EPOCH record says of the leader."""
        taken = self.lease.taken
        how = {"how": taken.how, "before": taken.holder} if taken else {}
        return {"holder": self.lease.holder, "generation": self.lease.generation, **how}

    def folded(self) -> None:
        """The engine stands at the end of TAPE, and EVENTS is complete."""
        self._folded_ns = self._clock.monotonic_ns()

    def served(self) -> TakeOver | None:
        """Commands are taken from now on; returns the take-over, and counts it."""
        taken = self.lease.taken
        if taken is None:
            return None
        now_ns = self._clock.monotonic_ns()
        self.take_over = TakeOver(
            generation=self.lease.generation, taken=taken, folded_ns=self._folded_ns or now_ns, served_ns=now_ns
        )
        self._metrics.add("take_overs_total")
        for name, value in self.take_over.table().items():
            if name.endswith("_ms"):
                self._metrics.set(f"take_over_{name}", value)
        return self.take_over

    def stopped(self) -> None:
        """Nothing is admitted from now on."""
        self._stopped_ns = self._stopped_ns or self._clock.monotonic_ns()

    async def give_up(self) -> None:
        """Release the lease; where nobody answers it runs out. Harmless where that was done before."""
        self._is_given_up = True
        self._reconnected.set()
        idle_ns = self._clock.monotonic_ns() - self._stopped_ns if self._stopped_ns else 0
        async with self._renewing:  # A renewal under way has changed the entry that is to be replaced.
            with suppress(TransientError):
                await self.lease.release(idle_ms=round(idle_ns / _NS_PER_MS))

    def reconnected(self) -> None:
        """A broker answers again: look at once, and until then only what the lease itself covers may leave."""
        self._reconnects += 1
        self._reconnected.set()
        self._allow_until(self.lease.valid_until_ns)

    async def keep(self) -> None:
        """Renew the lease until it is given up.

        Raises:
            ConflictError: Another generation leads.
        """
        ttl_ns = self.lease.ttl_ns
        while not self._is_given_up:
            reconnects = self._reconnects
            try:
                async with self._renewing, asyncio.timeout(min(LOOK_S, ttl_ns / NS_PER_SECOND)):
                    if not self._is_given_up:
                        await self.lease.renew(late=True)
            except ConflictError as error:
                self._allow_until(0)
                raise ConflictError(
                    error.message,
                    subject=self.lease.name,
                    hint="this host is fenced off and has stopped; tapehouse status shows who leads",
                ) from error
            except (TransientError, TimeoutError):
                pause_ns = ttl_ns // POLLS_PER_TTL
                self.is_alone = True
                self._metrics.add("lease_renewals_unanswered_total")
                if reconnects == self._reconnects:
                    alone_ns = self._clock.monotonic_ns() + pause_ns + int(LOOK_S * NS_PER_SECOND) + ALONE_NS
                    self._allow_until(max(alone_ns, self.lease.valid_until_ns))
            else:
                pause_ns = ttl_ns // RENEWALS_PER_TTL
                self.is_alone = False
                self._allow_until(self.lease.valid_until_ns)
            await self._pause(pause_ns)

    async def _pause(self, pause_ns: int) -> None:
        """Wait until the next attempt is due, or a broker is back."""
        timer = asyncio.ensure_future(self._clock.sleep_until(self._clock.monotonic_ns() + pause_ns))
        back = asyncio.ensure_future(self._reconnected.wait())
        try:
            await asyncio.wait({timer, back}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            back.cancel()
        self._reconnected.clear()

    def _allow_until(self, monotonic_ns: int) -> None:
        if self.on_deadline is not None:
            self.on_deadline(monotonic_ns)
