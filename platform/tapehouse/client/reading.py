"""Reading projections: from the host that serves the tape, else by folding its logs here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tapehouse.app.kv_service import NotServedError, ask_get, ask_items
from tapehouse.app.projector import Projector, require
from tapehouse.bus import Bus
from tapehouse.core.errors import UsageError
from tapehouse.log import Log, SnapshotStore

PREFIXES = ("cash/", "orders/", "pnl/", "positions/", "prices/", "surface/")
_NEVER = 2**62  # cells between snapshots: a reader writes none


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One value, or the items below a prefix.

    Args:
        value: Of a key; of a prefix, a dictionary by key.
        served: Whether a running host answered; else the logs were folded here.
    """

    value: Any
    served: bool


async def read_served(bus: Bus, tape: str, key: str) -> Reading | None:
    """What the host answers; None where none serves the tape.

    Raises:
        MissingError: There is no such key.
        UsageError: It is below no projection.
    """
    check_key(key)
    try:
        value = dict(await ask_items(bus, tape, key)) if key.endswith("/") else await ask_get(bus, tape, key)
    except NotServedError:
        return None
    return Reading(value=value, served=True)


async def read_folded(tape: Log, events: Log, snapshots: SnapshotStore | None, key: str) -> Reading:
    """The same from the logs themselves, from the newest snapshots on.

    Raises:
        MissingError: There is no such key.
        UsageError: It is below no projection.
        GapError, DecodeError, IntegrityError: A log is damaged.
    """
    check_key(key)
    projector = Projector(tape, events, snapshots, snapshot_cells=_NEVER)
    await projector.open()
    await projector.run()
    value = dict(projector.items(key)) if key.endswith("/") else require(projector, key)
    return Reading(value=value, served=False)


def check_key(key: str) -> None:
    """Raise UsageError for a key that no projection can have."""
    if not key.startswith(PREFIXES):
        raise UsageError(f"no projection has the key {key!r}", hint=f"keys begin with {', '.join(PREFIXES)}")
