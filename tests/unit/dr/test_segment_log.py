"""Reading a backup through the `Log` port, alone and below a live log."""

from __future__ import annotations

import asyncio

import pytest

from tapehouse.core.clock import VirtualClock
from tapehouse.core.errors import GapError, IntegrityError, UsageError
from tapehouse.dr.backup import backup
from tapehouse.dr.layered_log import LayeredLog
from tapehouse.dr.repository import Repository
from tapehouse.dr.segment_log import SegmentLog
from tapehouse.dr.store import MemoryStore
from tapehouse.log import segment_cut
from tapehouse.log.memory import MemoryLog
from tapehouse.log.port import Branch, Log, Message
from tests.support.logs import OLD_ID, extend, filled, messages_of


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_cut, "SEGMENT_MESSAGES", 8)


async def backed_up(log: Log, store: MemoryStore | None = None, **options: int) -> SegmentLog:
    store = store or MemoryStore()
    report = await backup([log], store, {}, VirtualClock())
    return SegmentLog(await Repository.open(store), report.manifest.logs[0], **options)


async def collect(log: Log, first: int, *, through: int | None = None) -> list[Message]:
    return [message async for message in log.read(first, through=through)]


@pytest.mark.parametrize("last", [0, 1, 8, 30])
async def test_reads_as_the_log_itself_does(last: int) -> None:
    origin = await filled("TAPE_demo", last)
    log = await backed_up(origin)
    assert await log.extent() == await origin.extent()
    assert await log.last() == await origin.last()
    for first in range(1, last + 3):
        for through in (None, *range(last + 3)):
            assert await collect(log, first, through=through) == await collect(origin, first, through=through)


async def test_takes_nothing_and_forgets_nothing() -> None:
    log = await backed_up(await filled("TAPE_demo", 5, first=3))
    for call in (log.append(b"x", expected_last=5), log.trim(4)):
        with pytest.raises(UsageError):
            await call
    with pytest.raises(UsageError, match="does not grow"):
        await anext(log.read(3, follow=True))
    with pytest.raises(GapError, match="begins at 3"):
        await collect(log, 2)


async def test_an_unknown_log_is_refused() -> None:
    store = MemoryStore()
    report = await backup([await filled("TAPE_demo", 5)], store, {}, VirtualClock())
    with pytest.raises(UsageError, match="TAPE_demo"):
        SegmentLog.of(await Repository.open(store), report.manifest, "TAPE_other")


async def test_fetches_a_bounded_number_of_segments_ahead_and_stops_with_its_reader() -> None:
    class Slow(MemoryStore):
        now = 0
        most = 0
        fetched = 0

        async def get(self, key: str) -> bytes:
            if not key.startswith("segments/"):
                return await super().get(key)
            self.now += 1
            self.most = max(self.most, self.now)
            try:
                for _ in range(5):
                    await asyncio.sleep(0)
                self.fetched += 1
                return await super().get(key)
            finally:
                self.now -= 1

    store = Slow()
    log = await backed_up(await filled("TAPE_demo", 200), store, ahead=3)
    store.most = store.fetched = 0
    reading = log.read(1)
    assert (await anext(reading)).sequence == 1
    await reading.aclose()
    assert store.now == 0, "nothing is under way any more"
    assert store.fetched <= 4
    assert len(await collect(log, 1)) == 200
    assert store.most == 3


async def test_a_damaged_segment_is_named_where_it_is_reached() -> None:
    store = MemoryStore()
    log = await backed_up(await filled("TAPE_demo", 40), store)
    key = [info.key async for info in store.list("segments/")][2]
    store.flip(key, 30)
    seen: list[int] = []

    async def read() -> None:
        async for message in log.read(1):
            seen.append(message.sequence)

    with pytest.raises(IntegrityError) as caught:
        await read()
    assert caught.value.subject == key
    assert seen == list(range(1, 17))


# ------------------------------------------------------------------ below a live log


async def layered(trimmed_below: int) -> tuple[MemoryLog, LayeredLog]:
    """A whole log, and the same one trimmed, over a backup that lags behind."""
    whole, live = await filled("TAPE_demo", 50), await filled("TAPE_demo", 40)
    older = await backed_up(live)
    await extend(live, 50)
    await live.trim(trimmed_below)
    return whole, LayeredLog(live, older)


@pytest.mark.parametrize("trimmed_below", [1, 2, 9, 33, 41])
async def test_a_trimmed_log_reads_as_if_whole(trimmed_below: int) -> None:
    whole, log = await layered(trimmed_below)
    assert await log.extent() == await whole.extent()
    assert await log.last() == await whole.last()
    for first, through in ((1, None), (1, 5), (8, 9), (30, 45), (45, None), (51, None), (10, 9)):
        assert await collect(log, first, through=through) == await collect(whole, first, through=through)


async def test_appends_and_following_go_on_above() -> None:
    whole, log = await layered(20)
    assert await log.append(b"more", expected_last=50, subject="s") == 51
    seen = []
    async for message in log.read(15, follow=True, through=51):
        seen.append(message.sequence)
    assert seen == list(range(15, 52))
    await log.trim(30)
    assert await collect(log, 1, through=50) == await messages_of(whole, 1, 50)


async def test_a_hole_between_backup_and_log_is_found() -> None:
    _, log = await layered(42)
    with pytest.raises(GapError, match="41 to 41"):
        await collect(log, 1)


async def test_a_backup_of_another_branch_is_refused() -> None:
    older = await backed_up(await filled("TAPE_demo", 20))
    branches = (Branch(log_id=OLD_ID, through=10), Branch(log_id=b"x" * 16))
    live = await filled("TAPE_demo", 30, branches=branches)
    await live.trim(15)
    with pytest.raises(IntegrityError, match="another branch"):
        await collect(LayeredLog(live, older), 12)


async def test_the_last_message_of_an_empty_tail_is_in_the_backup() -> None:
    older = await backed_up(await filled("TAPE_demo", 20))
    live = MemoryLog("TAPE_demo", first=21, branches=(Branch(log_id=OLD_ID, through=20), Branch(log_id=b"x" * 16)))
    log = LayeredLog(live, older)
    last = await log.last()
    assert last is not None
    assert last.sequence == 20
    assert len(await collect(log, 1)) == 20
