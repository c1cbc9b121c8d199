"""The client for notebooks and scripts: plain calls, answered by an `AsyncClient` on a thread of its own.

from tapehouse.client import connect

with connect() as desk:
    desk.send("order.submit", {"instrument": "AAPL", "side": "buy", "price": "185", "size": 100})
    desk.trades("AAPL", start="2026-01-05T14:30:00Z")
    desk.book("AAPL", at="2026-01-05T15:00:00Z", depth=5)
    desk.kv("positions/manual/AAPL")
    desk.state_at("2026-01-05T15:00:00Z").items("positions/manual/")
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import polars as pl

from tapehouse.app.past import StateAt
from tapehouse.client.async_client import TIMEOUT_S, AsyncClient, Time
from tapehouse.client.commands import Outcome
from tapehouse.client.order_rows import Row
from tapehouse.client.orders import OrderOutcome, Progress
from tapehouse.core.errors import UsageError
from tapehouse.query import Table
from tapehouse.query.bars import By
from tapehouse.query.books import BookAt

CLOSE_TIMEOUT_S = 10.0
T = TypeVar("T")


class _LoopThread:
    """An event loop that runs on a daemon thread until it is stopped."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tapehouse-client", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run to its end; an interrupt cancels it."""
        if self._loop.is_closed():
            coroutine.close()
            raise UsageError("this client is closed", hint="connect() again")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """End the loop and the thread."""
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_TIMEOUT_S)
        if not self._thread.is_alive():
            self._loop.close()


class Client:
    """See `AsyncClient`, whose methods these are; made by `connect`."""

    def __init__(self, loop: _LoopThread, client: AsyncClient) -> None:
        self._loop = loop
        self._client = client

    @property
    def client(self) -> str:
        """This client's name in the commands that it sends."""
        return self._client.client

    def send(
        self,
        type: str,
        body: dict[str, Any],
        *,
        tape: str = "main",
        timeout: float = TIMEOUT_S,
        number: int | None = None,
    ) -> Outcome:
        """Send a command and wait for its outcome; see `AsyncClient.send`."""
        return self._loop.run(self._client.send(type, body, tape=tape, timeout=timeout, number=number))

    def send_orders(
        self,
        orders: pl.DataFrame | Iterable[Row],
        *,
        tape: str = "main",
        client: str | None = None,
        number: int | None = None,
        timeout: float = TIMEOUT_S,
        on_progress: Progress | None = None,
    ) -> list[OrderOutcome]:
        """Send many orders in frames and wait for what became of each; see `AsyncClient.send_orders`."""
        sending = self._client.send_orders(
            orders, tape=tape, client=client, number=number, timeout=timeout, on_progress=on_progress
        )
        return self._loop.run(sending)

    def sql(self, query: str, *, tape: str = "main", as_of: Time | None = None) -> Table:
        """Answer a query over the tape's tables; see `AsyncClient.sql`."""
        return self._loop.run(self._client.sql(query, tape=tape, as_of=as_of))

    def trades(
        self, symbol: str | None = None, *, start: Time | None = None, end: Time | None = None, tape: str = "main"
    ) -> Table:
        """Trades from `start` on and before `end`; see `AsyncClient.trades`."""
        return self._loop.run(self._client.trades(symbol, start=start, end=end, tape=tape))

    def analytics(
        self,
        symbol: str | None = None,
        *,
        every: str = "1s",
        start: Time | None = None,
        end: Time | None = None,
        tape: str = "main",
        **options: Any,
    ) -> Table:
        """Measures of books and flows between them, a row for each interval; see `AsyncClient.analytics`."""
        asked = self._client.analytics(symbol, every=every, start=start, end=end, tape=tape, **options)
        return self._loop.run(asked)

    def bars(
        self,
        symbol: str | None = None,
        *,
        by: By = "time",
        size: str = "1m",
        start: Time | None = None,
        end: Time | None = None,
        tape: str = "main",
    ) -> Table:
        """Bars of trades by time, tick count, volume or money; see `AsyncClient.bars`."""
        return self._loop.run(self._client.bars(symbol, by=by, size=size, start=start, end=end, tape=tape))

    def book(
        self,
        symbol: str,
        *,
        at: Time | None = None,
        at_ordinal: int | None = None,
        depth: int | None = 10,
        tape: str = "main",
    ) -> Table:
        """An order book at any moment, a row a level; see `AsyncClient.book`."""
        return self._loop.run(self._client.book(symbol, at=at, at_ordinal=at_ordinal, depth=depth, tape=tape))

    def read_book(
        self, symbol: str, *, at: Time | None = None, at_ordinal: int | None = None, tape: str = "main"
    ) -> BookAt:
        """The whole book and how it was found; see `AsyncClient.read_book`."""
        return self._loop.run(self._client.read_book(symbol, at=at, at_ordinal=at_ordinal, tape=tape))

    def kv(self, key: str, *, at: Time | None = None, at_ordinal: int | None = None, tape: str = "main") -> Any:
        """A projection's value, or all below a prefix that ends with `/`, now or then; see `AsyncClient.kv`."""
        return self._loop.run(self._client.kv(key, at=at, at_ordinal=at_ordinal, tape=tape))

    def state_at(
        self,
        at: Time | None = None,
        *,
        at_ordinal: int | None = None,
        projections: Iterable[str] | None = None,
        tape: str = "main",
    ) -> StateAt:
        """All projections of a desk as they were; see `AsyncClient.state_at`."""
        return self._loop.run(self._client.state_at(at, at_ordinal=at_ordinal, projections=projections, tape=tape))

    def close(self) -> None:
        """Leave the broker; closing twice is fine."""
        try:
            self._loop.run(self._client.close())
        except UsageError:
            return  # It is closed already.
        finally:
            self._loop.stop()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def connect(nats: str | None = None, *, home: Path | None = None, client: str | None = None) -> Client:
    """Connect to `nats`, else to what the environment, a NATS context or the embedded cluster says.

    Args:
        client: A name for the commands it sends; a fresh one by default.

    Raises:
        BusUnavailableError: Nobody answers there.
    """
    loop = _LoopThread()
    try:
        return Client(loop, loop.run(AsyncClient.open(nats, home=home, client=client)))
    except BaseException:
        loop.stop()
        raise
