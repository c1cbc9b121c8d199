"""Property tests of segments: decode of encode is identity, damage is found, cuts do not depend on when one looks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core.errors import DecodeError, IntegrityError
from tapehouse.log.canonical import decode_message, encode_message
from tapehouse.log.log_digest import GENESIS, digest_messages
from tapehouse.log.port import Branch, Extent, Message
from tapehouse.log.segment import SegmentHeader, decode_segment, encode_segment, pack, unpack
from tapehouse.log.segment_cut import CutSegment, SegmentCutter
from tapehouse.log.segment_file import recover_segment

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@st.composite
def runs(draw: st.DrawFn) -> tuple[SegmentHeader, list[Message]]:
    first = draw(st.integers(1, 2**40))
    parts = draw(
        st.lists(
            st.tuples(TEXT, st.binary(max_size=60), st.dictionaries(TEXT, TEXT, max_size=3)), min_size=1, max_size=8
        )
    )
    messages = [
        Message(sequence=first + at, subject=subject, payload=payload, headers=headers)
        for at, (subject, payload, headers) in enumerate(parts)
    ]
    header = SegmentHeader(
        name=draw(st.sampled_from(["TAPE_demo", "KV_3", "x"])),
        log_id=draw(st.binary(min_size=16, max_size=16)),
        first=first,
        head_before=draw(st.binary(min_size=32, max_size=32)),
    )
    return header, messages


@settings(deadline=None, max_examples=150)
@given(runs())
def test_decode_of_encode_is_identity(run: tuple[SegmentHeader, list[Message]]) -> None:
    header, messages = run
    plain = encode_segment(messages, header)
    segment = decode_segment(unpack(pack(plain)))
    assert segment.header == header
    assert list(segment.messages) == messages
    assert segment.head_after == digest_messages(messages, next_sequence=header.first, head=header.head_before)
    assert encode_segment(segment.messages, segment.header) == plain
    for message in messages:
        assert decode_message(encode_message(message)) == message


@settings(deadline=None, max_examples=150)
@given(runs(), st.data())
def test_any_flip_is_found(run: tuple[SegmentHeader, list[Message]], data: st.DataObject) -> None:
    header, messages = run
    plain = bytearray(encode_segment(messages, header))
    plain[data.draw(st.integers(0, len(plain) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DecodeError):
        decode_segment(bytes(plain))
    try:
        recovered = recover_segment(bytes(plain))
    except (DecodeError, IntegrityError):
        return
    assert list(recovered.messages) == messages[: len(recovered.messages)]


@settings(deadline=None, max_examples=150)
@given(runs(), st.data())
def test_any_truncation_is_an_error_or_a_prefix(run: tuple[SegmentHeader, list[Message]], data: st.DataObject) -> None:
    header, messages = run
    plain = encode_segment(messages, header)
    torn = plain[: data.draw(st.integers(0, len(plain) - 1))]
    with pytest.raises(DecodeError):
        decode_segment(torn)
    try:
        recovered = recover_segment(torn)
    except DecodeError:
        return
    assert list(recovered.messages) == messages[: len(recovered.messages)]
    assert recovered.head_after == digest_messages(
        recovered.messages, next_sequence=header.first, head=header.head_before
    )


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=400))
def test_arbitrary_bytes_only_ever_raise_a_decode_error(data: bytes) -> None:
    for candidate in (data, b"THSG\x01\x00" + data):
        with pytest.raises(DecodeError):
            decode_segment(candidate)
        with pytest.raises(DecodeError):
            unpack(candidate)


def _cut(extent: Extent, messages: list[Message], head: bytes) -> list[CutSegment]:
    cutter = SegmentCutter("L", extent, first=messages[0].sequence, head_before=head)
    return [segment for message in messages for segment in cutter.add(message)] + cutter.flush()


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(1, 9000))
def test_cuts_do_not_depend_on_when_one_looked(one: int, two: int, through: int) -> None:
    """A log cut at any earlier moment, then from its last unfinished segment on, gives the segments of one pass."""
    early, late = sorted((one, two))
    branches = (Branch(log_id=b"a" * 16, through=min(through, early)), Branch(log_id=b"b" * 16))
    messages = [Message(sequence=n, subject="s", payload=b"") for n in range(1, late + 1)]
    whole = _cut(Extent(first=1, last=late, branches=branches), messages, GENESIS)
    before = _cut(Extent(first=1, last=early, branches=branches), messages[:early], GENESIS)
    tail = before[-1]
    after = _cut(
        Extent(first=1, last=late, branches=branches), messages[tail.header.first - 1 :], tail.header.head_before
    )
    assert [s.digest for s in before[:-1] + after] == [s.digest for s in whole]
