"""A planned hand-over seen from outside: the leader is asked, the next leader is awaited; and who leads what."""

from __future__ import annotations

import asyncio
from typing import Any

from tapehouse.app.bootstrap import Platform
from tapehouse.app.leadership import lease_name
from tapehouse.app.roll_call import ask_hand_over, call_roll
from tapehouse.bus import LeaseBucket
from tapehouse.bus.lease import Entry, Lease
from tapehouse.core.clock import Clock
from tapehouse.core.errors import BusUnavailableError, MissingError
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.log import read_tail

ROLL_PAUSE_NS = 100_000_000  # between two roll calls while the next leader is awaited
CLOSE_ENOUGH_CELLS = 1 << 20  # a standby that is further behind would lead late


async def hosts_of(platform: Platform, tape: str, *, clock: Clock) -> dict[str, Any]:
    """Who leads a tape, by its lease, and every host that answers; standbys say how many cells they are behind."""
    entry, hosts = await asyncio.gather(_lease_entry(platform, tape, clock), call_roll(platform.bus, tape))
    next_ordinal = (await read_tail(await platform.tape(tape))).next_ordinal if hosts else 0
    for host in hosts:
        if "ordinal" in host:
            host["behind_cells"] = max(0, next_ordinal - host["ordinal"])
    lease = None
    if entry is not None:
        lease = {"holder": entry.holder, "generation": entry.generation, "released": entry.released}
    return {"tape": tape, "lease": lease, "hosts": hosts}


async def _lease_entry(platform: Platform, tape: str, clock: Clock) -> Entry | None:
    """What the bucket says; None where there is no bucket or no entry yet."""
    lease = Lease(LeaseBucket(platform.bus), lease_name(tape), holder="nobody", clock=clock)
    try:
        return await lease.look()
    except MissingError:
        return None


async def hand_over(platform: Platform, tape: str, *, force: bool, timeout_s: float, clock: Clock) -> dict[str, Any]:
    """Have the leader of a tape hand over, and wait until the next one serves.

    Args:
        force: Also where no standby waits, or none is near: the leader ends, or follows.

    Returns:
        The hosts before and after, and the take-over as the new leader measured it; None where nobody took over
        because nobody waited.

    Raises:
        MissingError: Nobody leads, or no standby waits.
        BusUnavailableError: Nobody took over in time.
    """
    found = (await hosts_of(platform, tape, clock=clock))["hosts"]
    leader = next((host for host in found if host["role"] == "leader"), None)
    if leader is None:
        raise MissingError("no host leads it", subject=f"tape {tape}", hint="start one: tapehouse host")
    standbys = [host for host in found if host["role"] == "standby"]
    near = [host for host in standbys if host.get("behind_cells", CLOSE_ENOUGH_CELLS) < CLOSE_ENOUGH_CELLS]
    if not near and not force:
        behind = min((host.get("behind_cells", 0) for host in standbys), default=0)
        raise MissingError(
            f"its standby is {behind:,} cells behind" if standbys else "no standby waits",
            subject=f"tape {tape}",
            hint="wait until it has followed" if standbys else "start one: tapehouse host --standby; or --force",
        )
    asked = await ask_hand_over(platform.bus, tape)
    if asked is None:
        raise MissingError("its leader does not answer", subject=leader["holder"], hint="tapehouse status")
    result = {"tape": tape, "from": asked["holder"], "to": None, "take_over": None}
    if not standbys and not leader["standby"]:
        return result
    deadline_ns = clock.monotonic_ns() + int(timeout_s * NS_PER_SECOND)
    while clock.monotonic_ns() < deadline_ns:
        for host in await call_roll(platform.bus, tape):
            if host["role"] == "leader" and host["generation"] > asked["generation"]:
                return {**result, "to": host["holder"], "take_over": host["take_over"]}
        await clock.sleep_until(clock.monotonic_ns() + ROLL_PAUSE_NS)
    raise BusUnavailableError(
        f"nobody serves it {timeout_s:g} s after the leader was asked", subject=f"tape {tape}", hint="tapehouse status"
    )
