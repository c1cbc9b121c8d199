"""A whole run: first values, warm-up, what is measured, and the keys removed at the end."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator

from tapehouse.app.bench.surroundings import Moment, busyness, machine
from tapehouse.app.kv_load.check import ReadChecker
from tapehouse.app.kv_load.link import Doors, greet
from tapehouse.app.kv_load.plan import Load
from tapehouse.app.kv_load.replies import Reply, request
from tapehouse.app.kv_load.report import LoadReport
from tapehouse.app.kv_load.run import Connection, Phase, delete_keys, first_phase, read_level, run_phase
from tapehouse.app.kv_load.values import ValueMaker, filling_bytes
from tapehouse.core.clock import Clock
from tapehouse.core.errors import BusUnavailableError
from tapehouse.core.units import NS_PER_SECOND

_TOLD = ("tapehouse_version", "redis_version", "server_name", "commit")  # of INFO

Progress = Callable[[str, int, int], None]  # which phase, how far it is, of how many


async def run_load(
    load: Load, doors: Doors, *, clock: Clock, stop: asyncio.Event, progress: Progress, keep: bool = False
) -> LoadReport:
    """Put a load on gateways.

    Args:
        stop: Set: what was measured so far is the report.
        keep: Leave the keys where they are.

    Raises:
        UsageError: The load is none, or a gateway refuses us.
        BusUnavailableError: No gateway answers, or one stays away.
    """
    load.check()
    server = _server(await greet(doors, 0, [request(b"INFO"), read_level(load)]))
    run = secrets.randbits(63)
    filling = secrets.token_bytes(filling_bytes(load.value_bytes))
    values = ValueMaker(run=run, value_bytes=load.value_bytes, filling=filling)
    checker = ReadChecker(run=run, level=load.level, keys=load.keys, writes_max=load.writes_max)
    each = range(load.connections)
    connections = [Connection(which, load, doors, values, checker, clock) for which in each]
    interval = NS_PER_SECOND / load.rate if load.rate else None
    warm_up, measured = (Phase(pipeline=load.pipeline, interval_ns=interval) for _ in range(2))

    async def ask(name: str, phase: Phase, total: int, plans: list[Iterator[tuple[bool, int]]]) -> None:
        if not stop.is_set():
            await run_phase(
                connections, phase, plans, clock=clock, stop=stop, progress=lambda done: progress(name, done, total)
            )

    before = Moment.now(clock)
    try:
        for connection in connections:
            await connection.open()
        first = first_phase()
        await ask("first values", first, load.keys, [load.first_writes(which) for which in each])
        if first.errors and first.done == sum(first.errors.values()):
            raise BusUnavailableError(
                f"no key could be written: {', '.join(first.errors)}", hint="see tapehouse status"
            )
        await ask("warm-up", warm_up, load.warm_up, [load.asked(which, is_warm_up=True) for which in each])
        before = Moment.now(clock)
        await ask("load", measured, load.requests, [load.asked(which, is_warm_up=False) for which in each])
        after = Moment.now(clock)
        spent = 100.0 * (after.own_seconds - before.own_seconds) * NS_PER_SECOND
        during = busyness(before, after) | {
            "generator_percent": spent / max(after.monotonic_ns - before.monotonic_ns, 1)
        }
        interrupted = stop.is_set() and measured.done < load.requests
    finally:
        for connection in connections:
            await connection.close()
    if not keep:
        await _clear(load, doors)
    return LoadReport(
        load=load, connect=tuple(f"{host}:{port}" for host, port in doors.addresses), server=server,
        surroundings=machine() | {"during": during}, phase=measured, verdict=checker.verdict,
        warm_up_requests=warm_up.done, interrupted=interrupted,
    )  # fmt: skip


async def _clear(load: Load, doors: Doors) -> None:
    """Remove the keys; where the gateway has gone, say which are left."""
    try:
        await delete_keys(load, doors)
    except BusUnavailableError as error:
        raise BusUnavailableError(
            f"the load's keys were not removed: {error.message}", subject=error.subject,
            hint=f"they begin with {load.prefix!r}",
        ) from error  # fmt: skip


def _server(told: list[Reply]) -> dict[str, str]:
    """What the gateway says of itself."""
    text = told[0].decode("utf-8", "replace") if isinstance(told[0], bytes) else ""
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {name: lines[name] for name in _TOLD if name in lines}
