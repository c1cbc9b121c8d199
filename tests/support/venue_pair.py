"""A venue and the slow desk side by side: the same requests to both, everything that they say and hold compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tapehouse.desk import requests as r
from tapehouse.desk.money import rescale_exponent
from tapehouse.desk.reference import Account, Limits, Market, Record, ReferenceDesk, Request
from tapehouse.desk.requests import REQUEST_COLUMNS, SELF_MATCH_POLICIES
from tapehouse.desk.state import CASH, COST, FEES, LAST_TRADE, POSITION, REALISED
from tapehouse.desk.venue import AccountLimits, Venue
from tapehouse.market import Cells, Instrument
from tests.support.desk_pair import read_records

Sent = tuple[Request, int]  # and the time


def row_of(request: Request) -> list[int]:
    """A request as the kernels take it."""
    row = [0] * REQUEST_COLUMNS
    for name, value in vars(request).items():
        row[getattr(r, f"REQUEST_{'TYPE' if name == 'order_type' else name.upper()}")] = value
    return row


class VenuePair:
    """Both; `do` and `compare` fail where they differ.

    Args:
        references: The price that bands lie around at first, of each instrument.
        limits: Of each account that is looked at.
    """

    def __init__(
        self,
        instruments: Sequence[Instrument],
        references: Sequence[int],
        limits: Sequence[AccountLimits],
        *,
        maker_fee_ppm: int = -20,
        taker_fee_ppm: int = 300,
    ) -> None:
        fees = {"maker_fee_ppm": maker_fee_ppm, "taker_fee_ppm": taker_fee_ppm}
        self.venue = Venue(instruments, **fees)
        markets = []
        for slot, (instrument, reference) in enumerate(zip(instruments, references, strict=True)):
            self.venue.open_at(slot, reference)
            exponents = instrument.price_exponent, instrument.size_exponent, instrument.currency_exponent
            markets.append(
                Market(
                    money_exponent=rescale_exponent(*exponents), tick=instrument.tick_size, lot=instrument.lot_size,
                    multiplier=instrument.multiplier, crossing=True, last_trade=reference,
                    unit=instrument.currency_exponent,
                )
            )  # fmt: skip
        self.slow = ReferenceDesk(markets, **fees)
        self.accounts, self.slots = range(len(limits)), range(len(instruments))
        self.asked = 0
        for account, limit in enumerate(limits):
            self.limit(account, limit)

    def limit(self, account: int, limits: AccountLimits) -> None:
        """Change an account's limits in both."""
        self.venue.limit(account, limits)
        for slot in self.slots:
            self.slow.limits[account, slot] = Limits(
                limits.order_size, limits.position, limits.notional, limits.open_orders, limits.band_ppm
            )
        kept = self.slow.account(account)
        policy = SELF_MATCH_POLICIES.index(limits.self_match)
        self.slow.accounts[account] = Account(kept.off, policy, limits.messages, kept.window)

    def do(self, *sent: Sent) -> list[int]:
        """Send requests to both; returns the reasons."""
        rows = np.array([row_of(request) for request, _ in sent], np.int64)
        reasons, cells = self.venue.run(rows, np.array([time for _, time in sent], np.int64))
        wanted = []
        for request, time in sent:
            self.asked += 1
            self.slow.begin(self.asked, time)
            wanted.append(self.slow.decide(request))
        assert reasons.tolist() == wanted
        self._same_records(cells)
        return wanted

    def kill(self, account: int, on: bool) -> None:
        """Turn an account's kill switch in both."""
        cells = self.venue.kill(account, on=on)
        self.slow.account(account).off = on
        if on:
            self._cancel_all(account, None, None)
        self._same_records(cells)

    def cancel_all(self, account: int | None, slot: int | None, side: int | None) -> None:
        """Cancel in both."""
        cells = self.venue.cancel_all(account, slot=slot, side=side)
        self._cancel_all(account, slot, side)
        self._same_records(cells)

    def _cancel_all(self, account: int | None, slot: int | None, side: int | None) -> None:
        self.asked += 1
        self.slow.ordinal, self.slow.index, self.slow.base = self.asked, 0, 0
        self.slow.mass_cancel(account, slot, side)

    def _same_records(self, cells: Cells) -> None:
        told: list[Record] = self.slow.records
        self.slow.records = []
        assert read_records(cells) == told

    def compare(self) -> None:
        """What works, in order; every account's amounts; the last trades; and every rule of the venue's own."""
        for slot in self.slots:
            mine = [(o.order_id, o.account, o.side, o.price, o.left, o.shown, o.waits)
                    for o in sorted(self.venue.working(slot), key=lambda o: (o.waits, o.side))]  # fmt: skip
            assert mine == [
                (o.order_id, o.account, o.side, o.price, o.left, o.shown, o.waits) for o in self.slow.listed(slot)
            ]
            for account in self.accounts:
                ledger = self.slow.ledger(account, slot)
                money = self.venue.money(account, slot)[[POSITION, CASH, FEES, COST, REALISED]].tolist()
                assert money == [ledger.position, ledger.cash, ledger.fees, ledger.cost, ledger.realised]
            assert int(self.venue.desk.instruments[slot, LAST_TRADE]) == self.slow.markets[slot].last_trade
        self.venue.verify()
