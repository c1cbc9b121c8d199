"""Values beyond a view's budget: they are read from the log again, shared, bounded, and put back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tapehouse.core.errors import BusUnavailableError, BusyError, DataError, GapError, IntegrityError
from tapehouse.kv import client, refetch
from tapehouse.kv.client import Kv
from tapehouse.kv.entries import Status, entry_frame, open_entry_frame
from tapehouse.kv.errors import OldValueError
from tapehouse.kv.levels import LINEARIZABLE
from tapehouse.kv.view import Evicted, View
from tapehouse.log import MemoryLog, Message
from tests.support.kv_streams import tiny_view
from tests.support.kv_world import Link, StillClock, open_kv, settle, until

KEYS = [b"k%03d" % number for number in range(300)]


def value_of(key: bytes) -> bytes:
    return key * 200


class SlowLink(Link):
    """A way to the log that counts who reads a stretch of it, and lets them wait."""

    def __init__(self, log: MemoryLog) -> None:
        super().__init__(log)
        self.reads = self.at_once = self.at_once_max = 0
        self.stands_still = False
        self.go = asyncio.Event()

    async def read(self, first: int, *, through: int | None = None, follow: bool = False) -> AsyncIterator[Message]:
        if not follow:
            self.reads += 1
            self.at_once += 1
            self.at_once_max = max(self.at_once_max, self.at_once)
            try:
                await asyncio.sleep(0)
                if self.stands_still:
                    await self.go.wait()
            finally:
                self.at_once -= 1
        async for message in super().read(first, through=through, follow=follow):
            yield message


@pytest.fixture
async def clock() -> StillClock:
    return StillClock()


@pytest.fixture
async def link() -> SlowLink:
    return SlowLink(MemoryLog("KV_0"))


@pytest.fixture
async def kv(link: SlowLink, clock: StillClock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kv]:
    monkeypatch.setattr(client, "View", lambda *, seed, **_: tiny_view(seed=seed))
    async with await open_kv(link, clock=clock) as kv:
        for first in range(0, len(KEYS), 10):
            await asyncio.gather(*(kv.put(key, value_of(key)) for key in KEYS[first : first + 10]))
        assert kv.nodes[0].view.metrics().evicted_keys > 100
        yield kv


def evicted(kv: Kv) -> list[bytes]:
    """Keys whose value is not in memory."""
    return [key for key, held in kv.nodes[0].view.scan(b"k") if isinstance(held, Evicted)]


async def test_every_value_is_answered_and_put_back(kv: Kv) -> None:
    for key in KEYS:
        stored = await kv.get(key, LINEARIZABLE)
        assert stored is not None
        assert stored.value == value_of(key)
    (measures,) = await kv.measure()
    assert measures.misses > 100
    assert measures.read_again > 0
    assert kv.nodes[0].view.metrics().restored == measures.misses
    last = evicted(kv)[0]
    await kv.get(last)
    before = kv.nodes[0].view.metrics().misses
    await kv.get(last)
    assert kv.nodes[0].view.metrics().misses == before


async def test_a_scan_reads_each_frame_once(kv: Kv, link: SlowLink) -> None:
    frames = {held.sequence for _, held in kv.nodes[0].view.scan(b"k") if isinstance(held, Evicted)}
    rows = await kv.scan(b"k")
    assert [(key, row.value) for key, row in rows] == [(key, value_of(key)) for key in KEYS]
    assert link.reads == len(frames)
    assert 1 < link.at_once_max <= refetch.READS_MAX


async def test_readers_of_one_value_share_a_read(kv: Kv, link: SlowLink) -> None:
    key = evicted(kv)[0]
    link.stands_still = True
    reads = [asyncio.create_task(kv.get(key)) for _ in range(50)]
    await settle()
    reads[0].cancel()  # Who leaves takes nobody along.
    await settle()
    link.go.set()
    await asyncio.wait(reads)
    assert link.reads == 1
    assert reads[0].cancelled()
    assert {(stored := task.result()) and stored.value for task in reads[1:]} == {value_of(key)}
    assert kv.nodes[0].view.metrics().restored == 1


async def test_what_is_read_again_meanwhile_written_is_not_put_back(kv: Kv, link: SlowLink) -> None:
    key = evicted(kv)[0]
    link.stands_still = True
    read = asyncio.create_task(kv.get(key))
    await settle()
    await kv.put(key, b"new")
    link.go.set()
    stored = await read
    assert stored is not None
    assert stored.value == value_of(key)  # As of the moment of the read.
    stored = await kv.get(key)
    assert stored is not None
    assert stored.value == b"new"


async def test_too_many_frames_are_refused_and_patience_ends(
    kv: Kv, link: SlowLink, clock: StillClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refetch, "FRAMES_WAITING_MAX", 2)
    link.stands_still = True
    keys = evicted(kv)
    reads = [asyncio.create_task(kv.get(key)) for key in (keys[0], keys[40])]
    await settle()
    with pytest.raises(BusyError, match="2 frames"):
        await kv.get(keys[80])
    clock.advance(11)
    await settle()
    for read in reads:
        with pytest.raises(BusUnavailableError, match="not read from the log in time"):
            await read
    late = asyncio.create_task(kv.get(keys[0]))
    await settle()
    await kv.close()
    with pytest.raises(BusUnavailableError, match="closed"):
        await late


async def test_old_values_are_answered(kv: Kv) -> None:
    one, other, third = evicted(kv)[:3]
    assert (await kv.put(one, b"new", return_old=True)).old == value_of(one)
    assert (await kv.delete(other, return_old=True)).old == value_of(other)
    with pytest.raises(DataError, match="no decimal integer"):
        await kv.add(third)


async def test_a_log_that_was_trimmed_is_named(kv: Kv, link: SlowLink) -> None:
    key = evicted(kv)[0]
    await link.trim((await link.extent()).last)
    with pytest.raises(GapError, match=r"was trimmed, and with it a value.*raise budget_bytes"):
        await kv.get(key)
    with pytest.raises(OldValueError, match="the entry was applied; its old value"):
        await kv.put(key, b"new", return_old=True)
    stored = await kv.get(key)
    assert stored is not None
    assert stored.value == b"new"


@pytest.mark.parametrize("change", ["another entry", "another branch", "fewer entries"])
async def test_what_is_not_that_value_is_refused(kv: Kv, link: SlowLink, change: str) -> None:
    key, held = next((key, held) for key, held in kv.nodes[0].view.scan(b"k") if isinstance(held, Evicted))
    assert isinstance(held, Evicted)
    (payload,) = [message.payload async for message in link.log.read(held.sequence, through=held.sequence)]
    header, body = open_entry_frame(payload)
    size = len(body) // header.count
    bodies = [bytes(body[at : at + size]) for at in range(0, len(body), size)]
    bodies = {"another entry": bodies[::-1], "another branch": bodies, "fewer entries": bodies[:1]}[change]
    log_id = bytes(16) if change == "another branch" else header.log_id
    if change == "fewer entries":
        key, held = next((k, h) for k, h in kv.nodes[0].view.scan(b"k") if isinstance(h, Evicted) and h.index == 9)
    link.log.corrupt(held.sequence, entry_frame(bodies, log_id=log_id, writer=1, number=1, time=1))
    with pytest.raises(IntegrityError, match=f"sequence {held.sequence}"):
        await kv.get(key)


async def test_a_view_without_room_still_answers(kv: Kv, monkeypatch: pytest.MonkeyPatch) -> None:
    from tapehouse.kv.view import BudgetError

    def full(*_: object) -> bool:
        raise BudgetError("full")

    monkeypatch.setattr(View, "restore_value", full)
    key = evicted(kv)[0]
    stored = await kv.get(key)
    assert stored is not None
    assert stored.value == value_of(key)
    assert kv.nodes[0].metrics.get("kv_values_not_put_back_total") == 1


async def test_conditions_hold_on_what_is_not_in_memory(kv: Kv, clock: StillClock) -> None:
    key = evicted(kv)[0]
    assert (await kv.put(key, b"", if_absent=True)).status is Status.PRESENT
    work = [asyncio.create_task(kv.history(key))]
    await until(clock, list(work))
    assert work[0].result()[0].value == value_of(key)
