"""A ring by its name: make it, take a role in it, look at it, remove it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tapehouse.core import MissingError, UsageError
from tapehouse.core.ids import new_log_id
from tapehouse.ring import file
from tapehouse.ring.consumer import RingConsumer
from tapehouse.ring.layout import RING_CELLS, Identity, Policy, check_cells
from tapehouse.ring.observer import RingObserver
from tapehouse.ring.place import ring_path
from tapehouse.ring.producer import RingProducer


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """A ring that exists; it holds nothing open."""

    name: str
    path: Path
    identity: Identity

    @staticmethod
    def create(
        name: str,
        *,
        cells: int = RING_CELLS,
        policy: Policy = Policy.BLOCK,
        directory: Path | None = None,
        reclaim: bool = False,
    ) -> Ring:
        """Make a ring; one of the same name that is dead and drained is replaced.

        Args:
            name: Lower-case letters, digits, '-' and '_'.
            cells: The capacity, a power of two.
            policy: What happens where there is no room; it stays the ring's own.
            directory: Where, if not where `TAPEHOUSE_SHM` says or in /dev/shm.
            reclaim: Replace a dead ring also with undrained cells in it; they are lost.

        Raises:
            ConflictError: A living process has a role in it, or nobody drained it.
            MissingError: No room, or no directory for it.
            DataError: The name is held by something else than a readable ring.
        """
        check_cells(cells)
        path = ring_path(name, directory)
        identity = Identity(cells=cells, policy=policy, creation=new_log_id())
        file.create(path, identity, reclaim=reclaim)
        return Ring(name=name, path=path, identity=identity)

    @staticmethod
    def produce(
        name: str, *, cells: int | None = None, policy: Policy | None = None, directory: Path | None = None
    ) -> RingProducer:
        """Attach as producer, making the ring if there is none; an existing one goes on where it was published.

        Args:
            name: The ring's.
            cells, policy: Of a new ring; if given, an existing one must have the same.
            directory: As for `create`.

        Raises:
            ConflictError: Another process is its producer.
            UsageError: The existing ring is of another capacity or policy.
        """
        path = ring_path(name, directory)
        try:
            producer = RingProducer(path)
        except MissingError:
            if os.path.lexists(path):
                raise
            Ring.create(
                name,
                cells=RING_CELLS if cells is None else cells,
                policy=Policy.BLOCK if policy is None else policy,
                directory=directory,
            )
            producer = RingProducer(path)
        for what, wanted, found in (("cells", cells, producer.cells), ("policy", policy, producer.policy)):
            if wanted is not None and wanted != found:
                producer.close()
                raise UsageError(
                    f"the ring's {what} are {found!r}, not {wanted!r}",
                    subject=str(path),
                    hint="drain and remove it first, or ask for what it has",
                )
        return producer

    @staticmethod
    def consume(name: str, *, directory: Path | None = None) -> RingConsumer:
        """Attach as consumer, beginning with the first cell that was not released.

        Raises:
            ConflictError: Another process is its consumer.
            MissingError: There is no such ring.
        """
        return RingConsumer(ring_path(name, directory))

    @staticmethod
    def observe(name: str, *, directory: Path | None = None) -> RingObserver:
        """Look at a ring without a role.

        Raises:
            MissingError: There is no such ring.
        """
        return RingObserver(ring_path(name, directory))


def remove(name: str, *, directory: Path | None = None) -> None:
    """Delete a ring that nobody is attached to, drained or not.

    Raises:
        ConflictError: A living process has a role in it.
        MissingError: There is no such ring.
    """
    file.remove(ring_path(name, directory))
