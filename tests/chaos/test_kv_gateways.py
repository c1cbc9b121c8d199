"""Two gateways of a KV while brokers are killed, stopped and come back: recorded histories, checked from outside.

Linearizable reads, writes and conditions are held against Porcupine; sessions against what they were told; both views
against the fold of the logs. The control's readers join a barrier in flight while their gateway's view is late.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapehouse.bus import Bus, Cluster, JetStreamLog, StreamAdmin, connect, kv_spec
from tapehouse.core.clock import SystemClock
from tapehouse.core.errors import BusUnavailableError, BusyError
from tapehouse.core.ids import new_writer_id
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.kv.client import Kv
from tapehouse.kv.entries import Status
from tapehouse.kv.errors import OutcomeUnknownError
from tapehouse.kv.faults import Faults
from tapehouse.kv.levels import EVENTUAL, LINEARIZABLE, Session
from tapehouse.kv.shard_writer import ShardWriter
from tests.support.clusters import free_config
from tests.support.consistency import check_converged, check_fold, check_session, check_written
from tests.support.history import History, read_history
from tests.support.linearizable import assert_linearizable, check_linearizable

pytestmark = pytest.mark.chaos

SEED = 20_261_121
CLIENTS = 6
CALLS = 400  # of each client
KEYS = (b"a", b"b", b"c", b"d")
PATIENCE_NS = 3 * NS_PER_SECOND  # shorter than an election, so that outcomes are unknown
PAUSE_S = 0.01  # between a client's calls, so that the faults fall among them
DOWN_S = 2.0
LOOKS_MAX = 200
LOOK_PAUSE_S = 0.1


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(free_config(tmp_path / "nats", nodes=3)) as cluster:
        yield cluster


async def open_kv(bus: Bus, faults: Faults | None = None) -> Kv:
    async def open_log(shard: int) -> JetStreamLog:
        return await StreamAdmin(bus).ensure(kv_spec(shard))

    return await Kv.open(
        open_log, new_life=new_writer_id, clock=SystemClock(), shards=2, patience_ns=PATIENCE_NS, faults=faults
    )


class Client:
    """One caller at one gateway, whose calls are recorded."""

    def __init__(self, name: str, kv: Kv, history: History) -> None:
        self.name = name
        self._kv = kv
        self._history = history
        self._random = random.Random(f"{SEED} {name}")
        self._session = Session()
        self._known: dict[bytes, int] = {}

    async def run(self, calls: int, kinds: tuple[str, ...]) -> None:
        """Make so many calls, one after the other."""
        for number in range(calls):
            kind = self._random.choice(kinds)
            key = self._random.choice(KEYS)
            try:
                if kind in ("linearizable", "session", "eventual"):
                    await self._read(key, kind)
                else:
                    await self._write(key, kind, f"{self.name}.{number}")
            except (OutcomeUnknownError, BusUnavailableError):
                pass  # The history says so: a block that an exception leaves is of unknown outcome.
            await asyncio.sleep(PAUSE_S * self._random.random())

    async def _read(self, key: bytes, kind: str) -> None:
        level = {"linearizable": LINEARIZABLE, "session": self._session, "eventual": EVENTUAL}[kind]
        async with self._history.call("get", key, client=self.name, level=kind) as call:
            stored = await self._kv.get(key, level)
            call.ok(value=stored.value if stored else None, revision=stored.revision if stored else 0)
        self._known[key] = stored.revision if stored else 0

    async def _write(self, key: bytes, kind: str, value: str) -> None:
        expected = self._known.get(key, 0) if kind == "put-if" else None
        has_value = value if kind != "delete" else None
        async with self._history.call(kind, key, client=self.name, value=has_value, expected=expected) as call:
            try:
                if kind == "put":
                    outcome = await self._kv.put(key, value.encode(), session=self._session)
                elif kind == "put-if":
                    outcome = await self._kv.put_if(key, value.encode(), expected or 0, session=self._session)
                else:
                    outcome = await self._kv.delete(key, session=self._session)
            except BusyError:
                call.failed()
                return
            if outcome.is_applied:
                call.ok(revision=outcome.revision)
            else:
                assert outcome.status in (Status.CHANGED, Status.ABSENT)
                call.refused(found=outcome.revision)
        self._known[key] = 0 if kind == "delete" and outcome.is_applied else outcome.revision


async def leader_of(cluster: Cluster, admin: StreamAdmin, shard: int) -> int:
    """Which broker leads a shard's stream, once one does."""
    names = [node.name for node in cluster.state.nodes]
    for _ in range(LOOKS_MAX):
        leader = await admin.leader(kv_spec(shard).name)
        if leader:
            return names.index(leader)
        await asyncio.sleep(LOOK_PAUSE_S)
    raise AssertionError("nobody leads the stream")


async def disturb(cluster: Cluster, bus: Bus) -> None:
    """Kill the broker that leads a shard, stop and wake the one that leads the other, have leaders step down."""
    admin = StreamAdmin(bus)
    for shard in (0, 1):
        await admin.step_down(kv_spec(shard).name)
    leader = await leader_of(cluster, admin, 0)
    await asyncio.to_thread(cluster.kill_node, leader)
    await asyncio.sleep(DOWN_S)
    await asyncio.to_thread(cluster.restart_node, leader)
    leader = await leader_of(cluster, admin, 1)
    await asyncio.to_thread(cluster.kill_node, leader, signal.SIGSTOP)
    await asyncio.sleep(DOWN_S)
    await asyncio.to_thread(cluster.kill_node, leader, signal.SIGCONT)


async def test_histories_under_faults(trio: Cluster, tmp_path: Path) -> None:
    print(f"seed {SEED}")
    path = tmp_path / "kv.jsonl"
    async with await connect(trio.urls) as one_bus, await connect(trio.urls) as other_bus:
        one, other = await asyncio.gather(open_kv(one_bus), open_kv(other_bus))
        async with one, other:
            kinds = ("linearizable", "linearizable", "session", "eventual", "put", "put-if", "put-if", "delete")
            with History(path) as history:
                clients = [Client(f"c{n}", (one, other)[n % 2], history) for n in range(CLIENTS)]
                async with asyncio.TaskGroup() as group:
                    for client in clients:
                        group.create_task(client.run(CALLS, kinds))
                    group.create_task(disturb(trio, one_bus))
            views = {}
            for name, kv in (("one", one), ("other", other)):
                rows = await kv.scan(level=LINEARIZABLE)
                views[name] = {key.decode(): (row.value.decode(), row.revision) for key, row in rows}
    operations = read_history(path)
    unknown = sum(operation.outcome == "unknown" for operation in operations)
    print(assert_linearizable(path), f", {unknown} unknown")
    assert unknown < len(operations) // 4  # Else little was shown.
    assert check_written(operations) == []
    assert check_session(operations) == []
    assert check_fold(operations, views["one"]) == []
    assert check_converged(views, views["one"]) == []


async def test_readers_that_join_a_barrier_in_flight_are_caught(
    trio: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = ShardWriter.barrier

    def bad(self: ShardWriter) -> asyncio.Future[int]:
        riding = [ride for flight in self._flights.values() for ride in flight.rides]
        return riding[0].join() if riding else good(self)

    monkeypatch.setattr(ShardWriter, "barrier", bad)
    path = tmp_path / "kv.jsonl"
    async with await connect(trio.urls) as one_bus, await connect(trio.urls) as other_bus:
        late = Faults()
        one, other = await asyncio.gather(open_kv(one_bus, late), open_kv(other_bus))
        late.view_delay_ns = NS_PER_SECOND // 50
        async with one, other:
            with History(path) as history:
                async with asyncio.TaskGroup() as group:
                    for number in range(CLIENTS):
                        kv, kinds = ((one, ("linearizable",)), (other, ("put", "linearizable")))[number % 2]
                        group.create_task(Client(f"c{number}", kv, history).run(100, kinds))
    verdict = check_linearizable(path)
    assert verdict.result == "violation", str(verdict)
