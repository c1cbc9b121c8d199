"""ITCH kernels against a slow decoder, on streams of every kind; arbitrary bytes; the table of orders as a dict."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tapehouse.core import DecodeError
from tapehouse.feeds import order_table
from tapehouse.feeds.formats import SourceOptions, check_source
from tapehouse.feeds.itch import ItchFeed
from tapehouse.feeds.itch_decoder import ItchDecoder
from tapehouse.feeds.new_york import UNKNOWN_DAY
from tests.support import itch

MIDNIGHT = 1_340_251_200 * 10**9
REFS = st.one_of(st.integers(1, 12), st.sampled_from([0, 2**63, 2**64 - 1, 2**63 - 1]))
TIMES = st.integers(0, 2**48 - 1)
SHARES = st.integers(1, 5)
PRICES = st.one_of(st.integers(1, 3), st.integers(1, 2**32 - 1))
LOCATES = st.integers(0, 3)
STOCKS = st.sampled_from(["A", "ZVZZT", "BRK.A"])
SIDES = st.sampled_from("BS")
MESSAGES = st.one_of(
    st.builds(itch.add, LOCATES, TIMES, REFS, SIDES, SHARES, STOCKS, PRICES, st.sampled_from([b"", b"MPID"])),
    st.builds(itch.add, LOCATES, TIMES, REFS, SIDES, SHARES, STOCKS, PRICES),
    st.builds(itch.execute, LOCATES, TIMES, REFS, SHARES),
    st.builds(itch.execute_at, LOCATES, TIMES, REFS, SHARES, st.sampled_from("YN"), PRICES),
    st.builds(itch.cancel, LOCATES, TIMES, REFS, SHARES),
    st.builds(itch.delete, LOCATES, TIMES, REFS),
    st.builds(itch.replace, LOCATES, TIMES, REFS, REFS, SHARES, PRICES),
    st.builds(itch.trade, LOCATES, TIMES, SHARES, STOCKS, PRICES),
    st.builds(itch.cross, LOCATES, TIMES, st.integers(0, 2**63 - 1), STOCKS, PRICES),
    st.builds(itch.action, LOCATES, TIMES, STOCKS, st.sampled_from("HPQTx")),
    st.builds(itch.system, TIMES, st.sampled_from("OSQMECx")),
    st.builds(itch.directory, LOCATES, TIMES, STOCKS),
    st.builds(itch.broken, LOCATES, TIMES, st.integers(0, 2**64 - 1)),
    st.binary(max_size=40).map(lambda rest: b"z" + rest),
    st.just(b""),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(MESSAGES, max_size=60), st.lists(st.integers(0, 60), max_size=3), st.booleans())
def test_the_kernels_decode_as_the_slow_decoder(messages: list[bytes], cuts: list[int], received: bool) -> None:
    slow = itch.SlowDecoder(MIDNIGHT)
    decoder = ItchDecoder()
    at = 0
    for piece, end in enumerate([*sorted(min(cut, len(messages)) for cut in cuts), len(messages)]):
        ts_recv = MIDNIGHT + 10**6 * (3 - piece) if received else None
        cells = decoder.decode(itch.framed(messages[at:end]), MIDNIGHT, ts_recv)
        assert itch.rows_of(cells) == slow.decode(messages[at:end], ts_recv, at + 1)
        at = end
    assert decoder.live_orders == len(slow.orders)
    counters = decoder.counters
    assert counters["unknown_orders"] == slow.unknown_orders
    assert counters["overtaken"] == slow.overtaken
    assert counters["duplicate_orders"] == slow.duplicates
    assert counters["empty_messages"] == messages.count(b"")
    assert counters["unknown_types"] == sum(message[:1] == b"z" for message in messages)
    assert [instrument.id for instrument in decoder.instruments] == list(slow.instruments.values())


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_arbitrary_and_mutated_messages_are_decoded_or_refused_whole(data: st.DataObject) -> None:
    stream = bytearray(itch.framed(itch.day(orders=10)))
    for _ in range(data.draw(st.integers(0, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        stream = bytearray(data.draw(st.binary(max_size=300)))
    decoder = ItchDecoder(zero_is_unsaid=data.draw(st.booleans()))
    before = decoder.counters, decoder.types, decoder.live_orders
    try:
        cells = decoder.decode(stream, MIDNIGHT)
    except DecodeError as caught:
        assert_refused(caught, (decoder.counters, decoder.types, decoder.live_orders) == before)
    else:
        assert (cells["cells"] == 1).all()
        assert (np.diff(cells["ts_recv"]) >= 0).all()


def assert_refused(error: DecodeError, unchanged: bool) -> None:
    assert unchanged
    assert error.position.startswith("byte ")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_captures_and_files_end_in_cells_or_a_decode_error(tmp_path: Path, data: st.DataObject) -> None:
    messages = itch.day(orders=12)
    if data.draw(st.booleans()):
        packets = [mold(at, messages[at : at + 5]) for at in range(0, len(messages), 5)]
        content = bytearray(itch.capture([(MIDNIGHT + at, itch.frame(body)) for at, body in enumerate(packets)]))
    else:
        content = bytearray(itch.framed(messages))
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "some"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        check_source("itch", [path])
        feed = ItchFeed(path, day=UNKNOWN_DAY)
        latest = 0
        for cells in feed.batches():
            assert cells["ts_recv"][0] >= latest
            latest = int(cells["ts_recv"][-1])
            assert cells["instrument"].max() <= len(feed.instruments)
    except DecodeError as caught:
        assert_names(caught, "some")


def assert_names(error: DecodeError, file: str) -> None:
    assert error.subject == file


def mold(at: int, messages: list[bytes], session: bytes = b"0000000001") -> bytes:
    return struct.pack(">10sQH", session, at + 1, len(messages)) + itch.framed(messages)


@pytest.fixture(scope="module")
def whole_day(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("itch") / "day.itch"
    path.write_bytes(itch.framed(itch.day(orders=24)))
    return path


# Bytes of each message that a file says twice or holds to a rule, so that a flip of any bit must be found.
KNOWABLE = {
    "R": (0, 1, 2, 11, 12), "H": (0, *range(11, 19)), "P": (0, 19, *range(24, 32)),
    "A": (0, 1, 2, 19, *range(24, 32)), "F": (0, 1, 2, 19, *range(24, 32)),
    "E": (0, 1, 2, *range(11, 21)), "X": (0, 1, 2, *range(11, 21)), "C": (0, 1, 2, *range(11, 21), 31),
    "D": (0, 1, 2, *range(11, 19)), "U": (0, 1, 2, *range(11, 19)),
    "Q": (0, *range(19, 27), 39), "S": (0,),
}  # fmt: skip


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_one_flipped_bit_that_can_be_known_is_found(whole_day: Path, data: st.DataObject) -> None:
    messages = itch.day(orders=24)
    index = data.draw(st.integers(1, len(messages) - 1), label="message")
    letter = chr(messages[index][0])
    byte = data.draw(st.sampled_from(KNOWABLE.get(letter, (0,))), label="byte")
    bit = data.draw(st.integers(0, 7), label="bit")
    changed = bytearray(messages[index])
    changed[byte] ^= 1 << bit
    path = whole_day.parent / "flipped.itch"
    path.write_bytes(itch.framed([*messages[:index], bytes(changed), *messages[index + 1 :]]))
    try:
        found = check_source("itch", [path], SourceOptions(day=UNKNOWN_DAY))
    except DecodeError:
        return
    assert found.mismatches > 0, (letter, byte, bit)
    assert found.first_mismatch is not None
    assert "message" in found.first_mismatch


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 40).map(lambda n: n * 2**59 if n % 3 else n))), st.integers(0, 3)
)
def test_the_table_of_orders_is_a_dict(steps: list[tuple[bool, int]], forgotten: int) -> None:
    rows = order_table.new_table(8)
    known: dict[int, int] = {}
    for at, (adding, number) in enumerate(steps):
        ref = (number + 2**63) % 2**64 - 2**63
        row = int(order_table.find(rows, ref))
        assert (row >= 0) == (ref in known)
        if row >= 0:
            assert rows[row, order_table.SHARES] == known[ref]
        if adding and row < 0:
            if order_table.is_full(rows, len(known)):
                rows = order_table.grown(rows)
            order_table.insert(rows, ref, 5, at, order_table.meta_of(at % 4, at & 1))
            known[ref] = at
        elif not adding and row >= 0:
            order_table.remove(rows, row)
            del known[ref]
    removed = order_table.forget_instrument(rows, forgotten)
    left = {ref: at for ref, at in known.items() if at % 4 != forgotten}
    assert removed == len(known) - len(left)
    used = rows[rows[:, order_table.META] != 0]
    assert dict(used[:, [order_table.REF, order_table.SHARES]].tolist()) == left
    assert all(order_table.find(rows, ref) >= 0 for ref in left)


def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_table, "ROWS_MAX", order_table.new_table().shape[0] * 2)
    decoder = ItchDecoder()
    messages = [itch.add(1, itch.T0, ref, "B", 1, "A", 1) for ref in range(6000)]
    with pytest.raises(DecodeError, match="orders live at once"):
        decoder.decode(itch.framed(messages), MIDNIGHT)
