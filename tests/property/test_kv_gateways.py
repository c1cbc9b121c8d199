"""Several gateways on one log, with acknowledgements lost, frames late, readers held and crashes, in any order.

Every answer is what the reference makes of the log; nothing that was answered is lost or doubled; no linearizable read
is older than what anybody had been answered when it began. A gateway whose readers join a barrier in flight is the
control that must be caught.
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core.errors import AmbiguousAppendError, TapehouseError, TransientError
from tapehouse.kv import requests
from tapehouse.kv.client import Kv
from tapehouse.kv.entries import Entry, Op, Status
from tapehouse.kv.errors import OutcomeUnknownError
from tapehouse.kv.levels import LINEARIZABLE, Session
from tapehouse.kv.reference import Stored
from tapehouse.kv.shard_writer import ShardWriter
from tapehouse.log import MemoryLog
from tests.support.kv_world import FAULTS, Link, StillClock, fold, open_kv, settle, until

KEYS = (b"{t}a", b"{t}b", b"{t}c")
GATEWAYS = 3


@dataclass(eq=False)
class Call:
    """One call and what came of it; `entry` of a write, None of a read."""

    key: bytes
    entry: Entry | None
    acknowledged: int  # the highest sequence that anybody had been answered when it began
    level: str = ""
    seen: int = 0  # the highest sequence that its session had noted
    result: Any = None
    error: BaseException | None = None
    ended: int = 0  # where the log ended when it was answered


@dataclass(eq=False)
class Day:
    """The gateways, and what was asked of them."""

    log: MemoryLog
    clock: StillClock
    links: list[Link] = field(default_factory=list)
    gateways: list[Kv] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    acknowledged: int = 0
    marks: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    revisions: dict[bytes, int] = field(default_factory=dict)

    async def open(self) -> None:
        for _ in range(GATEWAYS):
            link = Link(self.log)
            self.links.append(link)
            self.gateways.append(await open_kv(link, clock=self.clock))
            self.sessions.append(Session())

    def ask(self, gateway: int, kind: str, key: bytes) -> None:
        kv, mark = self.gateways[gateway], next(self.marks)
        call = Call(key, None, self.acknowledged)
        work: Any
        if kind in ("linearizable", "session"):
            session = self.sessions[gateway]
            token = session.token(0)
            call.level, call.seen = kind, token.sequence if token else 0
            work = kv.get(key, LINEARIZABLE if kind == "linearizable" else session)
        else:
            value = b"v%d" % mark
            call.entry = {
                "put": lambda: requests.put(key, value, return_old=True),
                "put_if": lambda: requests.put(key, value, revision=self.revisions.get(key, 0)),
                "absent": lambda: requests.put(key, value, if_absent=True),
                "delete": lambda: requests.delete(key, return_old=True),
                "add": lambda: requests.add(b"{t}n", 1 << mark % 60),
            }[kind]()
            call.key = call.entry.key
            work = kv.write(call.entry, session=self.sessions[gateway])
        self.calls.append(call)
        self.tasks.append(asyncio.create_task(self._run(call, work)))

    async def _run(self, call: Call, work: Any) -> None:
        try:
            call.result = await work
        except TapehouseError as error:
            call.error = error
        else:
            call.ended = (await self.log.extent()).last
            if call.entry is not None:
                self.acknowledged = max(self.acknowledged, call.result.token.sequence)
                is_gone = call.entry.op is Op.DELETE and call.result.is_applied
                self.revisions[call.key] = 0 if is_gone else call.result.revision

    async def step(self, gateway: int, action: str, key: bytes, faults: list[str]) -> None:
        link = self.links[gateway]
        if action == "crash":
            await self.gateways[gateway].close()
            self.links[gateway] = Link(self.log)
            opening = asyncio.create_task(open_kv(self.links[gateway], clock=self.clock))
            await until(self.clock, [opening])
            self.gateways[gateway] = opening.result()
        elif action == "faults":
            link.faults.extend(faults)
        elif action == "arrive":
            await link.arrive()
        elif action == "hold":
            await link.hold(more=1)
        elif action == "let_go":
            link.let_go()
        elif action == "break":
            link.break_reader()
        elif action == "wait":
            self.clock.advance(0.3)
            await settle()
        elif action == "settle":
            await settle(8)
        else:
            self.ask(gateway, action, key)

    async def end(self) -> None:
        for link in self.links:
            link.faults.clear()
            link.let_go()
        await until(self.clock, self.tasks)
        for link in self.links:
            await link.arrive()
        await settle()
        for _ in range(3):  # A reader that failed last of all is opened again, and may fail once more.
            self.clock.advance(1)
            await settle()


async def check_day(day: Day) -> list[str]:
    """Everything that is wrong with a day; empty where nothing is."""
    views, told = await fold(day.log)
    wrong = []
    applied = [
        (entry, answer)
        for _, pairs in sorted(told.items())
        for entry, answer in pairs
        if answer.status not in (Status.REPEATED, Status.OUT_OF_TURN)
    ]
    for call in day.calls:
        name = f"{call.level or call.entry} of {call.key!r}"
        if call.entry is None:
            if call.error is None and not _is_fresh(call, views):
                wrong.append(f"{name} read {call.result}, older than sequence {call.acknowledged}")
            continue
        times = sum(entry == call.entry for entry, _ in applied) if _is_marked(call.entry) else None
        if call.error is None:
            answers = [answer for entry, answer in told[call.result.token.sequence] if entry == call.entry]
            outcome = call.result
            if (outcome.status, outcome.revision, outcome.old) not in [(a.status, a.revision, a.old) for a in answers]:
                wrong.append(f"{name} was answered {outcome}, the log says {answers}")
            if times not in (None, 1):
                wrong.append(f"{name} was answered and stands {times} times")
        elif isinstance(call.error, OutcomeUnknownError):
            if times is not None and times > 1:
                wrong.append(f"{name} of unknown outcome stands {times} times")
        elif not isinstance(call.error, TransientError) or times:
            wrong.append(f"{name} failed with {call.error!r} and stands {times} times")
    for gateway in day.gateways:
        if gateway.nodes[0].view.scan(b"") != views[-1].scan(b""):
            wrong.append("a view differs from the fold of its log")
    return wrong


def _is_marked(entry: Entry) -> bool:
    return entry.op in (Op.PUT, Op.ADD)


def _is_fresh(call: Call, views: list[Any]) -> bool:
    """Whether what was read was there at some time between what had to be seen and the end of the log."""
    first = call.acknowledged if call.level == "linearizable" else call.seen
    return any(_same(views[at].rows.get(call.key), call.result) for at in range(first, call.ended + 1))


def _same(one: Stored | None, other: Stored | None) -> bool:
    return one == other


STEPS = st.lists(
    st.tuples(
        st.integers(0, GATEWAYS - 1),
        st.sampled_from(
            ["put", "put", "put_if", "absent", "delete", "add", "linearizable", "linearizable", "session", "faults",
             "faults", "arrive", "hold", "let_go", "break", "wait", "settle", "settle", "crash"]
        ),
        st.sampled_from(KEYS),
        st.lists(st.sampled_from(FAULTS), min_size=1, max_size=3),
    ),
    min_size=10,
    max_size=60,
)  # fmt: skip


@given(STEPS)
@settings(max_examples=50, deadline=None)
def test_every_answer_is_the_logs(steps: list[tuple[int, str, bytes, list[str]]]) -> None:
    async def run() -> None:
        day = Day(MemoryLog("KV_0"), StillClock())
        await day.open()
        for step in steps:
            await day.step(*step)
        await day.end()
        assert await check_day(day) == []
        for gateway in day.gateways:
            await gateway.close()

    asyncio.run(run())


@pytest.mark.parametrize("joins_in_flight", [False, True])
async def test_a_reader_that_joins_a_barrier_in_flight_is_caught(
    monkeypatch: pytest.MonkeyPatch, joins_in_flight: bool
) -> None:
    day = Day(MemoryLog("KV_0"), StillClock())
    await day.open()
    link = day.links[0]
    await link.hold()
    day.ask(0, "linearizable", KEYS[0])  # Its barrier is stored, and this gateway's view does not see it yet.
    await settle()
    stored = (await day.log.extent()).last
    day.ask(1, "put", KEYS[0])
    await settle()
    assert day.acknowledged == stored + 1
    if joins_in_flight:
        good = ShardWriter.barrier

        def bad(self: ShardWriter) -> asyncio.Future[int]:
            riding = [ride for flight in self._flights.values() for ride in flight.rides]
            return riding[-1].join() if riding else good(self)

        monkeypatch.setattr(ShardWriter, "barrier", bad)
    day.ask(0, "linearizable", KEYS[0])
    await settle()
    link.let_go(through=stored)
    await settle()
    await day.end()
    wrong = await check_day(day)
    assert len(wrong) == joins_in_flight
    assert all("older than sequence" in each for each in wrong)
    for gateway in day.gateways:
        await gateway.close()


def _without_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that sends again what was not acknowledged as a new frame."""
    send = ShardWriter._send

    async def bad(self: ShardWriter, flight: Any) -> None:
        try:
            await self._log.append(flight.payload, expected_last=None)
        except AmbiguousAppendError:
            again = self._frame(list(flight.submissions[0].bodies), flight.submissions, [])
            await send(self, again)

    monkeypatch.setattr(ShardWriter, "_send", bad)


async def test_a_writer_that_sends_again_as_a_new_frame_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    day = Day(MemoryLog("KV_0"), StillClock())
    await day.open()
    _without_numbers(monkeypatch)
    day.links[0].faults.append("unheard")
    day.ask(0, "put", KEYS[0])
    await settle()
    await day.end()
    assert any("stands 2 times" in each for each in await check_day(day))
    for gateway in day.gateways:
        await gateway.close()
