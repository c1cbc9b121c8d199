"""Requests that know what became of them: never sent, sent and unanswered, refused, or answered.

The client library's own request waits out its time even when the connection that carried it is gone. Here a lost
connection ends every request in flight at once, and each outcome has its own error, because what a caller may do next
depends on whether the broker can have seen the request.
"""

from __future__ import annotations

import asyncio
import itertools

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from tapehouse.core import BusUnavailableError, DataError, UsageError

IN_FLIGHT_MAX = 65_536  # requests without an answer, one connection; more than that is a caller that never waits
_HINT = "is it running? see tapehouse status, or start one with tapehouse up"


class UnansweredError(BusUnavailableError):
    """Sent, and no answer came: the other side may have acted on it."""


class NobodyListensError(BusUnavailableError):
    """The broker itself says that nobody listens on that subject: nothing was done."""


class Requester:
    """Requests over one connection, answered on one inbox."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._inbox = client.new_inbox()
        self._tokens = itertools.count()
        self._waiting: dict[str, asyncio.Future[Msg]] = {}
        self._connected = asyncio.Event()

    async def start(self) -> None:
        """Subscribe to the inbox; once, on a connected client."""
        await self._client.subscribe(f"{self._inbox}.*", cb=self._on_reply)
        self._connected.set()

    def connection_lost(self) -> None:
        """End everything in flight: its answers have no way back."""
        self._connected.clear()
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(UnansweredError("the connection was lost before the answer came", hint=_HINT))

    def connection_back(self) -> None:
        """Let new requests go out."""
        self._connected.set()

    async def request(
        self, subject: str, payload: bytes, *, timeout_s: float, headers: dict[str, str] | None = None
    ) -> Msg:
        """Send and wait for the answer.

        Raises:
            BusUnavailableError: There is no connection and none came within `timeout_s`; nothing was sent.
            UnansweredError: It was sent, and no answer came within `timeout_s`.
            NobodyListensError: It was refused by the broker: no subscriber.
            DataError: It is larger than the broker takes.
        """
        if not self._client.is_connected:
            await self._wait_connected(timeout_s)
        if len(self._waiting) >= IN_FLIGHT_MAX:
            raise BusUnavailableError(f"{IN_FLIGHT_MAX} requests are in flight", subject=subject, hint="wait for some")
        token = str(next(self._tokens))
        future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._waiting[token] = future
        try:
            await publish(self._client, subject, payload, reply=f"{self._inbox}.{token}", headers=headers)
            async with asyncio.timeout(timeout_s):
                answer = await future
        except TimeoutError:
            raise UnansweredError(f"no answer within {timeout_s:g} s", subject=subject, hint=_HINT) from None
        finally:
            self._waiting.pop(token, None)
            if future.done() and not future.cancelled():
                future.exception()  # Looked at, so that an error that nobody awaited any more is not reported.
        if not answer.data and answer.headers and answer.headers.get("Status") == "503":
            raise NobodyListensError("nobody answers on this subject", subject=subject, hint=_HINT)
        return answer

    async def _wait_connected(self, timeout_s: float) -> None:
        if self._client.is_closed:
            raise BusUnavailableError("the connection was given up", hint=_HINT)
        try:
            async with asyncio.timeout(timeout_s):
                await self._connected.wait()
        except TimeoutError:
            raise BusUnavailableError(f"no connection within {timeout_s:g} s; nothing was sent", hint=_HINT) from None
        if not self._client.is_connected:
            raise BusUnavailableError("the connection was given up", hint=_HINT)

    async def _on_reply(self, message: Msg) -> None:
        future = self._waiting.get(message.subject.rpartition(".")[2])
        if future is not None and not future.done():
            future.set_result(message)


async def publish(
    client: Client, subject: str, payload: bytes, *, reply: str = "", headers: dict[str, str] | None = None
) -> None:
    """Publish, with the client library's errors told in ours.

    Raises:
        BusUnavailableError: There is no connection; nothing was sent.
        DataError: It is larger than the broker takes.
        UsageError: The subject or a header is malformed.
    """
    if not client.is_connected:
        raise BusUnavailableError("there is no connection; nothing was sent", subject=subject, hint=_HINT)
    try:
        await client.publish(subject, payload, reply=reply, headers=headers)
    except nats.errors.MaxPayloadError:
        raise DataError(
            f"{len(payload)} bytes are more than the broker takes",
            subject=subject,
            hint=f"{client.max_payload} at most",
        ) from None
    except (nats.errors.BadSubjectError, nats.errors.BadHeaderError) as error:
        raise UsageError(f"cannot be sent: {error!r}", subject=subject) from error
    except (nats.errors.Error, OSError) as error:
        raise BusUnavailableError(f"not sent: {error}", subject=subject, hint=_HINT) from error
