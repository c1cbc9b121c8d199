"""Hosts: snapshot and tail give the state of a whole refold at any cut, and nothing is ever skipped."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core import DataError, DecodeError, GapError, IntegrityError, InvariantError
from tapehouse.log import (
    Branch,
    Codec,
    FrameHeader,
    Host,
    MemoryLog,
    MemorySnapshots,
    Progress,
    Snapshot,
    decode_frame,
    encode_frame,
    open_frame,
)
from tapehouse.market import Cells
from tests.support.cells import LOG_ID, batches, market_cells

OTHER_ID = bytes(range(100, 116))
HEADER = FrameHeader(log_id=LOG_ID, writer=1, epoch=1, first_ordinal=0, codec=Codec.COLUMNS)


class Tally:
    """A real machine, if a small one: records, and the sum of their sizes, per instrument."""

    name = "tally"

    def __init__(self, version: int = 1) -> None:
        self.version = version
        self.table: dict[int, tuple[int, int]] = {}

    def apply(self, header: FrameHeader, cells: Cells) -> None:
        first = cells["cells"] > 0
        for instrument, size in zip(cells["instrument"][first].tolist(), cells["size"][first].tolist(), strict=True):
            count, total = self.table.get(instrument, (0, 0))
            self.table[instrument] = count + 1, (total + size) % 2**63

    def snapshot(self) -> bytes:
        rows = [struct.pack("<IQq", instrument, *row) for instrument, row in sorted(self.table.items())]
        return b"".join(rows)

    def restore(self, snapshot: bytes) -> None:
        if len(snapshot) % 20:
            raise IntegrityError("no tally")
        self.table = {instrument: (count, total) for instrument, count, total in struct.iter_unpack("<IQq", snapshot)}

    def digest(self) -> bytes:
        return blake3(self.snapshot()).digest()


async def written(
    cells: list[Cells], *, first: int = 1, ordinal: int = 0, branches: tuple[Branch, ...] | None = None
) -> MemoryLog:
    """A log with one frame for each batch, each under the identity of its branch."""
    log = MemoryLog("TAPE_test", first=first, branches=branches or (Branch(log_id=LOG_ID),))
    for batch in cells:
        extent = await log.extent()
        header = replace(HEADER, log_id=extent.log_id_at(extent.last + 1), first_ordinal=ordinal)
        await log.append(encode_frame(batch, header), expected_last=extent.last)
        ordinal += len(batch)
    return log


async def refold(log: MemoryLog, *, through: int | None = None) -> Tally:
    host = Host(Tally(), log)
    await host.run(through=through)
    return host.machine  # type: ignore[return-value]


def ten() -> list[Cells]:
    return [market_cells(seed, seed % 4 + 1) for seed in range(10)]


@given(cells=st.lists(batches(9), min_size=1, max_size=12), cut=st.integers(0, 12), every=st.integers(1, 30))
@settings(deadline=None)
def test_snapshot_and_tail_are_a_whole_refold(cells: list[Cells], cut: int, every: int) -> None:
    async def scenario() -> None:
        log = await written(cells)
        whole = await refold(log)
        snapshots = MemorySnapshots()
        first = Host(Tally(), log, snapshots=snapshots, snapshot_cells=every)
        await first.run(through=min(cut, len(cells)))
        second = Host(Tally(), log, snapshots=snapshots, snapshot_cells=every)
        progress = await second.run()
        assert second.ignored_snapshot == ""
        assert second.machine.digest() == whole.digest()
        assert progress == Progress(log_id=LOG_ID, sequence=len(cells), next_ordinal=sum(map(len, cells)))
        assert first.cells + second.cells >= sum(map(len, cells))

    asyncio.run(scenario())


@pytest.mark.parametrize("cut", range(11))
async def test_a_snapshot_at_every_cut(cut: int) -> None:
    log = await written(ten())
    snapshots = MemorySnapshots()
    host = Host(Tally(), log, snapshots=snapshots)
    await host.run(through=cut)
    host.save()
    restored = Host(Tally(), log, snapshots=snapshots)
    progress = await restored.open()
    assert (progress.sequence, progress.next_ordinal) == (cut, sum(map(len, ten()[:cut])))
    await restored.run()
    assert restored.cells == sum(map(len, ten()[cut:])), "only the tail is folded"
    assert restored.machine.digest() == (await refold(log)).digest()


async def test_a_machine_reads_the_same_in_parts_of_a_frame() -> None:
    log = await written([market_cells(1, 40)])
    header, cells = decode_frame((await log.last()).payload)
    parts = Tally()
    for at in range(0, 40, 7):
        parts.apply(replace(header, first_ordinal=at, count=len(cells[at : at + 7])), cells[at : at + 7])
    assert parts.digest() == (await refold(log)).digest()


async def test_a_host_follows_what_is_appended_later() -> None:
    log = await written(ten()[:4])
    host = Host(Tally(), log)
    await host.run()
    for number, batch in enumerate(ten()[4:]):
        header = replace(HEADER, first_ordinal=host.progress.next_ordinal)
        await log.append(encode_frame(batch, header), expected_last=4 + number)
        await host.run(through=5 + number, follow=True)
    assert host.machine.digest() == (await refold(await written(ten()))).digest()


# Nothing is skipped.


async def test_a_missing_sequence_is_named() -> None:
    log = await written(ten())
    messages = [message async for message in log.read(1)]
    host = Host(Tally(), log)
    await host.open()
    for message in messages[:3]:
        host.fold(message)
    before = host.machine.digest()
    for wrong in (messages[4], messages[2], messages[0]):
        with pytest.raises(GapError, match=f"TAPE_test, sequence {wrong.sequence}: sequence 4 is missing"):
            host.fold(wrong)
    assert host.machine.digest() == before
    host.fold(messages[3])


async def test_a_missing_cell_is_named() -> None:
    cells = ten()
    log = await written(cells[:5])
    hole = replace(HEADER, first_ordinal=sum(map(len, cells[:5])) + 2)
    await log.append(encode_frame(cells[5], hole), expected_last=5)
    with pytest.raises(GapError, match=r"sequence 6: cell 11 is missing: the frame begins at 13 .*cells were lost"):
        await Host(Tally(), log).run()


async def test_a_log_whose_beginning_was_trimmed_is_not_folded_from_the_middle() -> None:
    log = await written(ten())
    snapshots = MemorySnapshots()
    host = Host(Tally(), log, snapshots=snapshots)
    await host.run(through=6)
    host.save()
    await log.trim(5)
    with pytest.raises(GapError, match=r"sequence 5: cell 0 is missing.*start from a snapshot"):
        await Host(Tally(), log).run()
    restored = Host(Tally(), log, snapshots=snapshots)
    await restored.run()
    assert restored.machine.digest() == (await refold(await written(ten()))).digest()
    await log.trim(8)  # now the snapshot's tail is gone too
    gone = Host(Tally(), log, snapshots=snapshots)
    with pytest.raises(GapError):
        await gone.run()
    assert "sequence 6 is outside the log" in gone.ignored_snapshot


async def test_a_damaged_frame_halts_and_is_named() -> None:
    log = await written(ten())
    (fourth,) = [message async for message in log.read(4, through=4)]
    payload = bytearray(fourth.payload)
    payload[-1] ^= 1
    log.corrupt(4, bytes(payload))
    with pytest.raises(DecodeError, match=r"TAPE_test, sequence 4, byte 120: a frame's checksum disagrees"):
        await Host(Tally(), log).run()
    log.corrupt(4, b"short")
    with pytest.raises(DecodeError, match="TAPE_test, sequence 4, byte 0: a frame of 5 bytes"):
        await Host(Tally(), log).run()


async def test_frames_of_another_log_or_of_the_wrong_branch_are_refused() -> None:
    branches = (Branch(log_id=LOG_ID, through=4), Branch(log_id=OTHER_ID))
    good = await written(ten(), branches=branches)
    host = Host(Tally(), good)
    assert (await host.run()).log_id == OTHER_ID
    for other in ((Branch(log_id=bytes(16)),), (Branch(log_id=LOG_ID, through=5), Branch(log_id=OTHER_ID))):
        foreign = MemoryLog("TAPE_test", branches=other)
        async for message in good.read(1):
            await foreign.append(message.payload, expected_last=message.sequence - 1)
        with pytest.raises(IntegrityError, match=r"TAPE_test, sequence \d: a frame of another log or branch"):
            await Host(Tally(), foreign).run()


async def test_fold_comes_after_open() -> None:
    log = await written(ten())
    with pytest.raises(GapError, match="only after open"):
        Host(Tally(), log).fold(await log.last())


async def test_a_reader_of_a_part_takes_the_ordinals_that_it_finds() -> None:
    log = await written(ten(), first=5, ordinal=700)
    extent = await log.extent()
    anywhere = Progress(log_id=LOG_ID, sequence=6, next_ordinal=-1)
    (message,) = [message async for message in log.read(7, through=7)]
    header, cells = open_frame("TAPE_test", message, extent, anywhere)
    assert (header.first_ordinal, cells.tobytes()) == (703, ten()[2].tobytes())


# Snapshots that cannot be used are ignored with a reason.


async def snapshot_of(log: MemoryLog, through: int) -> bytes:
    snapshots = MemorySnapshots()
    host = Host(Tally(), log, snapshots=snapshots)
    await host.run(through=through)
    host.save()
    return snapshots.saved["tally"]


def resealed(data: bytes, change: Callable[[Snapshot], Snapshot]) -> bytes:
    return change(Snapshot.decode(data)).encode()


def moved(sequence: int) -> Callable[[Snapshot], Snapshot]:
    return lambda snapshot: replace(snapshot, progress=replace(snapshot.progress, sequence=sequence))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: b"", "shorter than its header"),
        (lambda data: data[:71], "shorter than its header"),
        (lambda data: data[:-1], "digest disagrees"),
        (lambda data: data + b"x", "digest disagrees"),
        (lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:], "digest disagrees"),
        (lambda data: b"THSX" + data[4:], "no snapshot of version 1"),
        (lambda data: data[:4] + b"\2\0" + data[6:], "no snapshot of version 1"),
        (lambda data: resealed(data, lambda s: replace(s, machine_version=2)), "version 2 of the machine, not 1"),
        (lambda data: resealed(data, lambda s: replace(s, state=b"odd")), "no tally"),
        (
            lambda data: resealed(data, lambda s: replace(s, progress=replace(s.progress, log_id=OTHER_ID))),
            "another branch",
        ),
        (lambda data: resealed(data, moved(11)), "sequence 11 is outside the log"),
    ],
)
async def test_an_unusable_snapshot_is_ignored_with_a_reason(damage: Callable[[bytes], bytes], reason: str) -> None:
    log = await written(ten())
    snapshots = MemorySnapshots()
    snapshots.save("tally", damage(await snapshot_of(log, 6)))
    host = Host(Tally(), log, snapshots=snapshots)
    await host.run()
    assert reason in host.ignored_snapshot
    assert host.cells == sum(map(len, ten()))
    assert host.machine.digest() == (await refold(log)).digest()


async def test_every_flipped_byte_of_a_snapshot_is_found() -> None:
    data = await snapshot_of(await written(ten()), 6)
    Snapshot.decode(data)
    for at in range(len(data)):
        for change in (1, 0x80, 0xFF):
            with pytest.raises(IntegrityError):
                Snapshot.decode(data[:at] + bytes([data[at] ^ change]) + data[at + 1 :])


@given(
    state=st.binary(max_size=300),
    version=st.integers(0, 65_535),
    log_id=st.binary(min_size=16, max_size=16),
    sequence=st.integers(0, 2**64 - 1),
    ordinal=st.integers(0, 2**64 - 1),
)
@settings(deadline=None)
def test_a_snapshot_comes_back(state: bytes, version: int, log_id: bytes, sequence: int, ordinal: int) -> None:
    progress = Progress(log_id=log_id, sequence=sequence, next_ordinal=ordinal)
    snapshot = Snapshot(progress=progress, machine_version=version, state=state)
    assert Snapshot.decode(snapshot.encode()) == snapshot


async def test_a_machine_that_stopped_inside_a_frame_is_neither_kept_nor_led_on() -> None:
    class Stumbling(Tally):
        """Folds half of the second frame, then fails."""

        frames = 0

        def apply(self, header: FrameHeader, cells: Cells) -> None:
            self.frames += 1
            if self.frames == 2:
                super().apply(header, cells[:1])
                raise DataError("bad cell")
            super().apply(header, cells)

    log = await written(ten())
    snapshots = MemorySnapshots()
    host = Host(Stumbling(), log, snapshots=snapshots)
    await host.open()
    messages = [message async for message in log.read(1)]
    host.fold(messages[0])
    host.save()
    kept = dict(snapshots.saved)
    with pytest.raises(DataError):
        host.fold(messages[1])
    with pytest.raises(InvariantError, match="inside a frame"):
        host.save()
    with pytest.raises(InvariantError, match="inside a frame"):
        host.fold(messages[1])
    assert snapshots.saved == kept


async def test_a_host_without_a_store_saves_nothing() -> None:
    host = Host(Tally(), await written(ten()), snapshot_cells=1)
    await host.run()
    host.save()
    assert host.progress.sequence == 10


async def test_control_a_host_that_skips_is_caught() -> None:
    log = await written(ten())
    messages = [message async for message in log.read(1)]
    skipping = Tally()
    for message in messages[:4] + messages[5:]:
        skipping.apply(*decode_frame(message.payload))
    assert skipping.digest() != (await refold(log)).digest()
