"""SCAN: its options, patterns, and the cursors that a gateway remembers.

A page goes on after the last key of the one before, in the order of keys. Redis's cursors are numbers and clients
insist on that, so a gateway gives a number for each key that a scan is to go on after, and remembers so many of them.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from tapehouse.gateway.resp_words import SYNTAX, Refused, integer
from tapehouse.kv.entries import KEY_BYTES_MAX

COUNT_DEFAULT = 10
COUNT_MAX = 10_000  # keys of one page, whatever was asked for
CURSORS_MAX = 16_384
PATTERN_BYTES_MAX = KEY_BYTES_MAX
ANY_RUN = -1  # a star; other tokens are sets of bytes


class Scan(NamedTuple):
    """SCAN; `cursor` is 0 at the beginning, `kind` the TYPE asked for, `pattern` None for every key."""

    cursor: int
    pattern: Pattern | None
    limit: int
    kind: bytes | None


class Pattern:
    """A glob as Redis has them: `*`, `?`, `[abc]`, `[^a]`, `[a-z]`, a backslash before what is meant literally.

    Attributes:
        prefix: What every key that matches begins with.
    """

    def __init__(self, glob: bytes) -> None:
        self._tokens: list[frozenset[int] | int] = []
        at = 0
        while at < len(glob):
            byte = glob[at]
            if byte == ord("*"):
                if not self._tokens or self._tokens[-1] != ANY_RUN:
                    self._tokens.append(ANY_RUN)
            elif byte == ord("?"):
                self._tokens.append(_ANY)
            elif byte == ord("["):
                allowed, at = _class(glob, at + 1)
                self._tokens.append(allowed)
            else:
                if byte == ord("\\") and at + 1 < len(glob):
                    at += 1
                self._tokens.append(frozenset((glob[at],)))
            at += 1
        prefix = bytearray()
        for token in self._tokens:
            if not isinstance(token, frozenset) or len(token) != 1:
                break
            prefix += bytes(token)
        self.prefix = bytes(prefix)

    def matches(self, key: bytes) -> bool:
        """Whether the whole key matches; the time is at most that of the two lengths multiplied."""
        tokens, at, token_at, star, star_key = self._tokens, 0, 0, -1, 0
        while at < len(key):
            token = tokens[token_at] if token_at < len(tokens) else None
            if isinstance(token, frozenset) and key[at] in token:
                at += 1
                token_at += 1
            elif token == ANY_RUN:
                star, star_key = token_at, at
                token_at += 1
            elif star >= 0:
                # Only the last star need take more: what an earlier one could take, this one can.
                star_key += 1
                at, token_at = star_key, star + 1
            else:
                return False
        return all(token == ANY_RUN for token in tokens[token_at:])


_ANY = frozenset(range(256))


def _class(glob: bytes, at: int) -> tuple[frozenset[int], int]:
    """The bytes of a class whose first one stands at `at`, and where its end stands; one that never ends ends there."""
    is_not = glob[at : at + 1] == b"^"
    at += is_not
    allowed: set[int] = set()
    while at < len(glob) and glob[at] != ord("]"):
        if glob[at] == ord("\\") and at + 1 < len(glob):
            at += 1
            allowed.add(glob[at])
        elif at + 2 < len(glob) and glob[at + 1] == ord("-"):
            low, high = sorted((glob[at], glob[at + 2]))
            allowed.update(range(low, high + 1))
            at += 2
        else:
            allowed.add(glob[at])
        at += 1
    return (_ANY - allowed if is_not else frozenset(allowed)), at


def read_scan(words: list[bytes]) -> Scan:
    """What a SCAN asks for.

    Raises:
        Refused: A cursor or a count that is none, an unknown option, a pattern that is too long.
    """
    if not words[1].isdigit() or len(words[1]) > 20:
        raise Refused("ERR invalid cursor")
    pattern, count, kind = None, COUNT_DEFAULT, None
    for place in range(2, len(words), 2):
        option = words[place].upper()
        if place + 1 == len(words):
            raise Refused(SYNTAX)
        word = words[place + 1]
        if option == b"COUNT":
            count = integer(word)
            if count < 1:
                raise Refused(SYNTAX)
        elif option == b"MATCH":
            if len(word) > PATTERN_BYTES_MAX:
                raise Refused(f"ERR a pattern of {len(word)} bytes: at most {PATTERN_BYTES_MAX}")
            pattern = None if word == b"*" else Pattern(word)
        elif option == b"TYPE":
            kind = word.lower()
        else:
            raise Refused(SYNTAX)
    return Scan(int(words[1]), pattern, min(count, COUNT_MAX), kind)


class Cursors:
    """Where the scans of a gateway's clients go on, each under a number; the oldest are forgotten.

    Args:
        first: The first number to give; a gateway that starts anew begins elsewhere, so that no old one is met.
    """

    def __init__(self, first: int = 1) -> None:
        self._after: OrderedDict[int, bytes] = OrderedDict()
        self._next = max(first, 1)

    def give(self, after: bytes) -> int:
        """A cursor that goes on after this key."""
        cursor, self._next = self._next, self._next + 1
        self._after[cursor] = after
        if len(self._after) > CURSORS_MAX:
            self._after.popitem(last=False)
        return cursor

    def after(self, cursor: int) -> bytes | None:
        """The key after which a cursor goes on, None for the beginning; it may be asked again.

        Raises:
            Refused: It was not given here, or is forgotten.
        """
        if cursor == 0:
            return None
        found = self._after.get(cursor)
        if found is None:
            raise Refused("ERR invalid cursor: this gateway does not know it (any more); begin again with 0")
        return found
