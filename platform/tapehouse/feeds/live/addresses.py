"""Addresses as users write them."""

from __future__ import annotations

from tapehouse.core.errors import UsageError

Address = tuple[str, int]


def parse_address(text: str, option: str) -> Address:
    """`HOST:PORT`; raises UsageError where it is none."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UsageError(f"{text!r} is no address", subject=option, hint="write it as 233.54.12.1:26477")
    return host, int(port)
