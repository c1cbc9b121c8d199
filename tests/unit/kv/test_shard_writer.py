"""One gateway's writer: frames, one in flight, and entries that are applied once whatever is lost."""

from __future__ import annotations

import asyncio

import pytest

from tapehouse.core.errors import BusUnavailableError, BusyError, DataError
from tapehouse.kv import requests, shard_writer
from tapehouse.kv.client import Kv
from tapehouse.kv.entries import BODY_BYTES_MAX, ENTRIES_MAX, Entry, Op, encode_entry, entry_frame, open_entry_frame
from tapehouse.kv.errors import OutcomeUnknownError
from tapehouse.kv.faults import Faults
from tapehouse.kv.reference import WRITERS_MAX
from tapehouse.kv.shard_writer import FRAMES_AHEAD_MAX
from tapehouse.log import MemoryLog
from tests.support.kv_world import Link, StillClock, fold, open_kv, settle, until

PATIENCE_S = 10


@pytest.fixture
async def clock() -> StillClock:
    return StillClock()


async def counts(log: MemoryLog) -> list[int]:
    """How many entries each frame holds."""
    return [open_entry_frame(message.payload)[0].count async for message in log.read(1)]


async def opened(clock: StillClock, **options: object) -> tuple[MemoryLog, Link, Kv]:
    log = MemoryLog("KV_0")
    link = Link(log)
    return log, link, await open_kv(link, clock=clock, **options)


def puts(kv: Kv, count: int) -> list[asyncio.Task[requests.Outcome]]:
    return [asyncio.create_task(kv.put(b"k%d" % index, b"v%d" % index)) for index in range(count)]


@pytest.mark.parametrize(("commit", "frames"), [("group", [1, 99]), ("each", [1] * 100)])
async def test_the_next_frame_takes_what_waited(clock: StillClock, commit: str, frames: list[int]) -> None:
    log, link, kv = await opened(clock, commit=commit)
    before = len(await counts(log))
    link.faults.append("stuck")
    first = puts(kv, 1)
    await settle()
    rest = puts(kv, 99)
    await settle()
    assert len(await counts(log)) == before  # One append is in flight, and nothing passes it.
    link.unstick()
    await until(clock, [*first, *rest])
    assert (await counts(log))[before:] == frames
    assert all(task.result().is_applied for task in (*first, *rest))
    await kv.close()


async def test_a_frame_has_bounds(clock: StillClock) -> None:
    log, link, kv = await opened(clock)
    before = len(await counts(log))
    link.faults.append("stuck")
    first = puts(kv, 1)
    await settle()
    big = [asyncio.create_task(kv.put(b"big%d" % index, bytes(400 * 1024))) for index in range(3)]
    await settle()
    link.unstick()
    await until(clock, [*first, *big])
    assert (await counts(log))[before:] == [1, 2, 1]
    node, barrier = kv.nodes[0], encode_entry(Entry(op=Op.BARRIER))
    for bodies in ([], [barrier] * (ENTRIES_MAX + 1), [bytes(BODY_BYTES_MAX + 1)]):
        with pytest.raises(DataError, match="fit no frame"):
            node.submit(bodies)
    await kv.close()


async def test_a_full_queue_refuses_and_begins_nothing(clock: StillClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_writer, "QUEUE_ENTRIES_MAX", 8)
    _log, link, kv = await opened(clock)
    link.faults.append("stuck")
    first = puts(kv, 1)
    await settle()
    waiting = puts(kv, 8)
    await settle()
    with pytest.raises(BusyError, match="8 entries wait to be written; nothing was begun"):
        await kv.put(b"over", b"")
    link.unstick()
    await until(clock, [*first, *waiting])
    assert (await kv.put(b"over", b"")).is_applied  # There is room again.
    assert await kv.get(b"k7") is not None
    await kv.close()


@pytest.mark.parametrize("fault", ["lost", "unheard", "late", "refused"])
async def test_what_was_not_acknowledged_is_sent_again_as_the_same_bytes_and_applied_once(
    clock: StillClock, fault: str
) -> None:
    _log, link, kv = await opened(clock)
    link.appended.clear()
    link.faults.extend([fault, fault])
    task = asyncio.create_task(kv.add(b"n", 5))
    await until(clock, [task])
    await link.arrive()  # What was late comes last of all.
    await settle()
    assert task.result() == 5
    assert len(set(link.appended)) == 1
    assert len(link.appended) == (1 if fault == "unheard" else 3)  # Seen in the log, it is not sent again.
    assert await kv.add(b"n", 1) == 6
    await kv.close()


async def test_patience_ends_with_what_is_known(clock: StillClock) -> None:
    _log, link, kv = await opened(clock)
    link.faults.extend(["lost"] * 1000)
    sent = puts(kv, 1)
    await settle()
    queued = asyncio.create_task(kv.put(b"queued", b""))
    read = asyncio.create_task(kv.nodes[0].barrier())
    await settle()
    clock.advance(PATIENCE_S / 2)
    await settle()
    assert not sent[0].done()
    assert not queued.done()
    for _ in range(8):
        clock.advance(1)
        await settle()
    with pytest.raises(OutcomeUnknownError, match="may or may not have been applied"):
        await sent[0]
    with pytest.raises(BusUnavailableError, match="nothing was sent"):
        await queued
    with pytest.raises(BusUnavailableError):
        await read
    link.faults.clear()
    after = asyncio.create_task(kv.put(b"after", b""))
    await until(clock, [after])
    assert after.result().is_applied
    assert await kv.get(b"queued") is None
    assert await kv.get(b"k0") is not None  # It was sent, and came through in the end.
    await kv.close()


async def test_a_caller_who_left_is_not_written_for(clock: StillClock) -> None:
    _log, link, kv = await opened(clock)
    link.faults.append("stuck")
    first = puts(kv, 1)
    await settle()
    left = asyncio.create_task(kv.put(b"left", b""))
    await settle()
    left.cancel()
    await settle()
    link.unstick()
    await until(clock, list(first))
    assert await kv.get(b"left") is None
    await kv.close()


async def test_a_life_whose_first_frame_is_in_doubt_is_given_up(clock: StillClock) -> None:
    log = MemoryLog("KV_0")
    link = Link(log)
    link.faults.extend(["late", "lost", "refused"])
    opening = asyncio.create_task(open_kv(link, clock=clock))
    await until(clock, [opening])
    kv = opening.result()
    assert len(set(link.appended[:4])) == 4  # None of them was sent twice.
    await link.arrive()
    assert (await kv.put(b"k", b"v")).is_applied
    await kv.close()


async def test_a_gateway_that_was_forgotten_begins_a_new_life_and_doubles_nothing(clock: StillClock) -> None:
    log, link, kv = await opened(clock)
    await kv.add(b"n", 1)
    # As many other gateways begin as are remembered.
    for other in range(WRITERS_MAX):
        await log.append(_barrier(log, 10**9 + other, await _log_id(log)), expected_last=None)
    await settle()
    link.faults.append("late")
    tasks = [asyncio.create_task(kv.add(b"n", 10)), asyncio.create_task(kv.add(b"n", 100))]
    read = asyncio.create_task(kv.nodes[0].barrier())
    await until(clock, [*tasks, read])
    assert sorted(task.result() for task in tasks) == [11, 111]
    await link.arrive()  # A copy of the frame that was refused: it stays refused.
    await settle()
    stored = await kv.get(b"n")
    assert stored is not None
    assert stored.value == b"111"
    assert kv.nodes[0].metrics.get("kv_lives_refused_total") == 1
    views, _ = await fold(log)
    assert views[-1].rows == dict(kv.nodes[0].view.scan(b""))
    await kv.close()


async def test_the_writer_waits_for_a_view_that_is_far_behind(clock: StillClock) -> None:
    log, link, kv = await opened(clock, commit="each")
    await link.hold()
    before = len(await counts(log))
    tasks = puts(kv, 3 * FRAMES_AHEAD_MAX)
    await settle(400)
    assert len(await counts(log)) - before == FRAMES_AHEAD_MAX
    assert not any(task.done() for task in tasks)  # Stored is not answered: the view decides.
    link.let_go()
    await until(clock, list(tasks))
    await kv.close()


async def test_close_tells_who_waits(clock: StillClock) -> None:
    _log, link, kv = await opened(clock)
    link.faults.append("stuck")
    sent = puts(kv, 1)
    await settle()
    queued = asyncio.create_task(kv.put(b"queued", b""))
    await settle()
    await kv.close()
    with pytest.raises(OutcomeUnknownError):
        await sent[0]
    with pytest.raises(BusUnavailableError, match="closed"):
        await queued
    with pytest.raises(BusUnavailableError, match="closed"):
        await kv.put(b"k", b"")


async def test_drills_delay_and_refuse(clock: StillClock) -> None:
    faults = Faults()
    log, _link, kv = await opened(clock, faults=faults)
    assert not faults.is_on
    faults.refuses_write = lambda: True
    with pytest.raises(BusyError, match="a drill refuses"):
        await kv.put(b"k", b"")
    faults.refuses_write, faults.write_delay_ns, faults.view_delay_ns = None, 10**9, 2 * 10**9
    assert faults.is_on
    last = (await log.extent()).last
    task = asyncio.create_task(kv.put(b"k", b"v"))
    await settle()
    assert (await log.extent()).last == last
    clock.advance(1)
    await settle()
    assert (await log.extent()).last == last + 1
    assert not task.done()
    clock.advance(2)
    await settle()
    assert task.result().is_applied
    await kv.close()


async def _log_id(log: MemoryLog) -> bytes:
    return (await log.extent()).log_id


def _barrier(log: MemoryLog, writer: int, log_id: bytes) -> bytes:
    return entry_frame([encode_entry(Entry(op=Op.BARRIER))], log_id=log_id, writer=writer, number=1, time=1)
