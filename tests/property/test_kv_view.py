"""The compiled view of a KV against the machine in plain Python, on streams of every kind of entry."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core.errors import DecodeError
from tapehouse.kv import layout
from tapehouse.kv.entries import Entry, Op, encode_entry, read_entries
from tapehouse.kv.view import View
from tests.support.kv_streams import ALL_SLOTS, DiffersError, Pair, check_accounts, own, run_stream, tiny_view

SEEDS = st.integers(0, 2**64 - 1)
MASKS = st.sampled_from(((1 << 63) - 1, 0xFFFF, 0xFF << 55, 6, 0))  # all bits, the last, the first, hardly any, none


@settings(deadline=None, max_examples=100)
@given(SEEDS, MASKS)
def test_any_stream_comes_to_the_same(seed: int, mask: int) -> None:
    """Few keys, so that every condition is met; hashes that collide."""
    rng = Random(seed)
    row_bits = 4 if mask > 1 << 62 else 9  # Colliding hashes cannot be split apart: one segment holds them all.
    pair = Pair(tiny_view(seed=seed, hash_mask=mask, row_bits=row_bits))
    run_stream(rng, pair, frames=40, keys=12, value_bytes=90)


@settings(deadline=None, max_examples=15)
@given(SEEDS)
def test_a_stream_beyond_the_budget_comes_to_the_same(seed: int) -> None:
    rng = Random(seed)
    pair = Pair(tiny_view(seed=seed, budget_bytes=24 << 13))
    run_stream(rng, pair, frames=150, keys=500, value_bytes=900, long_values=12)
    metrics = pair.view.metrics()
    assert metrics.evictions > 0
    assert metrics.cleaned_bytes > 0
    assert metrics.table_bytes > 16 * 64
    frame_segments = 4  # that one frame of this stream may take before the cleaner comes by again
    assert metrics.arena_bytes + metrics.table_bytes <= metrics.budget_bytes + frame_segments * 8_192


def test_thousands_of_keys_split_the_table() -> None:
    pair = Pair(View(budget_bytes=64 << 20, seed=7))
    pair.feed([ALL_SLOTS], writer=1, number=1, time=1)
    for number in range(2, 8):
        entries = [Entry(op=Op.PUT, key=b"key/%d/%d" % (number, at), value=b"v") for at in range(2_000)]
        pair.feed(entries, writer=1, number=number, time=number)
        pair.feed([Entry(op=Op.DELETE, key=entry.key) for entry in entries[::3]], writer=2, number=number - 1, time=9)
    pair.compare()
    pair.scan(b"key/3/", b"key/3/17", 50)
    assert pair.view.metrics().table_bytes >= 4 * 4_096 * 64


# What is no body.


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_what_the_reader_refuses_is_refused_whole(data: st.DataObject) -> None:
    """Any bytes, most of them a body with a few of them changed: the kernel refuses what the reader refuses."""
    entries = [
        Entry(op=Op.PUT, key=b"a", value=b"old"),
        Entry(op=Op.BATCH, value=(1).to_bytes(4, "little")),
        Entry(op=Op.PUT, key=b"b", value=b"x"),
        ALL_SLOTS,
        Entry(op=Op.BARRIER),
    ]
    body = bytearray(b"".join(map(encode_entry, entries)))
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, len(body) - 1), st.integers(0, 255)), max_size=3)):
        body[at] = byte
    body = body[: data.draw(st.sampled_from((len(body), len(body), len(body), len(body) - 1, 40)))]
    count = data.draw(st.sampled_from((5, 5, 5, 5, 4, 6)))
    view = tiny_view()
    before = view.digest()
    try:
        read = read_entries(bytes(body), count)
    except DecodeError:
        read = None
    if read is None:
        with pytest.raises(DecodeError) as caught:
            view.apply(bytes(body), count, writer=1, number=1, time=1, sequence=1)
        assert "byte" in caught.value.position
        assert view.digest() == before
    else:
        view.apply(bytes(body), count, writer=1, number=1, time=1, sequence=1)


# Controls: what is wrong is caught.


def fed_pair(seed: int) -> Pair:
    pair = Pair(tiny_view(seed=seed))
    run_stream(Random(seed), pair, frames=20, keys=10, value_bytes=60)
    put = [Entry(op=Op.PUT, key=b"last", value=b"a value")]
    pair.feed([own(0, 16_383, 9), *put], writer=7, number=1, time=1000)
    return pair


def feed_wrong(pair: Pair, wrong: Entry) -> None:
    pair.feed([Entry(op=Op.PUT, key=b"last", value=b"a value")], writer=7, number=2, time=1000, fed=[wrong])
    pair.compare()


@pytest.mark.parametrize(
    "wrong",
    [
        Entry(op=Op.PUT, key=b"last", value=b"a valuE"),
        Entry(op=Op.PUT, key=b"lasT", value=b"a value"),
        Entry(op=Op.PUT, key=b"last", value=b"a value", expiry=2000),
        Entry(op=Op.BARRIER),
        Entry(op=Op.DELETE, key=b"last"),
    ],
)
def test_control_an_altered_stream_is_caught(wrong: Entry) -> None:
    pair = fed_pair(1)
    pair.compare()
    with pytest.raises(DiffersError):
        feed_wrong(pair, wrong)


@pytest.mark.parametrize("word", [layout.REVISION, layout.EXPIRY, layout.LENGTHS, layout.AT])
def test_control_a_row_that_went_wrong_is_caught(word: int) -> None:
    pair = fed_pair(2)
    rows = pair.view._rows
    row = next(row for row in range(len(rows)) if rows[row, layout.HASH] and not rows[row, layout.EXPIRY])
    rows[row, word] += 8
    with pytest.raises(DiffersError):
        pair.compare()


def test_control_an_account_that_went_wrong_is_caught() -> None:
    pair = fed_pair(3)
    pair.view._state[layout.LIVE_BYTES] += 8
    with pytest.raises(DiffersError):
        check_accounts(pair.view)
