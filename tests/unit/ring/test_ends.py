"""Producer and consumer from Python: policies, refusals, zero-copy views, `append_one`'s manners."""

from __future__ import annotations

import resource
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from tapehouse.core import DataError, TransientError, UsageError
from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.market import Cause, Cells, Confidence, Flag, Kind, empty_cells, pack_payload, words
from tapehouse.ring import Policy, Ring, RingFullError, RingProducer
from tapehouse.ring.kernels import OK, TOO_LONG, append, append_cell, append_or_drop
from tapehouse.ring.layout import GAP_INDEX, HEAD, TOLD, TOLD_AFTER
from tests.support.cells import market_cells

SMALL = (7 << 0) | (3 << 32) | (int(Kind.TRADE) << 48) | (1 << 56)  # instrument 7, source 3


def payload(cells: int) -> Cells:
    return pack_payload(Kind.COMMAND, bytes((cells - 1) * 48), ts_event=1, ts_recv=2)


def full(ring_directory: Path, policy: Policy, cells: int = 64) -> RingProducer:
    producer = Ring.produce("feed", cells=cells, policy=policy, directory=ring_directory)
    producer.append(market_cells(1, cells))
    assert producer.room == 0
    return producer


def test_records_across_the_end_are_one_view_of_the_ring_itself(ring_directory: Path) -> None:
    with (
        Ring.produce("feed", cells=256, directory=ring_directory) as producer,
        Ring.consume("feed", directory=ring_directory) as consumer,
    ):
        for turn in range(40):
            record = pack_payload(Kind.RAW, bytes([turn]) * 254 * 48, ts_event=turn, ts_recv=turn)
            producer.append(record)
            got = consumer.readable()
            assert got.tobytes() == record.tobytes()
            assert np.shares_memory(got, consumer.readable())
            consumer.release(len(got))
        assert (producer.head, producer.tail) == (40 * 255, 40 * 255)


def test_readable_gives_whole_records_within_its_limit(ring_directory: Path) -> None:
    with (
        Ring.produce("feed", cells=1024, directory=ring_directory) as producer,
        Ring.consume("feed", directory=ring_directory) as consumer,
    ):
        producer.append(np.concatenate([payload(200), payload(100), payload(255)]))
        assert [len(consumer.readable(limit)) for limit in (255, 299, 300, 554, 555, 5000)] == [
            200,
            200,
            300,
            300,
            555,
            555,
        ]
        with pytest.raises(UsageError, match="ask for 255 or more"):
            consumer.readable(254)
        for wrong in (-1, 1, 199, 201, 556):
            with pytest.raises(UsageError, match="whole records"):
                consumer.release(wrong)
        consumer.release(0)
        consumer.release(300)
        assert consumer.lag == 255


@pytest.mark.parametrize("rows", [[0], [2], [1, 1], [3, 0, 0, 0], [1, 0], [2, 0, 0]])
def test_cells_that_are_no_whole_records_are_refused(ring_directory: Path, rows: list[int]) -> None:
    cells = empty_cells(len(rows))
    cells["cells"] = rows
    with Ring.produce("feed", cells=64, directory=ring_directory) as producer:
        if rows == [1, 1]:
            producer.append(cells)
            return
        with pytest.raises(DataError, match="no whole records"):
            producer.append(cells)
        assert producer.head == 0


def test_arrays_of_another_kind_are_refused(ring_directory: Path) -> None:
    with Ring.produce("feed", cells=64, directory=ring_directory) as producer:
        for wrong in (np.zeros(8, np.int64), empty_cells(4).reshape(2, 2)):
            with pytest.raises(DataError, match="no cells"):
                producer.append(wrong)
        every_other = market_cells(1, 10)[::2]
        producer.append(every_other)
        producer.append(np.frombuffer(market_cells(1, 3).tobytes(), every_other.dtype))
        with Ring.consume("feed", directory=ring_directory) as consumer:
            assert consumer.readable()[:5].tobytes() == every_other.tobytes()
            assert len(consumer.readable()) == 8


def test_block_says_who_does_not_drain(ring_directory: Path) -> None:
    with full(ring_directory, Policy.BLOCK) as producer:
        with pytest.raises(RingFullError, match=r"no consumer.*attach one"):
            producer.append(market_cells(2, 1), timeout_ns=1)
        consumer = Ring.consume("feed", directory=ring_directory)
        with pytest.raises(RingFullError, match="is behind"):
            producer.append(market_cells(2, 1), timeout_ns=1)
        consumer.release(10)
        with pytest.raises(RingFullError, match="after 10 cells") as error:
            producer.append(market_cells(2, 30), timeout_ns=1)
        assert error.value.written == 10
        assert isinstance(error.value, TransientError)
        consumer._let_go()  # as a process that dies
        with pytest.raises(RingFullError, match=r"died.*start it again"):
            producer.append(market_cells(2, 1))  # With a living consumer this would wait for seconds.


def test_block_waits_for_a_consumer_that_drains(ring_directory: Path) -> None:
    sent = market_cells(3, 5000)
    got: list[bytes] = []
    with Ring.produce("feed", cells=64, directory=ring_directory) as producer:
        consumer = Ring.consume("feed", directory=ring_directory)

        def drain() -> None:
            while not consumer.closed:
                if consumer.wait():
                    cells = consumer.readable()
                    got.append(cells.tobytes())
                    consumer.release(len(cells))

        thread = threading.Thread(target=drain)
        thread.start()
        try:
            producer.append(sent)
        finally:
            producer.close()
            thread.join(60)
    consumer.close()
    assert b"".join(got) == sent.tobytes()


def test_fail_writes_all_or_nothing(ring_directory: Path) -> None:
    with full(ring_directory, Policy.FAIL) as producer, Ring.consume("feed", directory=ring_directory) as consumer:
        consumer.release(5)
        with pytest.raises(RingFullError, match="nothing was written"):
            producer.append(market_cells(2, 6))
        assert producer.head == 64
        producer.append(market_cells(2, 5))
        with pytest.raises(UsageError, match="never fit"):
            producer.append(market_cells(2, 65))
        assert (producer.head, producer.dropped) == (69, 0)


def test_drop_counts_and_tells(ring_directory: Path) -> None:
    with full(ring_directory, Policy.DROP) as producer, Ring.consume("feed", directory=ring_directory) as consumer:
        lost = np.concatenate([market_cells(2, 2), payload(5)])
        producer.append(lost)
        assert (producer.dropped, producer.dropped_cells, consumer.dropped) == (3, 7, 3)
        consumer.release(1)
        assert not producer.append_one(1, 2, 3, 4, 5, 6, SMALL, 0)  # One cell is free: no room for gap and record.
        consumer.release(1)
        assert producer.append_one(11, 12, 3, 4, 5, 6, SMALL, 0)
        gap, after = consumer.readable()[-2:]
        assert (gap["kind"], gap["count"], gap["cells"]) == (Kind.GAP, 4, 1)
        assert (gap["flags"], gap["action"], gap["depth"]) == (
            Flag.SYNTHETIC | Flag.LAST, Cause.DROPPED, Confidence.SUSPECT,
        )  # fmt: skip
        assert (gap["source"], gap["instrument"], gap["sequence"]) == (0, 0, 0)
        assert (gap["ts_event"], gap["ts_recv"]) == (1, 2)  # of the last that is missing
        assert (after["ts_event"], after["instrument"], after["source"]) == (11, 7, 3)
        assert producer.append_one(1, 2, 3, 4, 5, 6, SMALL, 0) is False
        consumer.release(2)
    with Ring.consume("feed", directory=ring_directory) as consumer:
        last = consumer.readable()[-1]
        assert (last["kind"], last["count"]) == (Kind.GAP, 1)  # Closing told of the last one.


@pytest.mark.parametrize("stores", range(5))
def test_a_gap_is_told_once_wherever_its_producer_died(ring_directory: Path, stores: int) -> None:
    """The steps of telling, as `append_or_drop` takes them, with a death after each."""
    producer = full(ring_directory, Policy.DROP)
    producer.append(market_cells(2, 3))
    with Ring.consume("feed", directory=ring_directory) as consumer:
        consumer.release(8)
        gap = producer._mapping.view()[producer.head & 63 :][:1]
        gap["kind"], gap["cells"], gap["count"] = Kind.GAP, 1, 3
        steps = [(GAP_INDEX, producer.head), (TOLD_AFTER, 3), (HEAD, producer.head + 1), (TOLD, 3)]
        for at, value in steps[:stores]:
            producer._write(at, value)
        producer._let_go()
        with Ring.produce("feed", directory=ring_directory) as successor:
            successor.append(market_cells(4, 1))
            cells = consumer.readable()
            assert cells[cells["kind"] == Kind.GAP]["count"].tolist() == [3]
            assert cells[-1:].tobytes() == market_cells(4, 1).tobytes()


def test_a_record_that_never_fits_is_refused_at_once(ring_directory: Path) -> None:
    with Ring.produce("feed", cells=64, directory=ring_directory) as producer:
        with pytest.raises(UsageError, match=r"65 cells never fit.*larger ring"):
            producer.append(payload(65))
        assert append(producer.address, words(payload(65)), 0, 65) == TOO_LONG
        producer.append(payload(64))
    with Ring.produce("drops", cells=64, policy=Policy.DROP, directory=ring_directory) as producer:
        with pytest.raises(UsageError, match="64 cells never fit"):
            producer.append(payload(64))  # A gap record could never stand before it.
        assert append_or_drop(producer.address, words(payload(65)), 0, 65) == TOO_LONG
        assert (producer.head, producer.dropped) == (0, 0)


def test_append_one_writes_every_field(ring_directory: Path) -> None:
    cell = market_cells(5, 1)
    cell["sequence"], cell["order_id"], cell["price"], cell["count"] = 2**64 - 1, 2**63, -(2**63), 2**32 - 1
    w = [int(value) for value in words(cell)[0]]
    with Ring.produce("feed", cells=64, directory=ring_directory) as producer:
        assert producer.append_one(*(v % 2**64 if at in (2, 3, 6, 7) else v for at, v in enumerate(w))) is True
        with Ring.consume("feed", directory=ring_directory) as consumer:
            assert consumer.readable().tobytes() == cell.tobytes()


class Index:
    """A number by its `__index__`, which may do anything."""

    def __init__(self, does: object) -> None:
        self.does = does

    def __index__(self) -> int:
        if callable(self.does):
            self.does()
        return 5


GOOD = (1, 2, 3, 4, 5, 6, SMALL, 8)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), TypeError),
        (GOOD[:7], TypeError),
        ((*GOOD, 9), TypeError),
        *(((*GOOD[:at], "x", *GOOD[at + 1 :]), TypeError) for at in range(8)),
        *(((*GOOD[:at], 1.5, *GOOD[at + 1 :]), TypeError) for at in range(8)),
        *(((*GOOD[:at], None, *GOOD[at + 1 :]), TypeError) for at in range(8)),
        *(((*GOOD[:at], 2**64, *GOOD[at + 1 :]), OverflowError) for at in range(8)),
        *(((*GOOD[:at], 2**63, *GOOD[at + 1 :]), OverflowError) for at in (0, 1, 4, 5)),
        *(((*GOOD[:at], -1, *GOOD[at + 1 :]), OverflowError) for at in (2, 3, 6, 7)),
        ((*GOOD[:6], 0, 8), ValueError),
        ((*GOOD[:6], SMALL + (1 << 56), 8), ValueError),
    ],
)
def test_append_one_refuses_like_a_builtin(
    ring_directory: Path, arguments: tuple[object, ...], error: type[Exception]
) -> None:
    with Ring.produce("feed", cells=64, directory=ring_directory) as producer:
        with pytest.raises(error):
            producer.append_one(*arguments)
        assert producer.head == 0
        assert producer.append_one(*GOOD)


def test_append_one_knows_no_keywords(ring_directory: Path) -> None:
    with Ring.produce("feed", cells=64, directory=ring_directory) as producer:
        with pytest.raises(TypeError, match="keyword"):
            producer.append_one(*GOOD[:7], packed=8)
        assert producer.append_one.__name__ == "append_one"


def test_minus_one_is_a_value_not_an_error(ring_directory: Path) -> None:
    with Ring.produce("feed", cells=64, directory=ring_directory) as producer:
        assert producer.append_one(-1, -1, 2**64 - 1, 2**64 - 1, -1, -1, SMALL, 2**64 - 1)


def test_append_one_holds_when_an_argument_closes_the_ring(ring_directory: Path) -> None:
    producer = Ring.produce("feed", cells=64, directory=ring_directory)
    with pytest.raises(TypeError):
        producer.append_one(*GOOD[:2], Index(None), *GOOD[3:])  # CPython's own rule: no unsigned by __index__
    with pytest.raises(ValueError, match="closed"):
        producer.append_one(Index(producer.close), *GOOD[1:])
    with Ring.observe("feed", directory=ring_directory) as observer:
        assert observer.head == 0


def test_append_one_counts_its_references(ring_directory: Path) -> None:
    with Ring.produce("feed", cells=64, policy=Policy.FAIL, directory=ring_directory) as producer:
        append_one = producer.append_one
        numbers = tuple(10**6 + at for at in range(6))
        before = [sys.getrefcount(thing) for thing in (True, False, *numbers)]
        for _ in range(1000):
            append_one(*numbers[:6], SMALL, 8)
        after = [sys.getrefcount(thing) for thing in (True, False, *numbers)]
    assert [abs(b - a) < 50 for a, b in zip(before, after, strict=True)] == [True] * 8


@kernel()
def _fill_ring(ring: Int, count: Int) -> Int:
    for i in range(count):
        if append_cell(ring, i, i, i, i, i, i, 1 << 56, 0) != 0:
            return i
    return count


def test_an_attached_ring_is_in_memory_already(ring_directory: Path) -> None:
    cells = 1 << 16
    with Ring.produce("feed", cells=cells, directory=ring_directory) as producer:
        assert _fill_ring(producer.address, 0) == 0  # compiled
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        assert _fill_ring(producer.address, cells) == cells
        assert resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before < cells * 64 // 4096 // 10


def test_words_of_any_array_reach_the_kernels(ring_directory: Path) -> None:
    @kernel()
    def twice(ring: Int, rows: Array) -> Int:
        return append(ring, rows, 0, 1) | append(ring, rows, 1, 1)

    with Ring.produce("feed", cells=64, directory=ring_directory) as producer:
        assert twice(producer.address, words(market_cells(1, 2))) == OK
        assert producer.head == 2
