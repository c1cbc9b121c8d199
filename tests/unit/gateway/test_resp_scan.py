"""Patterns against an obvious recursive matcher; cursors and their bound."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.gateway.resp_scan import CURSORS_MAX, Cursors, Pattern
from tapehouse.gateway.resp_words import Refused


def slow_match(glob: bytes, key: bytes) -> bool:
    """Redis's rules, one byte after another, trying every length that a star could have."""
    if not glob:
        return not key
    if glob[:1] == b"*":
        return any(slow_match(glob[1:], key[at:]) for at in range(len(key) + 1))
    if not key:
        return False
    if glob[:1] == b"[":
        at, allowed = 1 + (glob[1:2] == b"^"), set()
        while at < len(glob) and glob[at : at + 1] != b"]":
            if glob[at : at + 1] == b"\\" and at + 1 < len(glob):
                allowed.add(glob[at + 1])
                at += 2
            elif glob[at + 1 : at + 2] == b"-" and at + 2 < len(glob):
                allowed |= set(range(min(glob[at], glob[at + 2]), max(glob[at], glob[at + 2]) + 1))
                at += 3
            else:
                allowed.add(glob[at])
                at += 1
        return (key[0] in allowed) != (glob[1:2] == b"^") and slow_match(glob[at + 1 :], key[1:])
    if glob[:1] == b"\\" and len(glob) > 1:
        return glob[1] == key[0] and slow_match(glob[2:], key[1:])
    return (glob[:1] == b"?" or glob[0] == key[0]) and slow_match(glob[1:], key[1:])


LETTERS = st.lists(st.sampled_from(b"ab-"), max_size=8).map(bytes)
GLOBS = st.lists(st.sampled_from(b"ab*?[]^-\\"), max_size=9).map(bytes)


@settings(deadline=None, max_examples=600)
@given(GLOBS, LETTERS)
def test_patterns(glob: bytes, key: bytes) -> None:
    pattern = Pattern(glob)
    assert pattern.matches(key) is slow_match(glob, key)
    assert key.startswith(pattern.prefix) or not pattern.matches(key)


@pytest.mark.parametrize(
    ("glob", "prefix"), [(b"a*", b"a"), (b"a?b", b"a"), (b"\\*b", b"*b"), (b"*", b""), (b"ab", b"ab")]
)
def test_what_every_key_begins_with(glob: bytes, prefix: bytes) -> None:
    assert Pattern(glob).prefix == prefix


def test_a_pattern_of_many_stars_is_not_slow() -> None:
    assert not Pattern(b"*a" * 500 + b"b").matches(b"a" * 1_024)


def test_cursors() -> None:
    cursors = Cursors(7)
    first = cursors.give(b"k")
    assert (first, cursors.after(0), cursors.after(first), cursors.after(first)) == (7, None, b"k", b"k")
    for number in range(CURSORS_MAX):
        cursors.give(b"%d" % number)
    with pytest.raises(Refused, match="begin again"):
        cursors.after(first)
