"""Words of requests as values, and the errors that both the readers of requests and the connection tell."""

from __future__ import annotations

import re

SYNTAX = "ERR syntax error"
NOT_INTEGER = "ERR value is not an integer or out of range"
_INTEGER = re.compile(rb"0|-?[1-9][0-9]{0,18}")


class Refused(Exception):  # noqa: N818 - it is an answer, caught where the request is read
    """A request that cannot be done; `text` is what its client is told."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


def integer(word: bytes) -> int:
    """A decimal of 64 bits as Redis reads one: no plus, no space, no zero before other digits.

    Raises:
        Refused: It is none.
    """
    if not _INTEGER.fullmatch(word):
        raise Refused(NOT_INTEGER)
    number = int(word)
    if not -(2**63) <= number < 2**63:
        raise Refused(NOT_INTEGER)
    return number
