"""Kraken's and Coinbase's sessions against true books: a fault is one span of doubt, and then the book is right."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core.errors import DecodeError
from tapehouse.feeds.capture import Happening, Message
from tapehouse.feeds.served_venues import served_venue
from tapehouse.market import Cause, Confidence
from tests.support.order_venues import VENUES, Connection, Consumer, Kraken

APART = 4


class Follower:
    """Kraken's messages in dicts, as its guide says: what a client holds that notices nothing."""

    def __init__(self, venue: Kraken) -> None:
        self.depth = venue.depth
        self.sides = tuple(dict(side) for side in venue.view())

    def take(self, body: bytes) -> None:
        data = json.loads(body, parse_float=str)["data"][0]
        for at, name in enumerate(("bids", "asks")):
            for level in data[name]:
                price, size = int(level["price"].replace(".", "")), int(str(level["qty"]).replace(".", ""))
                self.sides[at][price] = size
                if not size:
                    del self.sides[at][price]  # also of a level that it does not have
            for price in sorted(self.sides[at], reverse=at == 0)[self.depth :]:
                del self.sides[at][price]


@pytest.mark.parametrize("name", VENUES)
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    faults=st.lists(st.sampled_from(["drop", "dup", "garble", "cut"]), max_size=5),
    lag=st.integers(0, 3),
)
def test_every_fault_is_one_span_and_then_the_book_is_right(name: str, seed: int, faults: list[str], lag: int) -> None:
    line = Connection(name, seed, lag)
    for _ in range(APART):
        line.deliver(*line.venue.messages())
    assert line.right
    assert line.consumer.gaps == []
    for number, fault in enumerate(faults):
        before = line.consumer.spans
        expected = _suffer(line, fault)
        for _ in range(APART):
            line.deliver(*line.venue.messages())
        assert line.consumer.spans - before == expected, f"fault {number}: {fault}"
        assert line.consumer.worth is Confidence.GOOD
        assert line.right
    assert line.session.tally.gaps == line.consumer.spans
    assert [worth for _, worth in line.consumer.gaps] == [
        Confidence.SUSPECT,
        Confidence.REBUILDING,
        Confidence.GOOD,
    ] * line.consumer.spans


def _suffer(line: Connection, fault: str) -> int:
    """Let one step of the venue go wrong; how many spans it must be."""
    if fault == "drop" and isinstance(line.venue, Kraken):
        follower = Follower(line.venue)
        line.venue.messages()
        (body,) = line.venue.messages()
        follower.take(body)
        line.deliver(body)
        return int(follower.sides != line.venue.view())  # the next change may have set right what was missed
    messages = line.venue.messages()
    if fault == "dup":
        line.deliver(*messages, messages[-1])
        return 0
    if fault in ("garble", "cut"):
        body = messages[-1]
        bad = body[: len(body) // 2] if fault == "cut" else body.replace(b'"', b"'", 1)
        line.deliver(*messages[:-1])
        with pytest.raises(DecodeError):
            line.session.receive(bad, line.now)
        assert list(line.session.take()) == []
        line.session.missed(Cause.MALFORMED, line.now)
        line.pump()
    return 1


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), place=st.integers(0, 10**6))
def test_a_wrong_digit_of_kraken_is_one_span_unless_it_changes_nothing(seed: int, place: int) -> None:
    line = Connection("kraken", seed)
    assert isinstance(line.venue, Kraken)
    follower = Follower(line.venue)
    (body,) = line.venue.messages()
    begin, end = body.index(b'"bids"'), body.index(b',"timestamp"')
    at = [i for i in range(begin, end) if chr(body[i]).isdigit()][
        place % sum(map(str.isdigit, body[begin:end].decode()))
    ]
    wrong = body[:at] + str((body[at] - 48 + 1 + place % 9) % 10).encode() + body[at + 1 :]
    try:
        follower.take(wrong)
        checksum = json.loads(wrong)["data"][0]["checksum"]
        spans = int(follower.sides != line.venue.view() or checksum != json.loads(body)["data"][0]["checksum"])
    except ValueError:  # a number that begins with a 0 is no JSON
        spans = 1
    try:
        line.deliver(wrong)
        cause = Cause.CHECKSUM
    except DecodeError:  # that, or a checksum of more than 32 bits
        line.session.missed(Cause.MALFORMED, line.now)
        line.pump()
        cause = Cause.MALFORMED
    assert line.consumer.spans == spans  # 0: a level was to go that is pushed out of the view anyway
    for _ in range(APART):
        line.deliver(*line.venue.messages())
    assert line.right
    assert line.consumer.spans == spans
    assert [told for told, worth in line.consumer.gaps if worth is Confidence.SUSPECT] == [cause] * spans


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), depth=st.sampled_from([10, 25]))
def test_levels_pushed_out_of_kraken_s_view_are_gone(seed: int, depth: int) -> None:
    venue = Kraken(seed, depth)
    session = venue.make((venue.symbol,), depth=depth)
    consumer = Consumer()
    session.receive(venue.whole(), 1)
    for number in range(12):
        session.receive(venue.messages()[0], number + 2)
    for cells in session.take():
        consumer.take(cells)
    assert consumer.levels == venue.view()
    assert session.tally.checksums == 13
    assert session.tally.checksum_mismatches == 0


@pytest.mark.parametrize("name", ["level2", "full"])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), lost=st.booleans())
def test_what_a_heartbeat_told_must_have_come_by_the_next(name: str, seed: int, lost: bool) -> None:
    line = Connection(name, seed)
    line.deliver(*line.venue.messages(), *line.venue.messages())
    assert not isinstance(line.venue, Kraken)
    late = line.venue.messages()
    line.deliver(line.venue.heartbeat())  # it overtakes the messages
    assert line.consumer.spans == 0
    if not lost:
        line.deliver(*late)
    line.deliver(line.venue.heartbeat())
    assert line.consumer.spans == lost
    line.deliver(*line.venue.messages(), line.venue.heartbeat(), line.venue.heartbeat())
    assert line.consumer.spans == lost
    assert line.right


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 30))
def test_each_trade_of_the_order_feed_comes_once(seed: int, steps: int) -> None:
    line = Connection("full", seed)
    expected = []
    for _ in range(steps):
        for body in line.venue.messages():
            told: dict[str, Any] = json.loads(body)
            line.deliver(body, body)
            if told["type"] == "match":
                aggressor = ord("A") if told["side"] == "buy" else ord("B")
                price, size = (int(told[key].replace(".", "")) for key in ("price", "size"))
                expected.append((told["trade_id"], price * 10**8, size * 10, aggressor))
    assert line.consumer.trades == expected
    assert line.consumer.spans == 0
    assert line.right


@pytest.mark.parametrize("name", VENUES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_mutated_messages_are_taken_whole_or_not_at_all(name: str, data: st.DataObject) -> None:
    line = Connection(name, 7)
    line.deliver(*line.venue.messages(), *line.venue.messages())
    good = bytearray(data.draw(st.sampled_from(line.venue.messages())))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(good) - 1))
        good[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    bodies = [bytes(good), data.draw(st.binary(max_size=60)), data.draw(st.sampled_from([b"", b"[]", b"{}", b"null"]))]
    for body in bodies:
        told = line.session.instruments
        try:
            line.session.receive(body, line.now)
        except DecodeError:
            assert list(line.session.take()) == []
            assert line.session.instruments == told
        for cells in line.session.take():
            assert len(cells)
    whole = line.venue.whole()
    at = data.draw(st.integers(0, len(whole) - 1))
    for answer in (data.draw(st.binary(max_size=60)), whole[:at] + data.draw(st.binary(max_size=2)) + whole[at + 1 :]):
        try:
            line.session.answered(line.venue.symbol, answer, line.now)
        except DecodeError:
            assert list(line.session.take()) == []


JSON = st.recursive(
    st.none() | st.integers() | st.sampled_from(["subscribe", "book", "full", "BTC-USD"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "method", "params", "channel", "channels", "symbol", "name"]), inner)
    ),
)


@pytest.mark.parametrize("name", ["kraken", "coinbase"])
@settings(max_examples=100, deadline=None)
@given(value=JSON, noise=st.binary(max_size=20), kind=st.sampled_from(Happening))
def test_nobody_s_message_breaks_a_served_venue(name: str, value: object, noise: bytes, kind: Happening) -> None:
    venue = served_venue(name)
    client = venue.connect("/v2" if name == "kraken" else "/", "")
    for body in (json.dumps(value).encode(), noise):
        with suppress(DecodeError):
            for answer in venue.receive(client, body):
                json.loads(answer)
        with suppress(DecodeError):
            venue.play(Message(ts_recv=1, kind=kind, url="https://x/products/BTC-USD/book?level=3", body=body))
        assert body == noise or venue.corrupt(body) != body
    assert venue.rest("/products/ETH-USD/book", {"level": "3"}) in (None, b"")
