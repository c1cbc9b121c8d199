"""Limits of the RESP gateway, and where everything of a parsed buffer lies: rows of requests, rows of their arguments.

A protocol error has a number here and its text in `PROTOCOL_ERRORS`; where Redis has that error, it is Redis's text.
"""

from __future__ import annotations

from tapehouse.kv.entries import ENTRIES_MAX, VALUE_BYTES_MAX

ARGUMENTS_MAX = 2 * ENTRIES_MAX + 1  # of one request, its name counted: an MSET that fills a frame
BULK_BYTES_MAX = VALUE_BYTES_MAX  # of one argument
LINE_BYTES_MAX = 64 * 1024  # of a plain line, its end not counted
HEADER_BYTES_MAX = 32  # of a count or a length, its end not counted
REQUEST_BYTES_MAX = 1024 * 1024  # of one request, from its first byte to its last
NAME_BYTES_MAX = 16  # of a command's name that the table can hold
DIGITS_MAX = 18  # of a count or a length

# Of a client that has not said who it is.
STRANGER_ARGUMENTS_MAX = 10
STRANGER_BULK_BYTES_MAX = 16 * 1024

REQUEST_ROWS = 1_024  # that one call can find
ARGUMENT_ROWS = 16_384  # of them together; one request always fits
assert ARGUMENT_ROWS > ARGUMENTS_MAX

# A row of a request: its command's number (0: there is none of that name), how many arguments it has with its name,
# the row of the first of them, where it begins, 1 where it was a plain line.
REQUEST_WORDS = 5
COMMAND, COUNT, FIRST, AT, IS_LINE = range(REQUEST_WORDS)
# A row of an argument: its place in the buffer, its bytes.
ARGUMENT_WORDS = 2
PLACE, BYTES = range(ARGUMENT_WORDS)

# What a call leaves: requests and arguments found, the place after the last of them, how many bytes must be there from
# that place on before another call can find more, the place of an error and the byte that was met there.
STATE_WORDS = 6
REQUESTS, ARGUMENTS, POSITION, NEEDED, ERROR_AT, ERROR_BYTE = range(STATE_WORDS)

# Why a call ended. From BAD_COUNT on nothing that follows can be understood: the error is told, the connection closed.
(
    DONE,
    FULL,
    BAD_COUNT,
    LONG_COUNT,
    BAD_LENGTH,
    LONG_LENGTH,
    NO_BULK,
    NO_END,
    NO_LINE_END,
    TOO_LARGE,
    LONG_LINE,
    QUOTES,
    MANY_WORDS,
    STRANGER_COUNT,
    STRANGER_LENGTH,
) = range(15)

PROTOCOL_ERRORS = {
    BAD_COUNT: "invalid multibulk length",
    LONG_COUNT: "too big mbulk count string",
    BAD_LENGTH: "invalid bulk length",
    LONG_LENGTH: "too big bulk count string",
    NO_BULK: "expected '$', got '%s'",
    NO_END: "an argument that does not end where its length says",
    NO_LINE_END: "a count or a length that does not end with CRLF",
    TOO_LARGE: f"a request of more than {REQUEST_BYTES_MAX} bytes",
    LONG_LINE: "too big inline request",
    QUOTES: "unbalanced quotes in request",
    MANY_WORDS: f"a line of more than {ARGUMENTS_MAX} words",
    STRANGER_COUNT: "unauthenticated multibulk length",
    STRANGER_LENGTH: "unauthenticated bulk length",
}
