"""Headers on their way out and back: ours pass, the broker's own are added for it and taken off again."""

from __future__ import annotations

from tapehouse.core import DecodeError, UsageError

EXPECTED_LAST = "Nats-Expected-Last-Sequence"
EXPECTED_LAST_OF_SUBJECT = "Nats-Expected-Last-Subject-Sequence"
_RESERVED = "nats-"
_FIRST_LINE = b"NATS/1.0"


def outgoing(headers: dict[str, str] | None, *, expected_last: int | None, subject: str) -> dict[str, str] | None:
    """Headers to publish with: the caller's, and the fence.

    Raises:
        UsageError: A name is the broker's own.
    """
    if headers:
        for name in headers:
            if name.lower().startswith(_RESERVED):
                raise UsageError(f"header {name} is the broker's own", subject=subject, hint="choose another name")
    if expected_last is None:
        return headers
    return {**(headers or {}), EXPECTED_LAST: str(expected_last)}


def incoming(headers: dict[str, str] | None) -> dict[str, str]:
    """Headers as a reader sees them: without the broker's own, which are stored with the message."""
    if not headers:
        return {}
    return {name: value for name, value in headers.items() if not name.lower().startswith(_RESERVED)}


def parse(raw: bytes) -> dict[str, str]:
    """The header block of a stored message, as the API returns it.

    Raises:
        DecodeError: It is no header block.
    """
    first, *lines = raw.split(b"\r\n")
    if not first.startswith(_FIRST_LINE):
        raise DecodeError(f"no header block: it begins with {first[:20]!r}")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if colon:
            headers[name.strip().decode("ascii", "replace")] = value.strip().decode("utf-8", "replace")
    return headers
