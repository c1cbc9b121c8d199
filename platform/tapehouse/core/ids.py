"""Identities that last: logs, writers, and symbols spelled so that NATS accepts them."""

from __future__ import annotations

import re
import secrets
from urllib.parse import quote, unquote

from tapehouse.core.errors import DecodeError, UsageError

LOG_ID_BYTES = 16
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def new_log_id() -> bytes:
    """A fresh 16-byte identity for a log or a branch of one; never used inside a core."""
    return secrets.token_bytes(LOG_ID_BYTES)


def new_writer_id() -> int:
    """A fresh non-zero 63-bit identity for one life of one writer."""
    return secrets.randbits(62) + 1


def check_name(name: str, what: str) -> str:
    """A tape or desk name as it may appear in stream and subject names.

    Raises:
        UsageError: It has characters that a stream name cannot hold.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no {what} name", hint="use lower-case letters, digits, '-' and '_', 64 characters at most"
        )
    return name


def slug(text: str) -> str:
    """The nearest valid name to a free text, for defaults drawn from file names."""
    cleaned = re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")
    return cleaned[:64] or "tape"


def encode_token(symbol: str) -> str:
    """A venue symbol as one NATS subject token; `decode_token` gives it back exactly.

    A token may hold neither space nor `.`, `*`, `>`; those, `/`, `%` and all beyond ASCII become percent escapes.

    Raises:
        UsageError: The symbol is empty or no valid Unicode.
    """
    if not symbol:
        raise UsageError("an empty symbol has no subject token", hint="name the instrument")
    try:
        return quote(symbol, safe="").replace(".", "%2E").replace("~", "%7E")
    except UnicodeEncodeError as error:
        raise UsageError(f"{symbol!r} is no valid Unicode: {error.reason}") from None


def decode_token(token: str) -> str:
    """The symbol that `encode_token` turned into this token.

    Raises:
        DecodeError: No symbol has this token.
    """
    try:
        symbol = unquote(token, errors="strict")
        if encode_token(symbol) == token:
            return symbol
    except (UnicodeDecodeError, UsageError):
        pass  # The line below says so for every way of being no token.
    raise DecodeError(f"{token!r} is no subject token of a symbol", hint="tokens are made by encode_token")
