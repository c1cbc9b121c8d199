"""Faults in a stream: what is told happened, and nothing else did."""

from __future__ import annotations

import json
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core.errors import DecodeError, UsageError
from tapehouse.feeds.faults import Fault, FaultPlan, Faults, corrupt_datagram, corrupt_json, corrupt_level
from tapehouse.feeds.mold import build_packet, read_packet


def corrupted(message: bytes) -> bytes | None:
    return message + b"!"


@settings(deadline=None)
@given(
    st.integers(0, 2**63),
    st.fixed_dictionaries({fault: st.floats(0, 0.2) for fault in Fault}),
    st.dictionaries(st.sampled_from(list(Fault)), st.frozensets(st.integers(0, 79), max_size=3)),
)
def test_what_is_told_is_what_happened(seed: int, rates: dict[Fault, float], at: dict[Fault, frozenset[int]]) -> None:
    plan = FaultPlan(seed=seed, rates=rates, at=at)
    outputs = []
    for _ in range(2):
        faults = Faults(plan, corrupted)
        sent: list[tuple[bytes, ...]] = []
        ends = []
        for number in range(80):
            passed = faults.passed(number, b"%d" % number)
            sent.append(passed.messages)
            if passed.disconnect:
                ends.append(number)
        sent.append(faults.ended().messages)
        outputs.append((sent, ends, faults.happened))
    assert outputs[0] == outputs[1], "a seed gives the same faults again"
    sent, ends, happened = outputs[0]
    by_number = {item.message: item.fault for item in happened}
    assert len(by_number) == len(happened) == faults.count
    flat = [message for messages in sent for message in messages]
    for number in range(80):
        body, fault = b"%d" % number, by_number.get(number)
        gone = fault in (Fault.DROP, Fault.DISCONNECT, Fault.CORRUPT_CHECKSUM)
        assert flat.count(body) == (0 if gone else 2 if fault is Fault.DUP else 1)
        assert (body + b"!" in flat) == (fault is Fault.CORRUPT_CHECKSUM)
        assert (body in sent[number]) == (not gone and fault is not Fault.REORDER)
        if fault is Fault.REORDER:
            assert body in sent[number + 1]
    assert ends == [number for number, fault in by_number.items() if fault is Fault.DISCONNECT]
    wanted = {number for numbers in at.values() for number in numbers}
    assert wanted - set(by_number) <= {number for number in wanted if by_number.get(number - 1) is Fault.REORDER}


def test_rates_are_about_what_they_say() -> None:
    plan = FaultPlan(rates={Fault.DROP: 0.25, Fault.DUP: 0.5})
    found = [plan.fault_of(number) for number in range(4_000)]
    assert 900 < found.count(Fault.DROP) < 1_100
    assert 1_900 < found.count(Fault.DUP) < 2_100


@pytest.mark.parametrize("rates", [{Fault.DROP: 1.5}, {Fault.DROP: 0.6, Fault.DUP: 0.6}, {Fault.DUP: -0.1}])
def test_rates_that_are_none(rates: dict[Fault, float]) -> None:
    with pytest.raises(UsageError):
        FaultPlan(rates=rates)


def test_a_corrupted_level_is_another_book_with_the_same_checksum() -> None:
    for side in ("bids", "asks"):
        book = {"data": [{side: [["12.5", "39", "0", "1"]], "checksum": crc32(b"12.5:39")}]}
        changed = corrupt_level(json.dumps(book, separators=(",", ":")).encode())
        assert changed is not None
        assert json.loads(changed) == {"data": [{side: [["12.5", "30", "0", "1"]], "checksum": crc32(b"12.5:39")}]}
    assert corrupt_level(b'{"data":[{"bids":[["12.5","39"]]}]}') is None
    assert corrupt_level(b'{"data":[{"bids":[],"asks":[],"checksum":0}]}') is None


def test_other_corruptions_cannot_be_read() -> None:
    changed = corrupt_json(b'{"a":1}')
    assert changed is not None
    with pytest.raises(ValueError):
        json.loads(changed)
    datagram = corrupt_datagram(build_packet(b"SESSION001", 1, [b"abc", b"de"]))
    assert datagram is not None
    with pytest.raises(DecodeError):
        read_packet(datagram)
    assert corrupt_datagram(build_packet(b"SESSION001", 1)) is None
    assert corrupt_json(b"") is None
