"""The bus: one connection to the broker, with every outcome told in our own errors.

Reconnects by itself, for a bounded time. What is asked while it is away waits for it, also for a bounded time.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from tapehouse.bus.api import API_TIMEOUT_S, call_api
from tapehouse.bus.requests import Requester, publish
from tapehouse.bus.server import monitor, profile_of
from tapehouse.bus.targets import Target, resolve_target
from tapehouse.core import BusUnavailableError, Metrics, MissingError, TransientError, UsageError

CONNECT_TIMEOUT_S = 5.0
RECONNECT_WAIT_S = 0.25
RECONNECT_TOTAL_S = 120.0  # then the connection is given up, and everything says so
PENDING_BYTES_MAX = 64 * 1024 * 1024  # of one subscription; more is dropped and counted
PENDING_MESSAGES_MAX = 65_536
RETRY_PAUSE_S = 0.25
FIRST_TRY_S = 1.0  # a stream without a leader answers nothing: ask again soon, then wait longer
PATIENCE_S = 12.0  # longer than a broker election (4 to 9 s)

Handler = Callable[[Msg], Awaitable[None]]


class Bus:
    """A connection; made by `connect`."""

    def __init__(self, target: Target, client: Client, metrics: Metrics) -> None:
        self.target = target
        self.metrics = metrics
        self.last_error = ""
        self._client = client
        self._requester = Requester(client)
        self._reconnect_callbacks: set[Callable[[], None]] = set()

    async def __aenter__(self) -> Bus:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def client(self) -> Client:
        """The client library's own connection; for this room only."""
        return self._client

    @property
    def is_connected(self) -> bool:
        """Whether the connection stands now."""
        return bool(self._client.is_connected)

    @property
    def is_closed(self) -> bool:
        """Whether the connection was closed, or given up for good."""
        return bool(self._client.is_closed)

    @property
    def shows_jetstream(self) -> bool:
        """Whether the server at the other end has JetStream itself; where not, another one may answer for it."""
        return bool(self._server_info().get("jetstream"))

    async def close(self) -> None:
        """Close the connection; what is in flight ends with UnansweredError."""
        self._requester.connection_lost()
        await self._client.close()

    async def request(
        self, subject: str, payload: bytes, *, timeout_s: float, headers: dict[str, str] | None = None
    ) -> Msg:
        """Send a request and wait for its answer; see `Requester.request` for the errors."""
        return await self._requester.request(subject, payload, timeout_s=timeout_s, headers=headers)

    async def api(
        self, call: str, body: dict[str, Any] | None = None, *, timeout_s: float = API_TIMEOUT_S
    ) -> dict[str, Any]:
        """Make one call of JetStream's API; see `call_api` for the errors."""
        return await call_api(self._requester, call, body, timeout_s=timeout_s)

    async def patient_api(
        self, call: str, body: dict[str, Any] | None = None, *, patience_s: float = PATIENCE_S
    ) -> dict[str, Any]:
        """An API call that changes nothing or may be repeated: tried again until `patience_s` have passed.

        Raises:
            BusUnavailableError: Not answered in all that time.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience_s
        wait_s = FIRST_TRY_S
        while True:
            try:
                return await self.api(call, body, timeout_s=min(wait_s, max(deadline - loop.time(), 0.1)))
            except TransientError as error:
                if self._client.is_closed or loop.time() + RETRY_PAUSE_S >= deadline:
                    raise BusUnavailableError(
                        f"no answer in {patience_s:g} s: {error.message}", subject=call, hint=error.hint
                    ) from error
            wait_s = min(2 * wait_s, API_TIMEOUT_S)
            await asyncio.sleep(RETRY_PAUSE_S)

    async def publish(
        self, subject: str, payload: bytes, *, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Fan out on core NATS: to those who listen now, without acknowledgement."""
        await publish(self._client, subject, payload, reply=reply, headers=headers)

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "") -> Subscription:
        """Call `handler` with each message on a subject; `unsubscribe()` on the result ends it.

        A handler that is slower than the traffic loses messages beyond PENDING_MESSAGES_MAX; `dropped` counts them.
        """
        return await self._client.subscribe(
            subject,
            queue=queue,
            cb=handler,
            pending_msgs_limit=PENDING_MESSAGES_MAX,
            pending_bytes_limit=PENDING_BYTES_MAX,
        )

    @asynccontextmanager
    async def listening(self, subject: str, handler: Handler) -> AsyncIterator[None]:
        """Meanwhile, call `handler` with each message on a subject; the server knows of it before this begins."""
        subscription = await self.subscribe(subject, handler)
        await self.flush()
        try:
            yield
        finally:
            if not self._client.is_closed:
                with suppress(nats.errors.Error):  # Gone with its connection.
                    await subscription.unsubscribe()

    async def flush(self) -> None:
        """Wait until the server has taken all that this connection sent before, subscriptions among it.

        The client library writes a PING to the socket at once, and what is pending only later: the first answer says
        that what was pending is written, the second that it was taken.
        """
        await self._client.flush()
        await self._client.flush()

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Have `callback` called after each reconnect, until `off_reconnect`."""
        self._reconnect_callbacks.add(callback)

    def off_reconnect(self, callback: Callable[[], None]) -> None:
        """Undo `on_reconnect`."""
        self._reconnect_callbacks.discard(callback)

    @property
    def dropped(self) -> int:
        """Messages that this connection threw away because a handler was too slow."""
        return int(self.metrics.get("bus_dropped_total"))

    async def durability(self) -> str:
        """What the servers prove about acknowledged writes.

        Returns:
            `durable` (every server syncs each write), `fast: unsafe on power loss`, or `unknown` where a server
            does not show its monitoring port.
        """
        proofs = set()
        reachable = 0
        for host, port in self.target.monitors:
            try:
                _, varz = await asyncio.to_thread(monitor, port, "/varz", host=host)
            except BusUnavailableError:
                continue
            reachable += 1
            proofs.add(profile_of(varz))
            if self.target.nodes is None and not self._is_ours(varz, host):
                return "unknown"  # Another server answers on the port that was guessed.
        if "fast" in proofs:
            return "fast: unsafe on power loss"
        whole = reachable == len(self.target.monitors) or (self.target.nodes is not None and reachable > 0)
        return "durable" if whole and proofs else "unknown"

    def default_replicas(self) -> int:
        """How many copies a new stream shall have here: 3 in a cluster, else 1."""
        if self.target.nodes is not None:
            return min(3, self.target.nodes)
        return 3 if self._server_info().get("cluster") else 1

    def _is_ours(self, varz: dict[str, Any], host: str) -> bool:
        if varz.get("server_id") == self._server_info().get("server_id"):
            return True
        # Another node of the same cluster, on its own machine.
        name = (varz.get("cluster") or {}).get("name")
        return len(self.target.urls) > 1 and name is not None and name == self._server_info().get("cluster")

    def _server_info(self) -> dict[str, Any]:
        # The library keeps the server's INFO, and has no public name for it.
        return dict(self._client._server_info)

    async def _start(self) -> None:
        await self._requester.start()

    async def _on_error(self, error: Exception) -> None:
        self.last_error = f"{error}" or type(error).__name__
        dropped = isinstance(error, nats.errors.SlowConsumerError)
        self.metrics.add("bus_dropped_total" if dropped else "bus_errors_total")

    async def _on_disconnect(self) -> None:
        self.metrics.add("bus_disconnects_total")
        self._requester.connection_lost()

    async def _on_reconnect(self) -> None:
        self.metrics.add("bus_reconnects_total")
        self._requester.connection_back()
        for callback in list(self._reconnect_callbacks):
            callback()


async def connect(
    urls: str | Sequence[str] | None = None,
    *,
    context: str | None = None,
    directory: Path | None = None,
    name: str = "tapehouse",
    timeout_s: float = CONNECT_TIMEOUT_S,
    reconnect_s: float = RECONNECT_TOTAL_S,
    metrics: Metrics | None = None,
) -> Bus:
    """Connect to the broker.

    Args:
        urls: One URL, several (also separated by commas), or None: see `resolve_target` for the order.
        context: A NATS context by name.
        directory: Where to look for an embedded cluster.
        name: What the server shows this connection as.
        reconnect_s: For how long a connection that was lost is tried again; infinity for as long as it takes.

    Raises:
        BusUnavailableError: Nobody answers there.
        UsageError: The server refuses the credentials.
    """
    target = resolve_target(urls, context=context, directory=directory)
    client = Client()
    bus = Bus(target, client, metrics or Metrics())
    attempts = -1 if math.isinf(reconnect_s) else math.ceil(reconnect_s / RECONNECT_WAIT_S)
    try:
        async with asyncio.timeout(timeout_s):
            await client.connect(
                list(target.urls),
                name=name,
                error_cb=bus._on_error,
                disconnected_cb=bus._on_disconnect,
                reconnected_cb=bus._on_reconnect,
                # The library takes seconds as whole numbers in its annotations only.
                reconnect_time_wait=RECONNECT_WAIT_S,  # type: ignore[arg-type]
                max_reconnect_attempts=attempts,
                connect_timeout=2,
                ping_interval=5,
                max_outstanding_pings=3,
                **target.options,
            )
            await bus._start()
    except ImportError as error:
        raise MissingError(f"credentials of this kind need {error.name}", hint=f"pip install {error.name}") from error
    except (TimeoutError, OSError, nats.errors.Error) as error:
        await client.close()
        said = bus.last_error or str(error) or "no answer"
        if "authorization" in said.lower():
            raise UsageError(f"the server refuses these credentials: {said}", subject=target.source) from error
        raise BusUnavailableError(
            f"nobody answers at {', '.join(target.urls)}: {said}",
            subject=target.source,
            hint="start one with tapehouse up" if target.nodes is not None else "is the server running?",
        ) from error
    return bus
