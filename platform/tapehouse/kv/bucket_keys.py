"""Keys of the KV as keys of a native NATS bucket, which allow few characters; and back.

Letters, digits, `_`, `-` and `/` stand for themselves; `.` does where a bucket allows it: not at either end, nor beside
another one. Every other byte is `=` and two upper-case hex digits, and the empty key is `=` alone. So two keys never
become one, and what was not made this way is no key.
"""

from __future__ import annotations

import re

from tapehouse.core.errors import DecodeError

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-/")
_DOT = ord(".")
_EMPTY = "="
_ESCAPED = re.compile(rb"=([0-9A-F]{2})")


def bucket_key(key: bytes) -> str:
    """The key of a bucket that stands for a key of the KV; up to three times as long."""
    if not key:
        return _EMPTY
    told: list[str] = []
    dotted = True  # a dot may not follow
    for place, byte in enumerate(key):
        is_dot = byte == _DOT and not dotted and place + 1 < len(key)
        told.append(chr(byte) if byte in _PLAIN or is_dot else f"={byte:02X}")
        dotted = is_dot
    return "".join(told)


def kv_key(name: str) -> bytes:
    """The key of the KV that a bucket's key stands for.

    Raises:
        DecodeError: It stands for none.
    """
    if name == _EMPTY:
        return b""
    try:
        key = _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), name.encode("ascii"))
    except UnicodeEncodeError as error:
        raise DecodeError(f"{name!r} is no key of a mirror") from error
    if bucket_key(key) != name:
        raise DecodeError(f"{name!r} is no key of a mirror")
    return key
