"""Backup and restore over in-memory parts: incremental, consistent, resumable, and loud."""

from __future__ import annotations

import random

import pytest

from tapehouse.core.clock import VirtualClock
from tapehouse.core.errors import (
    ConflictError,
    GapError,
    IntegrityError,
    MissingError,
    UsageError,
)
from tapehouse.dr.backup import BackupReport, backup
from tapehouse.dr.repository import MachineSnapshot, NoRepositoryError, Repository
from tapehouse.dr.restore import MemoryTarget, restore
from tapehouse.dr.segment_log import SegmentLog
from tapehouse.dr.store import MemoryStore
from tapehouse.dr.verify import verify
from tapehouse.log.log_digest import digest_messages
from tapehouse.log.memory import MemoryLog
from tapehouse.log.port import Branch, Log
from tests.support.logs import OLD_ID, extend, filled, messages_of

NEW_ID = b"n" * 16
SPEC = {"TAPE_demo": {"subjects": ["tape.v1.demo"], "limit": None}}


async def run_backup(store: MemoryStore, *logs: Log, now_ns: int = 1000, **options: object) -> BackupReport:
    snapshots = options.pop("snapshots", {})
    return await backup(list(logs), store, snapshots, VirtualClock(now_ns), specs=SPEC, **options)  # type: ignore[arg-type]


def snapshot_at(sequence: int, data: bytes, log: str = "TAPE_demo", log_id: bytes = OLD_ID) -> MachineSnapshot:
    return MachineSnapshot(log=log, log_id=log_id, sequence=sequence, data=data)


# ------------------------------------------------------------------ backup


async def test_the_second_backup_of_an_unchanged_log_sends_nothing() -> None:
    store = MemoryStore()
    log = await filled("TAPE_demo", 5000)
    first = await run_backup(store, log)
    assert (first.segments_new, first.segments_reused, first.written) == (2, 0, True)
    assert [(s.first, s.last) for s in first.manifest.logs[0].segments] == [(1, 4096), (4097, 5000)]
    second = await run_backup(store, log, now_ns=2000)
    assert (second.segments_new, second.segments_reused, second.bytes_sent) == (0, 2, 0)
    assert not second.written
    assert second.manifest == first.manifest
    assert second.requests == 3  # the marker, one listing, the newest manifest


async def test_a_spec_is_compared_as_it_is_stored() -> None:
    store = MemoryStore()
    log = await filled("TAPE_demo", 5)
    for written in (True, False):
        report = await backup([log], store, {}, VirtualClock(), specs={"TAPE_demo": {"subjects": ("a", "b")}})
        assert report.written is written
    with pytest.raises(UsageError, match="no JSON"):
        await backup([log], store, {}, VirtualClock(), specs={"TAPE_demo": {"when": object()}})


async def test_a_store_that_breaks_its_promises_is_refused_before_anything_is_written() -> None:
    class Loose(MemoryStore):
        async def put(self, key: str, data: bytes, **condition: object) -> str:
            return await super().put(key, data)

    store = Loose()
    with pytest.raises(UsageError, match="racing conditional writes"):
        await run_backup(store, await filled("TAPE_demo", 5))
    assert [info.key async for info in store.list("")] == []


async def test_a_longer_log_sends_its_tail_only_and_keeps_the_rest() -> None:
    store = MemoryStore()
    log = await filled("TAPE_demo", 5000)
    first = await run_backup(store, log, now_ns=1000)
    await extend(log, 9000)
    second = await run_backup(store, log, now_ns=5000)
    assert (second.segments_new, second.segments_reused) == (2, 1)
    segments = second.manifest.logs[0].segments
    assert [(s.first, s.last) for s in segments] == [(1, 4096), (4097, 8192), (8193, 9000)]
    assert second.manifest.number == 2
    assert second.manifest.previous is not None
    assert second.rpo_ns_worst == 4000
    assert first.rpo_ns_worst is None
    head = digest_messages(await messages_of(log, 1, 9000), next_sequence=1)
    assert segments[-1].head_after == head.hex()


async def test_a_rerun_after_an_interruption_sends_no_segment_twice() -> None:
    store = MemoryStore()
    log = await filled("TAPE_demo", 9000)
    await run_backup(store, log)
    await store.delete("manifests/0000000001.json")  # as if it had died before the manifest
    again = await run_backup(store, log)
    assert (again.segments_new, again.segments_reused, again.written) == (0, 3, True)


async def test_all_logs_of_the_last_backup_must_be_in_the_next() -> None:
    store = MemoryStore()
    tape, events = await filled("TAPE_demo", 5), await filled("EVENTS_demo", 5)
    await run_backup(store, tape, events)
    with pytest.raises(UsageError, match="EVENTS_demo"):
        await run_backup(store, tape)
    report = await run_backup(store, tape, forget={"EVENTS_demo"})
    assert [log.name for log in report.manifest.logs] == ["TAPE_demo"]


async def test_a_log_given_twice_is_refused() -> None:
    log = await filled("TAPE_demo", 5)
    with pytest.raises(UsageError, match="twice"):
        await run_backup(MemoryStore(), log, log)


async def test_a_log_that_changed_its_past_stops_the_backup() -> None:
    store = MemoryStore()
    log = await filled("TAPE_demo", 5000)
    await run_backup(store, log)
    log.corrupt(4500, b"other")
    await extend(log, 5001)
    with pytest.raises(IntegrityError, match="not those that were backed up"):
        await run_backup(store, log)
    assert [info.key async for info in store.list("manifests/")] == ["manifests/0000000001.json"]


async def test_a_log_that_lost_messages_stops_the_backup() -> None:
    store = MemoryStore()
    await run_backup(store, await filled("TAPE_demo", 5000))
    with pytest.raises(IntegrityError, match="ends at 4900"):
        await run_backup(store, await filled("TAPE_demo", 4900))


async def test_another_log_of_the_same_name_is_refused() -> None:
    store = MemoryStore()
    await run_backup(store, await filled("TAPE_demo", 10))
    with pytest.raises(UsageError, match="another log of this name"):
        await run_backup(store, await filled("TAPE_demo", 20, branches=(Branch(log_id=NEW_ID),)))


async def test_a_log_that_was_trimmed_goes_on() -> None:
    store = MemoryStore()
    log = await filled("TAPE_demo", 5000)
    await run_backup(store, log)
    await log.trim(4800)
    await extend(log, 5100)
    report = await run_backup(store, log)
    assert [(s.first, s.last) for s in report.manifest.logs[0].segments] == [(1, 4096), (4097, 5000), (5001, 5100)]
    assert report.manifest.logs[0].first == 1
    head = digest_messages(await messages_of(await filled("TAPE_demo", 5100), 1, 5100), next_sequence=1)
    assert report.manifest.logs[0].head_after == head.hex()


async def test_a_log_trimmed_past_its_backup_is_refused() -> None:
    store = MemoryStore()
    log = await filled("TAPE_demo", 100)
    await run_backup(store, log)
    await extend(log, 300)
    await log.trim(200)
    with pytest.raises(GapError, match="101 to 199 were trimmed"):
        await run_backup(store, log)


async def test_of_two_backups_at_once_one_wins_and_the_other_runs_again() -> None:
    class Racing(MemoryStore):
        """Another backup commits just before ours does."""

        armed = True

        async def put(self, key: str, data: bytes, **condition: object) -> str:
            if key.startswith("manifests/") and self.armed:
                self.armed = False
                await run_backup(self, await filled("TAPE_demo", 10))
            return await super().put(key, data, **condition)  # type: ignore[arg-type]

    store = Racing()
    log = await filled("TAPE_demo", 20)
    with pytest.raises(ConflictError, match="run the backup again"):
        await run_backup(store, log)
    report = await run_backup(store, log)
    assert report.manifest.number == 2
    assert (await verify(store)).sound


async def test_extents_are_read_effects_before_causes() -> None:
    order: list[str] = []

    class Watched(MemoryLog):
        async def extent(self):  # type: ignore[no-untyped-def]
            order.append(self.name)
            return await super().extent()

    names = ["CMDS_demo", "KV_0", "TAPE_demo", "EVENTS_demo", "OUT"]
    await run_backup(MemoryStore(), *(Watched(name) for name in names))
    assert order == ["KV_0", "OUT", "EVENTS_demo", "TAPE_demo", "CMDS_demo"]


async def test_a_cut_under_a_running_writer_is_consistent() -> None:
    """Commands, tape and events grow between the reads of the extents; no effect is in the cut without its cause."""
    logs = {name: await filled(name, 10) for name in ("CMDS_demo", "TAPE_demo", "EVENTS_demo")}

    class Growing(MemoryLog):
        inner: MemoryLog

        async def extent(self):  # type: ignore[no-untyped-def]
            found = await self.inner.extent()
            for name in ("CMDS_demo", "TAPE_demo", "EVENTS_demo"):  # a command, its tape cells, its events
                await extend(logs[name], (await logs[name].extent()).last + 1)
            return found

        def read(self, first, *, through=None, follow=False):  # type: ignore[no-untyped-def]
            return self.inner.read(first, through=through, follow=follow)

    growing = []
    for name, log in logs.items():
        wrapped = Growing(name)
        wrapped.inner = log
        growing.append(wrapped)
    report = await run_backup(MemoryStore(), *growing)
    last = {log.name: log.last for log in report.manifest.logs}
    assert last["EVENTS_demo"] <= last["TAPE_demo"] <= last["CMDS_demo"]
    assert last["EVENTS_demo"] < last["CMDS_demo"], "the control: the logs did grow in between"


async def test_snapshots_share_unchanged_chunks() -> None:
    store = MemoryStore()
    log = await filled("TAPE_demo", 20)
    data = random.Random(1).randbytes(2_000_000)
    first = await run_backup(store, log, snapshots={"book": snapshot_at(10, data)})
    assert first.chunks_new > 5
    changed = data[:1000] + b"inserted" + data[1000:]
    second = await run_backup(store, log, snapshots={"book": snapshot_at(20, changed)})
    assert 1 <= second.chunks_new <= 2
    assert second.chunks_reused >= first.chunks_new - 2
    repository = await Repository.open(store)
    assert (await repository.snapshot(second.manifest.snapshots[0])).data == changed
    assert (await repository.snapshot(first.manifest.snapshots[0])).data == data


@pytest.mark.parametrize(
    ("snapshot", "why"),
    [
        (snapshot_at(21, b"s"), "at message 21"),
        (snapshot_at(5, b"s", log="TAPE_other"), "not backed up"),
        (snapshot_at(5, b"s", log_id=NEW_ID), "another branch"),
    ],
)
async def test_a_snapshot_outside_the_cut_is_refused(snapshot: MachineSnapshot, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        await run_backup(MemoryStore(), await filled("TAPE_demo", 20), snapshots={"book": snapshot})


async def test_a_prefix_with_other_objects_is_not_taken_for_a_repository() -> None:
    store = MemoryStore()
    await store.put("holiday/photo.jpg", b"...")
    with pytest.raises(UsageError, match=r"holiday/photo\.jpg"):
        await run_backup(store, await filled("TAPE_demo", 3))


# ------------------------------------------------------------------ restore


async def test_what_was_backed_up_comes_back() -> None:
    store, target = MemoryStore(), MemoryTarget()
    tape = await filled("TAPE_demo", 9000)
    commands = await filled("CMDS_demo", 300)
    empty = await filled("KV_0", 0)
    await run_backup(store, tape, commands, empty, snapshots={"book": snapshot_at(4500, b"state")})
    seen: list[tuple[str, int, int]] = []
    report = await restore(
        store, target, VirtualClock(), new_id=lambda: NEW_ID, progress=lambda *step: seen.append(step)
    )
    for origin in (tape, commands, empty):
        copy = target.logs[origin.name]
        extent, wanted = await copy.extent(), await origin.extent()
        assert (extent.first, extent.last) == (wanted.first, wanted.last)
        assert extent.branches == (Branch(log_id=OLD_ID, through=wanted.last), Branch(log_id=NEW_ID))
        assert await messages_of(copy, 1, wanted.last) == await messages_of(origin, 1, wanted.last)
    assert target.specs["TAPE_demo"] == SPEC["TAPE_demo"]
    assert target.snapshots == {"book": b"state"}
    assert seen[-1][1:] == (9300, 9300)
    heads = {log.name: log.head for log in report.logs}
    assert heads["TAPE_demo"] == digest_messages(await messages_of(tape, 1, 9000), next_sequence=1)
    assert sum(log.appended for log in report.logs) == 9300


async def test_a_restored_log_is_backed_up_as_the_same_log() -> None:
    """Restore to an earlier message, go on there, back up again: old segments stay, the new branch is added."""
    store, target = MemoryStore(), MemoryTarget()
    await run_backup(store, await filled("TAPE_demo", 9000))
    await restore(store, target, VirtualClock(), through={"TAPE_demo": 6000}, new_id=lambda: NEW_ID)
    copy = target.logs["TAPE_demo"]
    await extend(copy, 6500, payload=b"new")
    report = await run_backup(store, copy)
    log = report.manifest.logs[0]
    assert [(s.first, s.last) for s in log.segments] == [(1, 4096), (4097, 6000), (6001, 6500)]
    assert [branch.through for branch in log.branches] == [6000, None]
    assert report.segments_reused == 1
    assert (await verify(store)).sound
    assert (await verify(store, manifest=1)).sound, "the older manifest still holds the other branch"
    again = MemoryTarget()
    await restore(store, again, VirtualClock())
    assert await messages_of(again.logs["TAPE_demo"], 1, 6500) == await messages_of(copy, 1, 6500)
    assert len((await again.logs["TAPE_demo"].extent()).branches) == 3


async def test_an_older_manifest_can_be_restored() -> None:
    store, target = MemoryStore(), MemoryTarget()
    log = await filled("TAPE_demo", 100)
    await run_backup(store, log)
    await extend(log, 200)
    await run_backup(store, log)
    await restore(store, target, VirtualClock(), manifest=1)
    assert (await target.logs["TAPE_demo"].extent()).last == 100
    with pytest.raises(MissingError, match="no manifest 7"):
        await restore(store, MemoryTarget(), VirtualClock(), manifest=7)


async def test_an_interrupted_restore_goes_on() -> None:
    class Dying(MemoryLog):
        async def append(self, payload, **options):  # type: ignore[no-untyped-def]
            if (await self.extent()).last == 5000:
                raise OSError("the restorer was killed here")
            return await super().append(payload, **options)

    store, target = MemoryStore(), MemoryTarget()
    log = await filled("TAPE_demo", 9000)
    await run_backup(store, log)
    half = Dying("TAPE_demo", first=1, branches=(Branch(log_id=OLD_ID, through=9000), Branch(log_id=NEW_ID)))
    target.logs["TAPE_demo"] = half
    with pytest.raises(OSError, match="killed"):
        await restore(store, target, VirtualClock())
    assert (await half.extent()).last == 5000
    half.__class__ = MemoryLog  # type: ignore[assignment]
    report = await restore(store, target, VirtualClock())
    assert report.logs[0].appended == 4000
    assert report.logs[0].log_id == NEW_ID
    assert await messages_of(half, 1, 9000) == await messages_of(log, 1, 9000)
    done = await restore(store, target, VirtualClock())
    assert done.logs[0].appended == 0


async def test_what_an_interrupted_restore_left_is_verified() -> None:
    store, target = MemoryStore(), MemoryTarget()
    log = await filled("TAPE_demo", 9000)
    await run_backup(store, log)
    half = await filled("TAPE_demo", 5000, branches=(Branch(log_id=OLD_ID, through=9000), Branch(log_id=NEW_ID)))
    half.corrupt(4999, b"damaged")
    target.logs["TAPE_demo"] = half
    with pytest.raises(IntegrityError, match="4097 to 5000"):
        await restore(store, target, VirtualClock())


async def test_a_log_with_other_messages_is_never_touched() -> None:
    store, target = MemoryStore(), MemoryTarget()
    await run_backup(store, await filled("TAPE_demo", 100), await filled("CMDS_demo", 5))
    target.logs["TAPE_demo"] = await filled("TAPE_demo", 7)
    with pytest.raises(UsageError, match=r"7 messages that this restore did not write.*empty cluster"):
        await restore(store, target, VirtualClock())
    assert "CMDS_demo" not in target.logs, "nothing was begun"
    assert (await target.logs["TAPE_demo"].extent()).last == 7


async def test_a_cluster_that_stores_something_else_is_found_out() -> None:
    class Lying(MemoryLog):
        async def append(self, payload, **options):  # type: ignore[no-untyped-def]
            sequence = await super().append(payload, **options)
            if sequence == 50:
                self.corrupt(50, b"not what was given")
            return sequence

    class Target(MemoryTarget):
        async def create(self, log):  # type: ignore[no-untyped-def]
            self.logs[log.name] = Lying(log.name, first=log.first, branches=log.branches)
            return self.logs[log.name]

    store = MemoryStore()
    await run_backup(store, await filled("TAPE_demo", 100))
    with pytest.raises(IntegrityError, match="not those of the backup"):
        await restore(store, Target(), VirtualClock())


async def test_a_cluster_that_cannot_begin_at_a_sequence_is_found_out() -> None:
    class Target(MemoryTarget):
        async def create(self, log):  # type: ignore[no-untyped-def]
            self.logs[log.name] = MemoryLog(log.name, first=1, branches=log.branches)
            return self.logs[log.name]

    store = MemoryStore()
    log = await filled("TAPE_demo", 100)
    await log.trim(50)
    await run_backup(store, log)
    with pytest.raises(GapError, match="not from 50 on"):
        await restore(store, Target(), VirtualClock())


async def test_a_tail_begins_at_the_segment_after_its_lowest_snapshot() -> None:
    store, target = MemoryStore(), MemoryTarget()
    tape, events = await filled("TAPE_demo", 9000), await filled("EVENTS_demo", 40)
    snapshots = {"book": snapshot_at(8500, b"b"), "desk": snapshot_at(5000, b"d")}
    await run_backup(store, tape, events, snapshots=snapshots)
    report = await restore(store, target, VirtualClock(), tail_only=True, new_id=lambda: NEW_ID)
    assert [(log.name, log.first, log.last) for log in report.logs] == [
        ("EVENTS_demo", 1, 40),
        ("TAPE_demo", 4097, 9000),
    ]
    copy = target.logs["TAPE_demo"]
    assert await messages_of(copy, 4097, 9000) == await messages_of(tape, 4097, 9000)
    older = SegmentLog.of(await Repository.open(store), report.manifest, "TAPE_demo")
    assert [m async for m in older.read(1, through=4096)] == await messages_of(tape, 1, 4096)
    await extend(copy, 9100)
    report2 = await run_backup(store, copy, target.logs["EVENTS_demo"])
    segments = report2.manifest.logs[1].segments
    assert [(s.first, s.last) for s in segments] == [(1, 4096), (4097, 8192), (8193, 9000), (9001, 9100)]


async def test_snapshots_ahead_of_the_wanted_end_are_left_out() -> None:
    store, target = MemoryStore(), MemoryTarget()
    tape = await filled("TAPE_demo", 100)
    await run_backup(store, tape, snapshots={"early": snapshot_at(10, b"e"), "late": snapshot_at(90, b"l")})
    report = await restore(store, target, VirtualClock(), through={"TAPE_demo": 50})
    assert report.snapshots == ("early",)
    assert target.snapshots == {"early": b"e"}


async def test_wrong_requests_are_answered_in_words() -> None:
    store = MemoryStore()
    with pytest.raises(NoRepositoryError, match="right bucket"):
        await restore(store, MemoryTarget(), VirtualClock())
    await Repository.open_or_create(store, new_id=NEW_ID)
    with pytest.raises(MissingError, match="no manifest yet"):
        await restore(store, MemoryTarget(), VirtualClock())
    await run_backup(store, await filled("TAPE_demo", 10))
    with pytest.raises(UsageError, match="no log TAPE_x"):
        await restore(store, MemoryTarget(), VirtualClock(), logs=["TAPE_x"])
    with pytest.raises(UsageError, match="sequence 11 is not in the backup"):
        await restore(store, MemoryTarget(), VirtualClock(), through={"TAPE_demo": 11})
