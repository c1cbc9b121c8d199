"""Connections to a gateway: where it is, who we are to it, and one connection that takes its answers in order."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from tapehouse.app.kv_load.replies import ErrorReply, Reply, ReplyReader, request
from tapehouse.core.errors import BusUnavailableError, DecodeError, MissingError, UsageError

CONNECT_S = 10.0
GATEWAYS_MAX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """Gateways of one KV, which connections are shared out over in turns.

    Attributes:
        addresses: Host and port of each.
        token: What they want to know; empty for nothing.
        tls: How they are spoken to; None for plainly.
    """

    addresses: tuple[tuple[str, int], ...]
    token: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = None


def read_addresses(text: str) -> tuple[tuple[str, int], ...]:
    """`host:port,host:port` as pairs.

    Raises:
        UsageError: It is none, or there are more than GATEWAYS_MAX.
    """
    found = []
    for part in text.split(","):
        host, _, port = part.strip().rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) <= 65_535:
            raise UsageError(f"{part!r} is no host:port", subject="--connect", hint="such as 127.0.0.1:6380")
        found.append((host.removeprefix("[").removesuffix("]"), int(port)))
    if len(found) > GATEWAYS_MAX:
        raise UsageError(f"{len(found)} gateways", subject="--connect", hint=f"at most {GATEWAYS_MAX}")
    return tuple(found)


def client_tls(is_on: bool, ca: Path | None) -> ssl.SSLContext | None:
    """TLS that trusts this certificate, or those that the machine trusts; None where it is off.

    Raises:
        MissingError, UsageError: The file cannot be read, or holds no certificate.
    """
    if ca is None:
        return ssl.create_default_context() if is_on else None
    try:
        return ssl.create_default_context(cafile=ca)
    except ssl.SSLError as error:
        raise UsageError(f"no certificate: {error.reason or error}", subject=str(ca), hint="a PEM file") from error
    except OSError as error:
        raise MissingError(error.strerror or str(error), subject=str(ca), hint="see --tls-ca") from error


class Link(asyncio.Protocol):
    """One connection; made by `connect`.

    Args:
        answered: Called with the replies that came together, in the order of the requests.
        lost: Called once when the connection is gone, whoever ended it, with why.
    """

    def __init__(self, answered: Callable[[list[Reply]], None], lost: Callable[[str], None]) -> None:
        self._answered, self._lost = answered, lost
        self._replies = ReplyReader()
        self._transport: asyncio.Transport | None = None
        self._why = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its type

    def data_received(self, data: bytes) -> None:
        try:
            replies = self._replies.feed(data)
        except DecodeError as error:
            self.drop(f"the gateway sent what is no reply: {error.message}")
            return
        if replies:
            self._answered(replies)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._lost(self._why or (str(error) if error else "the gateway closed the connection"))

    def send(self, data: bytes) -> None:
        """Send it; nothing where the connection is gone, as `lost` tells."""
        if self._transport is not None:
            self._transport.write(data)

    def drop(self, why: str) -> None:
        """End it now; `lost` is called with `why`."""
        self._why = self._why or why
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """End it once all is sent."""
        if self._transport is not None:
            self._transport.close()


async def open_link(
    doors: Doors, which: int, answered: Callable[[list[Reply]], None], lost: Callable[[str], None]
) -> Link:
    """A connection to one of the gateways; nobody has been told who we are.

    Raises:
        BusUnavailableError: Nobody answers there.
    """
    host, port = doors.addresses[which % len(doors.addresses)]
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_S):
            _, link = await loop.create_connection(lambda: Link(answered, lost), host, port, ssl=doors.tls)
    except TimeoutError as error:
        raise _unreachable(host, port, f"no connection in {CONNECT_S:g} s") from error
    except ssl.SSLError as error:
        raise UsageError(
            f"no TLS with it: {error.reason or error}", subject=f"{host}:{port}", hint="see --tls and --tls-ca"
        ) from error
    except OSError as error:
        raise _unreachable(host, port, error.strerror or str(error)) from error
    return link


async def greet(doors: Doors, which: int, hello: Sequence[bytes]) -> list[Reply]:
    """The replies to a few requests on a connection of their own.

    Raises:
        BusUnavailableError: Nobody answers, or not as a gateway does.
        UsageError: It refuses one of them.
    """
    host, port = doors.addresses[which % len(doors.addresses)]
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    told: list[Reply] = []
    asked = [*first_words(doors), *hello]

    def answered(replies: list[Reply]) -> None:
        told.extend(replies)
        if len(told) >= len(asked) and not done.done():
            done.set_result(None)

    def lost(why: str) -> None:
        if not done.done():
            done.set_exception(_unreachable(host, port, why))

    link = await open_link(doors, which, answered, lost)
    link.send(b"".join(asked))
    try:
        async with asyncio.timeout(CONNECT_S):
            await done
    except TimeoutError as error:
        raise _unreachable(host, port, f"no answer in {CONNECT_S:g} s") from error
    finally:
        link.close()
    refused = next((reply for reply in told if isinstance(reply, ErrorReply)), None)
    if refused is not None:
        raise UsageError(refused.text, subject=f"{host}:{port}", hint="see --token-file and --tls")
    return told[len(asked) - len(hello) :]


def first_words(doors: Doors) -> list[bytes]:
    """What a connection says first."""
    return [request(b"AUTH", doors.token.encode())] if doors.token else []


def _unreachable(host: str, port: int, why: str) -> BusUnavailableError:
    return BusUnavailableError(why, subject=f"{host}:{port}", hint="is a gateway there? tapehouse kv serve")
