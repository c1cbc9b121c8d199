"""Any history of appends, trims, backups, deaths and restores: the backup always gives back what was acknowledged.

The oracle is a plain list of messages for each branch of history; segments are cut every 8 messages, so that a short
history crosses many boundaries.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core.clock import VirtualClock
from tapehouse.core.errors import DecodeError, IntegrityError
from tapehouse.dr.backup import backup
from tapehouse.dr.chunks import CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, split_chunks
from tapehouse.dr.manifest import Manifest, decode_manifest, encode_manifest
from tapehouse.dr.repository import MachineSnapshot, Repository
from tapehouse.dr.restore import MemoryTarget, restore
from tapehouse.dr.segment_log import SegmentLog
from tapehouse.dr.store import MemoryStore
from tapehouse.dr.verify import verify
from tapehouse.log import segment_cut
from tapehouse.log.log_digest import digest_messages
from tapehouse.log.memory import MemoryLog
from tapehouse.log.port import Branch, Message
from tests.support.logs import messages_of

FIRST_ID = b"\0" * 16


@pytest.fixture(autouse=True, scope="module")
def short_segments() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment_cut, "SEGMENT_MESSAGES", 8)
        yield


class History:
    """One log, one repository, and the list of messages that must be found in them."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.log = MemoryLog("TAPE_demo", branches=(Branch(log_id=FIRST_ID),))
        self.oracle: list[Message] = []
        self.backed_up: list[list[Message]] = []  # by manifest
        self.branches = 0
        self.counter = 0

    async def append(self, count: int) -> None:
        for _ in range(count):
            self.counter += 1
            payload = str(self.counter).encode()
            sequence = await self.log.append(payload, expected_last=len(self.oracle), headers={"k": "v"})
            self.oracle.append(Message(sequence=sequence, subject="tape_demo", payload=payload, headers={"k": "v"}))

    async def back_up(self) -> None:
        snapshots = {}
        if self.oracle:
            extent = await self.log.extent()
            at = len(self.oracle)
            snapshots["book"] = MachineSnapshot(
                log="TAPE_demo", log_id=extent.log_id_at(at), sequence=at, data=str(self.counter).encode()
            )
        report = await backup([self.log], self.store, snapshots, VirtualClock(self.counter))
        if report.written:
            self.backed_up.append(list(self.oracle))
        assert report.manifest.number == len(self.backed_up)

    async def trim(self, keep: int) -> None:
        """Only what is in the backup may be trimmed."""
        if self.backed_up and self.backed_up[-1] == self.oracle[: len(self.backed_up[-1])]:
            await self.log.trim(min(len(self.backed_up[-1]), max(1, len(self.oracle) - keep)))

    async def restore(self, share: float, *, tail_only: bool) -> None:
        """Lose the cluster, restore the newest manifest up to some message, go on there."""
        if not self.backed_up:
            return
        self.branches += 1
        through = int(len(self.backed_up[-1]) * share)
        target = MemoryTarget()
        name = bytes([self.branches]) * 16
        limits = {"TAPE_demo": through}
        await restore(self.store, target, VirtualClock(), through=limits, tail_only=tail_only, new_id=lambda: name)
        self.log = target.logs["TAPE_demo"]
        self.oracle = self.backed_up[-1][:through]
        extent = await self.log.extent()
        assert (extent.last, extent.log_id) == (through, name)
        assert await messages_of(self.log, extent.first, through) == self.oracle[extent.first - 1 :]


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 20)),
        st.tuples(st.just("back_up"), st.none()),
        st.tuples(st.just("trim"), st.integers(0, 12)),
        st.tuples(st.just("restore"), st.floats(0, 1)),
        st.tuples(st.just("restore tail"), st.floats(0, 1)),
    ),
    min_size=1,
    max_size=14,
)


async def run(operations: list[tuple[str, float]]) -> None:
    history = History()
    for kind, value in operations:
        if kind == "append":
            await history.append(int(value))
        elif kind == "back_up":
            await history.back_up()
        elif kind == "trim":
            await history.trim(int(value))
        else:
            await history.restore(value, tail_only=kind == "restore tail")
    await history.append(3)
    await history.back_up()
    for number, expected in enumerate(history.backed_up, 1):
        assert (await verify(history.store, manifest=number)).sound
        repository = await Repository.open(history.store)
        manifest = await repository.manifest(number)
        entry = manifest.logs[0]
        assert entry.head_after == digest_messages(expected, next_sequence=1).hex()
        source = SegmentLog(repository, entry, ahead=2)
        assert [message async for message in source.read(1)] == expected
        target = MemoryTarget()
        await restore(history.store, target, VirtualClock(), manifest=number)
        assert await messages_of(target.logs["TAPE_demo"], 1, len(expected)) == expected


@settings(deadline=None, max_examples=120)
@given(OPERATIONS)
def test_a_backup_gives_back_what_was_acknowledged(operations: list[tuple[str, float]]) -> None:
    asyncio.run(run(operations))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 3_000_000), st.integers(0, 2**32), st.booleans())
def test_chunks_join_to_the_data_and_keep_their_bounds(size: int, seed: int, monotone: bool) -> None:
    data = bytes(size) if monotone else random.Random(seed).randbytes(size)
    chunks = split_chunks(data)
    assert b"".join(chunks) == data
    assert all(len(chunk) <= CHUNK_BYTES_MAX for chunk in chunks)
    assert all(len(chunk) >= CHUNK_BYTES_MIN for chunk in chunks[:-1])
    assert split_chunks(data) == chunks


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.floats(0, 1), st.integers(1, 300))
def test_an_insertion_changes_few_chunks(seed: int, where: float, length: int) -> None:
    source = random.Random(seed)
    data = source.randbytes(1_500_000)
    at = int(len(data) * where)
    changed = data[:at] + source.randbytes(length) + data[at:]
    before, after = set(split_chunks(data)), set(split_chunks(changed))
    assert len(after - before) <= 4


def test_a_window_hash_is_what_a_slow_loop_computes() -> None:
    """The oracle: the gear hash as one writes it down, one byte at a time."""
    from tapehouse.dr.chunks import _TABLE, _window_hash

    data = random.Random(7).randbytes(300)
    slow, value = [], 0
    for byte in data:
        value = (value * 2 + int(_TABLE[byte])) % 2**32
        slow.append(value)
    assert np.array_equal(_window_hash(data), np.array(slow, np.uint32))


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_no_manifest(data: bytes) -> None:
    with pytest.raises((IntegrityError, DecodeError)):
        decode_manifest(data, "m")


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 10**9), st.integers(0, 2**62), st.dictionaries(st.text(), st.integers() | st.text()))
def test_a_manifest_survives_its_encoding(number: int, cut_ns: int, spec: dict[str, object]) -> None:
    log = {
        "name": "TAPE_demo",
        "spec": spec,
        "branches": [{"log_id": "00" * 16, "through": None}],
        "first": 1,
        "segments": [],
    }
    manifest = Manifest.model_validate(
        {
            "repository": "11" * 16,
            "number": number,
            "previous": None,
            "cut_ns": cut_ns,
            "logs": [log],
            "snapshots": [],
        }
    )
    data = encode_manifest(manifest)
    assert decode_manifest(data, "m") == manifest
    assert encode_manifest(decode_manifest(data, "m")) == data
