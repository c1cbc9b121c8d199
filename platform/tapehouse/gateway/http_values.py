"""What comes and goes over HTTP as values: keys of paths, queries, JSON bodies, and bytes that JSON cannot hold.

Keys and values of the KV are bytes. In an address any byte can be written, `%ff` for what is no text. In JSON, text is
UTF-8; bytes that are none stand under a name that ends in `_base64`, and callers may ask for all of it so.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import unquote_to_bytes

from tapehouse.core.units import NS_PER_SECOND

Encoding = Literal["utf8", "base64"]

JSON_TYPE = "application/json; charset=utf-8"
PROBLEM_TYPE = "application/problem+json"
BYTES_TYPE = "application/octet-stream"
PAIRS_MAX = 1_024  # of one request
QUERY_PARTS_MAX = 32
_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)(ns|us|ms|s|m|h|d)?", re.ASCII)
_UNITS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3_600 * 10**9, "d": 86_400 * 10**9}
_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: what a socket is to send."""

    status: int
    body: bytes = b""
    content_type: str = JSON_TYPE
    headers: dict[str, str] = field(default_factory=dict)


class Refused(Exception):  # noqa: N818 - it is an answer, caught where the request is read
    """A request that cannot be done as it is asked; a problem's parts as RFC 9457 has them.

    Attributes:
        code: A word that programs can go by.
        detail, hint: For people: what is wrong, and what to do.
    """

    def __init__(
        self, status: int, code: str, detail: str, hint: str = "", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.hint = status, code, detail, hint
        self.headers = headers or {}


def bad(detail: str, hint: str = "") -> Refused:
    """A request that is wrong in itself."""
    return Refused(400, "bad-request", detail, hint)


def json_reply(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    """A JSON answer, as one line."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    return Reply(status, body, headers=headers or {})


# Addresses.


def unquote(text: str, what: str) -> bytes:
    """The bytes of a percent-encoded part of an address.

    Raises:
        Refused: A percent sign without two hexadecimal digits.
    """
    if _PERCENT.search(text):
        raise bad(f"{what}: a % that is not followed by two hexadecimal digits", "write a percent sign as %25")
    return unquote_to_bytes(text)


def read_query(text: str, allowed: frozenset[str]) -> dict[str, bytes]:
    """The parameters of an address, each at most once; `+` is a space, as forms write it.

    Raises:
        Refused: One that is not known here, or comes twice.
    """
    found: dict[str, bytes] = {}
    parts = [part for part in text.split("&") if part]
    if len(parts) > QUERY_PARTS_MAX:
        raise bad(f"{len(parts)} parameters", f"at most {QUERY_PARTS_MAX}")
    for part in parts:
        raw_name, _, raw_value = part.partition("=")
        name = unquote(raw_name, "a parameter's name").decode("utf-8", "replace")
        if name not in allowed:
            known = ", ".join(sorted(allowed)) or "none"
            raise bad(f"no parameter {name[:64]!r} here", f"known: {known}")
        if name in found:
            raise bad(f"the parameter {name} comes twice")
        found[name] = unquote(raw_value.replace("+", " "), f"the parameter {name}")
    return found


def text_of(query: dict[str, bytes], name: str) -> str | None:
    """A parameter that is text; None where it is not given."""
    raw = query.get(name)
    if raw is None:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise bad(f"the parameter {name} is no UTF-8") from error


def flag_of(query: dict[str, bytes], name: str) -> bool:
    """A parameter that is true or false; false where it is not given, true where it has no value."""
    text = text_of(query, name)
    if text is None:
        return False
    if text.lower() in ("", "1", "true", "yes"):
        return True
    if text.lower() in ("0", "false", "no"):
        return False
    raise bad(f"the parameter {name} is {text[:64]!r}", "true or false")


def whole_of(query: dict[str, bytes], name: str, least: int, most: int) -> int | None:
    """A parameter that is a whole number within bounds; None where it is not given."""
    text = text_of(query, name)
    return None if text is None else whole(text, f"the parameter {name}", least, most)


def whole(text: str, what: str, least: int, most: int) -> int:
    """A whole number within bounds.

    Raises:
        Refused: It is none.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and least <= int(text) <= most):
        raise bad(f"{what} is {text[:64]!r}", f"a whole number, {least} to {most}")
    return int(text)


def duration_ns(text: str, what: str) -> int:
    """A time such as `30`, `1.5s`, `500ms` or `2h`, in ns; a number alone is seconds.

    Raises:
        Refused: It is none.
    """
    match = _DURATION.fullmatch(text)
    if not match:
        raise bad(f"{what} is {text[:64]!r}", "a time: 30, 1.5s, 500ms, 2h, 7d")
    return round(float(match[1]) * _UNITS[match[2] or "s"])


def duration_of(query: dict[str, bytes], name: str) -> int | None:
    """A parameter that is a time, ns; None where it is not given."""
    text = text_of(query, name)
    return None if text is None else duration_ns(text, f"the parameter {name}")


def seconds(ns: int) -> float:
    """For what takes seconds."""
    return ns / NS_PER_SECOND


# JSON.


def told(name: str, value: bytes | None, encoding: Encoding) -> dict[str, Any]:
    """Bytes as a member of a JSON object: text where they are UTF-8, else, or where all is asked for so, base64."""
    if value is None:
        return {name: None}
    if encoding == "utf8":
        try:
            return {name: value.decode()}
        except UnicodeDecodeError:
            pass  # JSON cannot say it as text, and a replacement would be another value.
    return {f"{name}_base64": base64.b64encode(value).decode()}


def shown(key: bytes) -> str:
    """A key for people, in an error."""
    return repr(key[:128])[1:]


def read_json(body: bytes) -> Any:
    """What a body says; an object is a list of pairs, so that a key that comes twice is seen.

    Raises:
        Refused: It is no JSON, or no UTF-8; the place is named.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise bad(
            f"the body is no UTF-8: byte {error.start} is 0x{body[error.start]:02x}",
            "send bytes as base64 with encoding=base64, or as they are with PUT /key/{key}",
        ) from error
    try:
        return json.loads(text, object_pairs_hook=_Pairs, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise bad(f"the body is no JSON: {error.msg} at character {error.pos}", 'write {"key": "value"}') from error
    except RecursionError as error:
        raise bad("the body is nested too deeply", 'write {"key": "value"}') from error
    except ValueError as error:  # A number of more digits than Python reads, NaN.
        raise bad(f"the body is no JSON: {error}") from error


class _Pairs(list[tuple[str, Any]]):
    """An object of JSON as its pairs."""


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def read_object(body: bytes) -> dict[str, Any]:
    """A JSON object whose members come once.

    Raises:
        Refused: It is none.
    """
    pairs = read_json(body)
    if not isinstance(pairs, _Pairs):
        raise bad("the body is no JSON object", 'write {"key": "value"}')
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise bad(f"the name {twice[:64]!r} comes twice", "a request says each once")
    return members


def read_pairs(body: bytes, encoding: Encoding) -> list[tuple[bytes, bytes]]:
    """Keys and values of a JSON object of strings; with base64, both are written so.

    Raises:
        Refused: It is none, has none or too many, or a string is no text or no base64.
    """
    members = read_object(body)
    if not 0 < len(members) <= PAIRS_MAX:
        raise bad(f"{len(members)} keys", f"1 to {PAIRS_MAX} in one request")
    pairs = []
    for name, value in members.items():
        if not isinstance(value, str):
            raise bad(
                f"the value of {name[:64]!r} is no string", "values are bytes: write JSON as a string, numbers as text"
            )
        pairs.append((_bytes(name, encoding, "a key"), _bytes(value, encoding, f"the value of {name[:64]!r}")))
    if len({key for key, _ in pairs}) != len(pairs):
        raise bad("two names are the same key")
    return pairs


def _bytes(text: str, encoding: Encoding, what: str) -> bytes:
    if encoding == "base64":
        try:
            return base64.b64decode(text.encode("ascii"), validate=True)
        except (UnicodeEncodeError, binascii.Error) as error:
            raise bad(
                f"{what} is no base64", "encoding=base64 was asked for: keys and values are written so"
            ) from error
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise bad(
            f"{what} has half a surrogate pair, which is no UTF-8", "send bytes as base64 with encoding=base64"
        ) from error


def encoding_of(query: dict[str, bytes]) -> Encoding:
    """How keys and values are written in JSON."""
    text = text_of(query, "encoding") or "utf8"
    if text == "utf8" or text == "base64":
        return "utf8" if text == "utf8" else "base64"
    raise bad(f"no encoding {text[:64]!r}", "utf8 or base64")
