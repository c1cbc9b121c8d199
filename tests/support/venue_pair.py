"""A venue and the slow venue side by side: the same requests to both, everything that they say and hold compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tapehouse.desk import BUY, SELL
from tapehouse.desk.matching_reference import Limits, Record, ReferenceVenue, Terms
from tapehouse.desk.money import rescale_exponent
from tapehouse.desk.state import CASH, COST, FEES, LAST_TRADE, POSITION, REALISED
from tapehouse.desk.venue import AccountLimits, Listing, Venue
from tapehouse.desk.venue_state import KINDS
from tapehouse.market import FILL_EXTENSION, ORDER_EXTENSION, Action, Cells, Flag, Kind, Side, record_starts

REASONS = (
    "", "killed", "size", "price", "notional", "position", "open", "cross", "unknown", "band", "messages", "fok", "own",
    "matches", "room", "ledger", "request",
)  # fmt: skip
ACTIONS = {Action.ACCEPTED: "accepted", Action.REJECTED: "rejected", Action.CANCELLED: "cancelled"}
SIDES = {Side.BID: BUY, Side.ASK: SELL}
Request = tuple[
    str, int, int, int, int, int, int, int, int
]  # kind, account, slot, side, price, size, target, number, time


def read_records(cells: Cells) -> list[Record]:
    """What a venue decided, as the slow venue tells it; what all records have in common is checked on the way."""
    told: list[Record] = []
    ordinal, index = 0, 0
    for start in record_starts(cells).tolist():
        first, extension = cells[start], cells[start + 1 : start + 2]
        index = index + 1 if int(first["sequence"]) == ordinal else 0
        ordinal = int(first["sequence"])
        assert (int(first["cells"]), int(first["count"]), int(first["flags"])) == (2, index, Flag.LAST)
        assert int(first["ts_event"]) == int(first["ts_recv"])
        assert bytes(extension.view(np.uint8)[48:])[8:] == bytes(cells[start : start + 1].view(np.uint8)[56:])
        side, order_id = SIDES[Side(int(first["side"]))], int(first["order_id"])
        price, size = int(first["price"]), int(first["size"])
        if int(first["kind"]) == Kind.ORDER:
            more = extension.view(ORDER_EXTENSION)[0]
            assert (int(more["display"]), int(more["stop"]), int(more["expiry"])) == (size, 2**63 - 1, 0)
            told.append(
                ("order", ACTIONS[Action(int(first["action"]))], REASONS[int(first["depth"])], order_id, side, price,
                 size, int(more["client"]), int(more["number"]), int(more["replaced"].astype(np.int64)))
            )  # fmt: skip
        else:
            assert (int(first["kind"]), int(first["action"])) == (Kind.FILL, Action.FILL)
            more = extension.view(FILL_EXTENSION)[0]
            told.append(
                ("fill", ("maker", "taker")[int(first["depth"])], order_id, side, price, size, int(more["fee"]),
                 int(more["counter_order"]), int(more["client"]), int(more["position"]), int(more["cash"]),
                 int(more["match_id"]))
            )  # fmt: skip
    return told


class VenuePair:
    """Both venues; `do` and `compare` fail where they differ."""

    def __init__(
        self,
        listings: Sequence[Listing],
        limits: Sequence[AccountLimits],
        *,
        capacity: int = 64,
        levels: int = 1 << 17,
        maker_fee_ppm: int = -20,
        taker_fee_ppm: int = 300,
    ) -> None:
        fees = {"maker_fee_ppm": maker_fee_ppm, "taker_fee_ppm": taker_fee_ppm}
        self.venue = Venue(listings, accounts=len(limits), orders=capacity, levels=levels, **fees)
        terms = [
            Terms(
                listing.instrument.tick_size,
                listing.instrument.lot_size,
                listing.instrument.multiplier,
                rescale_exponent(
                    listing.instrument.price_exponent,
                    listing.instrument.size_exponent,
                    listing.instrument.currency_exponent,
                ),
                listing.reference,
                listing.band_ticks * listing.instrument.tick_size,
            )
            for listing in listings
        ]
        self.slow = ReferenceVenue(terms, [_slow(limit) for limit in limits], capacity=capacity, **fees)
        for account, limit in enumerate(limits):
            self.venue.limit(account, limit)

    def limit(self, account: int, limits: AccountLimits) -> None:
        """Change an account's limits in both."""
        self.venue.limit(account, limits)
        kept = self.slow.limits[account]
        self.slow.limits[account] = _slow(limits)
        self.slow.limits[account].killed, self.slow.limits[account].window = kept.killed, kept.window

    def do(self, *requests: Request) -> list[str]:
        """Send requests to both; returns the reasons."""
        rows = np.array([(KINDS.index(request[0]), *request[1:]) for request in requests], np.int64)
        reasons, cells = self.venue.run(rows)
        wanted = [self.slow.request(*request) for request in requests]
        assert [REASONS[reason] for reason in reasons.tolist()] == wanted
        self._same_records(cells)
        return wanted

    def kill(self, account: int, on: bool) -> None:
        """Turn an account's kill switch in both."""
        cells = self.venue.kill(account, on=on)
        self.slow.limits[account].killed = on
        if on:
            self.slow.cancel_account(account)
        self._same_records(cells)

    def _same_records(self, cells: Cells) -> None:
        told, self.slow.records = self.slow.records, []
        assert read_records(cells) == told

    def compare(self) -> None:
        """What rests, in order; every account's amounts; the last trades; and every rule of the venue's own."""
        for slot, terms in enumerate(self.slow.terms):
            for side in (BUY, SELL):
                mine = [
                    (order.order_id, order.account, order.price, order.left, order.number)
                    for order in self.venue.resting(slot, side)
                ]
                assert mine == [
                    (order.order_id, order.account, order.price, order.left, order.number)
                    for order in self.slow.queue(slot, side)
                ]
            for account, ledgers in enumerate(self.slow.ledgers):
                ledger = ledgers[slot]
                money = self.venue.state.accounts[account, slot, [POSITION, CASH, FEES, COST, REALISED]].tolist()
                assert money == [ledger.position, ledger.cash, ledger.fees, ledger.cost, ledger.realised]
            assert int(self.venue.state.instruments[slot, LAST_TRADE]) == terms.last_trade
        self.venue.verify()


def _slow(limits: AccountLimits) -> Limits:
    return Limits(
        limits.order_size, limits.position, limits.notional, limits.open_orders, limits.messages, limits.self_match
    )
