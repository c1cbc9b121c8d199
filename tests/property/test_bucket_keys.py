"""Any key of the KV as a key that a native NATS bucket allows, and back."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tapehouse.core.errors import DecodeError
from tapehouse.kv.bucket_keys import bucket_key, kv_key

ALLOWED = re.compile(r"[-/_=.a-zA-Z0-9]+")  # nats-io/nats-architecture-and-design, ADR-8
KEYS = st.one_of(st.binary(max_size=40), st.text("a.=/ >*\x00é", max_size=12).map(str.encode))


@given(key=KEYS)
@example(key=b"")
@example(key=b"..a..b.")
@example(key=b"=41")
def test_a_key_comes_back_from_what_a_bucket_allows(key: bytes) -> None:
    name = bucket_key(key)
    assert ALLOWED.fullmatch(name)
    assert not name.startswith(".")
    assert not name.endswith(".")
    assert ".." not in name
    assert kv_key(name) == key
    assert len(name) <= max(3 * len(key), 1)


@given(name=st.text("=0123ABCDabcd./_- é", max_size=12))
def test_what_no_key_becomes_is_no_key(name: str) -> None:
    try:
        key = kv_key(name)
    except DecodeError:
        return
    assert bucket_key(key) == name


@pytest.mark.parametrize("name", ["", ".a", "a.", "a..b", "=4", "=4a", "=41", "a b", "é", "==", "*", ">", "=2E.="])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(DecodeError):
        kv_key(name)


def test_what_people_use_stays_as_it_is() -> None:
    assert bucket_key(b"price.AAPL") == "price.AAPL"
    assert bucket_key(b"limits/AMZN-1_x") == "limits/AMZN-1_x"
    assert bucket_key(b".a b") == "=2Ea=20b"
