"""Names and tokens: what goes into a stream name or a subject fits there, and comes back."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tapehouse.core import DecodeError, UsageError
from tapehouse.core.ids import (
    LOG_ID_BYTES,
    check_name,
    decode_token,
    encode_token,
    new_log_id,
    new_writer_id,
    slug,
)

SYMBOLS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(symbol=SYMBOLS)
@example(symbol="BRK.B")
@example(symbol="BTC/USDT")
@example(symbol="ES 21JUN24 5000 C")
@example(symbol="%2E")
@example(symbol="*.>")
@example(symbol="~")
@settings(deadline=None)
def test_a_symbol_comes_back_from_a_token_that_nats_accepts(symbol: str) -> None:
    token = encode_token(symbol)
    assert decode_token(token) == symbol
    assert re.fullmatch(r"[A-Za-z0-9_%-]+", token)


@given(first=SYMBOLS, second=SYMBOLS)
@settings(deadline=None)
def test_two_symbols_never_share_a_token(first: str, second: str) -> None:
    assert (encode_token(first) == encode_token(second)) == (first == second)


@pytest.mark.parametrize("symbol", ["", "\ud800", "a\udfff"])
def test_what_is_no_symbol_has_no_token(symbol: str) -> None:
    with pytest.raises(UsageError):
        encode_token(symbol)


@pytest.mark.parametrize("token", ["", "%FF", "%ff%fe", "a.b", "a b", "%2e", "%41", "%", "~", "ü"])
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(DecodeError, match="no subject token"):
        decode_token(token)


@pytest.mark.parametrize("name", ["a", "0", "demo", "tape-2012_06", "x" * 64])
def test_good_names(name: str) -> None:
    assert check_name(name, "tape") == name


@pytest.mark.parametrize("name", ["", "-a", "_a", "A", "a.b", "a b", "a*", "demo\n", "x" * 65, "ü"])
def test_bad_names(name: str) -> None:
    with pytest.raises(UsageError, match="no tape name"):
        check_name(name, "tape")


@given(text=st.text())
@settings(deadline=None)
def test_a_slug_is_always_a_good_name(text: str) -> None:
    assert check_name(slug(text), "tape")


def test_a_slug_keeps_what_it_can() -> None:
    assert slug("AMZN 2012-06-21 (part 1).zip") == "amzn-2012-06-21-part-1-zip"
    assert slug("...") == "tape"


def test_fresh_identities_differ() -> None:
    assert len({new_log_id() for _ in range(100)}) == 100
    assert all(len(new_log_id()) == LOG_ID_BYTES for _ in range(10))
    writers = {new_writer_id() for _ in range(1000)}
    assert len(writers) == 1000
    assert all(0 < writer < 2**63 for writer in writers)
