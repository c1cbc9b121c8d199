"""The digest chain: however its records come in, its head is that of the definition, and any change shows."""

from __future__ import annotations

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core import DigestChain, IntegrityError, InvariantError, combine, short
from tapehouse.core.digest import BLOCK_RECORDS

RECORD_BYTES = 5


def oracle(data: bytes, record_bytes: int) -> bytes:
    """The docstring of the chain, read literally."""
    count = len(data) // record_bytes
    link = bytes(32)
    block = 1024 * record_bytes
    for start in range(0, count // 1024 * block, block):
        link = blake3(link + data[start : start + block]).digest()
    tail = data[count // 1024 * block :]
    return blake3(link + tail + count.to_bytes(8, "little")).digest()


def records(seed: int, count: int) -> bytes:
    return np.random.default_rng(seed).bytes(count * RECORD_BYTES)


COUNTS = st.one_of(
    st.integers(0, 40),
    st.sampled_from([1023, 1024, 1025, 2047, 2048, 2049, 3000, 5000]),
)


@given(seed=st.integers(0, 2**32 - 1), count=COUNTS, cuts=st.lists(st.floats(0, 1), max_size=12))
@settings(deadline=None, max_examples=150)
def test_any_split_has_the_head_of_the_definition(seed: int, count: int, cuts: list[float]) -> None:
    data = records(seed, count)
    chain = DigestChain(RECORD_BYTES)
    at = 0
    for end in [*sorted(int(cut * count) for cut in cuts), count]:
        chain.update(memoryview(data)[at * RECORD_BYTES : end * RECORD_BYTES])
        at = max(at, end)
    assert chain.head() == oracle(data, RECORD_BYTES)
    assert chain.head() == chain.head(), "reading it changes nothing"
    assert chain.count == count


def test_views_of_rows_chain_as_their_bytes_do_the_empty_one_too() -> None:
    rows = np.arange(3000 * 8, dtype=np.int64).reshape(-1, 8)
    chain = DigestChain(rows.itemsize * 8)
    for part in (rows[:0], rows[:1], rows[1:2500], rows[2500:]):
        chain.update(part.data)
    assert chain.head() == oracle(rows.tobytes(), rows.itemsize * 8)
    assert chain.count == len(rows)


def test_the_head_is_right_after_every_record_and_survives_its_state() -> None:
    data = records(1, 2 * BLOCK_RECORDS + 10)
    chain = DigestChain(RECORD_BYTES)
    whole = oracle(data, RECORD_BYTES)
    for at in range(2 * BLOCK_RECORDS + 10):
        if at % 97 in (0, 1) or at % BLOCK_RECORDS in (0, 1, BLOCK_RECORDS - 1):
            assert chain.head() == oracle(data[: at * RECORD_BYTES], RECORD_BYTES)
            again = DigestChain.from_state(chain.state())
            assert again.state() == chain.state()
            again.update(data[at * RECORD_BYTES :])
            assert again.head() == whole
        chain.update(data[at * RECORD_BYTES : (at + 1) * RECORD_BYTES])
    assert chain.head() == whole


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(2, 2100), at=st.floats(0, 1, exclude_max=True))
@settings(deadline=None)
def test_any_change_shows(seed: int, count: int, at: float) -> None:
    data = records(seed, count)
    place = int(at * len(data))
    flipped = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
    first, second = data[:RECORD_BYTES], data[RECORD_BYTES : 2 * RECORD_BYTES]
    swapped = second + first + data[2 * RECORD_BYTES :]
    others = [flipped, data[:-RECORD_BYTES], data + bytes(RECORD_BYTES), data[RECORD_BYTES:]]
    others += [swapped] if first != second else []
    heads = {head_of(other) for other in others}
    assert head_of(data) not in heads


def head_of(data: bytes) -> bytes:
    chain = DigestChain(RECORD_BYTES)
    chain.update(data)
    return chain.head()


def test_heads_are_pinned() -> None:
    chain = DigestChain(8)
    assert chain.head().hex() == "352bd266dae53c6e6a29244011cfa029813d0ab8434b2a2b830a487d882832ba"
    chain.update(bytes(range(8)) * 3000)
    assert chain.head().hex() == "033c499b9ddea19d70ab481ed2c3feb7c600624469687c554ae0408fe8774ff7"


@pytest.mark.parametrize("size", [1, 4, 6, 11])
def test_parts_of_records_are_refused(size: int) -> None:
    chain = DigestChain(RECORD_BYTES)
    with pytest.raises(InvariantError, match="no whole records"):
        chain.update(bytes(size))
    assert chain.count == 0
    with pytest.raises(InvariantError):
        DigestChain(0)


def test_damaged_states_are_refused() -> None:
    chain = DigestChain(RECORD_BYTES)
    chain.update(records(0, 1030))
    state = chain.state()
    for damaged in (b"", state[:20], state[:-1], state + b"x", b"DCH2" + state[4:], state[:4] + bytes(4) + state[8:]):
        with pytest.raises(IntegrityError):
            DigestChain.from_state(damaged)


@given(parts=st.dictionaries(st.text(max_size=8), st.binary(max_size=40), max_size=6), seed=st.randoms())
@settings(deadline=None)
def test_combined_digests_know_names_and_no_order(parts: dict[str, bytes], seed: object) -> None:
    items = list(parts.items())
    seed.shuffle(items)
    assert combine(items) == combine(parts.items())
    for name in parts:
        assert combine(parts.items()) != combine({**parts, name: parts[name] + b"x"}.items())
        assert combine(parts.items()) != combine((k + "x" if k == name else k, v) for k, v in parts.items())


def test_combined_digests_do_not_run_into_each_other() -> None:
    assert combine([("a", b"bc")]) != combine([("ab", b"c")])
    assert combine([("a", b""), ("b", b"")]) != combine([("ab", b"")])
    assert short(bytes(range(32))) == "0001020304050607"
