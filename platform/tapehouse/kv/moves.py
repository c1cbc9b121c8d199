"""What a machine knows of slots on their way: those that it holds still, those that are being copied to it.

A move of a run of slots from a source to a target, all by one life of one gateway, the mover:

1. RECEIVE at the target: what came before of these slots counts no more; only this life may COPY into them.
2. FREEZE at the source, until a time: writes are answered FROZEN, reads go on.
3. COPY every row into the target. Its machine counts the rows and adds up their digests.
4. GIVE at the source, while it is frozen by this life: the slots are nobody's.
5. OWN at the target, in a later epoch: only where count and digest are what the mover says they must be.
6. FORGET the rows at the source.

Each step is judged where it is applied; what comes late, twice, or from a mover that another replaced changes nothing.
Pure.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tapehouse.kv.entries import Entry, Op, slots_value

_OWN = struct.Struct("<8sQQ")
_MASK = (1 << 64) - 1
_ADD = 0x9E3779B97F4A7C15  # the constants of `words.hash_of`
_MULTIPLY = 0xFF51AFD7ED558CCD
_FINISH = 0xC4CEB9FE1A85EC53


@dataclass(frozen=True, slots=True)
class Frozen:
    """A run of slots that the shard holds still.

    Attributes:
        epoch: In which another shard is to own them.
        until: UTC ns; from this time of the machine's on they are as if nobody had frozen them.
        since: The sequence of the frame that froze them; one that only put off `until` left it as it was.
        writer: The life that may give them away.
    """

    first: int
    last: int
    epoch: int
    until: int
    since: int
    writer: int


@dataclass(frozen=True, slots=True)
class Coming:
    """A run of slots whose rows are being copied to this shard.

    Attributes:
        writer: The life that may copy.
        count, digest: Of the rows that came: how many, and the sum of their `row_digest`s modulo 2^64.
    """

    first: int
    last: int
    epoch: int
    writer: int
    count: int = 0
    digest: int = 0

    def plus(self, entry: Entry) -> Coming:
        """With one row more."""
        digest = self.digest + row_digest(entry.key, entry.value, entry.expiry, entry.revision) & _MASK
        return Coming(self.first, self.last, self.epoch, self.writer, self.count + 1, digest)


NOT_FROZEN, NOT_COMING = Frozen(0, -1, 0, 0, 0, 0), Coming(0, -1, 0, 0)  # how none of them is stored


def row_digest(key: bytes, value: bytes, expiry: int, revision: int) -> int:
    """64 bits that say what a row is; the same in every view."""
    mixed = _mix(_mix(0, key), value)
    for word in (expiry & _MASK, revision):
        mixed = (mixed ^ word) * _FINISH & _MASK
        mixed ^= mixed >> 32
    return mixed


def _mix(mixed: int, data: bytes) -> int:
    mixed ^= len(data) * _ADD & _MASK
    for at in range(0, len(data), 8):
        mixed = (mixed ^ int.from_bytes(data[at : at + 8], "little")) * _MULTIPLY & _MASK
        mixed ^= mixed >> 32
    return mixed


def receive(first: int, last: int, epoch: int) -> Entry:
    """Begin to copy into a shard that does not own these slots."""
    return Entry(op=Op.RECEIVE, value=slots_value(first, last, epoch))


def freeze(first: int, last: int, epoch: int, until: int) -> Entry:
    """Hold slots still until a time, UTC ns; one that has passed lets them go."""
    return Entry(op=Op.FREEZE, value=slots_value(first, last, epoch), expiry=until)


def copy(key: bytes, value: bytes, *, expiry: int, revision: int) -> Entry:
    """A row as it was where it came from."""
    return Entry(op=Op.COPY, key=key, value=value, expiry=expiry, revision=revision)


def give(first: int, last: int, epoch: int) -> Entry:
    """Give frozen slots away."""
    return Entry(op=Op.GIVE, value=slots_value(first, last, epoch))


def own_copied(first: int, last: int, epoch: int, *, count: int, digest: int, time: int) -> Entry:
    """Own slots whose rows were copied; `time`, UTC ns, is what the machine's becomes where it is behind."""
    return Entry(op=Op.OWN, value=_OWN.pack(slots_value(first, last, epoch), count, digest), expiry=time)


def read_copied(value: bytes) -> tuple[int, int]:
    """Count and digest out of the value of `own_copied`."""
    _, count, digest = _OWN.unpack(value)
    return count, digest


def forget(key: bytes, held: int) -> Entry:
    """Drop a row of a slot that the shard does not own; `held` is the slot's epoch as the view keeps it."""
    return Entry(op=Op.FORGET, key=key, value=held.to_bytes(8, "little", signed=True))
