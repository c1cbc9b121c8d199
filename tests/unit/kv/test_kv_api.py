"""The KV in process: what callers ask for, read levels and tokens, shards, watchers and history."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tapehouse.core.errors import BusUnavailableError, DataError, DecodeError, UsageError
from tapehouse.core.ids import new_log_id
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.kv import recent, requests
from tapehouse.kv.client import Kv
from tapehouse.kv.entries import Status, encode_entry, entry_frame
from tapehouse.kv.errors import CrossSlotError, OtherBranchError, StaleError, WatchLaggedError
from tapehouse.kv.levels import LINEARIZABLE, Eventual, Session, Token
from tapehouse.kv.shard_map import SHARDS_KEY, first_slots
from tapehouse.kv.slots import SLOTS, slot_of
from tapehouse.log import Branch, MemoryLog
from tests.support.kv_world import Link, StillClock, open_kv, settle, until


@pytest.fixture
async def clock() -> StillClock:
    return StillClock()


@pytest.fixture
async def log() -> MemoryLog:
    return MemoryLog("KV_0")


@pytest.fixture
async def kv(log: MemoryLog, clock: StillClock) -> AsyncIterator[Kv]:
    async with await open_kv(log, clock=clock) as kv:
        yield kv


async def value(kv: Kv, key: bytes) -> bytes | None:
    stored = await kv.get(key, LINEARIZABLE)
    return stored.value if stored else None


async def test_what_one_caller_can_do(kv: Kv, clock: StillClock) -> None:
    assert await kv.get(b"k", LINEARIZABLE) is None
    first = await kv.put_if(b"k", b"1", 0)
    assert first.is_applied
    refused = await kv.put_if(b"k", b"2", 0)
    assert (refused.status, refused.revision) == (Status.CHANGED, first.revision)
    second = await kv.put_if(b"k", b"2", first.revision)
    assert second.revision > first.revision
    assert (await kv.put(b"k", b"3", if_absent=True)).status is Status.PRESENT
    assert (await kv.put(b"none", b"3", if_present=True)).status is Status.ABSENT
    assert (await kv.put(b"k", b"3", return_old=True)).old == b"2"
    assert (await kv.delete(b"k", revision=first.revision)).status is Status.CHANGED
    assert (await kv.delete(b"k", return_old=True)).old == b"3"
    assert (await kv.delete(b"k")).status is Status.ABSENT
    assert [await kv.add(b"n", amount) for amount in (5, -7, 2**62)] == [5, -2, 2**62 - 2]
    with pytest.raises(DataError, match="does not fit 64 bits"):
        await kv.add(b"n", 2**62 + 2)
    await kv.put(b"text", b"x")
    with pytest.raises(DataError, match="no decimal integer"):
        await kv.add(b"text")
    assert (await kv.expire(b"none", 1)).status is Status.ABSENT


async def test_time_to_live(kv: Kv, clock: StillClock) -> None:
    await kv.put(b"short", b"1", ttl_s=2)
    await kv.put(b"kept", b"1", ttl_s=2)
    await kv.put(b"kept", b"2", keep_ttl=True)
    await kv.put(b"long", b"1", ttl_s=2)
    assert (await kv.expire(b"long", None)).is_applied
    stored = await kv.get(b"kept")
    assert stored is not None
    assert stored.expiry == clock.now + 2 * NS_PER_SECOND
    clock.advance(2)
    assert await kv.get(b"short") is None  # By the reader's own clock: the log has not moved.
    assert [key for key, _ in await kv.scan()] == [b"long"]
    assert await value(kv, b"kept") is None  # By the log's: the barrier brought the time.
    assert await value(kv, b"long") == b"1"
    assert (await kv.put(b"short", b"2", if_absent=True)).is_applied
    for wrong in (0, -1, float("nan"), 10**12):
        with pytest.raises(DataError, match="time to live"):
            await kv.put(b"k", b"", ttl_s=wrong)


async def test_a_batch_is_applied_as_a_whole_or_not_at_all(kv: Kv) -> None:
    done = await kv.batch([requests.put(b"{a}1", b"x"), requests.add(b"{a}2", 3), requests.put(b"{a}3", b"z")])
    assert done.is_applied
    assert [outcome.is_applied for outcome in done.outcomes] == [True] * 3
    refused = await kv.batch([requests.put(b"{a}1", b"y"), requests.put(b"{a}3", b"y", revision=0)])
    assert refused.status is Status.REFUSED
    assert [outcome.status for outcome in refused.outcomes] == [Status.REFUSED, Status.CHANGED]
    assert [await value(kv, b"{a}%d" % n) for n in (1, 2, 3)] == [b"x", b"3", b"z"]
    with pytest.raises(CrossSlotError, match="CROSSSLOT"):
        await kv.batch([requests.put(b"a", b""), requests.put(b"b", b"")])
    with pytest.raises(UsageError, match="twice"):
        await kv.batch([requests.put(b"a", b""), requests.delete(b"a")])
    with pytest.raises(UsageError, match="0 entries"):
        await kv.batch([])


async def test_scans_go_in_order_and_in_pages(clock: StillClock) -> None:
    async with await open_kv(*[MemoryLog(f"KV_{n}") for n in range(3)], clock=clock) as kv:
        keys = sorted(b"p/%d" % n for n in range(50))
        for key in keys:
            await kv.put(key, key)
        await kv.put(b"q", b"")
        await kv.put(b"", b"the empty key")
        assert len({kv.nodes.index(kv.shards.node(slot_of(key))) for key in keys}) == 3
        pages = [await kv.scan(b"p/", LINEARIZABLE, limit=20)]
        while pages[-1]:
            pages.append(await kv.scan(b"p/", Session(), after=pages[-1][-1][0], limit=20))
        assert [key for page in pages for key, _ in page] == keys
        assert [len(page) for page in pages] == [20, 20, 10, 0]
        assert [key for key, _ in await kv.scan()] == [b"", *keys, b"q"]  # And none of the KV's own.
        assert [key for key, _ in await kv.scan(after=b"", limit=1)] == keys[:1]
        with pytest.raises(UsageError):
            await kv.scan(limit=0)


async def test_mistakes_are_told_before_anything_is_written(kv: Kv, log: MemoryLog) -> None:
    before = (await log.extent()).last
    for key, stored in ((bytes(1025), b""), (b"k", bytes(512 * 1024 + 1)), (SHARDS_KEY, b"7")):
        with pytest.raises((DataError, UsageError)):
            await kv.put(key, stored)
    with pytest.raises(DataError):
        await kv.put_if(b"k", b"", -1)
    with pytest.raises(DataError):
        await kv.add(b"k", 2**63)
    assert (await log.extent()).last == before


# Shards.


def test_first_slots_share_all_slots_out() -> None:
    assert slot_of(SHARDS_KEY) == 0
    for shards in (1, 2, 3, 7, 8, 256):
        runs = [first_slots(shard, shards) for shard in range(shards)]
        assert [slot for first, last in runs for slot in range(first, last + 1)] == list(range(SLOTS))


async def test_of_gateways_that_open_a_new_kv_at_once_one_decides(clock: StillClock) -> None:
    logs = [MemoryLog(f"KV_{n}") for n in range(4)]
    opening = [asyncio.create_task(open_kv(*logs, clock=clock, shards=shards)) for shards in (4, 2, 4)]
    await until(clock, list(opening))
    opened = [task.result() for task in opening if task.exception() is None]
    errors = [task.exception() for task in opening if task.exception() is not None]
    assert len(opened) in (1, 2)
    assert all(isinstance(error, UsageError) for error in errors)
    count = len(opened[0].nodes)
    assert "was made with" in str(errors[0])
    for node in opened[0].nodes:
        first, last = first_slots(node.shard, count)
        owned = [slot for slot in range(SLOTS) if node.view.owns(slot)]
        assert owned == list(range(first, last + 1))
    lasts = [(await log.extent()).last for log in logs[:count]]
    async with await Kv.open(_opener(logs), new_life=iter(range(10**6, 10**7)).__next__, clock=clock) as late:
        assert len(late.nodes) == count
    assert [(await log.extent()).last for log in logs[:count]] == [last + 1 for last in lasts]  # Barriers alone.
    for kv in opened:
        await kv.close()
    with pytest.raises(UsageError, match="the KV is new"):
        await Kv.open(_opener([MemoryLog("KV_0")]), new_life=lambda: 1, clock=clock)


def _opener(logs: list[MemoryLog]):  # type: ignore[no-untyped-def]
    async def open_log(shard: int) -> MemoryLog:
        return logs[shard]

    return open_log


# Levels.


async def test_a_session_sees_its_own_writes_at_any_gateway(log: MemoryLog, clock: StillClock) -> None:
    link = Link(log)
    async with await open_kv(log, clock=clock) as here, await open_kv(link, clock=clock) as there:
        await link.hold()
        session = Session()
        await here.put(b"k", b"1", session=session)
        carried = Session.parse(session.text)
        assert await there.get(b"k") is None
        read = asyncio.create_task(there.get(b"k", carried))
        await settle()
        assert not read.done()
        link.let_go()
        await until(clock, [read])
        assert read.result() is not None
        await link.hold()
        await here.put(b"k", b"2", session=session)
        late = asyncio.create_task(there.get(b"k", session))
        await settle()
        clock.advance(10)
        await settle()
        with pytest.raises(BusUnavailableError, match="the session has seen"):
            await late
        link.let_go()


async def test_a_session_of_another_branch_is_refused(clock: StillClock) -> None:
    old, living = new_log_id(), new_log_id()
    log = MemoryLog("KV_0", branches=(Branch(log_id=old, through=0), Branch(log_id=living)))
    async with await open_kv(log, clock=clock) as kv:
        for log_id, sequence, fits in ((old, 1, False), (living, 1, True), (old, 0, True), (new_log_id(), 0, False)):
            session = Session((Token(log_id=log_id, shard=0, epoch=0, sequence=sequence),))
            if fits:
                await kv.get(b"k", session)
            else:
                with pytest.raises(OtherBranchError, match="was restored"):
                    await kv.get(b"k", session)


def test_tokens_are_text_and_notice_a_change() -> None:
    token = Token(log_id=bytes(range(16)), shard=3, epoch=2, sequence=2**35)
    assert Token.parse(token.text) == token
    session = Session((token, Token(log_id=bytes(16), shard=1, epoch=0, sequence=7)))
    session.note(Token(log_id=bytes(16), shard=1, epoch=0, sequence=5))
    again = Session.parse(session.text)
    assert again.text == session.text
    assert again.token(1) == session.token(1)
    assert again.token(2) is None
    kept = again.token(1)
    assert kept is not None
    assert kept.sequence == 7
    assert Session.parse("").text == ""
    wrong = [token.text[:-1], "?" * 44, "", "é", token.text.swapcase(), token.text + "AAAA"]
    wrong += [token.text[:at] + ("A" if token.text[at] != "A" else "B") + token.text[at + 1 :] for at in range(44)]
    for text in wrong:
        with pytest.raises(DataError, match="no session token"):
            Token.parse(text)


async def test_staleness_is_known_from_own_frames(log: MemoryLog, clock: StillClock) -> None:
    link = Link(log)
    async with await open_kv(link, clock=clock) as kv:
        fresh = Eventual(NS_PER_SECOND)
        node, before = kv.nodes[0], len(link.appended)
        assert node.staleness_ns == 0
        clock.advance(0.4)
        assert await kv.get(b"k", fresh) is None
        await settle()
        assert len(link.appended) == before  # Fresh enough, and nobody was asked.
        clock.advance(0.3)
        await kv.get(b"k", fresh)
        await kv.get(b"k", fresh)
        await settle()
        assert len(link.appended) == before + 1
        assert node.staleness_ns == 0
        clock.advance(5)
        link.faults.append("stuck")
        reads = [asyncio.create_task(kv.get(b"k", fresh)) for _ in range(10)]
        await settle()
        assert not any(read.done() for read in reads)
        link.unstick()
        await until(clock, list(reads))
        assert len(link.appended) == before + 2  # One barrier for all of them.
        clock.advance(5)
        link.faults.extend(["lost"] * 100)
        late = asyncio.create_task(kv.get(b"k", fresh))
        assert await kv.get(b"k") is None  # Without a bound it is answered all the same.
        await settle()
        clock.advance(12)
        await settle()
        with pytest.raises(StaleError, match="last known to be at the log's end 5 s ago"):
            await late


async def test_many_linearizable_readers_share_a_barrier(log: MemoryLog, clock: StillClock) -> None:
    link = Link(log)
    async with await open_kv(link, clock=clock) as kv:
        link.faults.append("stuck")
        first = asyncio.create_task(kv.get(b"k", LINEARIZABLE))
        await settle()
        before = len(link.appended)
        rest = [asyncio.create_task(kv.get(b"k", LINEARIZABLE)) for _ in range(100)]
        await settle()
        rest[0].cancel()  # Who leaves takes nobody along.
        link.unstick()
        await until(clock, [first, *rest])
        assert len(link.appended) == before + 1
        assert [task.cancelled() for task in rest] == [True] + [False] * 99


# Faults of the log.


async def test_a_reader_that_fails_is_opened_again_where_it_was(log: MemoryLog, clock: StillClock) -> None:
    link = Link(log)
    async with await open_kv(link, clock=clock) as kv:
        for number in range(3):
            link.break_reader()
            adding = asyncio.create_task(kv.add(b"n"))
            await until(clock, [adding])
            assert adding.result() == number + 1
        assert kv.nodes[0].metrics.get("kv_readers_reopened_total") == 3


async def test_bytes_that_are_no_frame_halt_the_view_by_their_sequence(log: MemoryLog, clock: StillClock) -> None:
    async with await open_kv(log, clock=clock) as kv:
        link_last = (await log.extent()).last
        watching = asyncio.ensure_future(anext(kv.watch(b"")))
        await settle()
        await log.append(b"rubbish", expected_last=None)
        await settle()
        for call in (kv.get(b"k"), kv.put(b"k", b""), kv.scan(), watching):
            with pytest.raises(DecodeError, match=f"KV_0, sequence {link_last + 1}, byte 0: a frame of 7 bytes"):
                await call


async def test_a_frame_of_a_branch_that_was_given_up_changes_nothing(kv: Kv, log: MemoryLog) -> None:
    body = encode_entry(requests.put(b"k", b"v"))
    await log.append(entry_frame([body], log_id=new_log_id(), writer=77, number=1, time=1), expected_last=None)
    assert await value(kv, b"k") is None
    assert kv.nodes[0].metrics.get("kv_frames_of_other_branches_total") == 1


# Watching and history.


async def take(watcher: AsyncIterator[recent.Change], count: int) -> list[tuple[bytes, bytes | None]]:
    found = []
    for _ in range(count):
        change = await asyncio.wait_for(anext(watcher), 5)
        found.append((change.key, change.value))
    return found


async def test_a_watcher_sees_each_change_once_and_in_order(kv: Kv) -> None:
    first = await kv.put(b"{w}a", b"1")
    await kv.put(b"other", b"")
    await kv.put(b"{w}b", b"2")
    await kv.put_if(b"{w}b", b"never", 0)
    watcher = kv.watch(b"{w}", first.revision)
    assert await take(watcher, 1) == [(b"{w}b", b"2")]
    pending = asyncio.ensure_future(anext(watcher))
    await settle()
    assert not pending.done()
    await kv.batch([requests.add(b"{w}n", 4), requests.delete(b"{w}a")])
    assert (await pending).value == b"4"
    assert await take(watcher, 1) == [(b"{w}a", None)]
    assert await take(kv.watch(b"{w}", 0), 4) == [
        (b"{w}a", b"1"), (b"{w}b", b"2"), (b"{w}n", b"4"), (b"{w}a", None)
    ]  # fmt: skip


async def test_watching_several_shards_goes_on_from_a_session(clock: StillClock) -> None:
    async with await open_kv(MemoryLog("KV_0"), MemoryLog("KV_1"), clock=clock) as kv:
        session = Session()
        await kv.put(b"seen", b"", session=session)
        await kv.scan(level=session)
        for key in (b"a", b"b", b"c", b"d"):
            await kv.put(key, key)
        assert sorted(await take(kv.watch(b"", session), 4)) == [(key, key) for key in (b"a", b"b", b"c", b"d")]
        with pytest.raises(UsageError, match="a revision is of one shard"):
            await anext(kv.watch(b"", 5))
        assert len({change.shard async for change in _some(kv.watch(b"", session), 4)}) == 2


async def _some(watcher: AsyncIterator[recent.Change], count: int) -> AsyncIterator[recent.Change]:
    for _ in range(count):
        yield await anext(watcher)


async def test_a_slow_watcher_is_told(kv: Kv) -> None:
    node = kv.nodes[0]
    node.recent._frames_max = 4
    watcher = kv.watch(b"")
    pending = asyncio.ensure_future(anext(watcher))
    await settle()
    for number in range(3):
        await kv.put(b"k", b"%d" % number)
    assert (await pending).value == b"0"
    for number in range(3, 9):
        await kv.put(b"k", b"%d" % number)
    with pytest.raises(WatchLaggedError, match="scan the prefix"):
        await take(watcher, 9)


async def test_the_history_of_a_key_is_what_the_views_went_through(kv: Kv, clock: StillClock, log: MemoryLog) -> None:
    await kv.put(b"{h}k", b"1", ttl_s=5)
    await asyncio.gather(  # In one frame.
        kv.put(b"{h}k", b"2", keep_ttl=True), kv.put(b"x", b"other"), kv.add(b"{h}k", 5), kv.expire(b"{h}k", 3)
    )
    clock.advance(4)
    await kv.put_if(b"{h}k", b"expired before", 0)
    await kv.batch([requests.delete(b"{h}k"), requests.put(b"{h}j", b"")])
    await kv.put_if(b"{h}k", b"never", 77)
    versions = await kv.history(b"{h}k")
    assert [version.value for version in versions] == [b"1", b"2", b"7", b"7", b"expired before", None]
    start = clock.now - 4 * NS_PER_SECOND
    assert [version.expiry - start if version.expiry else 0 for version in versions] == [
        5 * NS_PER_SECOND, 5 * NS_PER_SECOND, 5 * NS_PER_SECOND, 3 * NS_PER_SECOND, 0, 0
    ]  # fmt: skip
    assert [version.value for version in await kv.history(b"{h}k", limit=2)] == [b"expired before", None]
    assert await kv.history(b"nothing") == []
    with pytest.raises(UsageError):
        await kv.history(b"k", limit=0)


async def test_expired_keys_leave_memory_while_nothing_is_written(kv: Kv, clock: StillClock) -> None:
    expiry = clock.time_ns() + 2 * NS_PER_SECOND
    entries = [requests.put(b"k%d" % number, b"v", expiry=expiry) for number in range(3_000)]
    await kv.submit(entries).outcomes()
    clock.advance(3)
    await kv.put(b"other", b"v")  # The log's time is past them now.
    held = kv.count_keys()
    assert held > 1, "a frame sweeps a stretch alone"
    for _ in range(3):
        clock.advance(1)
        await settle()
    assert kv.count_keys() == 1
