"""Replies of a RESP server out of a stream of bytes; without I/O."""

from __future__ import annotations

from dataclasses import dataclass

from tapehouse.core.errors import DecodeError

REPLY_BYTES_MAX = 64 * 1024 * 1024  # of one string
LINE_BYTES_MAX = 64 * 1024
DEPTH_MAX = 8  # of arrays in arrays
_INCOMPLETE = object()


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An error; its first word is its kind."""

    text: str

    @property
    def code(self) -> str:
        """Such as BUSY."""
        return self.text.partition(" ")[0]


Reply = None | int | bytes | ErrorReply | list["Reply"]  # a short answer (`+OK`) is its bytes


class ReplyReader:
    """Takes bytes as they come, gives the replies that are whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0

    def feed(self, data: bytes) -> list[Reply]:
        """The replies that these bytes complete.

        Raises:
            DecodeError: They are no RESP; nothing after them can be read.
        """
        self._buffer += data
        replies: list[Reply] = []
        while True:
            begun = self._at
            reply = self._reply(0)
            if reply is _INCOMPLETE:
                self._at = begun
                break
            replies.append(reply)  # type: ignore[arg-type]
        del self._buffer[: self._at]
        self._at = 0
        return replies

    def _reply(self, depth: int) -> object:
        buffer, at = self._buffer, self._at
        end = buffer.find(b"\r\n", at, at + LINE_BYTES_MAX)
        if end < 0:
            if len(buffer) - at > LINE_BYTES_MAX:
                raise DecodeError(f"a line of more than {LINE_BYTES_MAX} bytes")
            return _INCOMPLETE
        kind, line = buffer[at : at + 1], bytes(buffer[at + 1 : end])
        self._at = end + 2
        if kind == b"+":
            return line
        if kind == b"-":
            return ErrorReply(line.decode("utf-8", "replace"))
        try:
            number = int(line) if kind != b"_" else -1
        except ValueError as error:
            raise DecodeError(f"{bytes(kind) + line[:32]!r} begins no reply") from error
        if kind == b":":
            return number
        if kind == b"$":
            return self._string(number)
        if kind == b"*":
            return self._array(number, depth)
        if kind == b"_":
            return None
        raise DecodeError(f"{bytes(kind)!r} begins no reply")

    def _string(self, size: int) -> object:
        if size == -1:
            return None
        if not 0 <= size <= REPLY_BYTES_MAX:
            raise DecodeError(f"a string of {size} bytes")
        end = self._at + size
        if len(self._buffer) < end + 2:
            return _INCOMPLETE
        found = bytes(self._buffer[self._at : end])
        if self._buffer[end : end + 2] != b"\r\n":
            raise DecodeError("a string has another length than it says")
        self._at = end + 2
        return found

    def _array(self, size: int, depth: int) -> object:
        if size == -1:
            return None
        if depth >= DEPTH_MAX or not 0 <= size <= REPLY_BYTES_MAX:
            raise DecodeError(f"an array of {size} in {depth} others")
        found = []
        for _ in range(size):
            reply = self._reply(depth + 1)
            if reply is _INCOMPLETE:
                return _INCOMPLETE
            found.append(reply)
        return found


def request(*words: bytes) -> bytes:
    """A request as RESP has it."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
