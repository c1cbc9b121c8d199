"""The KV machine in plain Python, slow and obvious: the oracle of the compiled view, and its specification.

It holds the whole state: every key, the slots that its shard owns, those that are on their way (`moves`), the frames of
each gateway that it has seen, and the latest time that any frame named. What has expired by that time is not there,
whether or not it was removed.
"""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass
from typing import Any

from blake3 import blake3

from tapehouse.kv.entries import (
    BATCH_MAX,
    EPOCH_SHIFT,
    OWN_VALUES,
    Answer,
    Entry,
    EntryFlag,
    Op,
    Status,
    batch_count,
    read_slots,
    revision_of,
)
from tapehouse.kv.moves import Coming, Frozen, read_copied
from tapehouse.kv.slots import SLOTS, slot_of

WRITERS_MAX = 1_024  # gateways whose last frame is remembered; beyond it, the one that was silent longest is forgotten
INTEGER_DIGITS_MAX = 20  # of a decimal of 64 bits, with its sign
NOT_OURS = -1  # the epoch of a slot that the shard never owned; below it, of one that it gave away: see `given`
KEYED = (Op.PUT, Op.DELETE, Op.EXPIRE, Op.ADD)


@dataclass(frozen=True, slots=True)
class Stored:
    """What a key holds."""

    value: bytes
    revision: int
    expiry: int  # UTC ns; 0 for none


class ReferenceView:
    """The machine of one shard."""

    def __init__(self) -> None:
        self.rows: dict[bytes, Stored] = {}
        self.epochs = [NOT_OURS] * SLOTS
        self.frozen: Frozen | None = None
        self.coming: Coming | None = None
        self.writers: dict[int, tuple[int, int]] = {}  # writer: number of its last frame, sequence of that frame
        self.now = 0
        self.sequence = 0
        self._writer = 0  # whose frame is being applied

    # Reading.

    def get(self, key: bytes, now: int | None = None) -> Stored | None:
        """What a key holds; None where it is absent or has expired.

        Args:
            now: A reader's own time where that is later than the machine's.
        """
        row = self.rows.get(key)
        if row is None or (row.expiry and row.expiry <= max(self.now, now or 0)):
            return None
        return row

    def scan(self, prefix: bytes, *, after: bytes | None = None, limit: int = 0) -> list[tuple[bytes, Stored]]:
        """Keys that begin with `prefix`, those above `after` alone, in the order of their bytes; 0 for no limit."""
        wanted = sorted(key for key in self.rows if key.startswith(prefix) and (after is None or key > after))
        found = [(key, row) for key in wanted if (row := self.get(key))]
        return found[:limit] if limit else found

    def digest(self) -> bytes:
        """32 bytes that two equal states share: keys that live, slots, gateways, time."""
        living = {key.hex(): row for key, row in sorted(self.rows.items()) if self.get(key)}
        state = {
            "rows": {key: [blake3(row.value).hexdigest(), row.revision, row.expiry] for key, row in living.items()},
            "epochs": self.epochs,
            "frozen": astuple(self.frozen) if self.frozen else None,
            "coming": astuple(self.coming) if self.coming else None,
            "writers": sorted((writer, *last) for writer, last in self.writers.items()),
            "now": self.now,
            "sequence": self.sequence,
        }
        return blake3(json.dumps(state, separators=(",", ":"), sort_keys=True).encode()).digest()

    # Applying.

    def apply(self, entries: list[Entry], *, writer: int, number: int, time: int, sequence: int) -> list[Answer]:
        """Apply the entries of one frame, in order; an answer for each."""
        self.sequence = sequence
        last, _ = self.writers.get(writer, (0, 0))
        if number <= last:
            return [Answer(status=Status.REPEATED)] * len(entries)
        if number != last + 1:
            return [Answer(status=Status.OUT_OF_TURN)] * len(entries)
        if writer not in self.writers and len(self.writers) == WRITERS_MAX:
            del self.writers[min(self.writers, key=lambda known: self.writers[known][1])]
        self.writers[writer] = number, sequence
        self.now, self._writer = max(self.now, time), writer
        answers: list[Answer] = []
        while len(answers) < len(entries):
            index = len(answers)
            if entries[index].op is Op.BATCH:
                answers += self._apply_batch(entries, index)
            else:
                answers.append(self._apply_one(entries[index], index))
        return answers

    def _apply_batch(self, entries: list[Entry], index: int) -> list[Answer]:
        """A batch and its answers, the first for the entry that announces it."""
        count = batch_count(entries[index])
        batch = entries[index + 1 : index + 1 + count]
        keys = [entry.key for entry in batch]
        is_bad = (
            count > BATCH_MAX
            or any(entry.op not in KEYED for entry in batch)
            or len(set(keys)) != count
            or len({slot_of(key) for key in keys}) != 1
        )
        if is_bad:
            return [Answer(status=Status.BAD_BATCH)] * (count + 1)
        judged = [self._judge(entry) for entry in batch]
        if any(status is not Status.APPLIED for status in judged):
            return [
                Answer(status=Status.REFUSED),
                *(
                    Answer(
                        status=Status.REFUSED if status is Status.APPLIED else status,
                        revision=self._revision(entry.key),
                    )
                    for entry, status in zip(batch, judged, strict=True)
                ),
            ]
        own = revision_of(max(self.epochs[slot_of(keys[0])], 0), self.sequence, index)
        applied = [self._apply_one(entry, index + 1 + at) for at, entry in enumerate(batch)]
        return [Answer(status=Status.APPLIED, revision=own), *applied]

    def _apply_one(self, entry: Entry, index: int) -> Answer:
        if entry.op is Op.BARRIER:
            return Answer(status=Status.APPLIED)
        if entry.op not in KEYED:
            return self._apply_move(entry)
        old = self.get(entry.key)
        returned = old.value if old and entry.flags & EntryFlag.RETURN_OLD else None
        status = self._judge(entry)
        if status is not Status.APPLIED:
            return Answer(status=status, revision=self._revision(entry.key), old=returned)
        revision = revision_of(self.epochs[slot_of(entry.key)], self.sequence, index)
        if entry.op is Op.DELETE:
            self._set(entry.key, None)
            return Answer(status=status, revision=revision, old=returned)
        if entry.op is Op.EXPIRE:
            assert old is not None
            self._set(entry.key, Stored(old.value, old.revision, entry.expiry))
            return Answer(status=status, revision=self._revision(entry.key), old=returned)
        value, expiry = entry.value, entry.expiry
        if entry.op is Op.ADD:
            value = b"%d" % ((_integer(old.value) or 0 if old else 0) + _addend(entry))
        if entry.op is Op.ADD or entry.flags & EntryFlag.KEEP_EXPIRY:
            expiry = old.expiry if old else 0
        self._set(entry.key, Stored(value, revision, expiry))
        return Answer(status=status, revision=revision, old=returned)

    def _set(self, key: bytes, row: Stored | None) -> None:
        """What a key holds from now on; None for nothing."""
        if row is None:
            del self.rows[key]
        else:
            self.rows[key] = row

    def _judge(self, entry: Entry) -> Status:
        """Whether an entry can be applied now, or why not; the first reason in this order."""
        if self.epochs[slot_of(entry.key)] < 0:
            return Status.NOT_OWNED
        if self._is_frozen(slot_of(entry.key)):
            return Status.FROZEN
        old = self.get(entry.key)
        if entry.flags & EntryFlag.IF_REVISION and entry.revision != (old.revision if old else 0):
            return Status.CHANGED
        if entry.flags & EntryFlag.IF_ABSENT and old:
            return Status.PRESENT
        needs = entry.op in (Op.DELETE, Op.EXPIRE) or entry.flags & EntryFlag.IF_PRESENT
        if needs and not old:
            return Status.ABSENT
        if entry.op is Op.ADD:
            start = _integer(old.value) if old else 0
            if start is None:
                return Status.NOT_AN_INTEGER
            if not -(2**63) <= start + _addend(entry) < 2**63:
                return Status.OVERFLOW
        return Status.APPLIED

    def _revision(self, key: bytes) -> int:
        row = self.get(key)
        return row.revision if row else 0

    # Slots: see `moves`.

    def _apply_move(self, entry: Entry) -> Answer:
        if entry.op is Op.COPY:
            return self._copy(entry)
        if entry.op is Op.FORGET:
            return Answer(status=self._forget(entry))
        first, last, epoch = read_slots(entry.value)
        if entry.op is Op.FREEZE:
            return self._freeze(first, last, epoch, until=entry.expiry)
        if entry.op is Op.GIVE:
            return Answer(status=self._give(first, last, epoch))
        if entry.op is Op.RECEIVE:
            return Answer(status=self._receive(first, last, epoch))
        if len(entry.value) == OWN_VALUES[0]:
            for slot in range(first, last + 1):
                if self._can_own(slot, epoch):
                    self.epochs[slot] = epoch
            return Answer(status=Status.APPLIED)
        return Answer(status=self._own_copied(entry))

    def _can_own(self, slot: int, epoch: int) -> bool:
        """Whether the shard does not own a slot and never did in this epoch or a later one."""
        return self.epochs[slot] < 0 and epoch > given(self.epochs[slot])

    def _is_frozen(self, slot: int) -> bool:
        frozen = self.frozen
        return frozen is not None and frozen.first <= slot <= frozen.last and self.now < frozen.until

    def _freeze(self, first: int, last: int, epoch: int, *, until: int) -> Answer:
        """Freeze a run that is owned in earlier epochs, instead of any other; where it is frozen, put its end off."""
        if not all(0 <= self.epochs[slot] < epoch for slot in range(first, last + 1)):
            return Answer(status=Status.NOT_OWNED)
        since, held = self.sequence, self.frozen
        if held and self.now < held.until and self._is_run(held, first, last, epoch):
            since = held.since
        self.frozen = Frozen(first, last, epoch, until, since, self._writer)
        return Answer(status=Status.APPLIED, revision=revision_of(0, since, 0))

    def _give(self, first: int, last: int, epoch: int) -> Status:
        held = self.frozen
        if not held or self.now >= held.until or not self._is_run(held, first, last, epoch):
            return Status.OTHER_MOVE
        for slot in range(first, last + 1):
            self.epochs[slot] = given(self.epochs[slot])
        self.frozen = None
        return Status.APPLIED

    def _receive(self, first: int, last: int, epoch: int) -> Status:
        """Take rows of a run from now on, instead of any other, from this writer alone."""
        if not all(self._can_own(slot, epoch) for slot in range(first, last + 1)):
            return Status.OTHER_MOVE
        self.coming = Coming(first, last, epoch, self._writer)
        return Status.APPLIED

    def _copy(self, entry: Entry) -> Answer:
        coming, slot = self.coming, slot_of(entry.key)
        is_later = coming is not None and 0 <= entry.revision < coming.epoch << EPOCH_SHIFT
        if coming is None or not is_later or not self._is_coming(slot) or not self._can_own(slot, coming.epoch):
            return Answer(status=Status.OTHER_MOVE)
        self._set(entry.key, Stored(entry.value, entry.revision, entry.expiry))
        self.coming = coming.plus(entry)
        return Answer(status=Status.APPLIED, revision=entry.revision)

    def _own_copied(self, entry: Entry) -> Status:
        (first, last, epoch), coming = read_slots(entry.value), self.coming
        if not coming or not self._is_run(coming, first, last, epoch):
            return Status.OTHER_MOVE
        if (coming.count, coming.digest) != read_copied(entry.value):
            return Status.OTHER_MOVE
        if not all(self._can_own(slot, epoch) for slot in range(first, last + 1)):
            return Status.OTHER_MOVE
        self.epochs[first : last + 1] = [epoch] * (last + 1 - first)
        self.now = max(self.now, entry.expiry)  # What had expired where it came from has expired here.
        self.coming = None
        return Status.APPLIED

    def _forget(self, entry: Entry) -> Status:
        """Drop a row of a slot that is not owned, in the state that the writer knew; while rows come, only before."""
        slot, held = slot_of(entry.key), int.from_bytes(entry.value, "little", signed=True)
        if self.epochs[slot] >= 0 or self.epochs[slot] != held:
            return Status.OTHER_MOVE
        coming = self.coming
        if coming and coming.first <= slot <= coming.last and (coming.writer != self._writer or coming.count):
            return Status.OTHER_MOVE
        if entry.key in self.rows:
            self._set(entry.key, None)
        return Status.APPLIED

    def _is_coming(self, slot: int) -> bool:
        """Whether this writer may copy into a slot."""
        coming = self.coming
        return coming is not None and coming.first <= slot <= coming.last and coming.writer == self._writer

    def _is_run(self, held: Frozen | Coming, first: int, last: int, epoch: int) -> bool:
        """Whether a writer speaks of the move that it began itself."""
        return (held.first, held.last, held.epoch, held.writer) == (first, last, epoch, self._writer)


def given(epoch: Any) -> Any:
    """How the epoch of a slot that was given away is kept, and what it was: each is the other's inverse.

    A slot that never was owned stays NOT_OURS, which is below every epoch. Numbers, or arrays of them.
    """
    return -2 - epoch


def _addend(entry: Entry) -> int:
    return int.from_bytes(entry.value, "little", signed=True)


def _integer(value: bytes) -> int | None:
    """The number that a canonical decimal of 64 bits stands for; None for anything else."""
    if not 0 < len(value) <= INTEGER_DIGITS_MAX or not value.removeprefix(b"-").isdigit():
        return None
    number = int(value)
    return number if b"%d" % number == value and -(2**63) <= number < 2**63 else None
