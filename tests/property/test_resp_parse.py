"""Any stream of bytes, however it is cut into reads, gives the requests and the error that the slow parser gives."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tapehouse.gateway import resp_reference
from tapehouse.gateway.resp_commands import COMMANDS, NUMBERS
from tapehouse.gateway.resp_layout import (
    ARGUMENTS_MAX,
    BULK_BYTES_MAX,
    DONE,
    FULL,
    LINE_BYTES_MAX,
    NEEDED,
    POSITION,
    PROTOCOL_ERRORS,
    REQUEST_BYTES_MAX,
    REQUESTS,
)
from tapehouse.gateway.resp_parse import Rows

ROWS = Rows()
WORDS = st.one_of(
    st.sampled_from([command.name.encode() for command in COMMANDS]),
    st.sampled_from([b"get", b"", b"a\r\nb", b"*1\r\n$4\r\nPING\r\n", b'"', b"'", b"\\", b"\x00"]),
    st.binary(max_size=12),
)
LINE_PARTS = st.one_of(
    st.sampled_from([b" ", b"\t", b'"', b"'", b"\\", b"\\x41", b"\\x4", b"\\n", b'\\"', b"\\'", b"\r", b"{", b"PUT"]),
    st.binary(max_size=3),
)


def array(words: list[bytes]) -> bytes:
    """A request as clients write it."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


PIECES = st.one_of(
    st.lists(WORDS, max_size=4).map(array),
    st.lists(LINE_PARTS, max_size=8).map(lambda parts: b"".join(parts) + b"\r\n"),
    st.sampled_from(
        [
            b"\r\n", b"\n", b"*0\r\n", b"*-1\r\n", b"*", b"$", b"*1\r\n*1\r\n", b"*01\r\n", b"*-0\r\n",
            b"*1\n", b"*1\r\r\n",
            b"*9223372036854775808\r\n", b"*8194\r\n", b"*1\r\n$-1\r\n", b"*1\r\n$9223372036854775807\r\n",
            b"*1\r\n$524289\r\n", b"*2\r\n$3\r\nGETX\r\n", b"*" + b"0" * 40, b"*1\r\n$" + b"1" * 33,
            b"*11\r\n", b"*1\r\n$16385\r\n",
        ]
    ),
    st.binary(max_size=6),
)  # fmt: skip
STREAMS = st.lists(PIECES, max_size=6).map(b"".join)


def read_in_pieces(
    pieces: list[bytes], *, requests_max: int = 1_024, is_known: bool = True
) -> tuple[list[list[bytes]], str | None, int]:
    """What the compiled parser makes of a stream that comes in such pieces, as a connection reads it."""
    found: list[list[bytes]] = []
    rest, consumed, needed = b"", 0, 1
    for piece in pieces:
        rest += piece
        status = FULL if len(rest) >= needed else DONE
        while status == FULL:
            data = np.frombuffer(bytearray(rest), np.uint8)
            status = ROWS.parse(data, 0, len(rest), requests_max=requests_max, is_known=is_known)
            for row in range(ROWS.state[REQUESTS]):
                words = ROWS.words(memoryview(data), row)
                assert int(ROWS.requests[row, 0]) == NUMBERS.get(words[0].decode("latin-1").upper(), 0)
                found.append(words)
            used = int(ROWS.state[POSITION])
            assert status != FULL or used > 0
            rest, consumed, needed = rest[used:], consumed + used, int(ROWS.state[NEEDED])
            if status not in (DONE, FULL):
                return found, ROWS.error(status).removeprefix("ERR Protocol error: "), consumed
            assert status == FULL or needed > len(rest)
    return found, None, consumed


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """The stream, cut at these places."""
    edges = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[low:high] for low, high in pairwise(edges)]


@settings(deadline=None, max_examples=400)
@given(STREAMS, st.lists(st.integers(0, 200), max_size=8), st.integers(1, 4), st.booleans())
@example(b"PUT k 'a\\' b'\r\n", [3, 9], 1, True)
@example(b"SET k 'a\\'\r\n", [], 1, True)
@example(b"*1\r\n$4\r\nPINGxx", [12], 1, True)
def test_any_cut_of_any_stream(stream: bytes, places: list[int], requests_max: int, is_known: bool) -> None:
    expected = resp_reference.read_stream(stream, is_known=is_known)
    assert read_in_pieces([stream], is_known=is_known) == expected
    assert read_in_pieces(cut(stream, places), requests_max=requests_max, is_known=is_known) == expected
    assert read_in_pieces(cut(stream, list(range(len(stream)))), is_known=is_known) == expected


@settings(deadline=None, max_examples=200)
@given(st.lists(st.lists(WORDS, min_size=1, max_size=4), min_size=1, max_size=5), st.data())
def test_a_byte_that_was_changed(requests: list[list[bytes]], data: st.DataObject) -> None:
    stream = bytearray(b"".join(map(array, requests)))
    place = data.draw(st.integers(0, len(stream) - 1))
    stream[place] = data.draw(st.sampled_from([*b"\r\n$*-019 \"'\\", 0, 255]))
    expected = resp_reference.read_stream(bytes(stream))
    assert read_in_pieces([bytes(stream)]) == expected
    assert read_in_pieces(cut(bytes(stream), [place, place + 1])) == expected


@pytest.mark.parametrize("name", ["get", "GeT", "ReadLevel"])
def test_names_in_whatever_case(name: str) -> None:
    read_in_pieces([array([name.encode()])])
    assert int(ROWS.requests[0, 0]) == NUMBERS[name.upper()]


@pytest.mark.parametrize("name", [b"get\x00", b"ge", b"gett", b"G\xc5T", b"", b"g" * 17, b"@ET", b"\x27et"])
def test_names_that_there_are_not(name: bytes) -> None:
    read_in_pieces([array([name])])
    assert int(ROWS.requests[0, 0]) == 0


LIMITS = {
    "a value": (array([b"SET", b"k", b"v" * BULK_BYTES_MAX]), array([b"SET", b"k", b"v" * (BULK_BYTES_MAX + 1)])),
    "a line": (b"a" * LINE_BYTES_MAX + b"\r\n", b"a" * (LINE_BYTES_MAX + 1) + b"\r\n"),
    "arguments": (array([b"DEL"] * ARGUMENTS_MAX), array([b"DEL"] * (ARGUMENTS_MAX + 1))),
    "words": (b"a " * ARGUMENTS_MAX + b"\n", b"a " * (ARGUMENTS_MAX + 1) + b"\n"),
    "a request": (
        array([b"MSET", b"v" * BULK_BYTES_MAX, b"v" * (BULK_BYTES_MAX - 46)]),
        array([b"MSET", b"v" * BULK_BYTES_MAX, b"v" * (BULK_BYTES_MAX - 32)]),
    ),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_limits_from_both_sides(limit: str) -> None:
    within, beyond = LIMITS[limit]
    assert len(within) <= REQUEST_BYTES_MAX + 2
    for stream, is_good in ((within, True), (beyond, False)):
        expected = resp_reference.read_stream(stream)
        assert (expected[1] is None) is is_good
        assert len(expected[0]) == is_good
        pieces = cut(stream, [place * 9_973 for place in range(60)])
        assert read_in_pieces([stream]) == expected
        assert read_in_pieces(pieces) == expected


def test_an_endless_line_is_refused_before_it_ends() -> None:
    _, error, _ = read_in_pieces([b"a" * 1_000] * 70)
    assert error == "too big inline request"


def test_a_request_that_needs_more_says_how_much() -> None:
    request = array([b"SET", b"key", b"v" * 1_000])
    data = np.frombuffer(bytearray(request), np.uint8)
    assert ROWS.parse(data, 0, 60) == DONE
    assert ROWS.state[NEEDED] == len(request)


def test_every_error_is_met() -> None:
    """A control of the streams above: between them they must reach each error that there is."""
    streams = [
        b"*x\r\n", b"*" + b"1" * 33, b"*1\r\n$x\r\n", b"*1\r\n$" + b"1" * 33, b"*1\r\nx", b"*1\r\n$1\r\nabc", b"*1\rx",
        LIMITS["a request"][1], LIMITS["a line"][1], b'PUT "k\n', LIMITS["words"][1], b"*11\r\n", b"*1\r\n$16385\r\n",
    ]  # fmt: skip
    told = {read_in_pieces([stream], is_known=place < 11)[1] for place, stream in enumerate(streams)}
    assert told == {text.replace("%s", "x") for text in PROTOCOL_ERRORS.values()}
