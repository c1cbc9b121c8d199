"""The canonical bytes of a message: what a segment stores and what the log digest hashes.

    u64 sequence
    u32 bytes of the subject, subject (UTF-8)
    u32 number of headers, then each, sorted by the bytes of its name:
        u32 bytes of the name, name (UTF-8), u32 bytes of the value, value (UTF-8)
    u32 bytes of the payload, payload

All little-endian. Equal messages have equal bytes, and no two different messages share theirs, because every part
says its own length. `decode_message` accepts nothing that `encode_message` would not have written.
"""

from __future__ import annotations

import struct

from tapehouse.core.errors import DataError, DecodeError
from tapehouse.log.port import Message

MESSAGE_BYTES_MAX = 32 * 1024 * 1024  # of one message's canonical form; a broker takes far less
HEADERS_MAX = 1024  # of one message
_HEAD = struct.Struct("<QI")
_LENGTH = struct.Struct("<I")


def encode_message(message: Message) -> bytes:
    """The canonical bytes.

    Raises:
        DataError: The message is larger than a segment takes, or its text is no valid Unicode.
    """
    try:
        subject = message.subject.encode()
        headers = sorted((name.encode(), value.encode()) for name, value in message.headers.items())
    except UnicodeEncodeError as error:
        raise DataError(
            "a subject or header is no valid Unicode", subject=message.subject, position=f"sequence {message.sequence}"
        ) from error
    parts = [_HEAD.pack(message.sequence, len(subject)), subject, _LENGTH.pack(len(headers))]
    for name, value in headers:
        parts += (_LENGTH.pack(len(name)), name, _LENGTH.pack(len(value)), value)
    parts += (_LENGTH.pack(len(message.payload)), message.payload)
    body = b"".join(parts)
    if len(body) > MESSAGE_BYTES_MAX or len(headers) > HEADERS_MAX:
        raise DataError(
            f"a message of {len(body)} bytes and {len(headers)} headers cannot be kept",
            subject=message.subject,
            position=f"sequence {message.sequence}",
            hint=f"at most {MESSAGE_BYTES_MAX} bytes and {HEADERS_MAX} headers",
        )
    return body


def decode_message(body: bytes | memoryview) -> Message:
    """The message that these bytes are.

    Raises:
        DecodeError: A length runs over the end, bytes are left over, headers are unsorted or doubled, or text is not
            UTF-8.
    """
    try:
        sequence, length = _HEAD.unpack_from(body)
        at = _HEAD.size
        subject, at = _take(body, at, length)
        (count,) = _LENGTH.unpack_from(body, at)
        at += 4
        if count > HEADERS_MAX:
            raise DecodeError(f"a message with {count} headers", position=f"sequence {sequence}")
        headers: dict[str, str] = {}
        before = b""
        for index in range(count):
            (length,) = _LENGTH.unpack_from(body, at)
            name, at = _take(body, at + 4, length)
            (length,) = _LENGTH.unpack_from(body, at)
            value, at = _take(body, at + 4, length)
            if index and name <= before:
                raise DecodeError("a message's headers are not in order", position=f"sequence {sequence}")
            before = name
            headers[name.decode()] = value.decode()
        (length,) = _LENGTH.unpack_from(body, at)
        payload, at = _take(body, at + 4, length)
        if at != len(body):
            raise DecodeError(f"a message has {len(body) - at} bytes too many", position=f"sequence {sequence}")
        return Message(sequence=sequence, subject=subject.decode(), payload=payload, headers=headers)
    except (struct.error, UnicodeDecodeError) as error:
        raise DecodeError(f"no canonical message: {error}") from error


def _take(body: bytes | memoryview, at: int, length: int) -> tuple[bytes, int]:
    end = at + length
    if end > len(body):
        raise DecodeError(f"a message ends after {len(body)} bytes, not {end}", position=f"byte {at}")
    return bytes(body[at:end]), end
