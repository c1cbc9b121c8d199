"""The entries of a KV log's frames: what a gateway asks for, judged when it is applied. See docs/formats/kv.md.

Many gateways append to one log, so no frame knows the sequence that it will have. Its header says which life of which
gateway wrote it (`writer`), which of that life's frames it is (`first_ordinal`, from 1, without a hole) and what time
it was there (`first_time` = `last_time`); a frame that was sent twice is known by its number. Pure: bytes in, entries
out.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from tapehouse.core.errors import DataError, DecodeError
from tapehouse.kv.slots import SLOTS
from tapehouse.log.frame import Body, Codec, FrameHeader, read_header, seal

ENTRY_BYTES = 32  # of an entry's head; its key and its value follow
KEY_BYTES_MAX = 1_024
VALUE_BYTES_MAX = 512 * 1024
ENTRIES_MAX = 4_096  # in one frame, so that an entry's place fits a revision
BODY_BYTES_MAX = 960 * 1024  # below the broker's 1 MiB, with the frame's header and the broker's own
BATCH_MAX = 128  # entries that are applied together or not at all

_HEAD = struct.Struct("<IBBHIIqQ")
_SLOTS = struct.Struct("<HHI")
INDEX_BITS, SEQUENCE_BITS = 12, 36  # of a revision; above them is the epoch
EPOCH_SHIFT = INDEX_BITS + SEQUENCE_BITS
SEQUENCE_MAX = (1 << SEQUENCE_BITS) - 1
EPOCH_MAX = (1 << 63 - EPOCH_SHIFT) - 1


class Op(IntEnum):
    """What an entry asks for. Numbers are for ever; from 16 on they concern slots, not keys."""

    PUT = 1
    DELETE = 2
    EXPIRE = 3  # set or take away the expiry alone; value and revision stay
    ADD = 4  # to a decimal integer; the value is 8 bytes, little-endian and signed
    BATCH = 5  # the next so many entries (the value: 4 bytes) are applied together or not at all
    BARRIER = 6  # nothing: whoever has applied it has seen all that came before
    OWN = 16
    FREEZE = 17  # these: see `moves`
    COPY = 18
    GIVE = 19
    FORGET = 20
    RECEIVE = 21


FIXED_VALUES = {
    Op.DELETE: 0, Op.EXPIRE: 0, Op.ADD: 8, Op.BATCH: 4, Op.BARRIER: 0, Op.FREEZE: 8, Op.GIVE: 8, Op.FORGET: 8,
    Op.RECEIVE: 8,
}  # fmt: skip  # bytes
OWN_VALUES = (8, 24)  # bytes: slots that nobody had; slots whose rows were copied, with their count and digest
OF_SLOTS = (Op.OWN, Op.FREEZE, Op.GIVE, Op.RECEIVE)  # whose value begins with a run of slots and an epoch


class EntryFlag(IntFlag):
    """Under which conditions, and what is to be answered."""

    IF_ABSENT = 1
    IF_PRESENT = 2
    IF_REVISION = 4
    KEEP_EXPIRY = 8
    RETURN_OLD = 16  # answer the value that was there before


class Status(IntEnum):
    """What became of an entry."""

    APPLIED = 0
    ABSENT = 1  # there is no such key, and one was asked for
    PRESENT = 2  # there is one, and none was asked for
    CHANGED = 3  # it has another revision than the one that was asked for
    NOT_AN_INTEGER = 4
    OVERFLOW = 5  # a sum beyond 64 bits
    NOT_OWNED = 6  # the slot is another shard's
    FROZEN = 7  # the slot is on its way to another shard: ask again
    REFUSED = 8  # another entry of its batch was not applied
    BAD_BATCH = 9  # keys of several slots, one key twice, or what no batch may hold
    REPEATED = 10  # the frame was applied before: the first answer holds
    OUT_OF_TURN = 11  # the frame's number is not the gateway's next, or nobody knows the gateway any more
    OTHER_MOVE = 12  # of slots: another move took over, its time ran out, or what was copied is not what was said


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry; `expiry` is in UTC ns, 0 for none; `revision` is the one asked for with IF_REVISION, 0 for absent."""

    op: Op
    key: bytes = b""
    value: bytes = b""
    flags: int = 0
    expiry: int = 0
    revision: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of an entry.

    `revision` is the one that the key has now: of this entry where it was applied, 0 where there is no such key. A
    DELETE that was applied is answered with its own, which the key never has.
    `old` is what RETURN_OLD asked for: the value before, None where there was none.
    """

    status: Status
    revision: int = 0
    old: bytes | None = None


def revision_of(epoch: int, sequence: int, index: int) -> int:
    """A key's revision: grows with every change of it for ever, also where its slot moves to another shard's log.

    Args:
        epoch: Of the slot: how often it moved.
        sequence: Of the frame, in the log of the shard that owned the slot.
        index: Of the entry in it.
    """
    return epoch << EPOCH_SHIFT | sequence << INDEX_BITS | index


def revision_parts(revision: int) -> tuple[int, int, int]:
    """Epoch, sequence and index of a revision."""
    sequence = revision >> INDEX_BITS & SEQUENCE_MAX
    return revision >> EPOCH_SHIFT, sequence, revision & (1 << INDEX_BITS) - 1


def encode_entry(entry: Entry) -> bytes:
    """An entry as it stands in a body.

    Raises:
        DataError: Its key or its value is too long, or a field does not fit its place.
    """
    if len(entry.key) > KEY_BYTES_MAX:
        raise DataError(f"a key of {len(entry.key)} bytes", hint=f"at most {KEY_BYTES_MAX}")
    if len(entry.value) > VALUE_BYTES_MAX:
        raise DataError(f"a value of {len(entry.value)} bytes", hint=f"at most {VALUE_BYTES_MAX}")
    size = ENTRY_BYTES + len(entry.key) + len(entry.value)
    try:
        head = _HEAD.pack(
            size, entry.op, entry.flags, len(entry.key), len(entry.value), 0, entry.expiry, entry.revision
        )
    except struct.error as error:
        raise DataError(f"an entry's field does not fit: {error}") from error
    return head + entry.key + entry.value


def read_entries(body: bytes, count: int) -> list[Entry]:
    """The entries of a body.

    Raises:
        DecodeError: They are cut short, of an unknown kind, or not as many as the header says.
    """
    entries: list[Entry] = []
    at = 0
    while at < len(body):
        if len(body) - at < ENTRY_BYTES:
            raise DecodeError("an entry's head is cut short", position=f"byte {at}")
        size, op, flags, key_bytes, value_bytes, _, expiry, revision = _HEAD.unpack_from(body, at)
        if size != ENTRY_BYTES + key_bytes + value_bytes or at + size > len(body):
            raise DecodeError(f"an entry of {size} bytes does not add up", position=f"byte {at}")
        if key_bytes > KEY_BYTES_MAX or value_bytes > VALUE_BYTES_MAX:
            raise DecodeError(f"a key of {key_bytes}, a value of {value_bytes} bytes", position=f"byte {at}")
        if op not in Op.__members__.values():
            raise DecodeError(
                f"an entry of kind {op} is unknown", position=f"byte {at}", hint="a newer tapehouse wrote it: upgrade"
            )
        fixed = FIXED_VALUES.get(Op(op))
        if (fixed is not None and value_bytes != fixed) or (op == Op.OWN and value_bytes not in OWN_VALUES):
            raise DecodeError(f"an entry {Op(op).name} with a value of {value_bytes} bytes", position=f"byte {at}")
        key = bytes(body[at + ENTRY_BYTES : at + ENTRY_BYTES + key_bytes])
        value = bytes(body[at + ENTRY_BYTES + key_bytes : at + size])
        entries.append(Entry(op=Op(op), key=key, value=value, flags=flags, expiry=expiry, revision=revision))
        at += size
    if len(entries) != count:
        raise DecodeError(f"a body of {len(entries)} entries, its header says {count}")
    for place, entry in enumerate(entries):
        if entry.op in OF_SLOTS:
            first, last, epoch = read_slots(entry.value)
            if not first <= last < SLOTS or epoch > EPOCH_MAX:
                raise DecodeError(f"slots {first} to {last} in epoch {epoch}")
        if entry.op is Op.BATCH and not 0 < batch_count(entry) < count - place:
            raise DecodeError(f"a batch of {batch_count(entry)} entries, {count - place - 1} follow")
    return entries


def entry_at(body: bytes, index: int) -> Entry:
    """One entry of a body that `read_entries` takes, by its place; it must not be a BATCH."""
    at = 0
    for _ in range(index):
        at += int.from_bytes(body[at : at + 4], "little")
    size = int.from_bytes(body[at : at + 4], "little")
    return read_entries(body[at : at + size], 1)[0]


def batch_count(entry: Entry) -> int:
    """How many entries a BATCH announces."""
    return int.from_bytes(entry.value, "little")


def slots_value(first: int, last: int, epoch: int) -> bytes:
    """The value of an entry that concerns slots: the first and the last of them, and their epoch."""
    return _SLOTS.pack(first, last, epoch)


def read_slots(value: bytes) -> tuple[int, int, int]:
    """What `slots_value` packed, at the beginning of a value."""
    first, last, epoch = _SLOTS.unpack_from(value)
    return first, last, epoch


def entry_frame(
    bodies: Sequence[bytes], *, log_id: bytes, writer: int, number: int, time: int, count: int | None = None
) -> bytes:
    """Encoded entries as one message of a KV log.

    Args:
        bodies: Each an `encode_entry`, or several of them in one piece.
        writer: This life of this gateway, not 0.
        number: Of this frame in that life, from 1.
        time: UTC ns; a machine's time is the latest that any frame named.
        count: Of entries; None for as many as there are bodies.

    Raises:
        DataError: No entries, or more than a frame holds.
    """
    body = b"".join(bodies)
    if count is None:
        count = len(bodies)
    if not 0 < count <= ENTRIES_MAX or len(body) > BODY_BYTES_MAX:
        raise DataError(
            f"a frame cannot hold {count} entries of {len(body)} bytes",
            hint=f"1 to {ENTRIES_MAX} entries, at most {BODY_BYTES_MAX} bytes",
        )
    header = FrameHeader(
        log_id=log_id, writer=writer, epoch=0, first_ordinal=number, body=Body.ENTRIES, codec=Codec.PLAIN,
        count=count, stored_bytes=len(body), plain_bytes=len(body), first_time=time, last_time=time,
    )  # fmt: skip
    return seal(header, body)


def open_entry_frame(frame: bytes) -> tuple[FrameHeader, memoryview]:
    """A KV frame's header and its body, the checksum verified; the entries are not looked at.

    Raises:
        DecodeError: The frame is torn, damaged, of an unknown version, or holds no entries.
    """
    header = read_header(frame)
    if header.body is not Body.ENTRIES or header.codec is not Codec.PLAIN:
        raise DecodeError(f"a frame of {header.body.name.lower()} where entries were expected")
    if not 0 < header.count <= ENTRIES_MAX:
        raise DecodeError(f"a frame of {header.count} entries")
    return header, memoryview(frame)[len(frame) - header.stored_bytes :]
