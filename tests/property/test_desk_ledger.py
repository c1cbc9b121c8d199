"""A desk of accounts that net and hedge, by average and fifo, against the projection that reads what it decided."""

from __future__ import annotations

from collections import Counter
from random import Random

import numpy as np
import pytest

from tapehouse.book import define, make_books, set_level
from tapehouse.core.errors import DataError
from tapehouse.desk import POWERS, decide, define_instrument, make_desk, stored
from tapehouse.desk import requests as r
from tapehouse.desk.conservation import verify_conservation
from tapehouse.desk.ledger import CLOSE_FLAG, closable, configure_account, correct_position
from tapehouse.desk.ledger_state import METHODS, MODES
from tapehouse.desk.positions_projection import PositionsProjection
from tapehouse.desk.state import CASH, COST, FEES, FILLS, ID_BASE, INDEX, ORDINAL, OUT_ROWS, POSITION, REALISED, VOLUME
from tapehouse.log import FrameHeader
from tapehouse.market import Cells, Kind, from_words
from tests.support.desk_pair import INSTRUMENTS, TICK
from tests.support.events_log import EventsLog

HEADER = FrameHeader(log_id=bytes(16), writer=1, epoch=1, first_ordinal=0)
WAYS = [(mode, method) for mode in MODES for method in METHODS]


class Session:
    """One desk whose accounts 1 to 4 book in the four ways; slot 0 is on paper, slot 1 crosses."""

    def __init__(self) -> None:
        self.desk, self.books = make_desk(maker_fee_ppm=-20, taker_fee_ppm=300), make_books(2, orders=64, levels=256)
        self.log = EventsLog(*INSTRUMENTS)
        for slot, instrument in enumerate(INSTRUMENTS):
            define(self.books, slot, TICK)
            define_instrument(self.desk, slot, instrument)
        for account, (mode, method) in enumerate(WAYS, 1):
            self.log.open(f"a{account}", account)
            fees = {"maker_fee_ppm": None, "taker_fee_ppm": 700 if account % 2 else None}
            configure_account(self.desk, account, mode=mode, method=method, **fees)
            self.log.event("account.configured", account=f"a{account}", mode=mode, method=method, **fees)
        self.out, self.ladder = np.zeros((20_000, 8), np.int64), np.zeros((2, 8), np.int64)
        self.ordinal = 100

    def ask(self, account: int, slot: int, side: int, price: int, size: int, flags: int = 0) -> Cells:
        """One limit order; what was decided, which is written to the log too."""
        self.ordinal += 1
        self.desk.counters[[ORDINAL, INDEX, ID_BASE, OUT_ROWS]] = self.ordinal, 0, 0, 0
        row = np.zeros(r.REQUEST_COLUMNS, np.int64)
        row[r.REQUEST_ACCOUNT], row[r.REQUEST_SLOT], row[r.REQUEST_SIDE] = account, slot, side
        row[r.REQUEST_PRICE], row[r.REQUEST_SIZE], row[r.REQUEST_FLAGS] = price, size, flags
        decide(self.desk, self.books, self.ladder, self.out, POWERS, row)
        cells = from_words(self.out[: int(self.desk.counters[OUT_ROWS])].copy())
        self.log.parts.append(cells)
        return cells

    def verify(self) -> None:
        desk = self.desk
        verify_conservation(desk.accounts, desk.legs, desk.booking, desk.instruments, len(INSTRUMENTS))


@pytest.mark.parametrize("seed", range(4))
def test_the_projection_holds_what_the_desk_holds(seed: int) -> None:
    session, chance, met = Session(), Random(seed), Counter[str]()
    for step in range(500):
        if step % 10 == 0:
            for side, ticks in ((0, chance.randint(95, 99)), (1, chance.randint(100, 104))):
                set_level(session.books, 0, side, ticks * TICK, chance.randint(1, 60))
        account, slot, side = chance.randint(1, 4), chance.randrange(2), chance.randrange(2)
        if chance.random() < 0.03:
            size, price = 2 * chance.choice([-3, 2, 5]), chance.randint(90, 110) * TICK
            correct_position(session.desk, account, slot, size, price)
            instrument = INSTRUMENTS[slot]
            session.log.event(
                "position.corrected", account=f"a{account}", instrument=instrument.symbol,
                size=str(instrument.size(size)), price=str(instrument.price(price)),
            )  # fmt: skip
        else:
            flags = r.REDUCE_ONLY_FLAG if chance.random() < 0.4 else 0
            cells = session.ask(account, slot, side, chance.randint(95, 105) * TICK, 2 * chance.randint(1, 15), flags)
            met.update(f"fill {int(cell['flags']) & CLOSE_FLAG}" for cell in cells[(cells["kind"] == Kind.FILL)])
        session.verify()
    assert met["fill 0"] > 50
    assert met["fill 2"] > 10
    positions = PositionsProjection()
    positions.apply(HEADER, session.log.cells())
    for account, instrument_id in positions.held():
        slot = [instrument.id for instrument in INSTRUMENTS].index(instrument_id)
        mine, theirs = positions.row(account, instrument_id), session.desk.accounts[account, slot]
        for column in (POSITION, CASH, FEES, COST, REALISED, FILLS, VOLUME):
            assert mine[column] == theirs[column]
        if WAYS[account - 1] != ("netting", "average"):
            sizes = positions.legs(account, instrument_id)[:2]
            assert sizes == tuple(session.desk.legs[account, slot, :, 0].tolist())
    data = stored.snapshot(session.desk)
    again = stored.restore(data)
    assert stored.snapshot(again) == data
    assert np.array_equal(again.legs, session.desk.legs)
    assert np.array_equal(again.booking, session.desk.booking)


def test_reduce_only_closes_the_other_leg_of_a_hedging_account() -> None:
    session = Session()
    hedging, desk = 1 + WAYS.index(("hedging", "fifo")), session.desk
    set_level(session.books, 0, 0, 99 * TICK, 50)
    set_level(session.books, 0, 1, 101 * TICK, 50)
    session.ask(hedging, 0, r.BUY, 101 * TICK, 10)
    session.ask(hedging, 0, r.SELL, 99 * TICK, 4)
    place = (hedging, 0)
    held = [int(closable(desk.accounts[place], desk.legs[place], desk.booking[hedging], side)) for side in (0, 1)]
    assert held == [4, 10]
    cells = session.ask(hedging, 0, r.SELL, 99 * TICK, 6, r.REDUCE_ONLY_FLAG)
    assert [int(cell["flags"]) for cell in cells if cell["kind"] == Kind.FILL and cell["cells"]] == [128 | CLOSE_FLAG]
    assert desk.legs[hedging, 0, :, 0].tolist() == [4, 4]
    assert desk.accounts[hedging, 0, POSITION] == 0
    with pytest.raises(DataError, match="not flat"):
        configure_account(desk, hedging, mode="netting")
    session.verify()
