"""The compiled view of one shard: what `reference.ReferenceView` answers, in bounded memory and by the million.

A frame is applied in one compiled call. Memory is bounded by a budget: beyond it values are evicted, of which the view
keeps where they stand in the log, so that they can be read again and put back; answers never depend on the budget.
Pure: no I/O and no clock. One thread at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any, NamedTuple

import numpy as np
from blake3 import blake3

from tapehouse.core.errors import DataError, DecodeError, InvariantError, TapehouseError, UsageError
from tapehouse.kv import layout, load
from tapehouse.kv.apply import apply_entries
from tapehouse.kv.arena import fresh_segments, make_room
from tapehouse.kv.bulk import locate
from tapehouse.kv.entries import (
    BODY_BYTES_MAX,
    ENTRIES_MAX,
    KEY_BYTES_MAX,
    SEQUENCE_MAX,
    VALUE_BYTES_MAX,
    Status,
    revision_of,
    revision_parts,
)
from tapehouse.kv.moment import Moment, coming_of, frozen_of
from tapehouse.kv.moves import NOT_COMING, NOT_FROZEN, Coming, Frozen
from tapehouse.kv.ordering import in_order
from tapehouse.kv.reference import NOT_OURS, WRITERS_MAX, Stored, given
from tapehouse.kv.slots import SLOTS
from tapehouse.kv.sweep import collect, collect_slots, look_up, peek, sweep, weigh_slots

BUDGET_BYTES = 1 << 30
ROW_BITS = 12  # rows of a segment of the table, as a power of two: splitting one is the table's longest pause
ARENA_BITS = 22  # bytes of a segment of the arena, so that the longest value takes an eighth of one
PINNED_PART = 8  # of the budget, that the arena may pass it by while a moment is being written
_ROOM_BYTES = 64  # that a block takes beyond its entry, and one that is put back beyond its key and value
_STATUSES = tuple(Status)
_EXTRA_DEPTH = 4  # of the directory beyond what equal segments need
_WHY = {
    layout.CUT_SHORT: "an entry is cut short",
    layout.DOES_NOT_ADD_UP: "an entry does not add up",
    layout.TOO_LONG: f"a key or value beyond {KEY_BYTES_MAX} or {VALUE_BYTES_MAX} bytes",
    layout.UNKNOWN_KIND: "an entry of an unknown kind",
    layout.WRONG_VALUE: "an entry's value is not as long as its kind's",
    layout.WRONG_COUNT: "not as many entries as the header says",
    layout.WRONG_SLOTS: "slots or an epoch that do not exist",
    layout.WRONG_BATCH: "a batch of more entries than follow",
}


class BudgetError(TapehouseError):
    """Keys, and values that are never evicted, take more than half of a view's memory."""


@dataclass(frozen=True, slots=True)
class Evicted:
    """What a key holds whose value is no longer in memory: it is that of an entry in the shard's log.

    Args:
        sequence: Of the frame.
        index: Of the entry in it.
        bytes: The value's length.
        revision, expiry: As in `Stored`.
    """

    sequence: int
    index: int
    bytes: int
    revision: int
    expiry: int

    @property
    def location(self) -> int:
        """Sequence and index as one number."""
        return revision_of(0, self.sequence, self.index)


class ViewAnswer(NamedTuple):
    """`entries.Answer`, whose old value may be evicted; a tuple, as one is made for every entry."""

    status: Status
    revision: int = 0
    old: bytes | Evicted | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """What a view holds and did; bytes are of memory that it has taken or uses."""

    keys: int  # expired ones among them until they are swept
    evicted_keys: int
    table_bytes: int
    arena_bytes: int  # of segments in use
    live_bytes: int
    fixed_bytes: int  # of the live ones, what eviction cannot take
    budget_bytes: int
    evictions: int
    restored: int
    hits: int  # reads of a value in memory
    misses: int  # reads of a value that was evicted
    absent: int  # reads of a key that is not there
    cleaned_bytes: int
    swept: int


class View:
    """The machine of one shard.

    Args:
        budget_bytes: Of rows and arena; at least 16 arena segments.
        seed: Of the hash, another for each view, so that nobody can aim at one segment; no answer depends on it.
        row_bits, arena_bits: Sizes of segments, as powers of two.
        hash_mask: Which bits of a hash count.
    """

    def __init__(
        self,
        *,
        budget_bytes: int = BUDGET_BYTES,
        seed: int = 0,
        row_bits: int = ROW_BITS,
        arena_bits: int = ARENA_BITS,
        hash_mask: int = (1 << 63) - 1,
    ) -> None:
        if budget_bytes < 16 << arena_bits:
            raise UsageError(
                f"a view's budget of {budget_bytes} bytes", hint=f"budget_bytes: at least {16 << arena_bits}"
            )
        self.writers: dict[int, tuple[int, int]] = {}
        arena_segments = (budget_bytes >> arena_bits) + (2 * BODY_BYTES_MAX >> arena_bits) + 3
        arena_segments += budget_bytes // PINNED_PART >> arena_bits
        # A table within the budget, doubled where all its segments are full at once, and a frame of new keys.
        row_segments = 2 * (budget_bytes >> row_bits + 6) + (4 * ENTRIES_MAX >> row_bits) + 2
        depth_max = row_segments.bit_length() + _EXTRA_DEPTH
        fills_from = layout.ACCOUNTS_FROM + arena_segments * layout.ACCOUNT_WORDS
        self._rows = np.zeros((row_segments << row_bits, layout.ROW_WORDS), np.int64)  # pages come when they are used
        self._directory = np.zeros(1 << depth_max, np.int64)
        self._arena = np.zeros(arena_segments << arena_bits, np.uint8)
        self._memory = self._arena.data
        self._answers = np.zeros((ENTRIES_MAX, layout.ANSWER_WORDS), np.int64)
        self._state = state = np.zeros(fills_from + row_segments, np.int64)
        state[layout.SEED] = np.uint64(seed & (1 << 64) - 1).astype(np.int64)
        state[layout.HASH_MASK] = hash_mask
        state[layout.ROW_BITS], state[layout.ARENA_BITS] = row_bits, arena_bits
        state[layout.DEPTH_MAX] = depth_max
        state[layout.ROW_SEGMENTS], state[layout.ROW_SEGMENTS_MAX] = 1, row_segments
        state[layout.FILLS_FROM] = fills_from
        state[layout.ARENA_SEGMENTS], state[layout.ARENA_USED] = arena_segments, 1
        state[layout.BUDGET] = budget_bytes
        state[layout.CLEAN_SEGMENT] = -1
        state[layout.ACCOUNTS_FROM + layout.TAKEN] = 1
        self._epochs = state[layout.EPOCHS_FROM : layout.EPOCHS_FROM + SLOTS]
        self._epochs[:] = NOT_OURS
        self._keys = state[layout.KEYS_FROM : layout.KEYS_FROM + SLOTS]
        state[layout.FROZEN_LAST] = state[layout.COMING_LAST] = -1

    # What the machine is at.

    @property
    def now(self) -> int:
        """The machine's time, UTC ns: the latest that any frame named."""
        return self._state.item(layout.NOW)

    @property
    def sequence(self) -> int:
        """Of the last frame that was applied."""
        return self._state.item(layout.SEQUENCE)

    @property
    def epochs(self) -> list[int]:
        """Of each slot; below 0 where the shard does not own it, see `reference.given`."""
        epochs: list[int] = self._epochs.tolist()
        return epochs

    def owns(self, slot: int) -> bool:
        """Whether the shard owns a slot."""
        return self._epochs.item(slot) >= 0

    def epoch(self, slot: int) -> int:
        """Of a slot, as in `epochs`."""
        return self._epochs.item(slot)

    def known_epoch(self, slot: int) -> int:
        """The latest in which the shard is known to have owned a slot, given away or not; 0 where it never did."""
        held = self._epochs.item(slot)
        return held if held >= 0 else max(given(held), 0)

    @property
    def frozen(self) -> Frozen | None:
        """The slots that the shard holds still."""
        return frozen_of(self._state)

    @property
    def coming(self) -> Coming | None:
        """The slots whose rows are being copied here."""
        return coming_of(self._state)

    @property
    def epoch_max(self) -> int:
        """The latest epoch in which the shard owns a slot; 0 where it owns none."""
        return max(int(self._epochs.max()), 0)

    def owners(self) -> Any:
        """The epoch of each slot, (SLOTS,) int64, as in `epochs`: it follows the view."""
        return self._epochs

    def keys_by_slot(self) -> Any:
        """How many keys each slot has, (SLOTS,) int64, whether owned or not; it follows the view."""
        return self._keys

    def bytes_by_slot(self) -> Any:
        """Bytes of keys and values of each slot, (SLOTS,) int64. It looks at every row."""
        sizes = np.zeros(SLOTS, np.int64)
        weigh_slots(self._rows, self._state, sizes)
        return sizes

    def keys_of(self, first: int, last: int) -> list[bytes]:
        """Every key of a run of slots, expired ones among them, in no order. It looks at every row."""
        found = np.empty(int(self._keys[first : last + 1].sum()), np.int64)
        count = collect_slots(self._rows, self._state, found, first, last)
        if count != len(found):
            raise InvariantError(f"slots {first} to {last} have {count} keys, not {len(found)}")
        return [self._key(row) for row in found.tolist()]

    # Reading.

    def get(self, key: bytes, now: int | None = None) -> Stored | Evicted | None:
        """What a key holds; None where it is absent or has expired.

        Args:
            now: A reader's own time where that is later than the machine's.
        """
        row = look_up(self._rows, self._directory, self._arena, self._state, key, len(key), now or 0)
        return None if row < 0 else self._held(row)

    def peek(self, key: bytes) -> Stored | Evicted | None:
        """What a key holds, for the KV's own use: not counted as read, nor kept in memory for it."""
        row = peek(self._rows, self._directory, self._arena, self._state, key, len(key))
        return None if row < 0 else self._held(row)

    @property
    def arrays(self) -> tuple[Any, Any, Any, Any]:
        """Rows, directory, arena and state, for kernels that read; see `layout`. What they say holds until a change."""
        return self._rows, self._directory, self._arena, self._state

    def locate(self, data: Any, keys: Any, count: int, shard: int, now: int | None = None) -> None:
        """Where the values are of the keys that are this shard's; see `bulk.locate`.

        Args:
            data: uint8, where the keys lie.
            keys: Rows of `bulk`, the first `count` of which were routed.
            now: As `get` takes it.
        """
        locate(self._rows, self._directory, self._arena, self._state, data, keys, count, shard, now or 0)

    def scan(
        self, prefix: bytes, *, after: bytes | None = None, limit: int = 0, now: int | None = None
    ) -> list[tuple[bytes, Stored | Evicted]]:
        """Keys that begin with `prefix`, those above `after` alone, in the order of their bytes; 0 for no limit.

        It looks at every key, and puts in order no more than it gives.
        """
        found = in_order(self._rows, self._arena, self._collect(prefix, after, now or 0), limit)
        return [(self._key(row), self._held(row)) for row in found.tolist()]

    def digest(self, value_of: Callable[[Evicted], bytes] | None = None) -> bytes:
        """32 bytes that two equal states share: keys that live, slots, gateways, time.

        Args:
            value_of: Reads an evicted value from the log.

        Raises:
            UsageError: A value was evicted, and there is no `value_of`.
        """
        rows = {}
        for row in self._collect(b"", None, 0).tolist():
            key, held = self._key(row), self._held(row)
            if isinstance(held, Stored):
                value = held.value
            elif value_of:
                value = value_of(held)
            else:
                raise UsageError("a value was evicted", subject=repr(key), hint="give `digest` a reader of the log")
            rows[key.hex()] = [blake3(value).hexdigest(), held.revision, held.expiry]
        state = {
            "rows": rows,
            "epochs": self.epochs,
            "frozen": astuple(self.frozen) if self.frozen else None,
            "coming": astuple(self.coming) if self.coming else None,
            "writers": sorted((writer, *last) for writer, last in self.writers.items()),
            "now": self.now,
            "sequence": self.sequence,
        }
        return blake3(json.dumps(state, separators=(",", ":"), sort_keys=True).encode()).digest()

    def metrics(self) -> Metrics:
        """What the view holds and did."""
        state = self._state.item
        return Metrics(
            keys=state(layout.KEYS),
            evicted_keys=state(layout.EVICTED_KEYS),
            table_bytes=state(layout.ROW_SEGMENTS) * layout.ROW_WORDS * 8 << state(layout.ROW_BITS),
            arena_bytes=state(layout.ARENA_USED) << state(layout.ARENA_BITS),
            live_bytes=state(layout.LIVE_BYTES),
            fixed_bytes=state(layout.FIXED_BYTES),
            budget_bytes=state(layout.BUDGET),
            evictions=state(layout.EVICTIONS),
            restored=state(layout.RESTORED),
            hits=state(layout.HITS),
            misses=state(layout.MISSES),
            absent=state(layout.ABSENT),
            cleaned_bytes=state(layout.CLEANED_BYTES),
            swept=state(layout.SWEPT),
        )

    def _collect(self, prefix: bytes, after: bytes | None, now: int) -> Any:
        """The rows of living keys, in no order; `after` None takes the empty key too."""
        found = np.empty(self._state.item(layout.KEYS), np.int64)
        after_bytes = -1 if after is None else len(after)
        count = collect(
            self._rows, self._arena, self._state, found, prefix, len(prefix), after or b"", after_bytes, now
        )
        return found[:count]

    def _key(self, row: int) -> bytes:
        _, at, lengths = self._rows[row, :3].tolist()
        at += layout.BLOCK_HEAD_BYTES
        return self._memory[at : at + (lengths >> 32)].tobytes()

    def _held(self, row: int) -> Stored | Evicted:
        _, at, lengths, revision, location, expiry, marks, _ = self._rows[row].tolist()
        if marks & layout.EVICTED:
            return self._evicted(location, lengths & 0xFFFF_FFFF, revision, expiry)
        at += layout.BLOCK_HEAD_BYTES + (lengths >> 32)
        return Stored(self._memory[at : at + (lengths & 0xFFFF_FFFF)].tobytes(), revision, expiry)

    def _evicted(self, location: int, size: int, revision: int, expiry: int) -> Evicted:
        _, sequence, index = revision_parts(location)
        return Evicted(sequence=sequence, index=index, bytes=size, revision=revision, expiry=expiry)

    # Applying.

    def apply(self, body: bytes | memoryview, count: int, *, writer: int, number: int, time: int, sequence: int) -> Any:
        """Apply the entries of one frame, in order; a row of `layout.STATUS` and so on for each.

        The rows, and old values' places in the arena, hold until the next call that changes the view.

        Args:
            body: Of the frame, its checksum verified; `count` entries.
            writer, number: Which life of which gateway wrote it, and which of its frames it is.
            time: That the frame names, UTC ns.
            sequence: Of the frame in the shard's log.

        Raises:
            DecodeError: The body is not `count` entries; nothing was applied.
            BudgetError: The keys are too many for the budget; nothing was applied.
        """
        if not 0 < count <= ENTRIES_MAX or len(body) > BODY_BYTES_MAX or not 0 <= sequence <= SEQUENCE_MAX:
            raise DecodeError(f"a frame of {count} entries in {len(body)} bytes", position=f"sequence {sequence}")
        last = self.writers.get(writer, (0, 0))[0]
        verdict = Status.APPLIED if number == last + 1 else Status.REPEATED if number <= last else Status.OUT_OF_TURN
        now = max(self.now, time)
        self._check(
            apply_entries(
                self._rows, self._directory, self._arena, self._state, self._answers,
                _read_only(body), len(body), count, sequence, now, int(verdict), _signed(writer),
            ),
            sequence,
        )  # fmt: skip
        if verdict is Status.APPLIED:
            if writer not in self.writers and len(self.writers) == WRITERS_MAX:
                del self.writers[min(self.writers, key=lambda known: self.writers[known][1])]
            self.writers[writer] = number, sequence
        return self._answers[:count]

    def answers(self, rows: Any) -> list[ViewAnswer]:
        """What `apply` returned, as values that last."""
        if rows[:, layout.OLD_BYTES].max(initial=-1) >= 0:
            return [self._answer(row) for row in rows.tolist()]
        statuses, revisions = rows[:, : layout.OLD_BYTES].T.tolist()
        return list(map(ViewAnswer, map(_STATUSES.__getitem__, statuses), revisions))

    def _answer(self, row: list[int]) -> ViewAnswer:
        status, revision, size, at = row[: layout.ENTRY_AT]
        if size < 0:
            return ViewAnswer(_STATUSES[status], revision)
        if at < 0:
            return ViewAnswer(_STATUSES[status], revision, self._evicted(~at, size, 0, 0))
        return ViewAnswer(_STATUSES[status], revision, self._memory[at : at + size].tobytes())

    def restore_value(self, key: bytes, evicted: Evicted, value: bytes) -> bool:
        """Put back a value that was read again; False where the key no longer lacks that one.

        Raises:
            BudgetError: There is no room for it.
        """
        why, done = load.put_back(
            self._rows, self._directory, self._arena, self._state, key, len(key), evicted.location, value, len(value)
        )
        self._check(why, evicted.sequence)
        return bool(done)

    def sweep(self, rows: int = 4_096) -> int:
        """Look at the next so many rows and remove expired ones; how many. No answer changes, nor the digest."""
        removed: int = sweep(self._rows, self._state, rows)
        return removed

    def tidy(self, rows: int) -> None:
        """Sweep so many rows, and clean a stretch where more than the budget is in use; no answer changes."""
        self.sweep(rows)
        make_room(self._rows, self._directory, self._arena, self._state, 0)  # Where it cannot, the next frame says so.

    def _check(self, why: int, sequence: int) -> None:
        """Raise what a kernel that did not finish says."""
        if why == layout.DONE:
            return
        if why == layout.OVER_BUDGET:
            metrics = self.metrics()
            raise BudgetError(
                f"keys and short values take {metrics.fixed_bytes} bytes and the table {metrics.table_bytes} of a "
                f"budget of {metrics.budget_bytes}", position=f"sequence {sequence}",
                hint="raise budget_bytes: the arena must be twice as large as what is never evicted",
            )  # fmt: skip
        if why == layout.NO_ROOM:
            raise InvariantError("a view's table or arena is full", position=f"sequence {sequence}")
        hint = "a newer tapehouse wrote it: upgrade" if why == layout.UNKNOWN_KIND else ""
        position = f"sequence {sequence}, byte {self._state.item(layout.ERROR_AT)}"
        raise DecodeError(_WHY[why], position=position, hint=hint)

    # Snapshots.

    def moment(self) -> Moment:
        """The view as it is, for as long as it does not change."""
        return Moment(rows=self._rows, arena=self._arena, state=self._state, writers=self.writers)

    @property
    def rows_bytes(self) -> int:
        """What a copy of the table takes now."""
        return self._state.item(layout.ROW_SEGMENTS) * layout.ROW_WORDS * 8 << self._state.item(layout.ROW_BITS)

    def pin(self, room: Any = None) -> Moment:
        """The view as it is now, which stays so while the view goes on, until `unpin`; one at a time.

        The table is copied; the arena is shared, and until then nothing in it is written over or freed. The moment may
        be read by another thread.

        Args:
            room: Memory for the copy, uint8; one that was written before is copied into much faster.
        """
        if self._state.item(layout.PINNED):
            raise InvariantError("a moment of this view is being written already")
        self._state[layout.PINNED] = 1
        self._state[layout.CLEAN_SEGMENT] = -1  # The cleaner begins with it again at some later time.
        accounts = self._accounts()
        accounts[:, layout.HELD] = accounts[:, layout.TAKEN]
        used = self.rows_bytes // (layout.ROW_WORDS * 8)
        if room is None or len(room) < self.rows_bytes:
            room = np.empty(self.rows_bytes, np.uint8)
        copy = room[: self.rows_bytes].view(np.int64).reshape(used, layout.ROW_WORDS)
        np.copyto(copy, self._rows[:used])
        return Moment(rows=copy, arena=self._arena, state=self._state.copy(), writers=dict(self.writers))

    def unpin(self) -> None:
        """Nobody reads the moment any more."""
        self._state[layout.PINNED] = 0
        self._accounts()[:, layout.HELD] = 0

    def has_room(self, size: int) -> bool:
        """Whether a body of so many bytes can be applied, or a value put back; always, where nothing is pinned."""
        state = self._state.item
        free = state(layout.ARENA_SEGMENTS) - state(layout.ARENA_USED)
        return not state(layout.PINNED) or free >= fresh_segments(self._state, 2 * size + _ROOM_BYTES)

    def _accounts(self) -> Any:
        end = layout.ACCOUNTS_FROM + self._state.item(layout.ARENA_SEGMENTS) * layout.ACCOUNT_WORDS
        return self._state[layout.ACCOUNTS_FROM : end].reshape(-1, layout.ACCOUNT_WORDS)

    def load_records(self, records: bytes) -> None:
        """Add the keys of one chunk of records to a view that lacks them.

        Raises:
            DataError: They do not add up; the view must be thrown away.
            BudgetError: There is no room for them.
        """
        why = load.load(self._rows, self._directory, self._arena, self._state, _read_only(records), len(records))
        if why in _WHY:
            raise DataError(
                "a record does not add up, or its key comes twice",
                position=f"byte {self._state.item(layout.ERROR_AT)} of a chunk",
            )
        self._check(why, self.sequence)

    def set_machine(
        self,
        *,
        now: int,
        sequence: int,
        epochs: list[int],
        writers: dict[int, tuple[int, int]],
        frozen: Frozen | None = None,
        coming: Coming | None = None,
    ) -> None:
        """Take over all of a machine's state but its keys."""
        held, comes = frozen or NOT_FROZEN, coming or NOT_COMING
        self._state[layout.FROZEN_FIRST : layout.FROZEN_WRITER + 1] = [
            held.first, held.last, held.epoch, held.until, held.since, _signed(held.writer)
        ]  # fmt: skip
        self._state[layout.COMING_FIRST : layout.COMING_DIGEST + 1] = [
            comes.first, comes.last, comes.epoch, _signed(comes.writer), comes.count, _signed(comes.digest)
        ]  # fmt: skip
        self._state[layout.NOW], self._state[layout.SEQUENCE] = now, sequence
        self._epochs[:] = epochs
        self.writers = dict(writers)


def _signed(word: int) -> int:
    """64 bits as a kernel has them."""
    return word - (1 << 64) if word >> 63 else word


def _read_only(body: bytes | memoryview) -> Any:
    """Bytes as an array of the one type that the kernels are compiled for."""
    array = np.frombuffer(body, np.uint8)
    array.flags.writeable = False
    return array
