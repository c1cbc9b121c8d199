"""Decimals in kernels against Python's, and the hash, which must tell every length and every byte apart."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.kv.integers import add_integers, integer_bytes, parse_integer, write_integer
from tapehouse.kv.reference import _integer
from tapehouse.kv.view import View
from tapehouse.kv.words import hash_of

INTEGERS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.sampled_from((0, -1, 2**63 - 1, -(2**63), 10**18, -(10**18))))
TEXTS = st.one_of(
    st.integers(-(10**21), 10**21).map(lambda number: b"%d" % number),
    st.text("-0129 x", max_size=22).map(str.encode),
    st.integers(2**63 - 3, 2**63 + 3).flatmap(lambda number: st.sampled_from((b"%d" % number, b"%d" % -number))),
)


@settings(deadline=None)
@given(TEXTS)
def test_a_decimal_is_read_as_the_reference_reads_it(text: bytes) -> None:
    ok, number = parse_integer(np.frombuffer(b"9" + text + b"9", np.uint8).copy(), 1, len(text))
    assert (number if ok else None) == _integer(text)


@settings(deadline=None)
@given(INTEGERS, INTEGERS)
def test_a_sum_fits_or_not(left: int, right: int) -> None:
    fits, total = add_integers(left, right)
    assert fits == (-(2**63) <= left + right < 2**63)
    assert not fits or total == left + right


@settings(deadline=None)
@given(INTEGERS)
def test_a_decimal_is_written_as_python_does(number: int) -> None:
    size = integer_bytes(number)
    data = np.full(size + 2, 120, np.uint8)
    write_integer(data, 1, size, number)
    assert data.tobytes() == b"x%dx" % number


@settings(deadline=None)
@given(st.binary(max_size=40), st.data())
def test_another_key_or_seed_has_another_hash(key: bytes, data: st.DataObject) -> None:
    """With 62 bits a collision is out of the question, unless a byte or the length is not looked at."""

    def hashed(key: bytes, seed: int = 5, at: int = 0) -> int:
        array = np.frombuffer(bytes(at) + key + b"behind", np.uint8)
        return int(hash_of(views[seed]._state, array, at, len(key)))

    own = hashed(key)
    assert own > 0
    assert own & 1
    assert own == hashed(key, at=3)
    others = {hashed(key + b"\0"), hashed(key, seed=6)}
    if key:
        at = data.draw(st.integers(0, len(key) - 1))
        others.add(hashed(key[:at] + bytes([key[at] ^ 1 << data.draw(st.integers(0, 7))]) + key[at + 1 :]))
    assert own not in others


views = {seed: View(budget_bytes=16 << 13, arena_bits=13, row_bits=4, seed=seed) for seed in (5, 6)}
