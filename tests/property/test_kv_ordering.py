"""Keys in the order of their bytes, against Python's own order: all of them, pages of them, keys that begin alike."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.kv.entries import KEY_BYTES_MAX, Entry, Op, encode_entry
from tapehouse.kv.reference import ReferenceView
from tapehouse.kv.view import View
from tests.support.kv_streams import ALL_SLOTS, tiny_view

# Zero bytes and the highest ones at the ends of keys, and prefixes that are longer than any word.
PIECES = st.sampled_from((b"", b"\0", b"\xff", b"a", b"key:0000", b"\0" * 7, b"a" * 14, b"p" * 300))
KEY = st.builds(lambda pieces, end: b"".join(pieces) + end, st.lists(PIECES, max_size=3), st.binary(max_size=9))
KEYS = st.sets(KEY, min_size=1, max_size=60)


def both(keys: list[bytes]) -> tuple[View, ReferenceView]:
    """A view and its oracle that hold these keys."""
    view, oracle = tiny_view(budget_bytes=256 << 13), ReferenceView()
    entries = [ALL_SLOTS, *(Entry(op=Op.PUT, key=key, value=b"v") for key in keys)]
    body = b"".join(map(encode_entry, entries))
    view.apply(body, len(entries), writer=1, number=1, time=1, sequence=1)
    oracle.apply(entries, writer=1, number=1, time=1, sequence=1)
    return view, oracle


@settings(deadline=None, max_examples=60)
@given(KEYS, st.data())
def test_a_scan_is_the_oracles(keys: set[bytes], data: st.DataObject) -> None:
    view, oracle = both(data.draw(st.permutations(sorted(keys))))
    limit = data.draw(st.integers(0, len(keys) + 2))
    after = data.draw(st.sampled_from((None, *sorted(keys))))
    prefix = data.draw(st.sampled_from(sorted(keys)))[: data.draw(st.integers(0, 20))]
    assert view.scan(prefix, after=after, limit=limit) == oracle.scan(prefix, after=after, limit=limit)
    assert [key for key, _ in view.scan(b"")] == sorted(keys)


@pytest.mark.parametrize("size", [12, 13, 500])
def test_pages_give_every_key_once(size: int) -> None:
    keys = [b"key:%06d" % (number * 7_919 % 3_000) for number in range(3_000)]
    view, _ = both(keys)
    seen: list[bytes] = []
    while page := view.scan(b"key:", after=seen[-1] if seen else None, limit=size):
        seen += [key for key, _ in page]
    assert seen == sorted(keys)


def test_keys_of_the_greatest_length_that_differ_at_their_ends() -> None:
    keys = [b"x" * (KEY_BYTES_MAX - 2) + number.to_bytes(2, "big") for number in range(0, 3_000, 11)]
    keys += [b"x" * size for size in range(0, KEY_BYTES_MAX, 13)]
    view, _ = both(keys[::-1])
    assert [key for key, _ in view.scan(b"")] == sorted(keys)
