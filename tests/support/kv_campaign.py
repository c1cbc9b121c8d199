"""Clients at several gateway processes of one KV while brokers and gateways are killed, stopped and cut off.

A `Field` is the brokers, the gateways, and for each gateway proxies of its own before the brokers, so that one gateway
can be cut off while the others go on. Clients go from gateway to gateway with their session's token; every call is
recorded here, outside of whatever is harmed.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapehouse.bus import Cluster, StreamAdmin, connect, kv_spec
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.kv.levels import LINEARIZABLE
from tests.support.cli import Shell
from tests.support.consistency import check_converged, check_fold, check_session, check_written
from tests.support.history import History, Operation, read_history
from tests.support.kv_process import KvProcess, UnansweredError, open_kv
from tests.support.kv_resp_process import KvServeProcess
from tests.support.linearizable import assert_linearizable
from tests.support.partitions import PartedCluster
from tests.support.proxy import TcpProxy

KEYS = ("a", "b", "c", "d")
KINDS = ("linearizable", "linearizable", "session", "session", "eventual", "put", "put-if", "put-if", "delete")
PAUSE_S = 0.01  # at most, between a client's calls, so that the faults fall among them
DOWN_S = 2.0
PARTED_S = 12.0  # longer than an election
SETTLE_S = 60.0
MOVER_KILLS = 2
LOOKS_MAX = 600
LOOK_PAUSE_S = 0.1
FOLD_PATIENCE_NS = 60 * NS_PER_SECOND

View = dict[str, tuple[str, int]]  # value and revision of each key


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """What is harmed, and by what it is reached."""

    cluster: Cluster
    admin: StreamAdmin
    gateways: Sequence[KvProcess | KvServeProcess]
    proxies: Sequence[Sequence[TcpProxy]]  # of each gateway, one before each broker
    base: int
    shards: int
    killed_movers: list[int] = dataclasses.field(default_factory=list)  # slots that each had moved

    # Brokers.

    async def kill_brokers(self, count: int = 1) -> None:
        """Kill those that lead shards, fill up with others, and start them again."""
        harmed = await self._leaders(count)
        for index in harmed:
            await asyncio.to_thread(self.cluster.kill_node, index)
        await asyncio.sleep(DOWN_S)
        for index in harmed:
            await asyncio.to_thread(self.cluster.restart_node, index, wait=index == harmed[-1])

    async def stop_broker(self) -> None:
        """Stop the one that leads a shard as if the machine held its breath, and wake it."""
        (index,) = await self._leaders(1)
        await asyncio.to_thread(self.cluster.kill_node, index, signal.SIGSTOP)
        await asyncio.sleep(DOWN_S)
        await asyncio.to_thread(self.cluster.kill_node, index, signal.SIGCONT)

    async def part_broker(self) -> None:
        """Part the one that leads a shard from the other brokers until these have another leader; its clients stay."""
        assert isinstance(self.cluster, PartedCluster)
        (index,) = await self._leaders(1)
        self.cluster.part(index)
        await asyncio.sleep(PARTED_S)
        assert sum(proxy.lost_bytes for proxy in self.cluster.proxies) > 0
        self.cluster.join()

    async def step_down(self) -> None:
        """Another broker leads every shard."""
        for shard in range(self.shards):
            with contextlib.suppress(Exception):  # None may lead just now, and then none steps down.
                await self.admin.step_down(kv_spec(self.base + shard).name)
        await asyncio.sleep(DOWN_S / 2)

    # Gateways.

    async def kill_gateway(self, number: int = 0) -> None:
        """Kill one with all that it was asked, and start it again."""
        await self.gateways[number].kill()
        await self.gateways[number].start()

    async def stop_gateway(self, number: int = 0) -> None:
        """Stop one while the others go on, and wake it."""
        self.gateways[number].signal(signal.SIGSTOP)
        await asyncio.sleep(DOWN_S)
        self.gateways[number].signal(signal.SIGCONT)

    # Shards.

    async def rebalance(self, shards: int) -> None:
        """Spread the KV over so many shards by `tapehouse kv rebalance`, killed in its midst and started again."""
        assert self.base == 0, "the command works on the streams of the KV's own names"
        shell = Shell(self.cluster.directory / "rebalance")
        words = ["kv", "rebalance", "--shards", shards, "--nats", ",".join(self.cluster.urls), "--json"]
        for _ in range(MOVER_KILLS):
            mover = await asyncio.to_thread(shell.start, *words)
            assert mover.stdout is not None
            while line := await asyncio.to_thread(mover.stdout.readline):
                told = json.loads(line)
                if 0 < told["moved"] < told["slots"]:
                    self.killed_movers.append(told["moved"])
                    break
            mover.kill()
            await asyncio.to_thread(mover.communicate)
        done = await asyncio.to_thread(shell.run, *words)
        print(f"rebalanced over {shards}: {done.out.splitlines()[-1]}", flush=True)

    # The net.

    async def cut_off(self, number: int = 0) -> None:
        """Nothing reaches a gateway from the brokers nor them from it; both believe that they are connected."""
        await self._lose(self.proxies[number], requests=True, answers=True)

    async def deafen(self, number: int = 0) -> None:
        """What a gateway sends arrives; what it is answered does not."""
        await self._lose(self.proxies[number], requests=False, answers=True)

    async def silence(self, number: int = 0) -> None:
        """A gateway hears all; what it sends is lost."""
        await self._lose(self.proxies[number], requests=True, answers=False)

    async def _lose(self, proxies: Sequence[TcpProxy], *, requests: bool, answers: bool) -> None:
        for proxy in proxies:
            proxy.lose_requests, proxy.lose_answers = requests, answers
        await asyncio.sleep(DOWN_S)
        for proxy in proxies:
            proxy.heal()

    async def _leaders(self, count: int) -> list[int]:
        names = [node.name for node in self.cluster.state.nodes]
        found: dict[int, None] = {}
        for shard in range(self.shards):
            found[names.index(await self._leader(shard))] = None
        return list(dict.fromkeys([*found, *range(len(names))]))[:count]

    async def _leader(self, shard: int) -> str:
        for _ in range(LOOKS_MAX):
            leader = await self.admin.leader(kv_spec(self.base + shard).name)
            if leader:
                return leader
            await asyncio.sleep(LOOK_PAUSE_S)
        raise AssertionError("nobody leads the stream")


Fault = Callable[[Field], Awaitable[None]]


@asynccontextmanager
async def field_of(
    cluster: Cluster, directory: Path, *, gateways: int, base: int, shards: int = 2, patience_s: float = 3.0,
    is_flawed: bool = False, is_served: bool = False,
) -> AsyncIterator[Field]:  # fmt: skip
    """So many gateways on a cluster, each behind proxies of its own; gone at the end.

    Args:
        is_flawed: The first gateway is.
        is_served: The gateways are `tapehouse kv serve`, asked over RESP; `base` is 0 then.
    """
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(await connect(cluster.urls))
        processes: list[KvProcess | KvServeProcess] = []
        proxies = []
        for number in range(gateways):
            ports = [node.client_port for node in cluster.state.nodes]
            mine = [await stack.enter_async_context(TcpProxy("127.0.0.1", port)) for port in ports]
            urls, place = [proxy.url for proxy in mine], directory / f"gateway-{number}"
            process = KvServeProcess(urls, place, shards=shards) if is_served else KvProcess(
                urls, place, base=base, shards=shards, patience_s=patience_s, is_flawed=is_flawed and number == 0
            )  # fmt: skip
            stack.push_async_callback(process.close)
            processes.append(process)
            proxies.append(mine)
        await processes[0].start()  # It makes the streams.
        await asyncio.gather(*(process.start() for process in processes[1:]))
        yield Field(
            cluster=cluster, admin=StreamAdmin(bus), gateways=processes, proxies=proxies, base=base, shards=shards
        )


class Client:
    """One caller, whose calls are recorded; a session that goes from gateway to gateway.

    Args:
        home: It asks this gateway alone; None: any that is up.
    """

    def __init__(self, name: str, field: Field, history: History, *, seed: int, home: int | None = None) -> None:
        self.name = name
        self._field = field
        self._history = history
        self._random = random.Random(f"{seed} {name}")
        self._home = home
        self._token = ""
        self._known: dict[str, int] = {}

    async def run(self, calls: int, kinds: Sequence[str] = KINDS) -> None:
        """Make so many calls, one after the other."""
        for number in range(calls):
            kind, key = self._random.choice(kinds), self._random.choice(KEYS)
            with contextlib.suppress(UnansweredError):  # The history says so: its outcome is unknown.
                if kind in ("linearizable", "session", "eventual"):
                    await self._read(key, kind)
                else:
                    await self._write(key, kind, f"{self.name}.{number}")
            await asyncio.sleep(PAUSE_S * self._random.random())

    async def read_all(self) -> dict[str, str | None]:
        """Every key's value, linearizable, once all is quiet; what was not answered meanwhile is asked again."""
        found: dict[str, str | None] = {}
        for key in KEYS:
            for _ in range(LOOKS_MAX):
                with contextlib.suppress(UnansweredError):
                    found[key] = await self._read(key, "linearizable")
                    break
                await asyncio.sleep(LOOK_PAUSE_S)
        assert found.keys() == set(KEYS), f"{self.name} was answered {found}"
        return found

    async def _ask(self, **request: Any) -> dict[str, Any]:
        gateways = self._field.gateways
        if self._home is not None:
            gateway = gateways[self._home]
        else:
            gateway = self._random.choice([each for each in gateways if each.is_up])
        told = await gateway.ask(token=self._token, **request)
        if told["status"] == "unknown":
            raise UnansweredError(told["why"])
        self._token = told.get("token", self._token)
        return told

    async def _read(self, key: str, level: str) -> str | None:
        # A linearizable read takes no note in the session's token, so at another gateway the session need not know it.
        session = f"{self.name}.linearizable" if level == "linearizable" else ""
        async with self._history.call("get", key, client=self.name, level=level, session=session) as call:
            told = await self._ask(op="get", key=key, level=level)
            call.ok(value=told["value"], revision=told["revision"])
        self._known[key] = told["revision"]
        value: str | None = told["value"]
        return value

    async def _write(self, key: str, kind: str, value: str) -> None:
        expected = self._known.get(key, 0) if kind == "put-if" else None
        has_value = value if kind != "delete" else None
        async with self._history.call(kind, key, client=self.name, value=has_value, expected=expected) as call:
            told = await self._ask(op=kind, key=key, value=value, expected=expected)
            if told["status"] == "failed":
                call.failed()
                return
            if told["status"] == "refused":
                call.refused(found=told["revision"])
            else:
                call.ok(revision=told["revision"])
        self._known[key] = 0 if kind == "delete" and told["status"] == "ok" else told["revision"]


async def record(
    field: Field, path: Path, *, clients: int, calls: int, seed: int, faults: Sequence[Fault] = (),
    kinds: Sequence[str] = KINDS,
) -> list[Operation]:  # fmt: skip
    """Let clients call while one fault after another strikes; the history.

    They call at least `calls` times each, and on until the last fault is over. At last every gateway is asked for every
    key, so that the history itself shows what of it was lost.
    """
    with History(path) as history:
        callers = [Client(f"c{number}", field, history, seed=seed) for number in range(clients)]
        struck = asyncio.create_task(_strike(field, faults))

        async def call(one: Client) -> None:
            await one.run(calls, kinds)
            while not struck.done():
                await one.run(len(KINDS), kinds)

        try:
            await asyncio.gather(*(call(one) for one in callers))
        finally:
            struck.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await struck
        for number in range(len(field.gateways)):
            await Client(f"last-{number}", field, history, seed=seed, home=number).read_all()
    return read_history(path)


async def _strike(field: Field, faults: Sequence[Fault]) -> None:
    for fault in faults:
        await fault(field)
        print(f"struck: {getattr(fault, '__name__', fault)}", flush=True)


def _require_written(path: Path, operations: Sequence[Operation]) -> None:
    """Enough is known, linearizable reads are, and every read is of something that was written."""
    unknown = sum(operation.outcome == "unknown" for operation in operations)
    print(assert_linearizable(path), f", {unknown} unknown")
    assert unknown < len(operations) // 4
    assert check_written(operations) == []


async def require_promises(field: Field, path: Path, operations: Sequence[Operation]) -> None:
    """Hold a history and what came of it against what each level promises.

    Raises:
        AssertionError: A promise was broken, or too much is unknown for anything to be shown.
    """
    _require_written(path, operations)
    assert check_session(operations) == []
    fold = await folded(field)
    assert check_fold(operations, fold) == []
    views = {f"gateway-{number}": await _settled(each, fold) for number, each in enumerate(field.gateways)}
    assert check_converged(views, fold) == []


async def require_served_promises(field: Field, path: Path, operations: Sequence[Operation]) -> None:
    """The same of `tapehouse kv serve`, which tells no revisions.

    Raises:
        AssertionError: A promise was broken, or too much is unknown for anything to be shown.
    """
    _require_written(path, operations)
    fold = {key: value for key, (value, _) in (await folded(field)).items()}
    for gateway in field.gateways:
        for key in KEYS:
            told = await gateway.ask(op="get", key=key, level="eventual")
            assert told["value"] == fold.get(key), f"{key} at {gateway}, which had answered a linearizable read of it"


async def folded(field: Field) -> View:
    """The logs folded anew, by a view that saw nothing of what was."""
    async with (
        await connect(field.cluster.urls) as bus,
        await open_kv(bus, base=field.base, shards=None, patience_ns=FOLD_PATIENCE_NS) as kv,
    ):
        rows = await kv.scan(level=LINEARIZABLE)
        return {key.decode(): (row.value.decode(), row.revision) for key, row in rows}


async def _settled(gateway: KvProcess, fold: View) -> View:
    """What a gateway shows to eventual readers once it stands still, or after SETTLE_S."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + SETTLE_S
    while True:
        told = await gateway.ask(op="scan", level="eventual")
        view: View = {key: (value, revision) for key, (value, revision) in told["rows"].items()}
        if view == fold or loop.time() > deadline:
            return view
        await asyncio.sleep(LOOK_PAUSE_S)
