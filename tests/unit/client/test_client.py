"""The client against a live desk on logs in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from tapehouse.app.book_keeper import BookKeeper
from tapehouse.app.past import StateAt
from tapehouse.app.state_keeper import StateKeeper
from tapehouse.client import AsyncClient, Client
from tapehouse.client.sync_client import _LoopThread
from tapehouse.core import VirtualClock
from tapehouse.core.errors import BusUnavailableError, DataError, MissingError, UsageError
from tapehouse.desk.projection import PositionsProjection
from tapehouse.log import Host, Log
from tapehouse.log.snaps import MemorySnaps
from tests.support.desk_day import shared_day
from tests.support.memory_platform import MemoryPlatform, desk_running, make_platform

BUY = {"instrument": "AAPL", "side": "buy", "price": "184.50", "size": 100, "account": "carol"}


@pytest.fixture
async def platform() -> MemoryPlatform:
    """A recorded day, nobody serving it."""
    return await make_platform()


@pytest.fixture
async def live(platform: MemoryPlatform) -> AsyncIterator[AsyncClient]:
    """A client of a desk that runs."""
    async with desk_running(platform), AsyncClient(platform) as client:
        yield client


async def test_a_command_is_decided_and_seen_by_readers(live: AsyncClient) -> None:
    outcome = await live.send("order.submit", BUY, tape="day")
    assert outcome.accepted
    assert (outcome.outcome, outcome.sequence) == ("accepted", 1)
    order = await live.kv(f"orders/{outcome.order_id}", tape="day")
    assert (order["account"], order["status"], order["price"]) == ("carol", "working", "184.5")
    cancelled = await live.send(
        "order.cancel", {"instrument": "AAPL", "order_id": outcome.order_id, "account": "carol"}, tape="day"
    )
    assert cancelled.accepted
    assert cancelled.position > outcome.position
    assert (await live.kv(f"orders/{outcome.order_id}", tape="day"))["status"] == "cancelled"
    rows = await live.sql(f"SELECT status FROM orders WHERE order_id = {outcome.order_id}", tape="day")
    assert rows.rows() == [("cancelled",)]


async def test_a_rejection_has_its_reason(live: AsyncClient) -> None:
    outcome = await live.send("order.submit", {**BUY, "price": Decimal("184.501")}, tape="day")
    assert not outcome.accepted
    assert (outcome.outcome, outcome.reason) == ("rejected", "price is not a positive whole number of ticks")


async def test_a_number_sent_again_has_one_effect(live: AsyncClient) -> None:
    first = await live.send("order.submit", BUY, tape="day", number=7)
    again = await live.send("order.submit", {**BUY, "size": 900}, tape="day", number=7)
    assert (again.outcome, again.first, again.order_id) == ("repeated", "accepted", first.order_id)
    assert again.accepted
    working = await live.sql("SELECT count(*) FROM orders WHERE account = 'carol'", tape="day")
    assert working.rows() == [(1,)]


@pytest.mark.parametrize("stored", [True, False])
async def test_an_append_without_acknowledgement_is_sent_again_and_has_one_effect(
    live: AsyncClient, platform: MemoryPlatform, stored: bool
) -> None:
    platform.logs["commands"].fail_next_append(stored=stored)
    outcome = await live.send("order.submit", BUY, tape="day")
    assert outcome.outcome == "accepted"
    orders = await live.sql("SELECT count(*) FROM orders WHERE account = 'carol'", tape="day")
    assert orders.rows() == [(1,)]


async def test_many_at_once_each_get_their_own_outcome(live: AsyncClient) -> None:
    bodies = [{**BUY, "price": f"{180 + at}.00"} for at in range(4)]
    outcomes = await asyncio.gather(*(live.send("order.submit", body, tape="day") for body in bodies))
    assert len({outcome.order_id for outcome in outcomes}) == len(bodies)
    for body, outcome in zip(bodies, outcomes, strict=True):
        assert Decimal((await live.kv(f"orders/{outcome.order_id}", tape="day"))["price"]) == Decimal(body["price"])


async def test_without_a_host_the_error_says_what_to_check(platform: MemoryPlatform) -> None:
    async with AsyncClient(platform) as client:
        with pytest.raises(
            BusUnavailableError, match=r"CMDS_day sequence 1: no outcome within .*tapehouse host --tape day"
        ):
            await client.send("order.submit", BUY, tape="day", timeout=0.05)
        with pytest.raises(MissingError):
            await client.send("order.submit", BUY, tape="other")


@pytest.mark.parametrize(
    ("kind", "body", "problem"),
    [
        ("order.submit", {**BUY, "side": "b"}, "order.submit: side: Input should be 'buy' or 'sell'"),
        ("order.submit", {**BUY, "colour": 1}, "order.submit: colour: Extra inputs"),
        ("order.submit", {"instrument": "AAPL"}, "order.submit: side: Field required"),
        ("order.submit", {**BUY, "account": "No Good"}, "order.submit: account: "),
        ("order.invent", BUY, "unknown type 'order.invent'.*order.submit"),
    ],
)
async def test_a_wrong_command_is_refused_before_it_is_sent(
    platform: MemoryPlatform, kind: str, body: dict[str, Any], problem: str
) -> None:
    async with AsyncClient(platform) as client:
        with pytest.raises(DataError, match=problem):
            await client.send(kind, body, tape="day")
    assert (await platform.logs["commands"].extent()).last == 0


async def test_numbers_grow_from_one_or_from_the_clock(platform: MemoryPlatform) -> None:
    fresh = AsyncClient(platform, clock=VirtualClock(500))
    named = AsyncClient(platform, client="ops", clock=VirtualClock(500))
    assert [fresh._next_number(), fresh._next_number()] == [1, 2]
    assert [named._next_number(), named._next_number()] == [500, 501]
    assert fresh.client != AsyncClient(platform).client


async def test_reads_fold_the_logs_and_write_no_snapshot(platform: MemoryPlatform) -> None:
    positions = PositionsProjection()
    await Host(positions, platform.logs["events"]).run()
    async with AsyncClient(platform) as client:
        reading = await client.read("positions/", tape="day")
        told = dict(positions.items())
        assert list(reading.value) == list(told)
        for key, value in told.items():  # beside what each is worth now
            assert value.items() < reading.value[key].items()
        assert not reading.served
        assert (await client.kv("prices/AAPL", tape="day"))["bid"] is not None
        assert set(await client.kv("surface/", tape="day")) >= {"surface/AAPL"}
        with pytest.raises(MissingError, match=r"prices/APPL: no such key \(nearest: .*prices/AAPL"):
            await client.kv("prices/APPL", tape="day")
        with pytest.raises(UsageError, match="keys begin with cash/"):
            await client.kv("order/1", tape="day")
    assert platform.store.saved == {}


async def test_trades_take_times_of_every_kind(platform: MemoryPlatform) -> None:
    async with AsyncClient(platform) as client:
        every = await client.trades("AAPL", tape="day")
        assert len(every) > 5
        middle = every["ts"][3]
        for start in (middle, middle.isoformat(), int(every["ts_ns"][3])):
            assert (await client.trades("AAPL", start=start, tape="day")).equals(every.filter(every["ts"] >= middle))
        assert len(await client.trades("AAPL", end=datetime(2026, 1, 1, tzinfo=UTC), tape="day")) == 0
        with pytest.raises(UsageError, match="no time zone"):
            await client.trades("AAPL", start=datetime(2026, 1, 1), tape="day")


async def test_a_query_as_of_a_moment(platform: MemoryPlatform) -> None:
    async with AsyncClient(platform) as client:
        every = await client.sql("SELECT * FROM tape", tape="day")
        moment = int(every["ts_ns"][100])
        then = await client.sql("SELECT * FROM tape", tape="day", as_of=moment)
        assert then.equals(every.filter(every["ts_ns"] <= moment))


def test_the_plain_client_is_the_same_on_a_thread_of_its_own() -> None:
    day = shared_day()
    loop = _LoopThread()
    client = Client(loop, AsyncClient(MemoryPlatform("day", day.tape, day.events)))
    with client:
        assert client.client.startswith("client-")
        assert len(client.trades("AAPL", tape="day")) > 0
        assert client.sql("SELECT 1 AS one", tape="day").rows() == [(1,)]
        assert client.kv("positions/alice/AAPL", tape="day")["position"]
        with pytest.raises(BusUnavailableError, match="no outcome"):
            client.send("order.submit", BUY, tape="day", timeout=0.05)
    client.close()
    with pytest.raises(UsageError, match="this client is closed"):
        client.sql("SELECT 1", tape="day")
    assert not loop._thread.is_alive()


async def test_a_book_is_the_same_with_snapshots_and_without(platform: MemoryPlatform) -> None:
    async with AsyncClient(platform) as client:
        alone = await client.read_book("AAPL", tape="day")
        assert alone.snapshot is None
        platform.small = MemorySnaps()
        await BookKeeper(platform.logs["tape"], platform.small, cells_every=50).run()
        found = await client.read_book("AAPL", tape="day")
        assert found.snapshot is not None
        assert found.book.canonical() == alone.book.canonical()
        table = await client.book("AAPL", depth=2, tape="day")
        assert table.columns == ["side", "level", "price", "price_fixed", "size", "size_fixed", "orders"]
        assert table["side"].to_list() == ["bid", "bid", "ask", "ask"]
        assert table["level"].to_list() == [0, 1, 0, 1]
        bid, ask = table.row(0, named=True), table.row(2, named=True)
        assert bid["price"] < ask["price"]
        assert Decimal(repr(bid["price"])) == Decimal(bid["price_fixed"]).scaleb(-9)
        assert bid["orders"] >= 1
        early = await client.read_book("AAPL", at=found.time - 10**9, tape="day")
        assert early.time <= found.time - 10**9
        assert early.next_ordinal < found.next_ordinal


async def test_the_past_is_read_as_the_present_is(platform: MemoryPlatform) -> None:
    platform.small = MemorySnaps()
    tape, events = platform.logs["tape"], platform.logs["events"]
    async with AsyncClient(platform) as client:
        now = await client.kv("positions/", tape="day")
        end = await client.state_at(tape="day")
        assert end.items("positions/") == now == await client.kv("positions/", at_ordinal=_cells(end) - 1, tape="day")
        alone = await client.read("positions/", at_ordinal=_cells(end) // 2, tape="day")
        for source, log in (("tape", tape), ("events", events)):
            await StateKeeper(log, platform.small, tape="day", source=source, cells_every=50).run()  # type: ignore[arg-type]
        quick = await client.read("positions/", at_ordinal=_cells(end) // 2, tape="day")
        assert quick.value == alone.value != now
        assert alone.state is not None
        assert quick.state is not None
        assert quick.state.digests() == alone.state.digests()
        assert quick.state.cells_folded["positions"] < alone.state.cells_folded["positions"]
        at_ns = quick.state.positions["events"].ts_ns
        assert at_ns is not None
        then = await client.state_at(datetime.fromtimestamp(at_ns // 10**9, UTC), tape="day", projections=["orders"])
        assert set(then.digests()) == {"orders"}
        with pytest.raises(UsageError, match=r"there is no projection .order. .there are cash, orders, pnl, positions"):
            await client.state_at(projections=["order"], tape="day")
        with pytest.raises(UsageError, match="no projection has the key"):
            await client.kv("order/1", at_ordinal=5, tape="day")
        with pytest.raises(UsageError, match="a time or an ordinal"):
            await client.kv("orders/1", at=1, at_ordinal=5, tape="day")
        with pytest.raises(UsageError, match="the tape has not come to cell"):
            await client.kv("orders/", at_ordinal=_cells(end), tape="day")


async def test_a_tape_without_a_desk_has_a_past_of_prices(
    platform: MemoryPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none(name: str) -> Log:
        raise MissingError("no such stream", subject=name)

    monkeypatch.setattr(platform, "events", none)
    async with AsyncClient(platform) as client:
        assert (await client.kv("prices/AAPL", at_ordinal=60, tape="day"))["ordinal"] <= 60
        with pytest.raises(MissingError, match="the tape has no desk"):
            await client.kv("orders/", at_ordinal=60, tape="day")


def _cells(state: StateAt) -> int:
    return state.positions["tape"].next_ordinal
