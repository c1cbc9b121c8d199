"""The projector: hosts the projections of one desk and answers reads from them.

Prices and the volatility surface fold TAPE, orders and positions fold EVENTS; each log is read once. Positions, `cash/`
and `pnl/` are read through a valuation of positions at prices; the two may stand at different places of the tape, and
say at which. Reads are at the level `eventual`: they see what has been folded so far, and say how far that is. Where a
record of TAPE cannot be applied they go on: whether anybody halts there the desk decides, by its policy for poison.
"""

from __future__ import annotations

import asyncio
from typing import Any

from tapehouse.app.projections import Projections, make_projections, missing, require
from tapehouse.core.errors import GapError, InvariantError, TapehouseError
from tapehouse.log import Host, Log, SnapshotStore
from tapehouse.log.host import SNAPSHOT_CELLS

__all__ = ["Projector", "missing", "require"]


class Projector:
    """Machines on two logs."""

    def __init__(
        self,
        tape: Log,
        events: Log,
        snapshots: SnapshotStore | None,
        *,
        snapshot_cells: int = SNAPSHOT_CELLS,
    ) -> None:
        """Host the projections.

        Args:
            snapshots: Where the machines begin and where they are kept; None to fold the whole logs.
            snapshot_cells: Folded by a machine between two of its snapshots.
        """
        self._logs: dict[str, Log] = {"tape": tape, "events": events}
        machines = make_projections()
        self._read = Projections({machine.name: machine for group in machines.values() for machine in group})
        self._hosts: dict[str, list[Host]] = {
            source: [
                Host(machine, self._logs[source], snapshots=snapshots, snapshot_cells=snapshot_cells)
                for machine in group
            ]
            for source, group in machines.items()
        }
        self._failure: TapehouseError | None = None
        self._moved = asyncio.Event()  # replaced at each move

    async def open(self) -> None:
        """Restore every machine from its newest usable snapshot."""
        for hosts in self._hosts.values():
            for host in hosts:
                await host.open()

    @property
    def ignored_snapshots(self) -> dict[str, str]:
        """Machines whose snapshot could not be used, with the reason; their logs were folded from the beginning."""
        return {
            host.machine.name: host.ignored_snapshot
            for hosts in self._hosts.values()
            for host in hosts
            if host.ignored_snapshot
        }

    async def run(self, *, follow: bool = False) -> None:
        """Fold what is there; with `follow`, go on with what comes until cancelled.

        Raises:
            GapError, DecodeError, IntegrityError: A log is damaged; the sequence is named. From then on every read
                raises the same, because the machine that stopped may have folded half a frame.
        """
        tasks = [asyncio.create_task(self._follow(source, follow)) for source in self._logs]
        try:
            await asyncio.gather(*tasks)
        except TapehouseError as error:
            self._failure = error
            raise
        except Exception as error:
            self._failure = InvariantError(f"a projection failed: {error!r}", hint="this is a bug: please report it")
            raise self._failure from error
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._tell()

    async def until(self, *, tape: int = 0, events: int = 0) -> None:
        """Wait until these sequences are folded, while `run` goes on in another task.

        Raises:
            TapehouseError: What stopped `run`.
        """
        wanted = {"tape": tape, "events": events}
        while any(self.position()[source] < sequence for source, sequence in wanted.items()):
            self._require_whole()
            await self._moved.wait()

    def _tell(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def _follow(self, source: str, follow: bool) -> None:
        hosts = self._hosts[source]
        if any(host.progress is None for host in hosts):
            raise GapError("a projector runs only after open()", subject=self._logs[source].name)
        first = min(_sequence(host) for host in hosts) + 1
        async for message in self._logs[source].read(first, follow=follow):
            for host in hosts:
                if _sequence(host) < message.sequence:
                    host.fold(message)
            self._tell()
            await asyncio.sleep(0)  # Readers get their turn between frames.

    def save(self) -> None:
        """Write a snapshot of every machine; nothing after a failure, when a machine may have folded half a frame."""
        if self._failure is not None:
            return
        for hosts in self._hosts.values():
            for host in hosts:
                host.save()

    # Reading.

    def get(self, key: str) -> Any | None:
        """The value under a key such as `positions/strategy/AAPL`; None where there is none."""
        self._require_whole()
        return self._read.get(key)

    def items(self, prefix: str = "") -> list[tuple[str, Any]]:
        """All keys that begin with `prefix`, name by name, with their values."""
        self._require_whole()
        return self._read.items(prefix)

    def nearest(self, key: str) -> list[str]:
        """A few keys like one that is not there."""
        self._require_whole()
        return self._read.nearest(key)

    def position(self) -> dict[str, int]:
        """The sequence through which every machine of each log has folded it."""
        return {source: min(_sequence(host) for host in hosts) for source, hosts in self._hosts.items()}

    def digests(self) -> dict[str, str]:
        """Each machine's state digest, in hex."""
        self._require_whole()
        return self._read.digests()

    def _require_whole(self) -> None:
        if self._failure is not None:
            raise self._failure


def _sequence(host: Host) -> int:
    return host.progress.sequence if host.progress is not None else 0
