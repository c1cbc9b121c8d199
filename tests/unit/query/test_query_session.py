"""SQL over a day: every table against the cells it comes from, and the errors that a wrong query gets."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
import pytest

from tapehouse.book import ASK, BID, apply, best_price, best_size, define, make_books
from tapehouse.book.projection import PricesProjection
from tapehouse.core.errors import DataError, GapError, MissingError, UsageError
from tapehouse.core.units import UNDEFINED, format_time_ns
from tapehouse.desk.projection import OrdersProjection, PositionsProjection
from tapehouse.log import FrameHeader, FrameWriter, MemoryLog
from tapehouse.market import FILL_EXTENSION, ORDER_EXTENSION, Action, Cells, Flag, Kind, pack_payload, words
from tapehouse.query import TABLES, QuerySession, builders, read_trades
from tapehouse.query.session import LINEAGE, STAGES
from tests.support.desk_day import COIN, INSTRUMENTS, LOG_ID, START, STOCK, shared_day

HEADER = FrameHeader(log_id=LOG_ID, writer=1, epoch=1, first_ordinal=0)
NOT_OF_THAT_DAY = {"gaps", "parked", "wide_ids"}
ACCOUNTS = {0: "strategy", 1: "alice", 2: "bob"}


@pytest.fixture
async def session() -> AsyncIterator[QuerySession]:
    """A session over the shared day."""
    day = shared_day()
    with QuerySession(tape=day.tape, events=day.events) as session:
        yield session


def firsts(cells: Cells, *kinds: Kind) -> list[int]:
    """The places of the first cells of some kinds."""
    return np.flatnonzero((cells["cells"] > 0) & np.isin(cells["kind"], kinds)).tolist()


def number(fixed: int, exponent: int) -> float | None:
    """The double nearest to a fixed-point number."""
    return None if fixed == UNDEFINED else float(Decimal(fixed).scaleb(exponent))


async def test_trades_are_the_trades_of_the_tape(session: QuerySession) -> None:
    cells = shared_day().cells
    known = {instrument.id: instrument for instrument in INSTRUMENTS}
    expected = []
    for at in firsts(cells, Kind.MBO, Kind.MBP, Kind.TRADE):
        cell = cells[at]
        if cell["kind"] != Kind.TRADE and cell["action"] != Action.TRADE:
            continue
        instrument = known[int(cell["instrument"])]
        expected.append(
            {
                "ordinal": at,
                "ts_ns": int(cell["ts_recv"]),
                "ts_event_ns": int(cell["ts_event"]),
                "symbol": instrument.symbol,
                "price": number(int(cell["price"]), instrument.price_exponent),
                "price_fixed": int(cell["price"]),
                "size": number(int(cell["size"]), instrument.size_exponent),
                "aggressor": {ord("A"): "sell", ord("B"): "buy"}[int(cell["side"])],
            }
        )
    trades = await session.table("trades")
    assert trades.select(*expected[0]).to_dicts() == expected
    assert trades.schema["ts"] == pl.Datetime("us", "UTC")
    assert trades["ts"][0] == datetime.fromtimestamp(expected[0]["ts_ns"] // 1000 / 1e6, UTC)


async def test_events_are_every_decision(session: QuerySession) -> None:
    outputs = shared_day().outputs
    rows = (await session.sql("SELECT * FROM events ORDER BY ordinal")).to_dicts()
    places = firsts(outputs, Kind.ORDER, Kind.FILL, Kind.EVENT)
    assert [row["ordinal"] for row in rows] == places
    for at, row in zip(places, rows, strict=True):
        cell = outputs[at]
        assert (row["input_ordinal"], row["index"]) == (int(cell["sequence"]), int(cell["count"]))
        assert row["kind"] == Kind(int(cell["kind"])).name.lower()
        if cell["kind"] == Kind.EVENT:
            assert json.loads(row["json"])["type"] in ("account.opened", "command.outcome")
            assert row["price"] is None
            continue
        assert row["action"] == Action(int(cell["action"])).name.lower()
        assert row["price_fixed"] == int(cell["price"])
        assert row["json"] is None
        if cell["kind"] == Kind.FILL:
            said = outputs[at + 1 : at + 2].view(FILL_EXTENSION)[0]
            assert row["account"] == ACCOUNTS[int(said["client"])]
            assert (row["fee_fixed"], row["cash_fixed"]) == (int(said["fee"]), int(said["cash"]))
            assert row["liquidity"] == ("taker" if cell["depth"] else "maker")
            assert row["reason"] is None
        else:
            said = outputs[at + 1 : at + 2].view(ORDER_EXTENSION)[0]
            assert row["account"] == ACCOUNTS[int(said["client"])]
            assert bool(row["reason"]) == (cell["action"] == Action.REJECTED)


async def test_fills_lead_to_the_positions(session: QuerySession) -> None:
    led = await session.sql(
        "SELECT account, symbol, arg_max(position_fixed, ordinal) AS position_fixed,"
        " arg_max(cash_fixed, ordinal) AS cash_fixed, sum(fee_fixed)::BIGINT AS fees_fixed, count(*) AS fills"
        " FROM fills GROUP BY ALL ORDER BY ALL"
    )
    held = await session.sql(
        "SELECT account, symbol, position_fixed, cash_fixed, fees_fixed, fills FROM positions ORDER BY ALL"
    )
    assert led.to_dicts() == held.to_dicts()
    assert len(held) >= 3


async def test_states_are_those_of_the_projections(session: QuerySession) -> None:
    day = shared_day()
    orders, positions, prices = OrdersProjection(), PositionsProjection(), PricesProjection()
    orders.apply(HEADER, day.outputs)
    positions.apply(HEADER, day.outputs)
    prices.apply(HEADER, day.cells)
    told = {f"orders/{row['order_id']}": row for row in (await session.table("orders")).to_dicts()}
    items = dict(orders.items())
    assert list(told) == list(items)
    for key, value in items.items():
        row = told[key]
        assert (row["symbol"], row["status"], row["account"]) == (
            value["instrument"],
            value["status"],
            value["account"],
        )
        assert (row["price"], row["remaining"]) == (float(value["price"]), float(value["left"]))
        assert format_time_ns(row["created_ns"]) == value["created"]
    for row, (key, value) in zip((await session.table("positions")).to_dicts(), positions.items(), strict=True):
        assert key == f"positions/{row['account']}/{row['symbol'].replace('.', '%2E').replace('/', '%2F')}"
        assert (row["realised"], row["cash"]) == (float(value["realised"]), float(value["cash"]))
        assert str(row["average_price"]) == str(value["average_price"] and float(value["average_price"]))
        assert (row["long"] - row["short"], row["lots"]) == (row["position"], value["lots"])
        assert (row["mode"], row["method"]) == ("netting", "average")
    rows = {row["symbol"]: row for row in (await session.table("prices")).to_dicts()}
    assert sorted(rows) == sorted(instrument.symbol for instrument in INSTRUMENTS)
    for symbol, row in rows.items():
        value = prices.get(f"prices/{symbol}")
        assert value is not None
        assert row["bid"] == (None if value["bid"] is None else float(value["bid"]))
        assert row["last"] == (None if value["last"] is None else float(value["last"]))
        assert row["ordinal"] == value["ordinal"]


async def test_balances_are_what_positions_paid(session: QuerySession) -> None:
    told = await session.sql("SELECT account, currency, balance, traded, deposit FROM balances ORDER BY ALL")
    held = await session.sql(
        "SELECT account, currency, sum(cash), sum(cash), 0.0 FROM positions GROUP BY ALL ORDER BY ALL"
    )
    assert [row[:2] for row in told.rows()] == [row[:2] for row in held.rows()]
    for mine, theirs in zip(told.rows(), held.rows(), strict=True):
        assert mine[2:] == pytest.approx(theirs[2:])


async def test_the_surface_has_a_row_an_option(session: QuerySession) -> None:
    rows = (await session.sql("SELECT * FROM surface")).to_dicts()
    assert [(row["strike"], row["option_type"]) for row in rows] == [(180.0, "P"), (190.0, "C")]
    for row in rows:
        assert row["underlying"] == "AAPL"
        assert row["volatility"] == pytest.approx(0.3, abs=0.05)
        assert row["expiry"] == datetime(2026, 1, 16, 14, 30, tzinfo=UTC)


async def test_quotes_of_both_kinds(session: QuerySession) -> None:
    cells = shared_day().cells
    quotes = await session.table("quotes")
    assert quotes["ordinal"].to_list() == firsts(cells, Kind.QUOTE)
    assert set(quotes["symbol"]) == {"EUR/USD"}
    assert (quotes["ask_fixed"] - quotes["bid_fixed"] == 20_000).all()
    options = await session.table("option_quotes")
    places = firsts(cells, Kind.OPTION_QUOTE)
    assert options["ordinal"].to_list() == places
    assert options["bid_fixed"].to_list() == cells["price"][places].tolist()
    assert options["ask_fixed"].to_list() == cells["price"][np.array(places) + 1].tolist()
    assert set(options["mark_volatility"]) == {0.3}
    assert set(options["underlying"]) == {"AAPL"}


async def test_the_bbo_is_the_book_wherever_its_top_changed(session: QuerySession) -> None:
    cells = shared_day().cells
    books = make_books(2)
    slots = {STOCK.id: 0, COIN.id: 1}
    define(books, 0, STOCK.tick_size)
    define(books, 1, COIN.tick_size)
    array, expected = words(cells), []
    last: dict[int, tuple[int, ...]] = {}
    for at in firsts(cells, Kind.MBO, Kind.MBP):
        slot = slots[int(cells["instrument"][at])]
        apply(books, slot, array, at)
        if not cells["flags"][at] & Flag.LAST or cells["action"][at] == Action.TRADE:
            continue
        top = tuple(int(reading(books, slot, side)) for side in (BID, ASK) for reading in (best_price, best_size))
        if last.get(slot) != top:
            last[slot] = top
            expected.append((at, *(None if value == UNDEFINED else value for value in top)))
    names = ("ordinal", "bid_fixed", "bid_size_fixed", "ask_fixed", "ask_size_fixed")
    assert (await session.table("bbo")).select(names).rows() == expected


async def test_the_tape_has_every_record_and_commands_what_they_said(session: QuerySession) -> None:
    cells = shared_day().cells
    tape = await session.table("tape")
    assert tape["ordinal"].to_list() == np.flatnonzero(cells["cells"] > 0).tolist()
    unpriced = tape.filter(pl.col("kind").is_in(["epoch", "definition", "command"]))
    assert len(unpriced) == 1 + len(INSTRUMENTS) + 12
    assert unpriced["price"].null_count() == unpriced["size"].null_count() == len(unpriced)
    commands = await session.table("commands")
    assert commands["sequence"].to_list() == list(range(1, 13))
    assert json.loads(commands["body"][0])["account"] == "alice"
    assert commands["problem"].null_count() == 12


async def test_a_bad_command_is_a_row_with_its_problem() -> None:
    log = MemoryLog("TAPE_bad", log_id=LOG_ID)
    writer = await FrameWriter.open(log, writer=1)
    await writer.append(pack_payload(Kind.COMMAND, b"\xff{", ts_event=START, ts_recv=START, sequence=7))
    with QuerySession(tape=log) as session:
        (row,) = (await session.table("commands")).to_dicts()
    assert (row["sequence"], row["id"], row["body"]) == (7, None, "\ufffd{")
    assert row["problem"]


async def test_only_what_a_query_mentions_is_built(session: QuerySession) -> None:
    await session.sql("WITH tape AS (SELECT 1 AS one) SELECT *, 'events' FROM tape")
    assert session.built == frozenset()
    await session.sql("SELECT * FROM (SELECT symbol FROM Trades) JOIN prices USING (symbol)")
    assert session.built == {"trades", "prices"}
    described = await session.sql("DESCRIBE fills")
    assert "fee_fixed" in described["column_name"].to_list()
    assert (await session.sql("SELECT * FROM tables"))["name"].to_list() == [*TABLES, LINEAGE, STAGES]


async def test_the_columns_need_no_quotes_and_are_the_same_without_rows(session: QuerySession) -> None:
    empty = QuerySession(tape=MemoryLog("TAPE_none"), events=MemoryLog("EVENTS_none"))
    for name in (*TABLES, LINEAGE):
        table, nothing = await session.table(name), await empty.table(name)
        assert (len(table) > 0) == (name not in NOT_OF_THAT_DAY), name
        assert len(nothing) == 0
        assert nothing.schema == table.schema, name
        listed = await session.sql(f"SELECT {', '.join(table.columns)} FROM {name}")
        assert listed.equals(table)
    empty.close()


async def test_two_sessions_answer_alike(session: QuerySession) -> None:
    day = shared_day()
    query = (
        "SELECT symbol, avg(price) AS a, sum(price * size) / sum(size) AS v FROM trades GROUP BY symbol ORDER BY symbol"
    )
    with QuerySession(tape=day.tape, events=day.events) as again:
        assert (await session.sql(query)).equals(await again.sql(query))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
async def test_as_of_a_moment_is_the_log_cut_there(share: float) -> None:
    day = shared_day()
    times = day.cells["ts_recv"][day.cells["cells"] > 0]
    moment = int(times[int(share * (len(times) - 1))])
    cut: dict[str, MemoryLog] = {}
    for name, cells in (("tape", day.cells), ("events", day.outputs)):
        late = np.flatnonzero((cells["cells"] > 0) & (cells["ts_recv"] > moment))
        cut[name] = MemoryLog(name)
        early = cells[: late[0]]
        if len(early):
            await (await FrameWriter.open(cut[name], writer=1)).append(early)
    with QuerySession(tape=day.tape, events=day.events, as_of=moment) as then, QuerySession(**cut) as before:
        for name in TABLES:
            assert (await then.table(name)).equals(await before.table(name)), name


@pytest.mark.parametrize(
    ("query", "kind", "problem"),
    [
        ("SELEC 1", UsageError, "Parser Error: syntax error"),
        ("", UsageError, "empty query"),
        ("SELECT * FROM trade", UsageError, r"trade does not exist! \(tables: balances, bbo, commands"),
        ("SELECT nope FROM trades", UsageError, r'"nope" not found in FROM clause! \(Candidate bindings'),
        ("SELECT CAST(symbol AS INT) FROM trades", DataError, "Could not convert string"),
        ("SELECT * FROM 'nothing.parquet'", DataError, "No files found"),
        ("INSERT INTO trades VALUES (1)", UsageError, "trades"),
    ],
)
async def test_a_wrong_query_gets_one_clear_line(
    session: QuerySession, query: str, kind: type[Exception], problem: str
) -> None:
    with pytest.raises(kind, match=problem) as caught:
        await session.sql(query)
    assert "\n" not in str(caught.value)
    assert (await session.sql("SELECT 1 AS one")).rows() == [(1,)]


async def test_nothing_is_fetched_and_no_python_variable_is_a_table(session: QuerySession) -> None:
    variable = pl.DataFrame({"x": [1]})
    assert len(variable) == 1
    for query, problem in (
        ("SELECT * FROM variable", "does not exist"),
        ("SELECT * FROM 's3://a/b.parquet'", "httpfs"),
    ):
        with pytest.raises((UsageError, DataError), match=problem):
            await session.sql(query)


async def test_a_log_that_is_not_there_is_named() -> None:
    with QuerySession(tape=shared_day().tape) as session:
        assert len(await session.sql("SELECT * FROM trades")) > 0
        with pytest.raises(MissingError, match="no EVENTS log here for table orders"):
            await session.sql("SELECT * FROM orders")
        with pytest.raises(UsageError, match="no table 'nope'"):
            await session.table("nope")


async def test_a_trimmed_or_damaged_log_is_no_answer() -> None:
    log = MemoryLog("TAPE_short", log_id=LOG_ID)
    writer = await FrameWriter.open(log, writer=1)
    cells = shared_day().cells
    for start, end in ((0, 40), (40, 41), (41, 42)):
        await writer.append(cells[start:end])
    log.corrupt(3, b"THFR and nothing")
    with QuerySession(tape=log) as session, pytest.raises(DataError, match="TAPE_short, sequence 3"):
        await session.sql("SELECT * FROM tape")
    await log.trim(2)
    with QuerySession(tape=log) as session, pytest.raises(GapError, match="cell 0 is missing"):
        await session.sql("SELECT * FROM tape")


async def test_a_table_that_grows_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builders, "ROWS_MAX", 100)
    with QuerySession(tape=shared_day().tape) as session, pytest.raises(DataError, match="more than 100 rows"):
        await session.sql("SELECT * FROM tape")


async def test_a_query_that_is_cancelled_ends_and_the_session_goes_on(session: QuerySession) -> None:
    started = asyncio.Event()

    async def ask() -> Any:
        started.set()
        return await session.sql(
            "SELECT count(*) FROM range(100000000000) t(a), range(100000) u(b) WHERE a % 7 = b % 5"
        )

    task = asyncio.create_task(ask())
    await started.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 60)
    assert (await session.sql("SELECT 2 AS two")).rows() == [(2,)]


async def test_results_go_on_to_arrow_and_pandas(session: QuerySession) -> None:
    trades = await session.table("trades")
    assert trades.arrow().num_rows == len(trades)
    assert isinstance(trades, pl.DataFrame)
    try:
        import pandas  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(MissingError, match="pip install pandas"):
            trades.pandas()
    else:
        assert len(trades.pandas()) == len(trades)


async def test_trades_without_sql_are_half_open_in_time(session: QuerySession) -> None:
    tape = shared_day().tape
    every = await session.sql("SELECT * FROM trades WHERE symbol = 'AAPL'")
    assert (await read_trades(tape, "AAPL")).equals(every)
    start, end = int(every["ts_ns"][10]), int(every["ts_ns"][20])
    some = await read_trades(tape, "AAPL", start=start, end=end)
    assert some.equals(every.filter((pl.col("ts_ns") >= start) & (pl.col("ts_ns") < end)))
    assert start in some["ts_ns"]
    assert end not in some["ts_ns"]
    assert (await read_trades(tape)).equals(await session.table("trades"))
    with pytest.raises(MissingError, match=r"no instrument 'MSFT'.*AAPL"):
        await read_trades(tape, "MSFT")


def test_the_accounts_of_the_oracle_are_those_of_the_log() -> None:
    opened = defaultdict(str, {0: "strategy"})
    outputs = shared_day().outputs
    for at in firsts(outputs, Kind.EVENT):
        from tapehouse.market import unpack_payload

        event = json.loads(unpack_payload(outputs[at : at + int(outputs["cells"][at])]))
        if event["type"] == "account.opened":
            opened[event["body"]["number"]] = event["body"]["account"]
    assert dict(opened) == ACCOUNTS
