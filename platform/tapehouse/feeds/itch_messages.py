"""ITCH messages one by one, as a feed server sends them: out of files of length-prefixed messages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tapehouse.core.errors import DecodeError
from tapehouse.feeds.byte_blocks import byte_blocks
from tapehouse.feeds.itch_layout import HEAD_BYTES, LENGTHS


def itch_messages(path: Path) -> Iterator[tuple[int, bytes]]:
    """Each message with its time, ns since midnight. A length of 0 stands for the length of the message's type.

    Raises:
        MissingError: There is no such file.
        DecodeError: It is damaged, or ends inside a message; what came before was yielded.
    """
    lengths = {ord(letter): length for letter, length in LENGTHS.items()}
    rest, base = b"", 0
    for block in byte_blocks(path):
        data, at = rest + block, 0
        while at + 3 <= len(data):
            length = int.from_bytes(data[at : at + 2], "big") or lengths.get(data[at + 2], 0)
            if length < HEAD_BYTES:
                raise DecodeError("no ITCH message", subject=path.name, position=f"byte {base + at}")
            if at + 2 + length > len(data):
                break
            message = data[at + 2 : at + 2 + length]
            yield int.from_bytes(message[5:HEAD_BYTES], "big"), message
            at += 2 + length
        rest, base = data[at:], base + at
    if rest not in (b"", b"\0\0"):
        raise DecodeError("the file ends inside a message", subject=path.name, position=f"byte {base}")
