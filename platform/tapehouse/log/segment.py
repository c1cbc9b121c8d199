"""The segment: a run of a log's messages as one file or object. See docs/formats/segment.md for the byte-exact account.

A header (whose log, from which sequence, the log digest before it), one block for each message with a checksum of its
own, and a footer (how many, the log digest after them, BLAKE3 of everything). The plaintext is canonical: equal
messages under equal identity give equal bytes, so a segment is named by its BLAKE3. An object in a store is the zstd
of the plaintext; a local file is the plaintext itself, and may still lack its footer (`segment_file`).

Pure: messages in, bytes out, and back. Where a log is cut into segments is decided by `segment_cut`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

import xxhash
import zstandard
from blake3 import blake3

from tapehouse.core.errors import DataError, DecodeError
from tapehouse.core.ids import LOG_ID_BYTES
from tapehouse.log.canonical import MESSAGE_BYTES_MAX, decode_message, encode_message
from tapehouse.log.log_digest import HEAD_BYTES, LogDigest
from tapehouse.log.port import Message

MAGIC = b"THSG"
VERSION = 1
SEGMENT_BYTES_MAX = 64 * 1024 * 1024  # of the plaintext
NAME_BYTES_MAX = 255
_HEADER = struct.Struct("<4sHHQ16s32s")
_LENGTH = struct.Struct("<I")
_CHECKSUM_BYTES = 8
_FOOTER = struct.Struct("<IQQ32s")
FOOTER_BYTES = _FOOTER.size + 32
BLOCK_OVERHEAD = _LENGTH.size + _CHECKSUM_BYTES
_FOOTER_MARK = 0  # where a block would have its length; no message is empty
_ZSTD_LEVEL = 1  # most payloads are compressed frames already


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentHeader:
    """What a segment says before its first message: it belongs to one branch of one log."""

    name: str  # the log's
    log_id: bytes
    first: int
    head_before: bytes  # log digest before the first message

    def encode(self) -> bytes:
        """The header's bytes, checksum included.

        Raises:
            DataError: A field does not fit.
        """
        name = self.name.encode()
        if not 0 < len(name) <= NAME_BYTES_MAX:
            raise DataError(f"a log name of {len(name)} bytes does not fit a segment", subject=self.name)
        if len(self.log_id) != LOG_ID_BYTES or len(self.head_before) != HEAD_BYTES:
            raise DataError("a segment's log id has 16 bytes and its digest 32", subject=self.name)
        fixed = _HEADER.pack(MAGIC, VERSION, len(name), self.first, self.log_id, self.head_before)
        return _checked(fixed + name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A whole, verified segment."""

    header: SegmentHeader
    messages: tuple[Message, ...]
    head_after: bytes  # log digest after the last message

    @property
    def last(self) -> int:
        """The sequence of the last message."""
        return self.header.first + len(self.messages) - 1


class SegmentEncoder:
    """Writes one segment piece by piece: `header`, a block for each `add`, the footer of `finish`."""

    def __init__(self, header: SegmentHeader) -> None:
        self._first = header.first
        self._digest = LogDigest(next_sequence=header.first, head=header.head_before)
        self.header = header.encode()
        self._hasher = blake3(self.header)
        self.bytes_written = len(self.header)

    @property
    def next_sequence(self) -> int:
        """The sequence that the next message must have."""
        return self._digest.next_sequence

    @property
    def count(self) -> int:
        """Messages so far."""
        return self._digest.next_sequence - self._first

    @property
    def head(self) -> bytes:
        """The log digest after the messages so far."""
        return self._digest.head

    def fits(self, body: bytes) -> bool:
        """Whether a message of these canonical bytes still fits under SEGMENT_BYTES_MAX."""
        return self.bytes_written + len(body) + BLOCK_OVERHEAD + FOOTER_BYTES <= SEGMENT_BYTES_MAX

    def add(self, message: Message) -> bytes:
        """The next message's block; see `add_encoded`."""
        return self.add_encoded(message.sequence, encode_message(message))

    def add_encoded(self, sequence: int, body: bytes) -> bytes:
        """The block of the next message, given as its canonical bytes.

        Raises:
            GapError: It is not the next message.
            DataError: The segment is full.
        """
        if not self.fits(body):
            raise DataError(f"a segment holds {SEGMENT_BYTES_MAX} bytes", position=f"sequence {sequence}")
        self._digest.update_encoded(sequence, body)
        block = _checked(_LENGTH.pack(len(body)), body)
        self._hasher.update(block)
        self.bytes_written += len(block)
        return block

    def finish(self) -> bytes:
        """The footer; raises DataError where there was no message."""
        if self.count == 0:
            raise DataError("a segment without messages", hint="write none")
        footer = _FOOTER.pack(_FOOTER_MARK, self.count, self.next_sequence - 1, self.head)
        self._hasher.update(footer)
        self.bytes_written += FOOTER_BYTES
        return footer + self._hasher.digest()


def encode_segment(messages: Iterable[Message], header: SegmentHeader) -> bytes:
    """Messages as a segment's plaintext.

    Raises:
        GapError: They do not follow each other from `header.first` on.
        DataError: There is none, or they do not fit.
    """
    encoder = SegmentEncoder(header)
    parts = [encoder.header]
    parts += [encoder.add(message) for message in messages]
    parts.append(encoder.finish())
    return b"".join(parts)


def read_segment_header(plain: bytes) -> tuple[SegmentHeader, int]:
    """The header and the byte at which the first block begins.

    Raises:
        DecodeError: Too short, no segment, an unknown version, or damaged.
    """
    if len(plain) < _HEADER.size:
        raise DecodeError(f"a segment of {len(plain)} bytes is shorter than its header", position="byte 0")
    magic, version, name_bytes, first, log_id, head_before = _HEADER.unpack_from(plain)
    if magic != MAGIC:
        raise DecodeError(f"no segment: magic {magic!r} instead of {MAGIC!r}", position="byte 0")
    if version != VERSION:
        raise DecodeError(
            f"segment version {version} is unknown", position="byte 4", hint="a newer tapehouse wrote it: upgrade"
        )
    end = _HEADER.size + name_bytes
    if not _is_checked(plain, 0, end):
        raise DecodeError("a segment's header is damaged", position="byte 0")
    try:
        name = plain[_HEADER.size : end].decode()
    except UnicodeDecodeError as error:
        raise DecodeError("a segment's log name is not UTF-8", position=f"byte {_HEADER.size}") from error
    if not name or len(name.encode()) > NAME_BYTES_MAX:
        raise DecodeError(f"a segment's log name has {name_bytes} bytes", position="byte 6")
    header = SegmentHeader(name=name, log_id=log_id, first=first, head_before=head_before)
    return header, end + _CHECKSUM_BYTES


def read_block(plain: bytes, at: int) -> tuple[memoryview, int] | None:
    """The canonical bytes of the message whose block begins at `at`, and the byte after it; None at a footer.

    Raises:
        DecodeError: No whole block is there.
    """
    if at + _LENGTH.size > len(plain):
        raise DecodeError("a segment ends before a block", position=f"byte {at}")
    (length,) = _LENGTH.unpack_from(plain, at)
    if length == _FOOTER_MARK:
        return None
    end = at + _LENGTH.size + length
    if length > MESSAGE_BYTES_MAX or end + _CHECKSUM_BYTES > len(plain):
        raise DecodeError("a segment's block is torn", position=f"byte {at}")
    if not _is_checked(plain, at, end):
        raise DecodeError("a segment's block is damaged", position=f"byte {at}")
    return memoryview(plain)[at + _LENGTH.size : end], end + _CHECKSUM_BYTES


def decode_segment(plain: bytes) -> Segment:
    """A whole segment, with everything that it says about itself held against its messages.

    Raises:
        DecodeError: It is torn, damaged, unfinished or not canonical; `position` names the byte.
    """
    if len(plain) > SEGMENT_BYTES_MAX:
        raise DecodeError(f"a segment of {len(plain)} bytes is larger than {SEGMENT_BYTES_MAX}")
    header, at = read_segment_header(plain)
    digest = LogDigest(next_sequence=header.first, head=header.head_before)
    messages: list[Message] = []
    while (block := read_block(plain, at)) is not None:
        message = decode_message(block[0])
        if message.sequence != digest.next_sequence:
            raise DecodeError(
                f"a segment goes on with message {message.sequence} instead of {digest.next_sequence}",
                position=f"byte {at}",
            )
        digest.update_encoded(message.sequence, block[0])
        messages.append(message)
        at = block[1]
    check_footer(plain, at, count=len(messages), digest=digest)
    return Segment(header=header, messages=tuple(messages), head_after=digest.head)


def check_footer(plain: bytes, at: int, *, count: int, digest: LogDigest) -> None:
    """Hold the footer at `at` against the messages before it.

    Raises:
        DecodeError: It is torn, damaged, does not fit, or bytes follow it.
    """
    if len(plain) - at != FOOTER_BYTES:
        raise DecodeError(f"a segment's footer has {len(plain) - at} bytes, not {FOOTER_BYTES}", position=f"byte {at}")
    end = at + _FOOTER.size
    if blake3(memoryview(plain)[:end]).digest() != plain[end:]:
        raise DecodeError("a segment's BLAKE3 disagrees", position=f"byte {end}", hint="it is damaged")
    _, counted, last, head = _FOOTER.unpack_from(plain, at)
    if count == 0 or counted != count or last != digest.next_sequence - 1:
        raise DecodeError(f"a segment's footer counts {counted} messages to {last}, not {count}", position=f"byte {at}")
    if head != digest.head:
        raise DecodeError("a segment's log digest disagrees with its messages", position=f"byte {at}")


def segment_digest(plain: bytes) -> bytes:
    """BLAKE3 of the plaintext: the segment's name."""
    return blake3(plain).digest()


def pack(plain: bytes) -> bytes:
    """The stored form: one zstd frame that says its size and has a checksum."""
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True).compress(plain)


def unpack(stored: bytes, *, bytes_max: int = SEGMENT_BYTES_MAX) -> bytes:
    """The plaintext of a stored form; never allocates more than `bytes_max`.

    Raises:
        DecodeError: It is no such zstd frame, or too large.
    """
    try:
        size = zstandard.frame_content_size(stored)
        if not 0 <= size <= bytes_max:
            raise DecodeError(f"a stored object says that it holds {size} bytes; at most {bytes_max} are taken")
        plain = zstandard.ZstdDecompressor().decompress(stored, max_output_size=bytes_max, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise DecodeError(f"a stored object does not decompress: {error}", hint="it is torn or damaged") from error
    if len(plain) != size:
        raise DecodeError(f"a stored object holds {len(plain)} bytes, not {size}", hint="it is torn or damaged")
    return plain


def _checked(*parts: bytes) -> bytes:
    """The parts and their checksum; copied once, for blocks are large."""
    hasher = xxhash.xxh3_64()
    for part in parts:
        hasher.update(part)
    return b"".join((*parts, hasher.intdigest().to_bytes(_CHECKSUM_BYTES, "little")))


def _is_checked(plain: bytes, start: int, end: int) -> bool:
    stored = plain[end : end + _CHECKSUM_BYTES]
    if len(stored) != _CHECKSUM_BYTES:
        return False
    digest: int = xxhash.xxh3_64_intdigest(memoryview(plain)[start:end])
    return digest == int.from_bytes(stored, "little")
