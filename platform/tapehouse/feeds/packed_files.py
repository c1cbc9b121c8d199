"""Files as they are given away: plain, gzip, xz, or the one member of a zip, unpacked a piece at a time.

What a file is, its first bytes say, not its name. Memory stays bounded whatever the file claims: a dictionary larger
than XZ_MEMORY_MAX is refused, and nothing is unpacked further than it is read.
"""

from __future__ import annotations

import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tapehouse.core.errors import DecodeError, MissingError

CHUNK_BYTES = 1 << 18
LINE_BYTES_MAX = 1 << 16
XZ_MEMORY_MAX = 1 << 28
_GZIP, _XZ, _ZIP = b"\x1f\x8b", b"\xfd7zXZ\x00", b"PK\x03\x04"
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError, RuntimeError)
_HINT = "download it again"


class PackedFile(io.RawIOBase):
    """The bytes of one file, unpacked; what is damaged raises DecodeError where the reading gets there.

    Args:
        path: The file.

    Attributes:
        title: How errors call it: its name, and the member's where it is a zip.
        member: The member's name in a zip, else empty.

    Raises:
        MissingError: There is no such file.
        DecodeError: It is a zip that is damaged or has not exactly one member.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.title, self.member = path.name, ""
        self._at = 0
        self._open: list[IO[bytes]] = []
        try:
            file = open(path, "rb")  # noqa: SIM115  (closed by close)
        except (FileNotFoundError, IsADirectoryError) as error:
            raise MissingError("there is no such file", subject=str(path)) from error
        self._open.append(file)
        magic = file.read(6)
        file.seek(0)
        self._inner: Any = file
        if magic.startswith(_GZIP):
            self._inner = gzip.GzipFile(fileobj=file)
        elif magic.startswith(_XZ):
            self._inner = _Xz(file)
        elif magic.startswith(_ZIP):
            try:
                self._inner = self._only_member(file)
            except DecodeError:
                self.close()
                raise

    def _only_member(self, file: IO[bytes]) -> IO[bytes]:
        try:
            archive = zipfile.ZipFile(file)
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
            if len(names) != 1:
                raise DecodeError(f"a zip of {len(names)} files", subject=self.title, hint="give a zip of one file")
            self.member = names[0]
            self.title = f"{self.title}/{self.member}"
            inner = archive.open(self.member)
        except _DAMAGE as error:
            raise DecodeError(f"the zip is damaged: {error}", subject=self.title, hint=_HINT) from error
        self._open += [inner]
        return inner

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes; 0 at the end."""
        view = memoryview(buffer).cast("B")
        try:
            data = self._inner.read(len(view))
        except _DAMAGE as error:
            raise DecodeError(
                f"the file cannot be unpacked further: {error}",
                subject=self.title,
                position=f"unpacked byte {self._at}",
                hint=_HINT,
            ) from error
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        """Close the file and what was opened in it."""
        while self._open:
            self._open.pop().close()
        super().close()


class _Xz:
    """An xz file of one or more streams; `lzma` itself limits no dictionary."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decoder = self._new()
        self._left = b""

    def _new(self) -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_MAX)

    def read(self, size: int) -> bytes:
        while True:
            if self._decoder.eof:
                self._left = (self._decoder.unused_data or self._file.read(CHUNK_BYTES)).lstrip(b"\0")
                if not self._left:
                    return b""
                self._decoder = self._new()
            if self._decoder.needs_input and not self._left:
                self._left = self._file.read(CHUNK_BYTES)
                if not self._left:
                    raise EOFError("it ends before its end mark")
            data = self._decoder.decompress(self._left, size)
            self._left = b""
            if data:
                return data


def lines_of(stream: io.RawIOBase, title: str) -> Iterator[tuple[int, bytes]]:
    """Every line with its number from 1, without its line feed; empty lines are left out.

    Raises:
        DecodeError: A line is longer than LINE_BYTES_MAX, or the file is damaged there; all before was yielded.
    """
    number, rest = 0, b""
    while True:
        try:
            chunk = stream.read(CHUNK_BYTES)
        except DecodeError as error:
            raise DecodeError(error.message, subject=title, position=f"line {number + 1}", hint=error.hint) from error
        if not chunk:
            break
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        for line in lines:
            number += 1
            if len(line) > LINE_BYTES_MAX:
                raise _too_long(title, number)
            if line.rstrip(b"\r"):
                yield number, line.rstrip(b"\r")
        if len(rest) > LINE_BYTES_MAX:
            raise _too_long(title, number + 1)
    if rest.rstrip(b"\r"):
        yield number + 1, rest.rstrip(b"\r")


def _too_long(title: str, number: int) -> DecodeError:
    return DecodeError(f"a line is longer than {LINE_BYTES_MAX} bytes", subject=title, position=f"line {number}")
