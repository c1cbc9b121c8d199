"""Lines with holes, doubles and wrong order, merged: nothing lost or doubled, and every hole is told exactly once."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core.errors import DecodeError
from tapehouse.feeds.arbitration import Arbiter, Event, Gap, Reset, Run
from tapehouse.feeds.mold import build_end_of_session, build_packet, read_request
from tapehouse.feeds.mold_receiver import RETRY_NS_MAX, MoldReceiver
from tapehouse.market.gap import Cause, Confidence

SESSION = b"SESSION001"
SECOND = 1_000_000_000


def message(number: int) -> bytes:
    """A message that tells its own number."""
    return b"m%d" % number


def numbers_of(events: list[Event]) -> list[int]:
    """The numbers of all messages that came out; each must be what its place says."""
    found = []
    for event in events:
        if isinstance(event, Run):
            assert event.messages, "an empty run"
            for number, body in enumerate(event.messages, event.sequence):
                assert body == message(number)
                found.append(number)
    return found


def told(events: list[Event]) -> list[int]:
    """Every number that a gap record says is missing."""
    return [
        number
        for event in events
        if isinstance(event, Gap) and event.cause is Cause.SEQUENCE
        for number in range(event.sequence + 1, event.following)
    ]


def check_confidence(events: list[Event], lost: set[int]) -> None:
    """The books are good exactly while nothing that was told is missing; gap records lie where they happen."""
    reached, open_until = 0, 0
    for event in events:
        if isinstance(event, Run):
            reached = event.sequence + len(event.messages) - 1
        elif isinstance(event, Gap) and event.cause is Cause.SEQUENCE:
            assert event.confidence is Confidence.SUSPECT
            assert event.missing == event.following - event.sequence - 1 > 0
            open_until = event.following
        elif isinstance(event, Gap):
            assert event.sequence == reached == open_until - 1, "a hole is closed behind its last message"
            whole = not any(number <= reached for number in lost)
            assert event.confidence is (Confidence.GOOD if whole else Confidence.SUSPECT)


@st.composite
def packets(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    """How many messages there are, and packets of them as (first, count), some lost, doubled and moved."""
    total = draw(st.integers(1, 40))
    cuts = sorted(draw(st.sets(st.integers(2, total), max_size=12))) if total > 1 else []
    edges = [1, *cuts, total + 1]
    plan = []
    for begin, end in itertools.pairwise(edges):
        copies = draw(st.sampled_from([1, 1, 1, 0, 2]))
        plan += [(draw(st.integers(0, 6)), begin, end - begin)] * copies
    moved = sorted(enumerate(plan), key=lambda item: (item[0] + item[1][0], item[0]))
    return total, [(begin, count) for _, (_, begin, count) in moved]


@settings(deadline=None)
@given(packets(), st.integers(1, 8))
def test_with_a_server_that_answers_the_output_is_the_input(
    plan: tuple[int, list[tuple[int, int]]], answer: int
) -> None:
    total, sent = plan
    receiver, events, now = MoldReceiver(), list[Event](), 0

    def serve() -> None:
        while asked := receiver.take_requests():
            assert len(asked) == 1, "one request at a time"
            request = read_request(asked[0])
            assert 1 <= request.sequence <= total
            count = min(request.count, answer, total + 1 - request.sequence)
            body = [message(request.sequence + at) for at in range(count)]
            receiver.receive_answer(build_packet(SESSION, request.sequence, body), now)

    for begin, count in sent:
        receiver.receive(0, build_packet(SESSION, begin, [message(begin + at) for at in range(count)]), now)
        serve()
        events += receiver.take()
    receiver.receive(0, build_end_of_session(SESSION, total + 1), now)
    serve()
    events += receiver.take()
    assert numbers_of(events) == list(range(1, total + 1))
    assert receiver.ended
    assert receiver.arbiter.lost.messages == 0
    check_confidence(events, set())
    missing = told(events)
    assert len(missing) == len(set(missing))
    recovered = [event for event in events if isinstance(event, Gap) and event.confidence is Confidence.GOOD]
    assert bool(recovered) == bool(missing)


@settings(deadline=None)
@given(packets(), st.booleans(), st.integers(2, 70))
def test_without_an_answer_every_missing_range_is_told_once(
    plan: tuple[int, list[tuple[int, int]]], asks: bool, buffered_max: int
) -> None:
    total, sent = plan
    receiver, events, now = MoldReceiver(retransmission=asks, buffered_max=buffered_max), list[Event](), 0
    for begin, count in sent:
        now += SECOND // 100
        receiver.receive(0, build_packet(SESSION, begin, [message(begin + at) for at in range(count)]), now)
        receiver.elapsed(now)
        assert receiver.arbiter.waiting <= buffered_max
        events += receiver.take()
    receiver.receive(0, build_end_of_session(SESSION, total + 1), now)
    for _ in range(100 * total):
        if receiver.ended:
            break
        now += RETRY_NS_MAX
        receiver.elapsed(now)
    events += receiver.take()
    assert receiver.ended
    found, missing = numbers_of(events), told(events)
    lost = [number for begin, end in receiver.arbiter.lost.ranges for number in range(begin, end)]
    assert found == sorted(set(found))
    assert sorted(found + lost) == list(range(1, total + 1))
    assert receiver.arbiter.lost.messages == len(lost)
    assert len(missing) == len(set(missing))
    assert set(lost) <= set(missing)
    check_confidence(events, set(lost))
    assert len(receiver.take_requests()) <= 6 * total
    never = set(range(1, total + 1)) - {begin + at for begin, count in sent for at in range(count)}
    assert never <= set(lost)


@settings(deadline=None)
@given(packets(), packets(), st.lists(st.integers(0, 1), max_size=120))
def test_two_lines_give_what_either_has(
    one: tuple[int, list[tuple[int, int]]], other: tuple[int, list[tuple[int, int]]], turns: list[int]
) -> None:
    total = max(one[0], other[0])
    arbiter, events, now = Arbiter(2), list[Event](), 0
    queues = [list(one[1]), list(other[1])]
    for turn in [*turns, *([0, 1] * 200)]:
        if queues[turn]:
            begin, count = queues[turn].pop(0)
            now += 1
            arbiter.receive(turn, SESSION, begin, [message(begin + at) for at in range(count)], now)
    for line in (0, 1):
        arbiter.receive(line, SESSION, total + 1, [], now, ended=True)
    for _ in range(total + 1):
        now += SECOND
        arbiter.elapsed(now)
    events += arbiter.take()
    had = {begin + at for plan in (one, other) for begin, count in plan[1] for at in range(count)}
    assert numbers_of(events) == sorted(had)
    assert set(range(1, total + 1)) - had == {
        number for begin, end in arbiter.lost.ranges for number in range(begin, end)
    }
    missing = told(events)
    assert len(missing) == len(set(missing))
    assert set(range(1, total + 1)) - had <= set(missing)
    check_confidence(events, set(range(1, total + 1)) - had)
    assert arbiter.ended
    assert sum(line.first for line in arbiter.lines) == len(had)


def test_a_hole_of_one_line_that_the_other_fills_is_none_of_the_feed() -> None:
    arbiter = Arbiter(2)
    arbiter.receive(0, SESSION, 1, [message(1), message(2)], 0)
    arbiter.receive(0, SESSION, 5, [message(5)], 1)
    arbiter.receive(1, SESSION, 1, [message(number) for number in (1, 2, 3, 4)], 2)
    events = arbiter.take()
    assert numbers_of(events) == [1, 2, 3, 4, 5]
    assert not told(events)
    assert (arbiter.lines[0].gaps, arbiter.lines[0].missing) == (1, 2)
    assert (arbiter.lines[1].gaps, arbiter.lines[1].first, arbiter.lines[1].duplicates) == (0, 2, 2)


def test_a_hole_of_both_lines_is_told_and_filled_late() -> None:
    arbiter = Arbiter(2)
    arbiter.receive(0, SESSION, 2, [message(2)], 0)
    assert arbiter.take() == []
    arbiter.elapsed(SECOND)  # the other line says nothing
    assert arbiter.take() == [
        Gap(cause=Cause.SEQUENCE, confidence=Confidence.SUSPECT, sequence=0, following=2, missing=1)
    ]
    arbiter.receive(1, SESSION, 1, [message(1)], SECOND + 1)
    assert arbiter.take() == [
        Run(1, (message(1),)),
        Gap(cause=Cause.FILLED, confidence=Confidence.GOOD, sequence=1),
        Run(2, (message(2),)),
    ]


def test_a_new_session_ends_the_old_one_and_its_stragglers() -> None:
    arbiter, other = Arbiter(2), b"SESSION002"
    arbiter.receive(0, SESSION, 1, [message(1)], 0)
    arbiter.receive(0, SESSION, 3, [message(3)], 0)
    arbiter.receive(0, other, 1, [message(1)], 1)
    arbiter.receive(1, SESSION, 2, [message(2)], 2)
    events = arbiter.take()
    assert [event for event in events if isinstance(event, Reset)] == [Reset(other)]
    assert numbers_of(events) == [1, 3, 1]
    assert told(events) == [2]
    assert arbiter.lines[1].strays == 1


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.booleans(), st.binary(max_size=60)), max_size=30))
def test_any_bytes_are_packets_or_refused(datagrams: list[tuple[int, bool, bytes]]) -> None:
    receiver = MoldReceiver(2, buffered_max=8)
    for at, (line, is_answer, body) in enumerate(datagrams):
        for datagram in (body, SESSION + body, build_packet(SESSION, at, [body])):
            try:
                if is_answer:
                    receiver.receive_answer(datagram, at)
                else:
                    receiver.receive(line, datagram, at)
            except DecodeError:
                continue
            receiver.elapsed(at * RETRY_NS_MAX)
            assert receiver.arbiter.waiting <= 8
            assert len(receiver.take_requests()) <= 8
    receiver.take()
