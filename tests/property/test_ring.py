"""A ring against a deque: whatever is done to it, in whatever order, the consumer reads what the slow model holds."""

from __future__ import annotations

import shutil
import tempfile
from collections import deque
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tapehouse.market import CELL, Cause, Cells, Confidence, Flag, Kind, empty_cells, words
from tapehouse.ring import Policy, Ring, RingConsumer, RingFullError, RingProducer
from tapehouse.ring.kernels import (
    DROPPED,
    FULL,
    OK,
    append,
    append_bulk,
    append_bulk_or_drop,
    append_or_drop,
    head_address,
    readable,
    write_word,
)
from tests.support.cells import wild_cells

RING_SIZES = (64, 512)
BYTES = CELL.itemsize


def record_of(seed: int, length: int) -> Cells:
    """One record of so many cells, its bytes anything."""
    record = wild_cells(seed, length)
    record["cells"] = 0
    record["cells"][0] = length
    return record


class SlowRing:
    """What a ring does, in the most obvious way."""

    def __init__(self, cells: int, policy: Policy) -> None:
        self.cells, self.policy = cells, policy
        self.records: deque[bytes] = deque()
        self.head = self.tail = self.dropped = self.dropped_cells = self.missing = 0
        self.missing_times = b""

    @property
    def used(self) -> int:
        return sum(len(record) for record in self.records) // BYTES

    def put(self, record: bytes) -> bool:
        if self.used + len(record) // BYTES > self.cells:
            return False
        self.records.append(record)
        self.head += len(record) // BYTES
        return True

    def gap(self) -> bytes:
        cell = empty_cells(1)
        cell["kind"], cell["cells"], cell["action"], cell["side"] = Kind.GAP, 1, Cause.DROPPED, ord("N")
        cell["flags"], cell["depth"], cell["count"] = Flag.SYNTHETIC | Flag.LAST, Confidence.SUSPECT, self.missing
        return self.missing_times + cell.tobytes()[16:]

    def put_or_drop(self, record: bytes) -> bool:
        if not self.missing:
            if self.put(record):
                return True
        elif self.used + 1 + len(record) // BYTES <= self.cells:
            assert self.tell_gap()
            return self.put(record)
        self.dropped += 1
        self.dropped_cells += len(record) // BYTES
        self.missing += 1
        self.missing_times = record[:16]
        return False

    def tell_gap(self) -> bool:
        if self.missing and self.put(self.gap()):
            self.missing = 0
            return True
        return not self.missing

    def read(self, cells_max: int) -> list[bytes]:
        taken: list[bytes] = []
        for record in self.records:
            cells_max -= len(record) // BYTES
            if cells_max < 0:
                break
            taken.append(record)
        return taken

    def release(self, records: int) -> None:
        for _ in range(records):
            self.tail += len(self.records.popleft()) // BYTES


class RingMachine(RuleBasedStateMachine):
    """Both roles of one ring, driven at random beside the model."""

    model_of: type[SlowRing] = SlowRing

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="tapehouse-test-", dir="/dev/shm"))
        self.seed = 0

    @initialize(cells=st.sampled_from(RING_SIZES), policy=st.sampled_from(Policy))
    def create(self, cells: int, policy: Policy) -> None:
        self.model = self.model_of(cells, policy)
        self.producer: RingProducer = Ring.produce("it", cells=cells, policy=policy, directory=self.directory)
        self.consumer: RingConsumer = Ring.consume("it", directory=self.directory)

    def draw_records(self, lengths: list[int]) -> list[Cells]:
        most = min(255, self.model.cells - 1)
        records = []
        for length in lengths:
            self.seed += 1
            records.append(record_of(self.seed, 1 + (length - 1) % most))
        return records

    @rule(length=st.integers(1, 255))
    def append(self, length: int) -> None:
        (record,) = self.draw_records([length])
        ring, rows = self.producer.address, words(record)
        if self.model.policy is Policy.DROP:
            got = append_or_drop(ring, rows, 0, len(record))
            assert got == (OK if self.model.put_or_drop(record.tobytes()) else DROPPED)
        else:
            got = append(ring, rows, 0, len(record))
            assert got == (OK if self.model.put(record.tobytes()) else FULL)

    @rule(many=st.integers(1, 40))
    def append_one(self, many: int) -> None:
        for record in self.draw_records([1] * many):
            w = words(record)[0].tolist()
            for unsigned in (2, 3, 6, 7):
                w[unsigned] %= 1 << 64
            put = self.model.put_or_drop if self.model.policy is Policy.DROP else self.model.put
            assert self.producer.append_one(*w) is put(record.tobytes())

    @rule(lengths=st.lists(st.integers(1, 255) | st.integers(1, 3), max_size=12))
    def append_batch(self, lengths: list[int]) -> None:
        records = self.draw_records(lengths)
        cells = np.concatenate([empty_cells(0), *records])
        written = 0
        if self.model.policy is Policy.DROP:
            self.producer.append(cells)
            for record in records:
                self.model.put_or_drop(record.tobytes())
            return
        if self.model.policy is Policy.FAIL:
            if len(cells) > self.model.cells:
                return
            if self.model.used + len(cells) > self.model.cells:
                records = []
        for record in records:
            if not self.model.put(record.tobytes()):
                break
            written += len(record)
        if written == len(cells):
            self.producer.append(cells)
        else:
            with pytest.raises(RingFullError) as error:
                self.producer.append(cells, timeout_ns=0)
            assert error.value.written == written

    @rule(lengths=st.lists(st.integers(1, 255) | st.integers(1, 3), min_size=1, max_size=12), lead=st.integers(0, 3))
    def append_rows(self, lengths: list[int], lead: int) -> None:
        records = self.draw_records(lengths)
        cells = np.concatenate([empty_cells(lead), *records])
        ring, rows = self.producer.address, words(cells)
        if self.model.policy is Policy.DROP:
            assert append_bulk_or_drop(ring, rows, lead, len(rows)) == len(rows) - lead
            for record in records:
                self.model.put_or_drop(record.tobytes())
        else:
            got = append_bulk(ring, rows, lead, len(rows))
            written = 0
            for record in records:
                if not self.model.put(record.tobytes()):
                    break
                written += len(record)
            assert got == written

    @rule(cells_max=st.none() | st.integers(0, 300), keep=st.integers(0, 40))
    def drain(self, cells_max: int | None, keep: int) -> None:
        if cells_max is None:
            cells_max = self.model.cells
            cells = self.consumer.readable()
        else:
            cells_max += min(255, self.model.cells)
            cells = self.consumer.readable(cells_max)
        expected = self.model.read(cells_max)
        assert cells.tobytes() == b"".join(expected)
        released = max(0, len(expected) - keep)
        self.consumer.release(sum(len(record) for record in expected[:released]) // BYTES)
        self.model.release(released)

    @rule()
    def readable_says_whole_records(self) -> None:
        got = int(readable(self.consumer.address))
        boundaries = {0}
        for record in self.model.records:
            boundaries.add(max(boundaries) + len(record) // BYTES)
        assert got in boundaries
        assert (got > 0) == bool(self.model.records)

    @rule()
    def close_and_produce_again(self) -> None:
        self.producer.close()
        self.model.tell_gap()
        assert self.consumer.closed is (not self.model.records)
        assert not self.consumer.producer_alive()
        self.producer = Ring.produce("it", directory=self.directory)
        assert not self.consumer.closed

    @precondition(lambda self: self.model.used < self.model.cells)
    @rule(junk=st.integers(1, 64))
    def crash_and_produce_again(self, junk: int) -> None:
        """What a producer wrote and did not publish when it died is never seen."""
        place = head_address(self.producer.address)
        for word in range(min(junk, self.model.cells - self.model.used) * 8):
            write_word(place + word * 8, -1)
        self.producer._let_go()  # What the system does to the lock of a killed process.
        assert not self.consumer.producer_alive()
        self.producer = Ring.produce("it", directory=self.directory)

    @rule(crash=st.booleans())
    def consume_again(self, crash: bool) -> None:
        self.consumer._let_go() if crash else self.consumer.close()
        self.consumer = Ring.consume("it", directory=self.directory)

    @invariant()
    def numbers_agree(self) -> None:
        if not hasattr(self, "model"):
            return
        with Ring.observe("it", directory=self.directory) as observer:
            assert (observer.head, observer.tail) == (self.model.head, self.model.tail)
            assert observer.lag == self.consumer.lag == self.model.used
            assert (observer.dropped, observer.dropped_cells) == (self.model.dropped, self.model.dropped_cells)

    def teardown(self) -> None:
        try:
            if hasattr(self, "model"):
                self.producer.close()
                self.model.tell_gap()
                left = self.consumer.readable()
                assert left.tobytes() == b"".join(self.model.records)
                self.consumer.release(len(left))
                assert self.consumer.closed
                self.consumer.close()
        finally:
            shutil.rmtree(self.directory)


def check(machine: type[RuleBasedStateMachine], **options: object) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=150,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            **options,  # type: ignore[arg-type]
        ),
    )


def test_a_ring_is_a_deque() -> None:
    check(RingMachine)


class Forgetful(SlowRing):
    """Drops without a word."""

    def tell_gap(self) -> bool:
        self.missing = 0
        return True


class Splitting(SlowRing):
    """Hands out as many cells as asked for, wherever a record ends."""

    def read(self, cells_max: int) -> list[bytes]:
        return [b"".join(self.records)[: cells_max * BYTES]]


class Amnesiac(SlowRing):
    """Loses a record for which there is room exactly."""

    def put(self, record: bytes) -> bool:
        return self.used + len(record) // BYTES < self.cells and super().put(record)


@pytest.mark.parametrize("wrong", [Forgetful, Splitting, Amnesiac])
def test_control_a_wrong_ring_is_told_from_the_right_one(wrong: type[SlowRing]) -> None:
    class Wrong(RingMachine):
        model_of = wrong

    with pytest.raises((AssertionError, BaseExceptionGroup)):
        check(Wrong, database=None, phases=(Phase.generate,))
