"""RESP requests in plain Python, slow and obvious: the oracle of the compiled parser, and its specification.

It reads a whole stream from its beginning, and says what was asked and whether, and why, it cannot be read on.
"""

from __future__ import annotations

import re

from tapehouse.gateway.resp_layout import (
    ARGUMENTS_MAX,
    BULK_BYTES_MAX,
    DIGITS_MAX,
    HEADER_BYTES_MAX,
    LINE_BYTES_MAX,
    REQUEST_BYTES_MAX,
    STRANGER_ARGUMENTS_MAX,
    STRANGER_BULK_BYTES_MAX,
)

_NUMBER = re.compile(rb"0|-?[1-9][0-9]{0,%d}" % (DIGITS_MAX - 1))
_WORD = re.compile(
    rb'"(?P<double>(?:\\.|[^"\\])*)"(?=[ \t]|\Z)'
    rb"|'(?P<single>(?:\\'|[^'])*+)'(?=[ \t]|\Z)"
    rb"|(?P<plain>[^ \t\"'][^ \t]*)",
    re.DOTALL,
)
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)
_LETTERS = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}


class ProtocolError(Exception):
    """The stream cannot be read on."""


class CutShortError(Exception):
    """The stream ends within a request."""


def read_stream(stream: bytes, *, is_known: bool = True) -> tuple[list[list[bytes]], str | None, int]:
    """The requests of a stream, the error that it ends with, and where what follows them begins."""
    requests: list[list[bytes]] = []
    at = 0
    while at < len(stream):
        try:
            if stream[at : at + 1] == b"*":
                words, at = _read_array(stream, at, is_known)
            else:
                words, at = _read_line(stream, at)
        except CutShortError:
            return requests, None, at
        except ProtocolError as error:
            return requests, str(error), at
        if words:
            requests.append(words)
    return requests, None, at


def _read_number(stream: bytes, at: int, what: str, long: str) -> tuple[int, int]:
    end = stream.find(b"\r", at, at + HEADER_BYTES_MAX + 1)
    if end < 0:
        if len(stream) > at + HEADER_BYTES_MAX:
            raise ProtocolError(long)
        raise CutShortError
    if end + 1 == len(stream):
        raise CutShortError
    if stream[end + 1 : end + 2] != b"\n":
        raise ProtocolError("a count or a length that does not end with CRLF")
    if not _NUMBER.fullmatch(stream[at:end]):
        raise ProtocolError(what)
    return int(stream[at:end]), end + 2


def _read_array(stream: bytes, start: int, is_known: bool) -> tuple[list[bytes], int]:
    count, at = _read_number(stream, start + 1, "invalid multibulk length", "too big mbulk count string")
    if count > ARGUMENTS_MAX:
        raise ProtocolError("invalid multibulk length")
    if count > STRANGER_ARGUMENTS_MAX and not is_known:
        raise ProtocolError("unauthenticated multibulk length")
    words = []
    for _ in range(count):
        if at == len(stream):
            raise CutShortError
        if stream[at : at + 1] != b"$":
            met = chr(stream[at]) if 32 <= stream[at] < 127 else f"\\x{stream[at]:02x}"
            raise ProtocolError(f"expected '$', got '{met}'")
        size, at = _read_number(stream, at + 1, "invalid bulk length", "too big bulk count string")
        if not 0 <= size <= BULK_BYTES_MAX:
            raise ProtocolError("invalid bulk length")
        if size > STRANGER_BULK_BYTES_MAX and not is_known:
            raise ProtocolError("unauthenticated bulk length")
        if at + size + 2 - start > REQUEST_BYTES_MAX:
            raise ProtocolError(f"a request of more than {REQUEST_BYTES_MAX} bytes")
        end = stream[at + size : at + size + 2]
        if not b"\r\n".startswith(end):
            raise ProtocolError("an argument that does not end where its length says")
        if end != b"\r\n":
            raise CutShortError
        words.append(stream[at : at + size])
        at += size + 2
    return words, at


def _read_line(stream: bytes, start: int) -> tuple[list[bytes], int]:
    end = stream.find(b"\n", start, start + LINE_BYTES_MAX + 2)
    if end < 0:
        if len(stream) - start > LINE_BYTES_MAX + 1:
            raise ProtocolError("too big inline request")
        raise CutShortError
    line = stream[start:end].removesuffix(b"\r")
    if len(line) > LINE_BYTES_MAX:
        raise ProtocolError("too big inline request")
    words: list[bytes] = []
    at = 0
    while at < len(line):
        if line[at : at + 1] in b" \t":
            at += 1
            continue
        if len(words) == ARGUMENTS_MAX:
            raise ProtocolError(f"a line of more than {ARGUMENTS_MAX} words")
        found = _WORD.match(line, at)
        if found is None:
            raise ProtocolError("unbalanced quotes in request")
        if found["double"] is not None:
            words.append(_ESCAPE.sub(_unescaped, found["double"]))
        elif found["single"] is not None:
            words.append(found["single"].replace(b"\\'", b"'"))
        else:
            words.append(found["plain"])
        at = found.end()
    return words, end + 1


def _unescaped(found: re.Match[bytes]) -> bytes:
    escape = found[1]
    return bytes([int(escape[1:], 16)]) if len(escape) == 3 else _LETTERS.get(escape, escape)
