"""What every venue that a feed server plays has in common: clients, messages on their way, and JSON.

No socket and no clock: `play` takes the next line of a recording, `Client` is what one connection has asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from tapehouse.core.errors import DecodeError, UsageError
from tapehouse.feeds.capture import Message

CHANNELS_MAX = 1_024  # that one connection may subscribe to


@dataclass(slots=True)
class Client:
    """What one connection has subscribed to: channels as the recording names them, and as the client did."""

    channels: dict[str, Any] = field(default_factory=dict)
    combined: bool = True  # Binance: messages are wrapped with the name of their stream

    def subscribe(self, channel: str, name: Any) -> bool:
        """Whether it is subscribed to that now, and was not before; raises UsageError beyond CHANNELS_MAX."""
        if channel in self.channels:
            return False
        if len(self.channels) >= CHANNELS_MAX:
            raise UsageError(f"more than {CHANNELS_MAX} subscriptions on one connection")
        self.channels[channel] = name
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """One message of the recording on its way to those who subscribed to it.

    Args:
        numbered: A receiver can notice that it is missing or changed; only such messages suffer faults.
        first: It tells a whole book: nothing is lost with what came before.
    """

    channel: str
    body: bytes
    numbered: bool
    first: bool = False


class ServedVenue(Protocol):
    """One venue's side of its protocol."""

    def connect(self, path: str, query: str) -> Client:
        """A new connection; raises UsageError where the venue has no such URL."""
        ...

    def play(self, message: Message) -> Played | None:
        """The next line of the recording; None where it was for nobody, such as an acknowledgement or a REST answer.

        Raises:
            DecodeError: It is none of the venue's.
        """
        ...

    def message_for(self, client: Client, played: Played) -> bytes | None:
        """What that client gets of it; None where it did not subscribe to it."""
        ...

    def receive(self, client: Client, body: bytes) -> list[bytes]:
        """What a client's message is answered with: acknowledgements, and snapshots of the books it subscribed to."""
        ...

    def rest(self, path: str, query: dict[str, str]) -> bytes | None:
        """The answer of the REST API; None where there is no such thing; empty where the book is not known yet."""
        ...

    def corrupt(self, body: bytes) -> bytes | None:
        """The message so that a receiver must notice; None where it cannot."""
        ...


def json_object(body: bytes, number: Callable[[str], Any] | None = None) -> dict[str, Any]:
    """A JSON object; `number` gets the text of each number.

    Raises:
        DecodeError: It is none.
    """
    try:
        message = json.loads(body, parse_float=number, parse_int=number)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"a message is no JSON: {error}") from error
    if not isinstance(message, dict):
        raise DecodeError(f"a message is no JSON object: {body[:40]!r}")
    return message


def as_list(value: Any) -> list[Any]:
    """A JSON list, or nothing for null; raises DecodeError."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise DecodeError(f"no list: {str(value)[:40]}")
    return value


@contextmanager
def of_the_venue() -> Iterator[None]:
    """What lacks a field or has one of another type is none of the venue's messages."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DecodeError(f"it is none of the venue's messages: {type(error).__name__} {error}") from error


def json_text(value: Any) -> bytes:
    """JSON without spaces."""
    return json.dumps(value, separators=(",", ":")).encode()
