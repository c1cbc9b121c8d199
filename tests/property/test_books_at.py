"""A book from a snapshot and the tail of the tape is the book of a whole refold, byte for byte, at any moment."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.app.book_keeper import BookKeeper, Kept
from tapehouse.core.errors import BusUnavailableError, GapError, MissingError, UsageError
from tapehouse.log import Branch, MemoryLog
from tapehouse.log.snaps import MemorySnaps
from tapehouse.market import Cells, Instrument, Kind
from tapehouse.query.books import BookAt, Moment, read_book_at
from tests.support.book_tape import (
    BY_LEVEL,
    INSTRUMENTS,
    LATE,
    NEW_ID,
    OLD_ID,
    REVISED,
    START,
    all_cells,
    make_tape,
    slow_book,
)

RECORDS = 240
EVERY = 60  # cells


async def keep(tape: MemoryLog, snaps: MemorySnaps, *, cells_every: int = EVERY, seconds: float = 5.0) -> Kept:
    return await BookKeeper(tape, snaps, cells_every=cells_every, seconds_every=seconds).run()


@cache
def kept_tape(seed: int, branch_at: int | None = None) -> tuple[MemoryLog, MemorySnaps, Cells]:
    async def make() -> tuple[MemoryLog, MemorySnaps, Cells]:
        tape, snaps = await make_tape(seed, RECORDS, branch_at=branch_at), MemorySnaps()
        await keep(tape, snaps)
        return tape, snaps, await all_cells(tape)

    with ThreadPoolExecutor(1) as pool:  # Also for tests that run in a loop of their own.
        return pool.submit(asyncio.run, make()).result()


def assert_is(found: BookAt, cells: Cells, moment: Moment) -> None:
    told, next_ordinal, time = slow_book(cells, found.book.instrument, time=moment.time, ordinal=moment.ordinal)
    assert found.book.canonical() == told
    assert (found.next_ordinal, found.time) == (next_ordinal, time)


@given(
    seed=st.integers(0, 7),
    instrument=st.sampled_from(INSTRUMENTS[:3]),
    by_time=st.booleans(),
    share=st.floats(0, 1),
    branch_at=st.sampled_from([None, 1, 15, 20]),
)
@settings(deadline=None, max_examples=150)
def test_snapshot_and_tail_are_a_whole_refold(
    seed: int, instrument: Instrument, by_time: bool, share: float, branch_at: int | None
) -> None:
    tape, snaps, cells = kept_tape(seed, branch_at)
    at = int(share * (len(cells) - 1))
    at = max(
        at, int(np.flatnonzero((cells["kind"] == Kind.DEFINITION) & (cells["cells"] > 0))[2])
    )  # where all three are defined
    moment = Moment(time=_time(cells, at)) if by_time else Moment(ordinal=at)
    quick = asyncio.run(read_book_at(tape, snaps, instrument.symbol, moment=moment))
    assert_is(quick, cells, moment)
    assert not quick.refused
    whole = asyncio.run(read_book_at(tape, None, instrument.symbol, moment=moment))
    assert (whole.book.canonical(), whole.book.told) == (quick.book.canonical(), quick.book.told)
    assert whole.cells_folded == whole.next_ordinal >= quick.cells_folded
    if at > 2 * EVERY:
        assert quick.mark is not None, "a snapshot was used"
        assert quick.cells_folded < EVERY + 7, "and little was folded"


def _time(cells: Cells, at: int) -> int:
    """The `ts_recv` of the record that holds a cell."""
    starts = np.flatnonzero(cells["cells"])
    return int(cells["ts_recv"][starts[np.searchsorted(starts, at, side="right") - 1]])


async def test_the_end_is_what_is_asked_for_without_a_moment() -> None:
    tape, snaps, cells = kept_tape(3)
    for instrument in INSTRUMENTS:
        assert_is(await read_book_at(tape, snaps, instrument.symbol), cells, Moment())


async def test_two_keepers_and_a_rerun_store_everything_once() -> None:
    tape, snaps, _ = kept_tape(1)
    other = MemorySnaps()
    first = BookKeeper(tape, other, cells_every=EVERY, seconds_every=5.0)
    second = BookKeeper(tape, other, cells_every=EVERY, seconds_every=5.0)
    one, two = await asyncio.gather(first.run(), second.run())
    assert other.stored == snaps.stored
    assert one.messages + two.messages == len(snaps.stored)
    again = await keep(tape, other)
    assert (again.messages, again.begun_at > 0) == (0, True)
    assert other.stored == snaps.stored


async def test_keepers_with_other_spans_may_share_a_store() -> None:
    tape, _, cells = kept_tape(2)
    snaps = MemorySnaps()
    await keep(tape, snaps, cells_every=97, seconds=3.0)
    await keep(tape, snaps, cells_every=31, seconds=100.0)
    for ordinal in range(70, len(cells), 13):
        for instrument in INSTRUMENTS[:3]:
            moment = Moment(ordinal=ordinal)
            assert_is(await read_book_at(tape, snaps, instrument.symbol, moment=moment), cells, moment)


class DyingSnaps(MemorySnaps):
    """Stores so many messages, then is gone."""

    def __init__(self, stored: dict[str, bytes], left: int) -> None:
        super().__init__()
        self.stored, self.left = stored, left

    async def store(self, subject: str, payload: bytes) -> bool:
        if self.left == 0:
            raise BusUnavailableError("killed")
        self.left -= 1
        return await super().store(subject, payload)


async def test_a_keeper_that_was_killed_anywhere_goes_on() -> None:
    """Nothing is kept beside the store, so dying after any store is all that a kill can be."""
    tape, whole, cells = kept_tape(4)
    for after in range(len(whole.stored)):
        snaps = DyingSnaps({}, after)
        with pytest.raises(BusUnavailableError):
            await keep(tape, snaps)
        assert len(snaps.stored) == after
        if after % 5 == 0:  # What is there by then is good, whether marked or not.
            assert_is(await read_book_at(tape, snaps, "ORD"), cells, Moment())
        again = await keep(tape, MemorySnapsOver(snaps.stored))
        assert snaps.stored == whole.stored
        assert again.messages == len(whole.stored) - after


class MemorySnapsOver(MemorySnaps):
    """On messages that are there."""

    def __init__(self, stored: dict[str, bytes]) -> None:
        super().__init__()
        self.stored = stored


async def test_a_keeper_follows_what_is_appended() -> None:
    tape, whole, _ = kept_tape(5)
    grown, snaps = MemoryLog(tape.name, branches=(Branch(log_id=OLD_ID),)), MemorySnaps()
    keeper = BookKeeper(grown, snaps, cells_every=EVERY, seconds_every=5.0)
    messages = [message async for message in tape.read(1)]
    await grown.append(messages[0].payload, expected_last=0)
    await keeper.open()
    task = asyncio.create_task(keeper.run(follow=True))
    for message in messages[1:]:
        await grown.append(message.payload, expected_last=message.sequence - 1)
    while snaps.stored.keys() != whole.stored.keys():
        assert not task.done()
        await asyncio.sleep(0)
    task.cancel()
    assert snaps.stored == whole.stored


# What is damaged, foreign or gone.


async def test_a_damaged_snapshot_is_told_and_the_one_before_is_used() -> None:
    tape, whole, cells = kept_tape(6)
    good = await read_book_at(tape, whole, "ORD")
    assert good.snapshot is not None
    (subject,) = [name for name in whole.stored if f".1.{good.snapshot.ordinal}." in name]
    for at in range(0, len(whole.stored[subject]), 41):
        damaged = bytearray(whole.stored[subject])
        damaged[at] ^= 1
        snaps = MemorySnapsOver({**whole.stored, subject: bytes(damaged)})
        found = await read_book_at(tape, snaps, "ORD")
        assert len(found.refused) == 1
        assert f"at cell {good.snapshot.ordinal} of" in found.refused[0]
        assert found.snapshot is not None
        assert found.snapshot.ordinal < good.snapshot.ordinal
        assert found.cells_folded > good.cells_folded
        assert_is(found, cells, Moment())
        other = await read_book_at(tape, snaps, "LVL.P")
        assert not other.refused, "other books do not care"
        kept = await keep(tape, snaps)
        assert kept.refused
        assert kept.messages == 0, "a keeper begins before it, and replaces nothing"


async def test_everything_damaged_is_a_whole_refold() -> None:
    tape, whole, cells = kept_tape(6)
    for kinds in (".mark.", ".definitions.", ".1."):
        stored = {k: v[:-1] + bytes([v[-1] ^ 4]) if kinds in k else v for k, v in whole.stored.items()}
        found = await read_book_at(tape, MemorySnapsOver(stored), "ORD")
        assert_is(found, cells, Moment())
        assert (found.mark, found.cells_folded, bool(found.refused)) == (None, len(cells), True)


async def test_snapshots_swapped_between_subjects_are_refused() -> None:
    tape, whole, cells = kept_tape(6)
    good = await read_book_at(tape, whole, "ORD")
    assert good.snapshot is not None
    (subject,) = [name for name in whole.stored if f".1.{good.snapshot.ordinal}." in name]
    for other in whole.stored:
        if other != subject:
            found = await read_book_at(tape, MemorySnapsOver({**whole.stored, subject: whole.stored[other]}), "ORD")
            assert "another place than its subject" in found.refused[0]
            assert_is(found, cells, Moment())


async def test_snapshots_of_another_branch_are_ignored() -> None:
    tape, snaps, cells = kept_tape(6)
    found = await read_book_at(tape, snaps, "ORD")
    assert found.mark is not None
    assert found.mark.log_id == OLD_ID
    # The same cells, of which the second half was written again after a restore: its snapshots are another branch's.
    branched = await make_tape(6, RECORDS, branch_at=12)
    restored = await read_book_at(branched, snaps, "ORD")
    assert restored.mark is not None
    assert (restored.mark.sequence <= 12, restored.refused) == (True, [])
    assert_is(restored, cells, Moment())
    mixed = MemorySnapsOver(dict(snaps.stored))
    await keep(branched, mixed)
    newer = await read_book_at(branched, mixed, "ORD")
    assert newer.mark is not None
    assert (newer.mark.log_id, newer.mark.ordinal) == (NEW_ID, found.mark.ordinal)
    assert_is(newer, cells, Moment())
    assert (await read_book_at(tape, mixed, "ORD")).mark == found.mark
    # And where the two branches hold other cells, nothing of the one comes into the other.
    different = await make_tape(7, RECORDS, branch_at=0)
    assert_is(await read_book_at(different, mixed, "ORD"), await all_cells(different), Moment())


async def test_a_trimmed_tape_is_read_from_snapshots() -> None:
    tape, snaps, cells = await make_tape(3, RECORDS), MemorySnaps(), kept_tape(3)[2]
    await keep(tape, snaps)
    await tape.trim((await tape.extent()).last - 3)
    assert_is(await read_book_at(tape, snaps, "ORD"), cells, Moment())
    with pytest.raises(GapError):
        await read_book_at(tape, None, "ORD")


async def test_books_beyond_the_bound_are_not_kept_and_are_read_from_the_tape() -> None:
    tape, _, cells = kept_tape(3)
    snaps = MemorySnaps()
    kept = await BookKeeper(tape, snaps, cells_every=EVERY, seconds_every=5.0, books_max=1).run()
    assert kept.left_out == 3
    for instrument in INSTRUMENTS:
        assert_is(await read_book_at(tape, snaps, instrument.symbol), cells, Moment())


# What cannot be answered.


async def test_an_unknown_symbol_is_told_with_its_neighbours() -> None:
    tape, snaps, cells = kept_tape(3)
    for store in (snaps, None):
        with pytest.raises(MissingError, match=r"LVLP, TAPE_books: no such instrument.*nearest: LVL.P"):
            await read_book_at(tape, store, "LVLP")
        with pytest.raises(MissingError, match="LATE, TAPE_books: no such instrument on the tape by then"):
            await read_book_at(tape, store, LATE.symbol, moment=Moment(ordinal=len(cells) // 3))
        assert (await read_book_at(tape, store, "ORD@1")).book.instrument == REVISED


async def test_a_moment_outside_of_the_tape_is_told() -> None:
    tape, snaps, cells = kept_tape(3)
    for store in (snaps, None):
        with pytest.raises(MissingError, match=r"the tape begins later \(its first record is of 2026-01-05T14:30"):
            await read_book_at(tape, store, "ORD", moment=Moment(time=START - 1))
        with pytest.raises(UsageError, match=f"has not come to cell {len(cells)} .its last is {len(cells) - 1}"):
            await read_book_at(tape, store, "ORD", moment=Moment(ordinal=len(cells)))
        last = await read_book_at(tape, store, "ORD", moment=Moment(ordinal=len(cells) - 1))
        assert last.next_ordinal == len(cells)
    with pytest.raises(UsageError, match="not both"):
        Moment(time=1, ordinal=1)
    with pytest.raises(MissingError, match="the tape is empty"):
        await read_book_at(MemoryLog("TAPE_books"), snaps, "ORD")


async def test_a_book_before_its_first_record_is_empty() -> None:
    tape, snaps, cells = kept_tape(3)
    defined = int(np.flatnonzero(cells["instrument"] == BY_LEVEL.id)[0])
    found = await read_book_at(tape, snaps, "LVL.P", moment=Moment(ordinal=defined))
    assert found.levels() == {"bids": [], "asks": []}
    assert found.describe()["state"] == "empty"
