"""A venue's protocol without its connection: messages in, cells and wishes out.

One session decodes one connection. A raw capture on disk and a live websocket feed the same one, so what a live
recorder does can be held against a recorded day. The session never asks for the time and never opens anything: what
it wants from its shell it says in `wishes`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from tapehouse.market import Cause, Cells, Instrument


class Want(StrEnum):
    """What a session may want of its shell."""

    SNAPSHOT = "snapshot"  # ask the venue's REST API with `request` for the book of `symbol`; the answer to `answered`
    SEND = "send"  # send `body` on the connection
    RECONNECT = "reconnect"  # this connection is of no use any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One thing that a session wants; a file's reader leaves it ungranted.

    Args:
        symbol: Whose book, of a SNAPSHOT.
        request: Path and query of the REST request, such as `/api/v3/depth?symbol=BTCUSDT&limit=1000`.
        body: What to send, one text message.
    """

    want: Want
    symbol: str = ""
    request: str = ""
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a venue's public API is; a session never connects to it itself.

    Args:
        websocket: The whole URL.
        rest: What the path of a `Wish.request` goes behind; empty where the venue's sessions wish for no snapshots.
    """

    websocket: str
    rest: str = ""


class VenueSession(Protocol):
    """One connection to one venue.

    Instrument ids are the session's own, from 1 up, in the order of first use; `instruments` grows while messages
    come. Cells of an instrument never come before it is in `instruments`.
    """

    @property
    def instruments(self) -> tuple[Instrument, ...]:
        """Everything that cells so far refer to, in the order of their ids."""
        ...

    def connected(self, ts_recv: int) -> None:
        """A connection is there, for the first time or again; says what to send in `wishes`."""
        ...

    def disconnected(self, ts_recv: int) -> None:
        """The connection went: what was good is suspect until it is told anew."""
        ...

    def missed(self, cause: Cause, ts_recv: int) -> None:
        """The shell lost something of this connection (MALFORMED: it left a message out; DROPPED): as `disconnected`,
        but the connection is there, so `wishes` says how to come by the books anew."""
        ...

    def receive(self, body: bytes, ts_recv: int) -> None:
        """Decode one message, whole as it came.

        Raises:
            DecodeError: It is none of the venue's messages. Nothing of it was taken; the session can go on.
        """
        ...

    def answered(self, symbol: str, body: bytes, ts_recv: int) -> None:
        """Decode the answer to a SNAPSHOT wish for `symbol`; raises DecodeError as `receive` does."""
        ...

    def take(self) -> Iterator[Cells]:
        """The cells since the last call, gap records among them, as whole records in order; afterwards none wait."""
        ...

    def wishes(self) -> list[Wish]:
        """What it wants since the last call, oldest first."""
        ...

    def elapsed(self, now: int) -> None:
        """Time passed, UTC ns: heartbeats become due, and silence becomes a STALE gap record."""
        ...
