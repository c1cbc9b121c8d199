"""Reading projections: from the host that serves the tape, else by folding its logs here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tapehouse.app.kv_service import NotServedError, ask_get, ask_items
from tapehouse.app.past import StateAt, read_state_at
from tapehouse.app.projections import READS
from tapehouse.app.projector import Projector, require
from tapehouse.bus import Bus
from tapehouse.core.errors import UsageError
from tapehouse.log import Log, SnapshotStore
from tapehouse.log.snaps import Snaps
from tapehouse.query.books import Moment

PREFIXES = tuple(sorted(f"{name}/" for name in READS))
_NEVER = 2**62  # cells between snapshots: a reader writes none


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One value, or the items below a prefix.

    Args:
        value: Of a key; of a prefix, a dictionary by key.
        served: Whether a running host answered; else the logs were folded here.
        state: Of a value of the past: all that was read for it.
    """

    value: Any
    served: bool
    state: StateAt | None = None


async def read_served(bus: Bus, tape: str, key: str, *, after: int = 0) -> Reading | None:
    """What the host answers, with all that EVENTS held through sequence `after`; None where none serves the tape.

    Raises:
        MissingError: There is no such key.
        UsageError: It is below no projection.
    """
    check_key(key)
    try:
        if key.endswith("/"):
            value: Any = dict(await ask_items(bus, tape, key, after=after))
        else:
            value = await ask_get(bus, tape, key, after=after)
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


async def read_past(
    tape: Log, events: Log | None, snaps: Snaps | None, key: str, *, name: str, moment: Moment
) -> Reading:
    """The same as it was at a moment; only the projection that has the key is folded.

    Raises:
        MissingError: There was no such key then, or the tape begins later.
        UsageError: It is below no projection, or the tape has not come so far.
        GapError, DecodeError, IntegrityError: A log is damaged.
    """
    check_key(key)
    names = [key.partition("/")[0]]
    state = await read_state_at(tape, events, snaps, name=name, moment=moment, names=names)
    value = state.items(key) if key.endswith("/") else state.get(key)
    return Reading(value=value, served=False, state=state)


def check_key(key: str) -> None:
    """Raise UsageError for a key that no projection can have."""
    if not key.startswith(PREFIXES):
        raise UsageError(f"no projection has the key {key!r}", hint=f"keys begin with {', '.join(PREFIXES)}")
