"""The table `lineage`: one row an order or fill, with the inputs that led to it; known answers on a small tape."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import polars as pl
import pytest

from tapehouse.core.errors import MissingError
from tapehouse.market import Kind
from tapehouse.query import QuerySession
from tests.support.bench import cell, level, quick_maker, quote, shared_day, trade
from tests.support.taped_bench import TapedBench


async def lineage(bench: TapedBench, query: str = "SELECT * FROM lineage ORDER BY ordinal") -> list[dict[str, Any]]:
    with QuerySession(**await bench.logs()) as session:
        return (await session.sql(query)).to_dicts()


def some(row: dict[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(row[name] for name in names)


@pytest.fixture
def desk() -> TapedBench:
    bench = TapedBench()
    bench.feed(level("buy", 99, 20), level("sell", 101, 20))
    return bench


async def test_a_quote_fills_an_order_that_was_decided_much_earlier(desk: TapedBench) -> None:
    decided = desk.ordinal
    sent = desk.order("buy", "0.98", "5", client="al", number=7)
    for size in range(21, 40):
        desk.feed(level("buy", 99, size))
    filled = desk.ordinal
    desk.feed(quote((97, 3), (98, 4)))
    accepted, fill = await lineage(desk)
    assert some(accepted, "kind", "action", "input_ordinal", "input_kind") == ("order", "accepted", decided, "command")
    assert some(accepted, "order_input", "order_id") == (decided, sent["order_id"])
    # What filled it: the quote.
    assert some(fill, "kind", "input_ordinal", "input_kind", "input_symbol") == ("fill", filled, "quote", "ALFA")
    assert some(fill, "input_side", "input_price", "input_size") == (None, 0.97, 3.0)
    assert some(fill, "bid", "bid_size", "ask", "ask_size") == (0.97, 3.0, 0.98, 4.0)
    assert some(fill, "command_id", "client", "cmds_sequence") == (None, None, None)
    assert some(fill, "price", "size", "liquidity", "match_id") == (0.98, 4.0, "maker", 1)
    assert fill["fee_fixed"] is not None
    # What its order was: the command.
    assert some(fill, "order_input", "order_input_kind", "order_price", "order_size") == (decided, "command", 0.98, 5.0)
    assert some(fill, "order_command_type", "order_client", "order_client_number") == ("order.submit", "al", 7)
    assert some(fill, "order_command_id", "order_cmds_sequence", "number") == ("command-1", 1, 7)
    assert some(fill, "causation", "correlation") == (f"tape:{filled}", "chain-1")
    assert fill["order_ts"] == accepted["ts"]
    assert fill["ts"] > accepted["ts"]


async def test_a_command_fills_at_once(desk: TapedBench) -> None:
    at = desk.ordinal
    desk.order("buy", "1.01", "5", client="al", number=1)
    accepted, fill = await lineage(desk)
    for row in (accepted, fill):
        assert some(row, "input_ordinal", "input_kind", "order_input") == (at, "command", at)
        assert some(row, "command_type", "client", "client_number", "cmds_sequence") == ("order.submit", "al", 1, 1)
        assert some(row, "causation", "correlation") == ("command-1", "chain-1")
        assert some(row, "bid", "bid_size", "ask", "ask_size") == (0.99, 20.0, 1.01, 20.0)
        assert some(row, "symbol", "side", "account") == ("ALFA", "buy", "manual")
        assert row["input_price"] is None
    assert some(fill, "price", "size", "liquidity", "index") == (1.01, 5.0, "taker", 2)
    assert accepted["index"] == 1  # the account was opened before


async def test_rejections_cancels_and_trades_have_theirs(desk: TapedBench) -> None:
    sent = desk.order("sell", "1.02", "5", account="bob")
    desk.order("sell", "1.025", "5")
    asked = desk.ordinal
    desk.feed(trade(ord("B"), 103, 2))
    cancelled = desk.ordinal
    desk.send("order.cancel", instrument="ALFA", order_id=sent["order_id"], account="bob")
    rows = await lineage(desk)
    assert [some(row, "action", "reason") for row in rows] == [
        ("accepted", ""), ("rejected", "price is not a positive whole number of ticks"), ("fill", None),
        ("cancelled", ""),
    ]  # fmt: skip
    assert some(rows[2], "input_ordinal", "input_kind", "input_side", "input_price", "input_size") == (
        asked, "trade", "buy", 1.03, 2.0,
    )  # fmt: skip
    assert some(rows[3], "input_ordinal", "command_type", "order_command_type", "order_command_id") == (
        cancelled, "order.cancel", "order.submit", "command-1",
    )  # fmt: skip
    assert some(rows[3], "causation", "correlation") == ("command-3", "chain-1")


async def test_the_strategys_orders_begin_with_market_records() -> None:
    logs, _, _, outputs = shared_day(quick_maker)
    with QuerySession(tape=logs.tape, events=logs.events) as session:
        rows = await session.table("lineage")
        joined = await session.sql(
            "SELECT count(*) FROM lineage l JOIN events e USING (ordinal) JOIN tape t ON t.ordinal = l.input_ordinal "
            "JOIN tape o ON o.ordinal = l.order_input WHERE e.input_ordinal = l.input_ordinal "
            "AND t.kind = l.input_kind AND o.kind = l.order_input_kind AND t.ts <= l.ts AND o.ts <= t.ts"
        )
        tops = await session.sql(
            "SELECT l.ordinal, l.bid, l.bid_size, l.ask, l.ask_size, b.bid, b.bid_size, b.ask, b.ask_size "
            "FROM lineage l ASOF JOIN bbo b ON l.symbol = b.symbol AND l.input_ordinal >= b.ordinal ORDER BY l.ordinal"
        )
    firsts = outputs[(outputs["cells"] > 0) & ((outputs["kind"] == Kind.ORDER) | (outputs["kind"] == Kind.FILL))]
    assert len(rows) == len(firsts) > 50
    assert joined.item() == len(rows)
    assert len(tops) > 50
    assert all(row[1:5] == row[5:] for row in tops.rows())
    strategy = rows.filter((pl.col("account") == "strategy") & (pl.col("action") == "accepted"))
    assert set(strategy["input_kind"]) <= {"mbo", "mbp", "quote", "trade"}
    assert (strategy["correlation"] == strategy["causation"]).all()
    later = rows.filter((pl.col("kind") == "fill") & (pl.col("input_ordinal") > pl.col("order_input")))
    assert len(later) > 0
    assert later["order_price"].null_count() == 0


async def test_frames_do_not_matter(desk: TapedBench) -> None:
    desk.order("buy", "0.98", "5", client="al", number=7)
    desk.feed(quote((97, 3), (98, 4)), level("buy", 97, 9), trade(ord("A"), 98, 1))
    whole = await lineage(desk)
    frames, desk.frames = desk.frames, []
    for cells, outputs in frames:  # Each record a frame of its own; what was decided comes with the last.
        starts = [*(at for at in range(len(cells)) if cells["cells"][at]), len(cells)]
        pieces = [cells[a:b] for a, b in pairwise(starts)]
        desk.frames += [(piece, outputs[:0]) for piece in pieces[:-1]] + [(pieces[-1], outputs)]
    assert await lineage(desk) == whole


async def test_a_record_of_an_unknown_instrument_is_in_nobodys_way(desk: TapedBench) -> None:
    desk.send("desk.poison", policy="park")
    desk.feed(level("buy", 5, 5, instrument=9), cell(127))
    desk.order("buy", "1.01", "5")
    assert [row["kind"] for row in await lineage(desk)] == ["order", "fill"]


async def test_it_wants_both_logs(desk: TapedBench) -> None:
    logs = await desk.logs()
    session = QuerySession(tape=logs["tape"])
    with pytest.raises(MissingError, match="no EVENTS log here for table lineage"):
        await session.table("lineage")
    session.close()
