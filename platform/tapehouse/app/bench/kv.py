"""The replicated KV beside Redis, etcd and rqlite: reads at each level and durable writes, by one client and by many.

Each system has the machine for itself while it is measured, and in every run all have their turn, so that a noisy
minute meets all alike. Ours is three brokers with fsync and a gateway process; a level is chosen by `--level`, as
redis-benchmark can't say READLEVEL. Reads in process are measured in this one.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import uvloop

from tapehouse.app.bench import kv_servers
from tapehouse.app.bench.kv_in_process import FASTEST_WAY, measure_in_process
from tapehouse.app.bench.kv_loads import (
    KEYS_QUICK,
    LOADS,
    LOADS_QUICK,
    QUICK_REQUESTS,
    VALUE_BYTES,
    Load,
    Plan,
    Runs,
    fill_peer,
    fill_resp,
    measure_peer,
    measure_resp,
    require_filled,
)
from tapehouse.app.bench.kv_programs import KV_PEER, RQLITED
from tapehouse.app.bench.measure import Goal, Measure, Peer, measure, peer_of
from tapehouse.app.bench.peer import NOT_INSTALLED, absent
from tapehouse.app.bench.registry import Options
from tapehouse.core.errors import TapehouseError

LEVELS = ("eventual", "session", "linearizable")
LEVELS_QUICK = LEVELS[-1:]  # each level is a gateway to start
EACH = "each"  # the gateway with --commit each
EACH_LANES_MAX = 1_000  # more would wait for longer than a caller's patience, one message after the other
REDIS, REDIS_SYNCED, ETCD, RQLITE = "Redis", "Redis, appendfsync always", "etcd", "rqlite"
PEER_KINDS = {
    ETCD: ("linearizable", "serializable", "put"), RQLITE: ("linearizable", "strong", "none", "put"),
}  # fmt: skip
READS, WRITES = "reads/s", "writes/s"
LINEARIZABLE_GOAL, WRITE_GOAL, IN_PROCESS_GOAL = 600_000, 250_000, 5_000_000  # DESIGN.md section 9
REDIS_GOAL, GROUP_GOAL, AHEAD_GOAL = 2.0, 10.0, 1.0

Results = defaultdict[tuple[str, str, Load], Runs]  # by system, kind and load


def run(options: Options) -> Iterator[Measure]:
    """Everything is measured first, in turns; then the rows, also where one system failed."""
    plan = Plan(keys=KEYS_QUICK, requests=QUICK_REQUESTS) if options.quick else Plan()
    loads = LOADS_QUICK if options.quick else LOADS
    results: Results = defaultdict(Runs)
    failure: TapehouseError | None = None
    try:
        _measure_all(options, results, loads, plan)
    except TapehouseError as error:
        failure = error  # What was measured before is told all the same.
    yield from _rows(options, results, loads)
    if failure is not None:
        raise failure
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        options.on_step("reads in process")
        in_process = runner.run(measure_in_process(plan, options.repeat))
    for way, values in in_process.items():
        goals = (Goal(at_least=IN_PROCESS_GOAL),) if way == FASTEST_WAY else ()
        note = f"{plan.keys:,} keys of {VALUE_BYTES} bytes, random, one thread, no socket"
        yield measure(f"eventual reads in process, {way}", READS, values, goals=goals, note=note)


# Measuring.


def _measure_all(options: Options, results: Results, loads: tuple[Load, ...], plan: Plan) -> None:
    for attempt in range(options.repeat):
        step = f"run {attempt + 1} of {options.repeat}"
        place = options.scratch / f"kv-{attempt}"
        _measure_ours(options, results, loads, plan, place, step)
        if kv_servers.redis_version():
            _measure_redis(options, results, loads, plan, place, step)
        _measure_raft(options, results, loads, plan, place, step)


def _measure_redis(
    options: Options, results: Results, loads: Iterable[Load], plan: Plan, place: Path, step: str
) -> None:
    for name, is_durable in ((REDIS, False), (REDIS_SYNCED, True)):
        options.on_step(f"{name}, {step}")
        with kv_servers.redis(place / "redis", is_durable=is_durable) as port:
            _measure_resp(results, name, port, loads, plan, reads=not is_durable)


def _measure_raft(
    options: Options, results: Results, loads: Iterable[Load], plan: Plan, place: Path, step: str
) -> None:
    for name, program, start in ((ETCD, KV_PEER, kv_servers.etcd), (RQLITE, RQLITED, kv_servers.rqlite)):
        if program.find() is None or KV_PEER.find() is None:
            continue
        options.on_step(f"{name}, {step}")
        with start(place / name, options.nodes) as endpoints:
            fill_peer(name, endpoints, plan)
            for kind in PEER_KINDS[name]:
                for load in loads:
                    results[name, kind, load].told.append(measure_peer(name, endpoints, kind, load, plan))


def _measure_ours(
    options: Options, results: Results, loads: Iterable[Load], plan: Plan, place: Path, step: str
) -> None:
    """Reads at every level, then writes: a gateway after the other, since each applies what any of them writes."""
    with kv_servers.brokers(place / "brokers", options.nodes) as urls:
        levels = LEVELS_QUICK if options.quick else LEVELS
        for level in levels:
            options.on_step(f"{level} reads, {step}")
            is_last = level == levels[-1]
            with kv_servers.gateway(place / level, urls, level=level) as port:
                _measure_resp(
                    results, level, port, loads, plan, writes=is_last, fill=level == levels[0],
                )  # fmt: skip
        options.on_step(f"--commit each, {step}")
        with kv_servers.gateway(place / EACH, urls, commit="each") as port:
            some = [load for load in loads if load.lanes <= EACH_LANES_MAX]
            _measure_resp(results, EACH, port, some, plan, reads=False, fill=False)


def _measure_resp(
    results: Results, name: str, port: int, loads: Iterable[Load], plan: Plan, *, reads: bool = True,
    writes: bool = True, fill: bool = True,
) -> None:  # fmt: skip
    if fill:
        fill_resp(port, plan.keys)
    for command, is_wanted in (("get", reads), ("set", writes)):
        for load in loads if is_wanted else ():
            results[name, command, load].told.append(measure_resp(port, command, load, plan))
    require_filled(port, plan.keys)


# Rows.


def _rows(options: Options, results: Results, loads: tuple[Load, ...]) -> Iterator[Measure]:
    brokers = (
        f"R{min(3, options.nodes)}, fsync (durable profile); brokers, gateway and clients on the same cores, "
        f"values of {VALUE_BYTES} bytes, percentiles of requests with their P"
    )
    ends = (loads[0], loads[-1])  # by one, and saturated

    def row(name: str, unit: str, key: tuple[str, str], load: Load, peers: Iterable[Peer], *goals: Goal) -> Measure:
        runs = results[(*key, load)]
        return measure(
            f"{name}, {load.name}", unit, runs.rates, peers=tuple(peers), goals=goals, note=brokers, **runs.latencies
        )

    def peers(load: Load, *kinds: tuple[str, str]) -> list[Peer]:
        return [_peer(results, *kind, load) for kind in kinds]

    def measured(system: str, kind: str) -> list[Load]:
        return [load for load in loads if (system, kind, load) in results]

    for load in measured("linearizable", "get"):
        goals = [Goal(at_least=LINEARIZABLE_GOAL)] if load is ends[1] else []
        found = peers(load, (ETCD, "linearizable"), (RQLITE, "linearizable"), (RQLITE, "strong"))
        yield row("linearizable reads", READS, ("linearizable", "get"), load, found, *goals)
    for load in measured("session", "get"):
        yield row("session reads", READS, ("session", "get"), load, ())
    for load in measured("eventual", "get"):
        goals = [Goal(figure="ratio", at_least=REDIS_GOAL)] if load is ends[1] else []
        found = peers(load, (REDIS, "get"), (ETCD, "serializable"), (RQLITE, "none"))
        yield row("eventual reads", READS, ("eventual", "get"), load, found, *goals)
    writes = measured("linearizable", "set")
    for load in writes:
        goals = [Goal(figure="ratio", at_least=AHEAD_GOAL)] if load in ends else []
        goals += [Goal(at_least=WRITE_GOAL)] if load is ends[1] else []
        found = peers(load, (ETCD, "put"), (RQLITE, "put"))
        yield row("durable writes", WRITES, ("linearizable", "set"), load, found, *goals)
    for load in writes:
        found = peers(load, (REDIS, "set"), (REDIS_SYNCED, "set"))
        yield row("durable writes beside one node", WRITES, ("linearizable", "set"), load, found)
    alone = measured(EACH, "set")
    for load in writes if alone else ():
        goals = [Goal(figure="ratio", at_least=GROUP_GOAL)] if load is ends[1] else []
        # One message after the other goes no quicker for more that wait: beyond its last load, that one stands.
        same = load if load in alone else alone[-1]
        note = f"a message for each write, {same.name}"
        each = peer_of("--commit each", results[EACH, "set", same].rates, note)
        yield row("writes in frames, against one by one", WRITES, ("linearizable", "set"), load, [each], *goals)


def _peer(results: Results, system: str, kind: str, load: Load) -> Peer:
    """A peer's figure, and its percentiles in words; named as missing where it is not there."""
    version = {REDIS: kv_servers.redis_version, REDIS_SYNCED: kv_servers.redis_version}.get(system)
    known = version() if version else {ETCD: KV_PEER, RQLITE: RQLITED}[system].version
    name = system.replace("Redis", f"Redis {known}") if version else f"{system} {known}"
    name += "" if version else f" {kind}"
    runs = results.get((system, kind, load))
    if runs is None:
        return absent(
            system if known is None else name, f"{NOT_INSTALLED}: {'apt install redis' if version else 'make peers'}"
        )
    told = runs.latencies
    return peer_of(name, runs.rates, f"p50 {told['p50'] / 1e6:.2f} ms, p99 {told['p99'] / 1e6:.2f} ms")
