"""The machine's own promises, by example: they hold for the compiled view too."""

from __future__ import annotations

from typing import Any

import pytest

from tapehouse.kv.entries import Answer, Entry, EntryFlag, Op, Status, encode_entry, revision_of, slots_value
from tapehouse.kv.reference import WRITERS_MAX, ReferenceView
from tests.support.kv_streams import Pair, own, tiny_view

OWN = Entry(op=Op.OWN, value=slots_value(0, 16_383, 2))


class Told(Pair):
    """A pair that says what the oracle answered."""

    def tell(self, *entries: Entry, writer: int = 1, number: int = 0, time: int = 10) -> list[Answer]:
        number = number or self.oracle.writers.get(writer, (0, 0))[0] + 1
        self.feed(list(entries), writer=writer, number=number, time=time)
        probe = self.view.answers(self.view._answers[: len(entries)])
        return [Answer(status=one.status, revision=one.revision, old=self.old(one.old)) for one in probe]

    def old(self, value: Any) -> bytes | None:
        return value if value is None or isinstance(value, bytes) else self.value_of(value)


@pytest.fixture
def told() -> Told:
    pair = Told(tiny_view())
    pair.tell(OWN)
    return pair


def put(key: bytes, value: bytes = b"v", flags: int = 0, **more: int) -> Entry:
    return Entry(op=Op.PUT, key=key, value=value, flags=flags, **more)


def add(key: bytes, number: int) -> Entry:
    return Entry(op=Op.ADD, key=key, value=number.to_bytes(8, "little", signed=True))


def batch(*entries: Entry) -> list[Entry]:
    return [Entry(op=Op.BATCH, value=len(entries).to_bytes(4, "little")), *entries]


def statuses(answers: list[Answer]) -> list[Status]:
    return [answer.status for answer in answers]


def test_a_slot_that_nobody_gave_is_refused() -> None:
    assert statuses(Told(tiny_view()).tell(put(b"a"))) == [Status.NOT_OWNED]


def test_a_slot_that_was_given_away_is_taken_in_a_later_epoch_alone(told: Told) -> None:
    """An ownership that was sent long ago, and comes late, gives nothing back."""
    told.give_away(0, 9_999)
    for epoch in (0, 1, 2):
        told.tell(own(0, 16_383, epoch))
        assert told.view.epochs == told.oracle.epochs == [-4] * 10_000 + [2] * 6_384
    assert told.view.epoch(0) == -4
    told.tell(own(5_000, 16_383, 3))
    assert told.view.epochs == told.oracle.epochs == [-4] * 5_000 + [3] * 5_000 + [2] * 6_384
    assert not told.view.owns(4_999)
    told.compare()


def test_a_delete_is_answered_with_its_own_revision(told: Told) -> None:
    told.tell(put(b"a"), put(b"{t}b"))
    (gone,) = told.tell(Entry(op=Op.DELETE, key=b"a"))
    assert gone == Answer(status=Status.APPLIED, revision=revision_of(2, told.sequence, 0))
    _, _, gone = told.tell(*batch(put(b"{t}c"), Entry(op=Op.DELETE, key=b"{t}b", flags=EntryFlag.RETURN_OLD)))
    assert gone == Answer(status=Status.APPLIED, revision=revision_of(2, told.sequence, 2), old=b"v")
    assert told.tell(Entry(op=Op.DELETE, key=b"a")) == [Answer(status=Status.ABSENT)]
    told.compare()


def test_put_if_takes_the_revision_that_the_key_has(told: Told) -> None:
    (first,) = told.tell(put(b"a"))
    assert first.revision == revision_of(2, told.sequence, 0)
    (second,) = told.tell(put(b"a", b"w", EntryFlag.IF_REVISION | EntryFlag.RETURN_OLD, revision=first.revision))
    assert (second.status, second.old) == (Status.APPLIED, b"v")
    (third,) = told.tell(put(b"a", b"x", EntryFlag.IF_REVISION, revision=first.revision))
    assert third == Answer(status=Status.CHANGED, revision=second.revision)


def test_a_repeat_and_a_hole_change_nothing(told: Told) -> None:
    told.tell(add(b"n", 1), number=2)
    assert statuses(told.tell(add(b"n", 1), number=2)) == [Status.REPEATED]
    assert statuses(told.tell(add(b"n", 1), number=4)) == [Status.OUT_OF_TURN]
    held = told.oracle.get(b"n")
    assert held is not None
    assert held.value == b"1"


def test_the_gateway_that_was_silent_longest_is_forgotten(told: Told) -> None:
    for writer in range(2, WRITERS_MAX + 2):
        told.tell(Entry(op=Op.BARRIER), writer=writer)
    assert 1 not in told.oracle.writers
    assert statuses(told.tell(put(b"a"), number=2)) == [Status.OUT_OF_TURN]
    told.compare()


def test_sums(told: Told) -> None:
    assert statuses(told.tell(add(b"n", 2**63 - 1), add(b"n", 1), add(b"n", -(2**63)), add(b"n", -(2**63)))) == [
        Status.APPLIED, Status.OVERFLOW, Status.APPLIED, Status.OVERFLOW,
    ]  # fmt: skip
    for value in (b"", b"-", b"--5", b"-0", b"05", b"9223372036854775808", b"5 ", b"1" * 21):
        assert statuses(told.tell(put(b"t", value), add(b"t", 0))) == [Status.APPLIED, Status.NOT_AN_INTEGER]
    for value in (b"0", b"-5", b"9223372036854775807", b"-9223372036854775808"):
        assert statuses(told.tell(put(b"t", value), add(b"t", 0))) == [Status.APPLIED, Status.APPLIED]
    told.compare()


def test_what_has_expired_is_not_there(told: Told) -> None:
    told.tell(put(b"a", expiry=100))
    assert told.oracle.get(b"a", 99) is not None
    assert told.oracle.get(b"a", 100) is None
    assert statuses(told.tell(put(b"b"), time=100)) == [Status.APPLIED]
    assert statuses(told.tell(put(b"a", flags=EntryFlag.IF_ABSENT), time=5)) == [Status.APPLIED]
    told.compare()


def test_a_batch_is_applied_whole_or_not_at_all(told: Told) -> None:
    good = batch(put(b"{t}a"), put(b"{t}b", flags=EntryFlag.IF_ABSENT))
    assert statuses(told.tell(*good)) == [Status.APPLIED] * 3
    assert statuses(told.tell(*good)) == [Status.REFUSED, Status.REFUSED, Status.PRESENT]
    for bad in ((put(b"a"), put(b"b")), (put(b"a"), put(b"a")), (put(b"a"), OWN)):
        assert statuses(told.tell(*batch(*bad))) == [Status.BAD_BATCH] * 3
    many = [put(b"{t}%d" % at) for at in range(129)]
    assert statuses(told.tell(*batch(*many))) == [Status.BAD_BATCH] * 130
    assert statuses(told.tell(*batch(*many[:128]))) == [Status.APPLIED] * 129
    told.compare()


def test_the_digest_sees_every_part_of_the_state() -> None:
    def fresh(**changes: Any) -> ReferenceView:
        view = ReferenceView()
        view.apply([OWN, put(b"a")], writer=1, number=1, time=1, sequence=1)
        for name, value in changes.items():
            setattr(view, name, value)
        return view

    digests = {fresh().digest(), fresh(now=2).digest(), fresh(sequence=2).digest(), fresh(rows={}).digest(),
               fresh(writers={}).digest(), fresh(epochs=[0] * 16_384).digest()}  # fmt: skip
    assert len(digests) == 6
    assert encode_entry(OWN)
