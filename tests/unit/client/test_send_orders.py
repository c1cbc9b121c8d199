"""Orders in frames through the client, against a live desk on logs in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tapehouse.client import AsyncClient
from tapehouse.client.order_rows import order_cells, read_orders, rows_of
from tapehouse.client.orders import bulk_client
from tapehouse.core.errors import BusUnavailableError, DataError, MissingError
from tapehouse.desk.names import Names
from tapehouse.desk.order_frames import ORDERS_PER_FRAME_MAX, pack_depth
from tapehouse.desk.requests import IOC, POST_ONLY_FLAG, REDUCE_ONLY_FLAG, STOP_LIMIT
from tapehouse.market import ORDER_EXTENSION, Action, Side
from tests.support.bench import SHARE, TICK
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


async def test_orders_are_decided_in_one_message_and_each_is_answered(
    live: AsyncClient, platform: MemoryPlatform
) -> None:
    rows = [{**BUY, "price": f"18{at}.00"} for at in range(3)] + [{**BUY, "price": "184.501"}]
    told = await live.send_orders(rows, tape="day")
    assert [outcome.outcome for outcome in told] == ["accepted"] * 3 + ["rejected"]
    assert told[3].reason == "price is not a positive whole number of ticks"
    assert [outcome.number for outcome in told] == [1, 2, 3, 4]
    assert (await platform.logs["commands"].extent()).last == 2, "an account opened, and one frame"
    for at, outcome in enumerate(told[:3]):
        order = await live.kv(f"orders/{outcome.order_id}", tape="day")
        assert (order["account"], order["price"], order["as_of"]) == ("carol", f"18{at}", outcome.position)
    query = "SELECT action, count(*) FROM events WHERE account = 'carol' GROUP BY ALL ORDER BY 1"
    seen = await live.sql(query, tape="day")
    assert seen.rows()[0] == ("accepted", 3)


async def test_sent_again_each_is_repeated(live: AsyncClient) -> None:
    rows = pl.DataFrame([{**BUY, "price": 180.0 + at / 4} for at in range(5)])
    first = await live.send_orders(rows, tape="day", client="rebalance", number=10)
    again = await live.send_orders(rows, tape="day", client="rebalance", number=12)
    assert [outcome.outcome for outcome in again] == ["repeated"] * 3 + ["accepted"] * 2
    assert [outcome.order_id for outcome in again[:3]] == [outcome.order_id for outcome in first[2:]]
    assert all(outcome.accepted for outcome in again)


@pytest.mark.parametrize("stored", [True, False])
async def test_a_frame_without_acknowledgement_is_sent_again_and_has_one_effect(
    live: AsyncClient, platform: MemoryPlatform, stored: bool
) -> None:
    await live.send("account.open", {"account": "carol"}, tape="day")
    platform.logs["commands"].fail_next_append(stored=stored)
    told = await live.send_orders([BUY] * 4, tape="day")
    assert [outcome.outcome for outcome in told] == ["accepted"] * 4
    working = await live.sql("SELECT count(*) FROM orders WHERE account = 'carol'", tape="day")
    assert working.rows() == [(4,)]


async def test_many_frames_and_commands_side_by_side(live: AsyncClient) -> None:
    count = 2 * ORDERS_PER_FRAME_MAX + 5
    progress: list[tuple[int, int]] = []
    cancel = {"instrument": "AAPL", "action": "cancel", "order_id": 12345, "account": "strategy"}
    bulk = live.send_orders([cancel] * count, tape="day", on_progress=lambda *told: progress.append(told))
    told, *outcomes = await asyncio.gather(
        bulk, *(live.send("order.submit", {**BUY, "price": f"18{at}.00"}, tape="day") for at in range(4))
    )
    assert len(told) == count
    assert {outcome.outcome for outcome in told} == {"rejected"}
    assert [outcome.number for outcome in told] == list(range(1, count + 1))
    assert all(outcome.accepted for outcome in outcomes)
    assert progress[-1] == (count, count)


async def test_without_a_host_it_is_said_which_orders_are_open(platform: MemoryPlatform) -> None:
    rows = [{**BUY, "account": "strategy"}] * 3
    async with AsyncClient(platform) as client:
        with pytest.raises(BusUnavailableError, match=r"no answer to 3 orders, from number 1 on.*tapehouse host"):
            await client.send_orders(rows, tape="day", timeout=0.05)
        assert await client.send_orders([], tape="day") == []


async def test_a_wrong_row_is_named_and_nothing_is_sent(live: AsyncClient, platform: MemoryPlatform) -> None:
    before = (await platform.logs["commands"].extent()).last
    rows: list[dict[str, Any]] = [BUY] * 2
    with pytest.raises(DataError, match=r"row 3.*side is missing"):
        await live.send_orders([*rows, {**rows[0], "side": None}], tape="day")
    with pytest.raises(MissingError, match=r"row 2.*no instrument 'AAPLE'.*AAPL"):
        await live.send_orders([rows[0], {**rows[0], "instrument": "AAPLE"}], tape="day")
    with pytest.raises(DataError, match="orders have no 'colour'"):
        await live.send_orders([{**BUY, "colour": 1}], tape="day")
    assert (await platform.logs["commands"].extent()).last == before


# Rows.


def cell_of(**row: Any) -> tuple[Any, Any]:
    names = Names()
    names.learn(SHARE.definition(ts_recv=0))
    cells = order_cells([{"instrument": "ALFA", "account": "strategy", **row}], names, client=5, number=6)
    return cells[0], cells[1:].view(ORDER_EXTENSION)[0]


def test_a_row_says_everything_that_a_request_has() -> None:
    first, said = cell_of(
        side="sell", price="1.02", size=7, type="stop_limit", time_in_force="ioc", post_only="true", reduce_only=True,
        stop=1.03, display="2", expiry="2026-01-05T14:30:00Z",
    )  # fmt: skip
    assert (first["side"], first["price"], first["size"]) == (Side.ASK, 102 * TICK, 7)
    assert first["depth"] == pack_depth(STOP_LIMIT, IOC)
    assert first["flags"] == POST_ONLY_FLAG | REDUCE_ONLY_FLAG
    assert (said["client"], said["number"], said["stop"], said["display"]) == (5, 6, 103 * TICK, 2)
    assert said["expiry"] == 1_767_623_400_000_000_000
    first, _ = cell_of(action="cancel", order_id="77")
    assert (first["action"], first["order_id"]) == (Action.CANCEL, 77)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"side": "buy", "size": 1}, "price is missing"),
        ({"side": "buy", "price": "1"}, "size is missing"),
        ({"side": "buy", "price": "one", "size": 1}, "price is 'one'"),
        ({"side": "buy", "price": float("nan"), "size": 1}, "price is nan"),
        ({"side": "buy", "price": "1", "size": 1, "type": "best"}, "type is 'best'"),
        ({"side": "buy", "price": "1", "size": 1, "post_only": "perhaps"}, "post_only is 'perhaps'"),
        ({"action": "cancel"}, "order_id is None"),
        ({"action": "cancel", "order_id": -1}, "order_id is -1"),
    ],
)
def test_wrong_rows(row: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        cell_of(**row)


def test_files_of_orders(tmp_path: Path) -> None:
    table = pl.DataFrame([{**BUY, "type": None}, BUY])
    table.write_csv(tmp_path / "a.csv")
    table.write_parquet(tmp_path / "a.parquet")
    assert [row["price"] for row in rows_of(read_orders(tmp_path / "a.csv"))] == ["184.50"] * 2
    assert rows_of(read_orders(tmp_path / "a.parquet"))[0]["size"] == 100
    (tmp_path / "bad.parquet").write_bytes(b"no")
    with pytest.raises(DataError, match="cannot be read"):
        read_orders(tmp_path / "bad.parquet")
    with pytest.raises(MissingError, match="no such file"):
        read_orders(tmp_path / "none.csv")


def test_a_client_is_called_the_same_for_ever() -> None:
    assert bulk_client("rebalance") == 5_977_457_136_994_805_069
    assert bulk_client("a") != bulk_client("b")
