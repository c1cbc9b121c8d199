"""A small EVENTS written by hand: fills that state what the slow ledger says, and events of bookings."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np

from tapehouse.desk.commands import EVENTS
from tapehouse.desk.ledger_reference import ReferenceLedger
from tapehouse.desk.ledger_state import LOTS_MAX
from tapehouse.desk.money import rescale_exponent
from tapehouse.desk.reference import half_away
from tapehouse.log import Envelope
from tapehouse.market import (
    FILL_EXTENSION,
    Action,
    Cells,
    Flag,
    Instrument,
    Kind,
    Side,
    empty_cells,
    extend,
    pack_payload,
)

START = 1_767_623_400_000_000_000
CLOSES = 2  # the flag of a fill whose order was to close


class EventsLog:
    """Records in the order in which they are asked for, one input each."""

    def __init__(self, *instruments: Instrument) -> None:
        self.instruments = {instrument.symbol: instrument for instrument in instruments}
        self.parts = [instrument.definition(ts_recv=START) for instrument in instruments]
        self.numbers: dict[str, int] = {}
        self.ways: dict[int, tuple[bool, bool]] = {}
        self.ledgers: dict[tuple[int, int], ReferenceLedger] = {}
        self.ordinal = 10

    def cells(self) -> Cells:
        return np.concatenate(self.parts)

    def open(self, account: str, number: int) -> None:
        self.numbers[account] = number
        self.event("account.opened", account=account, number=number)

    def event(self, kind: str, /, **body: object) -> None:
        """An EVENT; a correction is booked into the slow ledger, a configuration holds for later fills."""
        self.ordinal += 1
        now = START + self.ordinal
        envelope = Envelope(
            id=f"{kind}-{self.ordinal}", type=kind, version=1, correlation="c", time=now, body=dict(body)
        )  # fmt: skip
        record = pack_payload(Kind.EVENT, envelope.encode(), ts_event=now, ts_recv=now, sequence=self.ordinal)
        self.parts.append(record)
        number = self.numbers.get(str(body.get("account")), -1)
        if kind == "account.configured":
            told = json.loads(EVENTS.decode(envelope.encode())[1].model_dump_json())
            self.ways[number] = (told["mode"] == "hedging", told["method"] == "fifo")
            self.ledgers = {place: ledger for place, ledger in self.ledgers.items() if place[0] != number}
        if kind == "position.corrected" and body["instrument"] in self.instruments:
            instrument = self.instruments[str(body["instrument"])]
            size, price = instrument.fixed_size(str(body["size"])), instrument.fixed_price(str(body["price"]))
            self.ledger(number, instrument).trade(int(size < 0), price, abs(size), 0, closing=True)

    def ledger(self, account: int, instrument: Instrument) -> ReferenceLedger:
        """The slow ledger of an account in an instrument."""
        hedging, fifo = self.ways.get(account, (False, False))
        exponent = rescale_exponent(
            instrument.price_exponent, instrument.size_exponent, instrument.currency_exponent
        )  # fmt: skip
        made = ReferenceLedger(hedging, fifo, instrument.multiplier, exponent, LOTS_MAX)
        return self.ledgers.setdefault((account, instrument.id), made)

    def fill(
        self, account: int, instrument: Instrument, side: int, price: int, size: int, *, closing: bool = False,
        fee_ppm: int = 0,
    ) -> None:  # fmt: skip
        """A FILL record with what the slow ledger holds after it."""
        self.ordinal += 1
        ledger = self.ledger(account, instrument)
        fee = half_away(Fraction(ledger.worth(price, size) * fee_ppm, 1_000_000))
        ledger.fill(side, price, size, fee, closing=closing)
        cells = empty_cells(2)
        cells["ts_event"] = cells["ts_recv"] = START + self.ordinal
        cells["sequence"], cells["kind"], cells["cells"] = self.ordinal, Kind.FILL, 2
        cells["action"], cells["side"] = Action.FILL, Side.ASK if side else Side.BID
        cells["flags"] = Flag.LAST | (CLOSES if closing else 0)
        cells["instrument"], cells["price"], cells["size"] = instrument.id, price, size
        cells["order_id"] = self.ordinal << 12
        extend(cells)
        said = cells[1:].view(FILL_EXTENSION)
        said["fee"], said["client"] = fee, account
        said["position"], said["cash"] = ledger.held(0) - ledger.held(1), ledger.cash
        self.parts.append(cells)
