"""Raw captures of venues: what came over a connection, message by message, as somebody wrote it down.

Three layouts, told apart by a file's first line, plain or in gzip, xz or a zip of one file:

- `<ns> <text>`: receive time in UTC ns and the message. It is hftbacktest's and our own; ours also knows the lines
  `<ns> {"request":URL,"answer":...}`, `{"connected":URL}`, `{"disconnected":URL}`, `{"sent":TEXT}`, `{"received":TEXT}`
  (the last for texts that are no JSON object).
- cryptofeed's: `<url> <-> <seconds>` connected, `<url> <- <seconds>: <text>` sent, `<url> -> <seconds>: <text>` a REST
  answer, `<seconds>: <text>` received, and a line of `configuration:` that is no message.
- one JSON object a line with the venue's own time in ms as `ts`, as Bybit's archives have it.
"""

from __future__ import annotations

import heapq
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec

from tapehouse.core.errors import DecodeError, UsageError
from tapehouse.feeds.packed_files import PackedFile

LINE_BYTES_MAX = 16 << 20  # of one message; a full book of a venue is below 2 MiB
FILES_MAX = 64  # merged at a time, each of them open
_READ_BYTES = 1 << 18
_TIME_MAX = 2**63 - 1
_SECONDS = re.compile(rb"(\d{1,12})(?:\.(\d{1,18}))?")
_NANOSECONDS = re.compile(rb"(\d{1,19}) ")
_URL = re.compile(rb"(?:https?|wss?)://\S+ ")
_OWN = re.compile(rb'\{"(?:request|connected|disconnected|sent|received)":')
_CONFIGURATION = b"configuration:"


class Happening(StrEnum):
    """What a line of a capture tells."""

    RECEIVED = "received"
    SENT = "sent"
    ANSWERED = "answered"  # by a REST API; `url` is what was asked
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One line.

    Args:
        ts_recv: UTC ns; never negative.
        url: Of the connection or the REST request; empty where the line names none.
        body: The message as it came.
        file, line: Where it stands; empty and 0 for what is about to be written.
    """

    ts_recv: int
    kind: Happening = Happening.RECEIVED
    url: str = ""
    body: bytes = b""
    file: str = ""
    line: int = 0


class _Own(msgspec.Struct, omit_defaults=True):
    """What our own lines hold beside messages."""

    request: str = ""
    answer: msgspec.Raw = msgspec.Raw(b"")
    connected: str = ""
    disconnected: str = ""
    sent: str = ""
    received: str = ""


class _Dated(msgspec.Struct):
    ts: Annotated[int, msgspec.Meta(ge=0, le=_TIME_MAX // 1_000_000)]


_OWN_LINE = msgspec.json.Decoder(_Own)
_DATED_LINE = msgspec.json.Decoder(_Dated, strict=False)


def capture_line(message: Message) -> bytes:
    """One line of a capture of our own, its newline included; `read_capture` gives the message back.

    Line breaks in a JSON object become spaces, which mean the same there.
    """
    body = message.body
    if message.kind is not Happening.RECEIVED or not body.startswith(b"{") or _OWN.match(body):
        body = msgspec.json.encode(_own(message))
    return b"%d %b\n" % (message.ts_recv, body.replace(b"\r", b" ").replace(b"\n", b" "))


def _own(message: Message) -> _Own:
    if message.kind is Happening.ANSWERED:
        return _Own(request=message.url, answer=msgspec.Raw(message.body))
    if message.kind is Happening.CONNECTED:
        return _Own(connected=message.url)
    if message.kind is Happening.DISCONNECTED:
        return _Own(disconnected=message.url)
    text = message.body.decode("utf-8", "replace")
    return _Own(sent=text) if message.kind is Happening.SENT else _Own(received=text)


def read_captures(paths: Sequence[Path]) -> Iterator[Message]:
    """The messages of several files of one recording, merged by time; of equal times, the earlier path's first.

    Raises:
        UsageError: There are no paths or more than FILES_MAX.
        MissingError, DecodeError: As `read_capture`; what came before was yielded.
    """
    if not 1 <= len(paths) <= FILES_MAX:
        raise UsageError(f"{len(paths)} files", hint=f"name the 1 to {FILES_MAX} capture files of one recording")
    if len(paths) == 1:
        return read_capture(paths[0])
    return heapq.merge(*(read_capture(path) for path in paths), key=lambda message: message.ts_recv)


def read_capture(path: Path) -> Iterator[Message]:
    """The messages of one file, in its order, a line at a time.

    Raises:
        MissingError: There is no such file.
        DecodeError: It cannot be read further, a line is too long, or is none of the layout of the first one.
    """
    number = 0
    layout = ""
    with io.BufferedReader(PackedFile(path), _READ_BYTES) as stream:
        while True:
            try:
                line = stream.readline(LINE_BYTES_MAX + 1)
            except DecodeError as error:
                raise _bad(error.message, path, number + 1, error.hint) from error
            if not line:
                return
            number += 1
            if len(line) > LINE_BYTES_MAX:
                raise _bad(f"a line is longer than {LINE_BYTES_MAX} bytes", path, number)
            line = line.strip()
            if not line:
                continue
            layout = layout or _layout_of(line, path, number)
            message = _PARSERS[layout](line, path.name, number)
            if message is not None:
                yield message


def _layout_of(line: bytes, path: Path, number: int) -> str:
    if _NANOSECONDS.match(line):
        return "nanoseconds"
    if line.startswith(b"{"):
        return "objects"
    seconds = _SECONDS.match(line)
    if line.startswith(_CONFIGURATION) or _URL.match(line) or (seconds and line[seconds.end() :].startswith(b": ")):
        return "seconds"
    raise _bad("it is no capture: its first line has none of the known layouts", path, number)


def _parse_nanoseconds(line: bytes, file: str, number: int) -> Message | None:
    match = _NANOSECONDS.match(line)
    if match is None or int(match[1]) > _TIME_MAX:
        raise _bad("the line does not begin with a time in ns and a space", file, number)
    ts_recv = int(match[1])
    body = line[match.end() :].lstrip()
    if not _OWN.match(body):
        return Message(ts_recv=ts_recv, body=body, file=file, line=number)
    try:
        own = _OWN_LINE.decode(body)
    except msgspec.MsgspecError as error:
        raise _bad(f"the line cannot be read: {error}", file, number) from error
    kind, url, body = Happening.RECEIVED, "", own.received.encode()
    if own.request:
        kind, url, body = Happening.ANSWERED, own.request, bytes(own.answer)
    elif own.connected or own.disconnected:
        kind = Happening.CONNECTED if own.connected else Happening.DISCONNECTED
        url, body = own.connected or own.disconnected, b""
    elif own.sent:
        kind, body = Happening.SENT, own.sent.encode()
    return Message(ts_recv=ts_recv, kind=kind, url=url, body=body, file=file, line=number)


_ARROWS = {b"<->": Happening.CONNECTED, b"<-": Happening.SENT, b"->": Happening.ANSWERED}


def _parse_seconds(line: bytes, file: str, number: int) -> Message | None:
    if line.startswith(_CONFIGURATION):
        return None
    kind, url, rest = Happening.RECEIVED, "", line
    if not _SECONDS.match(line):
        address, _, behind = line.partition(b" ")
        arrow, _, rest = behind.partition(b" ")
        if arrow not in _ARROWS:
            raise _bad("the line is neither a message nor an event of a connection", file, number)
        kind, url = _ARROWS[arrow], address.decode("utf-8", "replace")
    match = _SECONDS.match(rest)
    if match is None or int(match[1]) > _TIME_MAX // 1_000_000_000 - 1:
        raise _bad("the time is no number of seconds", file, number)
    ts_recv = int(match[1]) * 1_000_000_000 + int((match[2] or b"")[:9].ljust(9, b"0"))
    rest = rest[match.end() :]
    if kind is not Happening.CONNECTED and not rest.startswith(b":"):
        raise _bad("no colon follows the time", file, number)
    return Message(ts_recv=ts_recv, kind=kind, url=url, body=rest[1:].lstrip(), file=file, line=number)


def _parse_object(line: bytes, file: str, number: int) -> Message | None:
    try:
        dated = _DATED_LINE.decode(line)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _bad(f"the line is no JSON object with a time `ts`: {error}", file, number) from error
    return Message(ts_recv=dated.ts * 1_000_000, body=line, file=file, line=number)


_PARSERS = {"nanoseconds": _parse_nanoseconds, "seconds": _parse_seconds, "objects": _parse_object}


def _bad(text: str, file: Path | str, line: int, hint: str = "") -> DecodeError:
    return DecodeError(text, subject=file if isinstance(file, str) else file.name, position=f"line {line}", hint=hint)
