"""The client for programs with an event loop: commands, SQL, trades and projections of the desks on one broker."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import polars as pl

from tapehouse.app.past import StateAt, read_state_at
from tapehouse.app.projections import check_projections
from tapehouse.bus import Bus
from tapehouse.client.commands import Outcome, make_command, send_command
from tapehouse.client.listener import Listener
from tapehouse.client.order_rows import Row, account_names, order_cells, rows_of, write_accounts
from tapehouse.client.orders import OrderOutcome, Progress, bulk_client, send_frames
from tapehouse.client.reading import Reading, read_folded, read_past, read_served
from tapehouse.core import Clock, SystemClock, parse_time_ns
from tapehouse.core.errors import DataError, MissingError
from tapehouse.core.ids import check_name
from tapehouse.log import Extent, Log, SnapshotStore
from tapehouse.log.snaps import Snaps
from tapehouse.market import Kind, unpack_payload
from tapehouse.query import QuerySession, Table, read_trades
from tapehouse.query.analytics import AnalyticsOptions, read_analytics
from tapehouse.query.bars import BarsOptions, By, read_bars
from tapehouse.query.books import BookAt, Moment, read_book_at
from tapehouse.query.record_at import read_record

TIMEOUT_S = 10.0
Time = str | int | datetime


class Platform(Protocol):
    """Where a client finds logs; `app.bootstrap.Platform` is the real one."""

    @property
    def bus(self) -> Bus | None:
        """The broker, to ask running hosts; None where there is none."""
        ...

    async def tape(self, name: str) -> Log:
        """TAPE of that name; raises MissingError where there is none."""
        ...

    async def events(self, name: str) -> Log:
        """EVENTS of that name."""
        ...

    async def commands(self, name: str) -> Log:
        """CMDS of that name."""
        ...

    def timings(self, name: str, extent: Extent) -> Path | None:
        """Where a desk in `ahead` mode keeps its stage timings."""
        ...

    async def snaps(self) -> Snaps | None:
        """The small snapshots along all tapes; None where there are none."""
        ...

    async def snapshots(self, name: str) -> SnapshotStore:
        """The snapshots of that tape's machines."""
        ...


class AsyncClient:
    """What a person or program does with a desk.

    Args:
        client: This client's name in the commands it sends; a fresh one by default, so that its numbers begin at 1.
    """

    def __init__(self, platform: Platform, *, client: str | None = None, clock: Clock | None = None) -> None:
        self._platform = platform
        self._stack = AsyncExitStack()
        self._clock = clock or SystemClock()
        self._named = client is not None
        self.client = client or f"client-{uuid.uuid4().hex[:12]}"
        self._number = 0
        self._order_number = 0  # the last one of orders in frames
        self._desks: dict[str, tuple[Log, Listener]] = {}  # by tape: where commands go, who hears of outcomes

    @classmethod
    async def open(cls, nats: str | None = None, *, home: Path | None = None, client: str | None = None) -> AsyncClient:
        """Connect to `nats`, else to what the environment, a NATS context or the embedded cluster says.

        Raises:
            BusUnavailableError: Nobody answers there.
        """
        from tapehouse.app.bootstrap import open_platform

        async with AsyncExitStack() as stack:
            platform = await stack.enter_async_context(open_platform(nats, home=home))
            made = cls(platform, client=client)
            made._stack = stack.pop_all()
        return made

    async def close(self) -> None:
        """Leave the broker; whoever still waits for an outcome is told so."""
        desks, self._desks = self._desks, {}
        for _, listener in desks.values():
            await listener.close()
        await self._stack.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def send(
        self,
        type: str,
        body: dict[str, Any],
        *,
        tape: str = "main",
        timeout: float = TIMEOUT_S,
        number: int | None = None,
    ) -> Outcome:
        """Send a command and wait for its outcome.

        Args:
            type: Such as `order.submit`.
            number: The how-manieth command of this client; the next one by default. A number sent again has one
                effect, and is answered with the first outcome.

        Raises:
            DataError: The type is unknown, or a field of the body is wrong; it is named.
            BusUnavailableError: No outcome within `timeout` seconds.
        """
        check_name(tape, "tape")
        envelope = make_command(
            type,
            body,
            command_id=str(uuid.uuid4()),
            client=self.client,
            number=self._next_number() if number is None else number,
            time_ns=self._clock.time_ns(),
        )
        commands, listener = await self._desk(tape)
        return await send_command(commands, listener, envelope, tape=tape, timeout=timeout)

    async def send_orders(
        self,
        orders: pl.DataFrame | Iterable[Row],
        *,
        tape: str = "main",
        client: str | None = None,
        number: int | None = None,
        timeout: float = TIMEOUT_S,
        on_progress: Progress | None = None,
    ) -> list[OrderOutcome]:
        """Send many orders, replaces and cancels in frames; wait for what became of each.

        An account that is not open yet is opened first. The rows are checked as a whole before any is sent.

        Args:
            orders: Rows, or a frame, with the columns of `client.order_rows`.
            client: Whose numbers they get; this client's by default.
            number: Of the first of them, the others follow; by default, numbers that the client has not used. A number
                sent again has one effect, and is answered `repeated` with its first outcome.
            timeout: Seconds that each frame of up to 1,024 orders may take.
            on_progress: Called with the orders answered and rejected so far.

        Raises:
            DataError, MissingError: A row is wrong, or names what the desk does not know; nothing was sent.
            BusUnavailableError: Not all were answered in time.
        """
        check_name(tape, "tape")
        rows = rows_of(orders)
        commands, listener = await self._desk(tape)
        if not rows:
            return []
        names = await listener.names()
        first = self._first_number(client, len(rows)) if number is None else number
        cells = order_cells(rows, names, client=bulk_client(client or self.client), number=first)
        for account in account_names(rows):
            if account not in names.accounts.values():
                opened = await self.send("account.open", {"account": account}, tape=tape, timeout=timeout)
                if not opened.accepted:
                    raise DataError(opened.reason, subject=f"account {account}")
        write_accounts(cells, rows, names)
        return await send_frames(commands, listener, cells, tape=tape, timeout=timeout, on_progress=on_progress)

    async def sql(self, query: str, *, tape: str = "main", as_of: Time | None = None) -> Table:
        """Answer a query over the tape's tables; see `SELECT * FROM tables`.

        Args:
            as_of: ISO 8601 with a zone, integer ns or an aware datetime: what was there at that engine time.

        Raises:
            UsageError, DataError: The query is wrong, or failed; DuckDB's line says why.
        """
        moment = None if as_of is None else parse_time_ns(as_of)
        log = await self._platform.tape(tape)
        try:
            events = await self._platform.events(tape)
        except MissingError:
            events = None  # A tape that was recorded without a desk; a query of decisions will say so.
        timings = self._platform.timings(tape, await log.extent())
        with QuerySession(tape=log, events=events, timings=timings, as_of=moment) as session:
            return await session.sql(query)

    async def input_bytes(self, ordinal: int, *, tape: str = "main") -> bytes:
        """The bytes of one input of a tape: a command's message, any other record's cells.

        Raises:
            MissingError, DataError: The tape has not come to that ordinal; no record begins there.
        """
        record = await read_record(await self._platform.tape(tape), ordinal)
        return unpack_payload(record) if int(record["kind"][0]) == Kind.COMMAND else record.tobytes()

    async def trades(
        self, symbol: str | None = None, *, start: Time | None = None, end: Time | None = None, tape: str = "main"
    ) -> Table:
        """Trades from `start` on and before `end`, in the tape's order; of one symbol, or of all.

        Raises:
            MissingError: The tape defines no such symbol.
        """
        times = {name: None if time is None else parse_time_ns(time) for name, time in (("start", start), ("end", end))}
        return await read_trades(await self._platform.tape(tape), symbol, **times)

    async def analytics(
        self,
        symbol: str | None = None,
        *,
        every: str = "1s",
        start: Time | None = None,
        end: Time | None = None,
        tape: str = "main",
        **options: Any,
    ) -> Table:
        """Measures of books and flows between them, a row for each interval; see docs/analytics.md.

        Args:
            every: Of an interval, such as `250ms`, `1m`.
            options: `sample`, `recovery`, `levels`, `bps`, as `query.analytics.AnalyticsOptions` has them.

        Raises:
            MissingError: The tape defines no such symbol.
        """
        chosen = AnalyticsOptions(symbol=symbol, every=every, start=_time(start), end=_time(end), **options)
        return await read_analytics(await self._platform.tape(tape), chosen)

    async def bars(
        self,
        symbol: str | None = None,
        *,
        by: By = "time",
        size: str = "1m",
        start: Time | None = None,
        end: Time | None = None,
        tape: str = "main",
    ) -> Table:
        """Bars of trades: by `time` (`1m`), `tick`, `volume` or `dollar` (a number).

        Raises:
            MissingError: The tape defines no such symbol.
        """
        chosen = BarsOptions(symbol=symbol, by=by, size=size, start=_time(start), end=_time(end))
        return await read_bars(await self._platform.tape(tape), chosen)

    async def book(
        self,
        symbol: str,
        *,
        at: Time | None = None,
        at_ordinal: int | None = None,
        depth: int | None = 10,
        tape: str = "main",
    ) -> Table:
        """An instrument's order book: a row a level, best first, the bids and then the asks; see `read_book`.

        Args:
            depth: Levels of each side; None for all.
        """
        return (await self.read_book(symbol, at=at, at_ordinal=at_ordinal, tape=tape)).table(depth)

    async def read_book(
        self, symbol: str, *, at: Time | None = None, at_ordinal: int | None = None, tape: str = "main"
    ) -> BookAt:
        """An instrument's whole order book, its position on the tape, and how it was found.

        Args:
            symbol: The venue's spelling; SYMBOL@ID where several instruments have it.
            at: ISO 8601 with a zone, integer ns or an aware datetime: after the last record with an engine time at or
                before it; the end of the tape by default.
            at_ordinal: Instead: after the record that holds this cell.

        Raises:
            MissingError: The tape has no such instrument by then (the nearest are named), or begins later.
            UsageError: The tape has not come to that cell.
        """
        moment = _moment(at, at_ordinal)
        return await read_book_at(await self._platform.tape(tape), await self._platform.snaps(), symbol, moment=moment)

    async def kv(self, key: str, *, at: Time | None = None, at_ordinal: int | None = None, tape: str = "main") -> Any:
        """A projection's value under a key such as `positions/strategy/AAPL`; below a prefix that ends with `/`, all.

        What this client was told of its commands is in it.

        Args:
            at, at_ordinal: As it was then, see `state_at`; now by default.

        Raises:
            MissingError: There is no such key; the nearest are offered.
        """
        return (await self.read(key, at=at, at_ordinal=at_ordinal, tape=tape)).value

    async def read(
        self, key: str, *, at: Time | None = None, at_ordinal: int | None = None, tape: str = "main"
    ) -> Reading:
        """As `kv`, and whether a running host answered; of the past also how it was found."""
        moment = _moment(at, at_ordinal)
        if moment is not None:
            log, events, snaps = await self._past(tape)
            return await read_past(log, events, snaps, key, name=tape, moment=moment)
        if self._platform.bus is not None:
            heard = self._desks[tape][1].heard if tape in self._desks else 0
            served = await read_served(self._platform.bus, tape, key, after=heard)
            if served is not None:
                return served
        return await read_folded(
            await self._platform.tape(tape),
            await self._platform.events(tape),
            await self._platform.snapshots(tape),
            key,
        )

    async def state_at(
        self,
        at: Time | None = None,
        *,
        at_ordinal: int | None = None,
        projections: Iterable[str] | None = None,
        tape: str = "main",
    ) -> StateAt:
        """All projections of a desk as they were: `get` and `items` by key, the positions in the logs, the digests.

        Args:
            at: ISO 8601 with a zone, integer ns or an aware datetime: after the last record with an engine time at or
                before it, and all decisions on the records up to there; the end of the tape by default.
            at_ordinal: Instead: after the record of the tape that holds this cell, and all decisions on it.
            projections: Only these, such as `positions`; all by default.

        Raises:
            UsageError: The tape has not come so far, or a projection's name is unknown.
            MissingError: The tape begins later; its range is named.
        """
        check_projections(projections)
        log, events, snaps = await self._past(tape)
        moment = _moment(at, at_ordinal)
        return await read_state_at(log, events, snaps, name=tape, moment=moment, names=projections)

    async def _past(self, tape: str) -> tuple[Log, Log | None, Snaps | None]:
        log = await self._platform.tape(tape)
        try:
            events: Log | None = await self._platform.events(tape)
        except MissingError:
            events = None  # A tape that was recorded without a desk has prices all the same.
        return log, events, await self._platform.snaps()

    async def _desk(self, tape: str) -> tuple[Log, Listener]:
        """Where a tape's commands go, and who hears of their outcomes: one reader for all of them."""
        desk = self._desks.get(tape)
        if desk is None:
            commands, events = await self._platform.commands(tape), await self._platform.events(tape)
            desk = self._desks.setdefault(tape, (commands, Listener(events, clock=self._clock)))
        return desk

    def _first_number(self, client: str | None, count: int) -> int:
        """The first of so many numbers for orders in frames, above all that the client has used."""
        floor = self._clock.time_ns() if self._named or client is not None else 0
        first = max(self._order_number + 1, floor)
        self._order_number = first + count - 1
        return first

    def _next_number(self) -> int:
        # A name that others have used before goes on above their numbers, by the clock; a fresh one counts.
        floor = self._clock.time_ns() if self._named else 0
        self._number = max(self._number + 1, floor)
        return self._number


def _time(time: Time | None) -> int | None:
    return None if time is None else parse_time_ns(time)


def _moment(at: Time | None, at_ordinal: int | None) -> Moment | None:
    return None if at is None and at_ordinal is None else Moment(time=_time(at), ordinal=at_ordinal)
