"""The tables of what a tape defines, and numbers that no fixed unit could hold coming back exactly."""

from __future__ import annotations

import uuid
from dataclasses import replace
from decimal import Decimal

import numpy as np

from tapehouse.log import FrameWriter, MemoryLog
from tapehouse.market import Action, Cells, Flag, Instrument, Kind, Side, WideIds, empty_cells
from tapehouse.query import QuerySession
from tests.support.desk_day import START

TINY = Instrument(
    id=1,
    symbol="MOTE",
    venue="X",
    asset_class="crypto",
    price_exponent=-15,
    size_exponent=3,
    tick_size=1,
    calendar="24/7",
)
HUGE = Instrument(id=2, symbol="VAST", price_exponent=2, tick_size=5)
ORDER = uuid.UUID("d50ec984-77a8-460a-b958-66f114b0de9b")


async def told(*records: Cells) -> QuerySession:
    log = MemoryLog("TAPE_t")
    writer = await FrameWriter.open(log, writer=1)
    await writer.append(np.concatenate(records))
    return QuerySession(tape=log)


def trade(instrument: Instrument, price: str, size: str, order_id: int = 0) -> Cells:
    cells = empty_cells(1)
    cells["ts_event"] = cells["ts_recv"] = START
    cells["price"], cells["size"] = instrument.fixed_price(price), instrument.fixed_size(size)
    cells["kind"], cells["cells"], cells["action"], cells["side"] = Kind.TRADE, 1, Action.TRADE, Side.BID
    cells["instrument"], cells["flags"], cells["order_id"] = instrument.id, Flag.LAST, order_id
    return cells


async def test_every_revision_is_a_row() -> None:
    finer = replace(TINY, tick_size=1, lot_size=7, revision=2)
    with await told(
        TINY.definition(ts_recv=START), HUGE.definition(ts_recv=START), finer.definition(ts_recv=START)
    ) as s:
        rows = (await s.sql("from instruments")).to_dicts()
    assert [(row["symbol"], row["revision"], row["tick_size"], row["lot_size"]) for row in rows] == [
        ("MOTE", 1, "0.000000000000001", "1000"),
        ("VAST", 1, "500", "1"),
        ("MOTE", 2, "0.000000000000001", "7000"),
    ]
    assert (rows[0]["calendar"], rows[0]["strike"], rows[0]["expiry_ns"]) == ("24/7", None, None)
    assert rows[0]["ordinal"] < rows[1]["ordinal"] < rows[2]["ordinal"]


async def test_numbers_beyond_a_billionth_come_back_exactly() -> None:
    prices = {TINY.id: "0.000000000001234", HUGE.id: "12345678901234567800"}
    records = [item.definition(ts_recv=START) for item in (TINY, HUGE)]
    records += [trade(TINY, prices[1], "5000"), trade(HUGE, prices[2], "1")]
    columns = "symbol, price_fixed, size_fixed, price_exponent, size_exponent"
    query = f"select {columns} from trades join instruments using (symbol)"
    with await told(*records) as session:
        rows = (await session.sql(query)).to_dicts()
    for row, item in zip(sorted(rows, key=lambda row: row["symbol"]), (TINY, HUGE), strict=True):
        assert Decimal(row["price_fixed"]).scaleb(row["price_exponent"]) == Decimal(prices[item.id])
        assert item.price(row["price_fixed"]) == Decimal(prices[item.id])
    assert {row["size_fixed"] for row in rows} == {5, 1}


async def test_a_wide_id_is_found_by_its_number() -> None:
    ids = WideIds()
    number, defined = ids.number(ORDER.bytes, ts_recv=START, instrument=1)
    other, named = ids.number(b"order-7", ts_recv=START)
    assert defined is not None
    assert named is not None
    with await told(TINY.definition(ts_recv=START), defined, named, trade(TINY, "0.1", "1000", number)) as session:
        rows = (await session.sql("select order_id, wide_id, instrument from wide_ids")).rows()
        traded = (
            await session.sql("select wide_id from tape join wide_ids using (order_id) where kind = 'trade'")
        ).rows()
    assert rows == [(number, str(ORDER), 1), (other, b"order-7".hex(), 0)]
    assert traded == [(str(ORDER),)]
