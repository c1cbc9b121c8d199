"""The positions projection against the slow ledger, over random logs of fills, bookings and corrections."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.desk.positions_projection import PositionsProjection
from tapehouse.desk.state import CASH, COST, FEES, FILLS, POSITION, REALISED, VOLUME
from tapehouse.log import FrameHeader
from tests.support.desk_day import COIN, LOG_ID, STOCK
from tests.support.events_log import EventsLog

INSTRUMENTS = (STOCK, COIN)
WAYS = [(mode, method) for mode in ("netting", "hedging") for method in ("average", "fifo")]
ACCOUNT, WHICH, SIDE = st.integers(1, 4), st.integers(0, 1), st.integers(0, 1)
TICKS = st.integers(1, 300)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("fill"), ACCOUNT, WHICH, SIDE, TICKS, st.integers(1, 9), st.booleans()),
        st.tuples(st.just("correct"), ACCOUNT, WHICH, SIDE, TICKS, st.integers(1, 9), st.booleans()),
        st.tuples(st.just("book"), ACCOUNT, WHICH, SIDE, TICKS, st.integers(1, 9), st.booleans()),
    ),
    max_size=50,
)


def write(log: EventsLog, step: tuple[Any, ...], booked: dict[tuple[int, str], int]) -> None:
    """One step of a log."""
    what, account, which, side, ticks, size, flag = step
    instrument = INSTRUMENTS[which]
    price, lots = ticks * instrument.tick_size, size * instrument.lot_size
    if what == "fill":
        log.fill(account, instrument, side, price, lots, closing=flag, fee_ppm=30 if flag else -7)
    elif what == "correct":
        signed = instrument.size(-lots if side else lots)
        body = {"account": f"a{account}", "instrument": instrument.symbol, "price": str(instrument.price(price))}
        log.event("position.corrected", size=str(signed), **body)
    else:
        currency, kind = ("USD", "EUR")[which], "withdrawal" if side else "interest"
        booked[account, currency] = booked.get((account, currency), 0) + (-ticks if side else ticks)
        log.event(
            "cash.booked", account=f"a{account}", currency=currency, exponent=-2, amount=f"{ticks / 100:.2f}", kind=kind
        )


@settings(max_examples=40, deadline=None)
@given(STEPS, st.lists(st.integers(0, 60), max_size=4))
def test_the_projection_is_the_slow_ledger_however_the_log_is_cut(steps: list[tuple[Any, ...]], at: list[int]) -> None:
    log = EventsLog(*INSTRUMENTS)
    for account, (mode, method) in enumerate(WAYS, 1):
        log.open(f"a{account}", account)
        log.event("account.configured", account=f"a{account}", mode=mode, method=method)
    booked: dict[tuple[int, str], int] = {}
    for step in steps:
        write(log, step, booked)
    whole, cut = PositionsProjection(), PositionsProjection()
    whole.apply(FrameHeader(log_id=LOG_ID, writer=1, epoch=1, first_ordinal=0), log.cells())
    done = 0
    for part, cells in enumerate(log.parts):
        cut.apply(FrameHeader(log_id=LOG_ID, writer=1, epoch=1, first_ordinal=done), cells)
        done += len(cells)
        if part in at:
            other = PositionsProjection()
            other.restore(cut.snapshot())
            assert other.snapshot() == cut.snapshot()
            cut = other
    assert cut.snapshot() == whole.snapshot()
    assert whole.held() == sorted(log.ledgers)
    for place, slow in log.ledgers.items():
        row = whole.row(*place)
        expected = {
            POSITION: slow.held(0) - slow.held(1), COST: slow.cost(0) + slow.cost(1), CASH: slow.cash,
            FEES: slow.fees, REALISED: slow.realised, FILLS: slow.fills, VOLUME: slow.volume,
        }  # fmt: skip
        assert {column: int(row[column]) for column in expected} == expected
        lots = len(slow.lots[0]) + len(slow.lots[1])
        assert whole.legs(*place) == (slow.held(0), slow.held(1), lots)
    balances = dict(whole.cash_items())
    for (account, currency), cents in booked.items():
        value = balances[f"cash/a{account}/{currency}"]
        told = float(value["interest"]) + float(value["withdrawal"])
        assert round(told * 100) == cents
