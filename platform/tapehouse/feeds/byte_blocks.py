"""The bytes of a file, plain or gzip, a block at a time: bounded memory whatever the file expands to.

A gzip file carries the CRC-32 of its content, so a byte that was flipped inside one is found here already. What was
expanded before the damage is given out first.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

from tapehouse.core.errors import DecodeError, MissingError

BLOCK_BYTES = 1 << 20
_READ_BYTES = 1 << 16  # of a compressed file at once
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WINDOW = 31  # zlib's word for: with a gzip header


def require_file(path: Path) -> None:
    """Raises MissingError where there is no such file."""
    if not path.is_file():
        raise MissingError("there is no such file", subject=str(path))


def byte_blocks(path: Path, block_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
    """The plain bytes of a file, `block_bytes` at a time, less in the last block only.

    Raises:
        MissingError: There is no such file.
        DecodeError: It cannot be read, or a gzip file is cut off or damaged; what came before was yielded.
    """
    require_file(path)
    waiting = bytearray()
    failure: DecodeError | None = None
    chunks = _chunks(path)
    ended = False
    while not ended:
        try:
            waiting += next(chunks)
        except StopIteration:
            ended = True
        except DecodeError as error:
            ended, failure = True, error
        while len(waiting) >= block_bytes:
            yield bytes(waiting[:block_bytes])
            del waiting[:block_bytes]
    if waiting:
        yield bytes(waiting)
    if failure is not None:
        raise failure


def _chunks(path: Path) -> Iterator[bytes]:
    """Plain bytes as they come, 64 KiB at most each."""
    try:
        with open(path, "rb") as file:
            first = file.read(_READ_BYTES)
            if first.startswith(_GZIP_MAGIC):
                yield from _expanded(first, iter(lambda: file.read(_READ_BYTES), b""), path.name)
                return
            while first:
                yield first
                first = file.read(_READ_BYTES)
    except OSError as error:
        raise DecodeError(f"it cannot be read: {error}", subject=path.name) from error


def _expanded(first: bytes, rest: Iterator[bytes], name: str) -> Iterator[bytes]:
    """The content of one gzip member after the other."""
    member = zlib.decompressobj(_GZIP_WINDOW)
    data = first
    read = 0
    while data:
        try:
            out = member.decompress(data, _READ_BYTES)
        except zlib.error as error:
            hint = "download it again"
            where = f"compressed byte {read} and on"
            raise DecodeError(f"the gzip is damaged: {error}", subject=name, position=where, hint=hint) from error
        left = member.unused_data if member.eof else member.unconsumed_tail
        read += len(data) - len(left)
        if out:
            yield out
        data = left
        if member.eof:
            data = (data or next(rest, b"")).lstrip(b"\0")  # zeros may pad the last member
            while not data and (more := next(rest, b"")):
                data = more.lstrip(b"\0")
            if data:
                member = zlib.decompressobj(_GZIP_WINDOW)
        elif not data:
            data = next(rest, b"")
    if not member.eof:
        raise DecodeError(
            "the gzip is cut off", subject=name, position=f"compressed byte {read}", hint="download it again"
        )
