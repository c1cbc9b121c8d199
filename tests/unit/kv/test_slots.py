"""Slots as Redis Cluster counts them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tapehouse.kv.slots import SLOTS, hashed_part, shard_of, slot_of
from tapehouse.kv.words import slot_at


def test_the_check_value_of_the_specification() -> None:
    assert slot_of(b"123456789") == 0x31C3
    assert slot_of(b"") == 0


def test_only_the_tag_is_hashed() -> None:
    cases = {
        b"{user1000}.following": b"user1000",
        b"foo{}{bar}": b"foo{}{bar}",
        b"foo{{bar}}zap": b"{bar",
        b"foo{bar}{zap}": b"bar",
        b"foo{bar": b"foo{bar",
        b"}foo{": b"}foo{",
        b"}{a}": b"a",
    }
    assert {key: hashed_part(key) for key in cases} == cases


@given(st.one_of(st.binary(max_size=40), st.text("{}ab", max_size=12).map(str.encode)))
def test_the_kernel_counts_alike(key: bytes) -> None:
    array = np.frombuffer(b"pad" + key, np.uint8)
    array.flags.writeable = False
    assert slot_at(array, 3, len(key)) == slot_of(key)


def test_shards_get_equal_runs() -> None:
    for shards in (1, 3, 8):
        owners = [shard_of(slot, shards) for slot in range(SLOTS)]
        assert owners == sorted(owners)
        sizes = [owners.count(shard) for shard in range(shards)]
        assert max(sizes) - min(sizes) <= 1
        assert sum(sizes) == SLOTS
