"""Rebalancing while gateways write and read, with movers killed at any append and logs that lose, delay and stay away.

No acknowledged write is lost or doubled, no revision goes back, linearizable reads are linearizable (the checker of
`tests/support/linearizable.py` decides), sessions see their writes and never less than before. A reader that does not
look again whether the slot is still there, and a mover that takes slots over without asking, are caught.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tapehouse.core.errors import BusUnavailableError, ConflictError, TapehouseError, TransientError
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.kv import moves
from tapehouse.kv.client import Kv
from tapehouse.kv.entries import Status
from tapehouse.kv.errors import OutcomeUnknownError
from tapehouse.kv.faults import delay
from tapehouse.kv.levels import LINEARIZABLE, Session
from tapehouse.kv.mover import Mover
from tapehouse.kv.node import ShardNode
from tapehouse.kv.slots import SLOTS, slot_of
from tapehouse.log import MemoryLog
from tests.support.consistency import check_fold, check_session, check_written
from tests.support.history import History, read_history
from tests.support.kv_world import BUDGET_BYTES, Link, StillClock, fold, fold_whole, new_life, settle, until
from tests.support.linearizable import check_linearizable

SHARDS_MAX = 3
GATEWAYS = 2
FAULTS = ("fine", "fine", "fine", "lost", "unheard", "refused", "late")


def key_of(part: int) -> str:
    """A key whose slot is in the so manieth of eight parts."""
    return next(f"k{number}" for number in itertools.count() if slot_of(b"k%d" % number) * 8 // SLOTS == part)


KEYS = [key_of(part) for part in range(8)]


@dataclass(eq=False)
class World:
    """Gateways over the same logs, each with its own way to them, and what was asked of them."""

    path: Path
    rng: Random
    clock: StillClock = field(default_factory=StillClock)
    gateways: list[Kv] = field(default_factory=list)
    links: list[list[Link]] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    kills: int = 0
    finished: int = 0

    def __post_init__(self) -> None:
        self.logs = [MemoryLog(f"KV_{shard}") for shard in range(SHARDS_MAX)]
        self.ticks = itertools.count(1)
        self.history = History(self.path, clock=lambda: next(self.ticks))
        self.values = (f"v{number}" for number in itertools.count())
        self.seen: dict[str, int] = {}

    async def open(self) -> tuple[Kv, list[Link]]:
        links = [Link(log) for log in self.logs]

        async def open_log(shard: int) -> Link:
            return links[shard]

        shards = None if self.gateways else 1
        opening = asyncio.create_task(
            Kv.open(open_log, new_life=new_life, clock=self.clock, shards=shards, budget_bytes=BUDGET_BYTES)  # type: ignore
        )
        await until(self.clock, [opening])
        return opening.result(), links

    async def start(self) -> None:
        for _ in range(GATEWAYS):
            kv, links = await self.open()
            self.gateways.append(kv)
            self.links.append(links)

    # Clients.

    def client(self, name: str, calls: int) -> None:
        self.tasks.append(asyncio.create_task(self._client(name, calls)))

    async def _client(self, name: str, calls: int) -> None:
        session = Session()
        for _ in range(calls):
            kv = self.rng.choice(self.gateways)
            key = self.rng.choice(KEYS)
            kind = self.rng.choice(("put", "put", "put-if", "delete", "linearizable", "linearizable", "session"))
            with suppress(TapehouseError):  # The history has it as it is: unknown.
                await self._call(kv, name, kind, key, session)
            for _ in range(self.rng.randrange(9)):
                await asyncio.sleep(0)
            if self.rng.random() < 0.1:
                await delay(self.clock, NS_PER_SECOND // 10)

    async def _call(self, kv: Kv, name: str, kind: str, key: str, session: Session) -> None:
        if kind in ("linearizable", "session"):
            async with self.history.call("get", key, client=name, level=kind) as call:
                level = LINEARIZABLE if kind == "linearizable" else session
                try:
                    found = await kv.get(key.encode(), level)
                except TapehouseError:
                    call.unknown()
                    return
                call.ok(value=found.value if found else None, revision=found.revision if found else 0)
                self.seen[key] = max(self.seen.get(key, 0), found.revision if found else 0)
            return
        value = next(self.values) if kind != "delete" else None
        expected = self.seen.get(key, 0) if kind == "put-if" else None
        async with self.history.call(kind, key, client=name, value=value, expected=expected) as call:
            try:
                if kind == "put":
                    done = await kv.put(key.encode(), value.encode(), session=session)  # type: ignore[union-attr]
                elif kind == "put-if":
                    done = await kv.put_if(key.encode(), value.encode(), expected, session=session)  # type: ignore
                else:
                    done = await kv.delete(key.encode(), session=session)
            except OutcomeUnknownError:
                call.unknown()
                return
            except TransientError:
                call.failed()
                return
            if done.is_applied:
                call.ok(revision=done.revision)
                self.seen[key] = done.revision
            else:
                call.refused(found=done.revision)

    # Movers.

    async def move(self, shards: int, appends: int) -> bool:
        """Rebalance, and be killed at so manieth append; whether it came to its end before."""
        try:
            kv, links = await self.open()
        except TransientError:
            return False
        left = iter(range(appends))
        killing = asyncio.get_running_loop().create_future()
        for link in links:
            link.faults.extend(self.rng.choices(FAULTS, k=6))
            _kill_at(link, left, killing)
        mover = asyncio.create_task(Mover(kv, clock=self.clock, life=new_life()).run(shards))
        await until_any(self.clock, [mover, killing])
        if not mover.done():
            self.kills += 1
            mover.cancel()
        for link in links:
            link.faults.clear()
        for node in kv.nodes:  # A process that is gone sends nothing any more.
            if node._writer is not None and not mover.done():
                await node._writer.close()
        await asyncio.gather(mover, return_exceptions=True)
        is_done = not mover.cancelled() and mover.exception() is None
        if is_done:
            self.finished += 1
        elif not mover.cancelled():
            assert isinstance(mover.exception(), ConflictError | TransientError | OutcomeUnknownError), (
                mover.exception()
            )
        closing = asyncio.create_task(kv.close())
        await until(self.clock, [closing])
        for link in links:
            self.late.append(link)
        return is_done

    late: list[Link] = field(default_factory=list)

    async def end(self) -> list[str]:
        """Let all come to its end; everything that is wrong."""
        for links in self.links:
            for link in links:
                link.faults.clear()
                link.let_go()
        await until(self.clock, self.tasks)
        for task in self.tasks:
            task.result()
        for link in [*self.late, *(link for links in self.links for link in links)]:
            await link.arrive()
        await settle()
        while not await self.move(SHARDS_MAX, 10**9):
            pass
        wrong = await self._compare()
        self.history.close()
        operations = read_history(self.path)
        wrong += [finding.text for finding in check_written(operations) + check_session(operations)]
        verdict = check_linearizable(self.path)
        if verdict.result != "ok":
            wrong.append(str(verdict))
        return wrong

    async def _compare(self) -> list[str]:
        """The logs, folded by the machine in plain Python, against the views and against what was acknowledged."""
        wrong: list[str] = []
        held: dict[str, tuple[str, int]] = {}
        owners = [0] * SLOTS
        for shard, log in enumerate(self.logs):
            machine = await fold_whole(log)
            for slot in range(SLOTS):
                owners[slot] += machine.epochs[slot] >= 0
            for key, row in machine.rows.items():
                if machine.epochs[slot_of(key)] < 0:
                    wrong.append(f"shard {shard} holds {key!r}, which is not its own")
                elif not key.startswith(b"\0"):
                    held[key.decode()] = row.value.decode(), row.revision
        if set(owners) != {1}:
            wrong.append("a slot has no owner, or two")
        for kv in self.gateways:
            scanning = asyncio.create_task(kv.scan(level=LINEARIZABLE))
            await until(self.clock, [scanning])
            if {key.decode(): (row.value.decode(), row.revision) for key, row in scanning.result()} != held:
                wrong.append("a gateway's view differs from the logs")
        self.history._output.flush()  # type: ignore[union-attr]
        wrong += [finding.text for finding in check_fold(read_history(self.path), held)]
        return wrong

    async def close(self) -> None:
        for kv in self.gateways:
            await kv.close()


def _kill_at(link: Link, left: Iterator[int], killing: asyncio.Future[None]) -> None:
    """Have the process stand still from one append on."""
    append = link.append

    async def counted(payload: bytes, **options: Any) -> int:
        if next(left, None) is None:
            if not killing.done():
                killing.set_result(None)
            raise BusUnavailableError("killed")
        return await append(payload, **options)

    link.append = counted  # type: ignore[method-assign]


async def until_any(clock: StillClock, tasks: list[asyncio.Future[Any]]) -> None:
    for _ in range(4_000):
        await settle(12)
        if any(task.done() for task in tasks):
            return
        clock.advance(0.25)
    raise AssertionError("neither ended nor killed")


async def run_day(path: Path, seed: int, kills: list[tuple[int, int]]) -> tuple[World, list[str]]:
    """Clients at work while movers come and are killed."""
    world = World(path, Random(seed))
    await world.start()
    for number in range(4):
        world.client(f"c{number}", 40)
    for shards, appends in kills:
        for links in world.links:
            for link in links:
                link.faults.extend(world.rng.choices(FAULTS, k=2))
        if world.rng.random() < 0.4:
            await world.links[0][world.rng.randrange(SHARDS_MAX)].hold(more=2)
        await world.move(shards, appends)
        for link in world.links[0]:
            link.let_go()
    wrong = await world.end()
    return world, wrong


KILLS = st.lists(st.tuples(st.integers(1, SHARDS_MAX), st.integers(0, 60)), min_size=1, max_size=5)


@settings(deadline=None, max_examples=12)
@example(9303, [(2, 53), (1, 50), (3, 27), (1, 52)])  # What was given away goes back to who gave it.
@given(st.integers(0, 2**32), KILLS)
def test_movers_that_are_killed_lose_nothing(seed: int, kills: list[tuple[int, int]]) -> None:
    async def run(path: Path) -> None:
        world, wrong = await run_day(path, seed, kills)
        assert wrong == []
        await world.close()

    with pytest.MonkeyPatch.context() as patch, _folder() as place:
        _small_runs(patch)
        asyncio.run(run(place / "history.jsonl"))


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def _small_runs(patch: pytest.MonkeyPatch) -> None:
    """Runs of slots that hold a key or two, and rows in portions of one."""
    patch.setattr("tapehouse.kv.mover.RANGE_ROWS", 2)
    patch.setattr("tapehouse.kv.mover.COPY_ROWS", 1)
    patch.setattr("tapehouse.kv.mover.RANGE_SLOTS", 2_048)


async def test_the_days_meet_what_they_are_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Movers are killed in the midst of runs, and writers meet slots that are frozen or elsewhere."""
    _small_runs(monkeypatch)
    met = dict.fromkeys((Status.FROZEN, Status.NOT_OWNED, Status.OTHER_MOVE), 0)
    kills = 0
    for seed in range(4):
        world, wrong = await run_day(tmp_path / f"{seed}", seed, [(2, 21), (3, 33), (1, 40)])
        assert wrong == []
        for log in world.logs:
            _, told = await fold(log)
            for pairs in told.values():
                for _, answer in pairs:
                    met[answer.status] = met.get(answer.status, 0) + 1
        kills += world.kills
        await world.close()
    assert kills >= 6
    assert met[Status.FROZEN] > 5
    assert met[Status.NOT_OWNED] > 5


# Controls: what is wrong is caught.


@pytest.mark.parametrize("is_checked", [True, False])
async def test_control_a_reader_that_does_not_look_again_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_checked: bool
) -> None:
    """Its gateway has not heard that the slot moved: what its barrier brings says so, and must be looked at."""
    world = World(tmp_path / "history", Random(1))
    await world.start()
    behind, kv = world.gateways
    key, session = KEYS[7], Session()
    for link in world.links[0]:
        await link.hold()
    moving = asyncio.create_task(Mover(kv, clock=world.clock, life=new_life()).run(2))
    await until(world.clock, [moving])
    await world._call(kv, "c1", "put", key, session)
    if not is_checked:

        async def bad(self: Kv, slot: int, level: Any) -> ShardNode:
            node = self.shards.node(slot)
            await node.reach(level)
            return node

        monkeypatch.setattr(Kv, "_reached", bad)
    reading = asyncio.create_task(world._call(behind, "c2", "linearizable", key, Session()))
    await settle()
    for link in world.links[0]:
        link.let_go()
    await until(world.clock, [reading])
    reading.result()
    world.history.close()
    assert check_linearizable(world.path).result == ("ok" if is_checked else "violation")
    await world.close()


async def test_control_a_mover_that_drops_a_row_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path / "history", Random(1))
    await world.start()
    for key in KEYS:
        await world._call(world.gateways[0], "c1", "put", key, Session())
    good = Mover._copies

    async def bad(self: Mover, source: ShardNode, run: Any) -> Any:
        async for bodies in good(self, source, run):
            if bodies[1:]:
                yield bodies[1:]

    monkeypatch.setattr(Mover, "_copies", bad)
    wrong = await world.end()
    assert any("holds nothing after" in each for each in wrong), wrong
    await world.close()


async def test_control_a_mover_that_copies_before_it_freezes_is_refused(tmp_path: Path) -> None:
    """What the target counted is not what was announced, and what was not frozen cannot be given."""
    world = World(tmp_path / "history", Random(1))
    await world.start()
    kv = world.gateways[0]
    mover = Mover(kv, clock=world.clock, life=new_life())
    await mover._claim()
    await mover._begin(2)
    source, target = kv.nodes
    run = 8_192, 9_000, 1
    await mover._apply(target, [moves.receive(*run)])
    steps = [
        (source, moves.give(*run)),
        (target, moves.own_copied(*run, count=1, digest=0, time=0)),
        (source, moves.copy(b"k", b"", expiry=0, revision=0)),
    ]
    for node, step in steps:
        with pytest.raises(ConflictError, match="OTHER_MOVE"):
            await mover._apply(node, [step])
    assert source.view.owns(8_192)
    world.history.close()
    await world.close()
