"""Entries as bytes: what is too long or makes no sense is refused with its place."""

from __future__ import annotations

import pytest

from tapehouse.core.errors import DataError, DecodeError
from tapehouse.kv.entries import (
    BODY_BYTES_MAX,
    ENTRIES_MAX,
    EPOCH_MAX,
    Entry,
    EntryFlag,
    Op,
    Status,
    encode_entry,
    entry_frame,
    open_entry_frame,
    read_entries,
    read_slots,
    revision_of,
    revision_parts,
    slots_value,
)

LOG_ID = bytes(range(16))


def test_numbers_are_pinned_for_ever() -> None:
    assert {op.name: int(op) for op in Op} == {
        "PUT": 1, "DELETE": 2, "EXPIRE": 3, "ADD": 4, "BATCH": 5, "BARRIER": 6,
        "OWN": 16, "FREEZE": 17, "COPY": 18, "GIVE": 19, "FORGET": 20, "RECEIVE": 21,
    }  # fmt: skip
    assert {flag.name: int(flag) for flag in EntryFlag} == {
        "IF_ABSENT": 1, "IF_PRESENT": 2, "IF_REVISION": 4, "KEEP_EXPIRY": 8, "RETURN_OLD": 16,
    }  # fmt: skip
    assert [status.name for status in sorted(Status)] == [
        "APPLIED", "ABSENT", "PRESENT", "CHANGED", "NOT_AN_INTEGER", "OVERFLOW", "NOT_OWNED", "FROZEN", "REFUSED",
        "BAD_BATCH", "REPEATED", "OUT_OF_TURN", "OTHER_MOVE",
    ]  # fmt: skip
    assert sorted(map(int, Status)) == list(range(13))


def test_a_revision_grows_with_epoch_then_sequence_then_index() -> None:
    places = [(0, 1, 4_095), (0, 2, 0), (1, 0, 0), (1, 0, 1), (EPOCH_MAX, 2**36 - 1, 4_095)]
    revisions = [revision_of(*place) for place in places]
    assert revisions == sorted(revisions)
    assert revisions[-1] == 2**63 - 1
    assert [revision_parts(revision) for revision in revisions] == places


def test_slots_are_read_as_written() -> None:
    assert read_slots(slots_value(3, 16_383, 77)) == (3, 16_383, 77)


@pytest.mark.parametrize("entry", [Entry(op=Op.PUT, key=bytes(1_025)), Entry(op=Op.PUT, value=bytes(2**19 + 1))])
def test_what_is_too_long_is_not_encoded(entry: Entry) -> None:
    with pytest.raises(DataError, match="at most"):
        encode_entry(entry)


def test_a_field_that_does_not_fit_is_not_encoded() -> None:
    with pytest.raises(DataError, match="does not fit"):
        encode_entry(Entry(op=Op.PUT, expiry=2**63))


OWN = Entry(op=Op.OWN, value=slots_value(5, 4, 0))
BAD_BODIES = {
    "cut short": encode_entry(Entry(op=Op.PUT))[:31],
    "does not add up": encode_entry(Entry(op=Op.PUT, value=b"xy"))[:33],
    "kind 99": b"\x20\0\0\0\x63" + bytes(27),
    "DELETE with a value": encode_entry(Entry(op=Op.DELETE, value=b"x")),
    "slots 5 to 4": encode_entry(OWN),
    "slots 7 to 6": encode_entry(Entry(op=Op.FREEZE, value=slots_value(7, 6, 0))),
    "GIVE with a value of 7": encode_entry(Entry(op=Op.GIVE, value=bytes(7))),
    "OWN with a value of 16": encode_entry(Entry(op=Op.OWN, value=bytes(16))),
    "RECEIVE with a value of 0": encode_entry(Entry(op=Op.RECEIVE)),
    "epoch 32768": encode_entry(Entry(op=Op.OWN, value=slots_value(1, 2, EPOCH_MAX + 1))),
    "a batch of 1": encode_entry(Entry(op=Op.BATCH, value=bytes([1, 0, 0, 0]))),
    "a batch of 0": encode_entry(Entry(op=Op.BATCH, value=bytes(4))),
    "2 entries, its header says 1": encode_entry(Entry(op=Op.BARRIER)) * 2,
}


@pytest.mark.parametrize("why", BAD_BODIES)
def test_what_is_no_body_is_refused(why: str) -> None:
    with pytest.raises(DecodeError, match=why):
        read_entries(BAD_BODIES[why], 1)


def test_a_frame_holds_what_its_limits_say() -> None:
    barrier = encode_entry(Entry(op=Op.BARRIER))
    place = {"writer": 1, "number": 1, "time": 5}
    header, body = open_entry_frame(entry_frame([barrier] * ENTRIES_MAX, log_id=LOG_ID, **place))
    assert (header.count, header.first_ordinal, header.last_time, len(body)) == (ENTRIES_MAX, 1, 5, 32 * ENTRIES_MAX)
    long = encode_entry(Entry(op=Op.PUT, value=bytes(BODY_BYTES_MAX // 2)))
    for bodies in ([], [barrier] * (ENTRIES_MAX + 1), [long, long]):
        with pytest.raises(DataError, match="cannot hold"):
            entry_frame(bodies, log_id=LOG_ID, **place)
