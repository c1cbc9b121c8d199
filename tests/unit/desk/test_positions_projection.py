"""Positions and profit, against the desk's own accounts."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

from tapehouse.core.errors import DecodeError, IntegrityError
from tapehouse.desk import state as desk_state
from tapehouse.desk.positions_projection import (
    CASH,
    COST,
    FEES,
    FILLS,
    POSITION,
    REALISED,
    VOLUME,
    PositionsProjection,
    average_price,
)
from tapehouse.log import FrameHeader
from tapehouse.market import FILL_EXTENSION, Kind
from tests.support.desk_day import COIN, LOG_ID, STOCK, record, shared_day

HEADER = FrameHeader(log_id=LOG_ID, writer=1, epoch=1, first_ordinal=0)
COLUMNS = {
    POSITION: desk_state.POSITION,
    CASH: desk_state.CASH,
    FEES: desk_state.FEES,
    COST: desk_state.COST,
    REALISED: desk_state.REALISED,
    FILLS: desk_state.FILLS,
    VOLUME: desk_state.VOLUME,
}


def test_every_column_equals_the_desks() -> None:
    for seed in (1, 2, 3):
        day = shared_day(seed)
        positions = PositionsProjection()
        positions.apply(HEADER, day.outputs)
        held = positions.held()
        assert held
        for account, instrument in held:
            slot = day.engine.route(instrument)
            for mine, theirs in COLUMNS.items():
                assert positions.row(account, instrument)[mine] == day.engine.desk.accounts[account, slot, theirs]
        traded = {
            (account, slot) for account, slot in np.argwhere(day.engine.desk.accounts[:, :, desk_state.FILLS]).tolist()
        }
        assert traded == {(account, day.engine.route(instrument)) for account, instrument in held}


def test_values_are_exact_decimals_under_named_keys() -> None:
    day = shared_day()
    positions = PositionsProjection()
    positions.apply(HEADER, day.outputs)
    values = dict(positions.items())
    assert {key.split("/")[1] for key in values} == {"strategy", "alice", "bob"}
    for key, value in values.items():
        assert positions.get(key) == value
        token = key.split("/")[2]
        fills = day.outputs[(day.outputs["kind"] == Kind.FILL) & (day.outputs["cells"] > 0)]
        assert value["fills"] <= len(fills)
        assert Decimal(value["volume"]) >= abs(Decimal(value["position"]))
        assert token in ("AAPL", "BTC-USD%2EP", "EUR%2FUSD")
    assert list(values) == sorted(values)
    assert positions.get("positions/strategy") is None
    assert positions.items("positions/al") == [item for item in values.items() if item[0].startswith("positions/al")]


def test_the_average_price_is_rounded_to_the_instruments_unit() -> None:
    assert average_price(300, 0, STOCK) is None
    assert average_price(10 * 10**9, 3, STOCK) == "3.333333333"
    assert average_price(-10 * 10**9, -3, STOCK) == "3.333333333"
    assert COIN.multiplier == 5
    assert average_price(5 * 10**9, 50_000_000, COIN) == "2"


def test_a_fill_that_contradicts_the_ones_before_it_halts() -> None:
    day = shared_day()
    for name in ("position", "cash"):
        cells = day.outputs.copy()
        at = np.flatnonzero((cells["kind"] == Kind.FILL) & (cells["cells"] > 0))[3]
        cells[at + 1 : at + 2].view(FILL_EXTENSION)[name] += 1
        with pytest.raises(IntegrityError, match=rf"cell {at}: a fill's position or cash"):
            PositionsProjection().apply(HEADER, cells)


def test_a_fill_that_is_missing_is_noticed_at_the_next_one() -> None:
    day = shared_day()
    at = int(np.flatnonzero((day.outputs["kind"] == Kind.FILL) & (day.outputs["cells"] > 0))[0])
    cells = np.delete(day.outputs, [at, at + 1])
    with pytest.raises(IntegrityError, match="fills are missing before it"):
        PositionsProjection().apply(HEADER, cells)


def test_what_cannot_be_read_halts() -> None:
    cells = np.concatenate([record(Kind.FILL, 1, 5)] * 2)
    cells["cells"] = [2, 0]
    with pytest.raises(DecodeError, match="before its definition"):
        PositionsProjection().apply(HEADER, cells)
    with pytest.raises(DecodeError, match="cut short"):
        PositionsProjection().apply(HEADER, record(Kind.FILL, 1, 5, cells=2))


def test_a_damaged_snapshot_is_refused_and_changes_nothing() -> None:
    day = shared_day()
    positions = PositionsProjection()
    positions.apply(HEADER, day.outputs)
    snapshot, before = positions.snapshot(), positions.digest()
    for damaged in (snapshot[:-1], snapshot[:10], b"", snapshot.replace(b"AAPL", b"\xff\xfe\xfd\xfc")):
        with pytest.raises(IntegrityError):
            positions.restore(damaged)
    assert positions.digest() == before
