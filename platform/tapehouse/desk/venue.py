"""A venue: accounts whose orders trade with each other. The thin Python side of `matching.py`.

A rejected order is a record among the others, never an exception; exceptions are for what nobody should ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tapehouse.book import BID, define, levels, make_books
from tapehouse.book.resting import first_order, order_after, order_id_in, order_left
from tapehouse.core.check import check
from tapehouse.core.errors import DataError, UsageError
from tapehouse.desk.matching import cancel_account, run_requests
from tapehouse.desk.money import POWERS
from tapehouse.desk.requests import BUY, SELF_MATCH_POLICIES, SELL
from tapehouse.desk.state import (
    CASH,
    COST,
    FEES,
    INDEX_BITS,
    INSTRUMENT_ID,
    LAST_TRADE,
    LOT,
    OPEN_BUY,
    OPEN_ORDERS,
    OPEN_SELL,
    OUT_ROWS,
    POSITION,
    REALISED,
    TICK,
    instrument_terms,
)
from tapehouse.desk.venue_state import (
    BAND,
    KINDS,
    LEDGER_MAX,
    LIMIT_KILLED,
    LIMIT_MESSAGES,
    LIMIT_PRICE,
    LOTS_MAX,
    MESSAGES_MAX,
    OWNER,
    OWNER_NUMBER,
    PRICE_MAX,
    REQUEST_ACCOUNT,
    REQUEST_COLUMNS,
    REQUEST_KIND,
    REQUEST_ROWS_MAX,
    REQUEST_SIDE,
    REQUEST_SLOT,
    SELF_MATCH,
    Requests,
    make_venue_state,
)
from tapehouse.market import Cells, Instrument, empty_cells, from_words

OUT_ROWS_MADE = 2 * REQUEST_ROWS_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """An instrument that a venue trades.

    Args:
        reference: The price that the band lies around before the first trade, in price units.
        band_ticks: How far from the last trade an order may be on the side where it hurts.
    """

    instrument: Instrument
    reference: int
    band_ticks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountLimits:
    """What an account may do; sizes and positions in lots, messages a second of engine time."""

    order_size: int = 10_000
    position: int = 100_000
    notional: int = 10**17
    open_orders: int = 10_000
    messages: int = 1_000_000
    self_match: str = "cancel_newest"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestingOrder:
    """One order in a venue's book."""

    order_id: int
    account: int
    side: int
    price: int
    left: int
    number: int


class Venue:
    """An exchange of its own, in memory.

    Args:
        instruments: What it trades; an instrument is named by its place here, its slot.
        accounts: How many, numbered from 0.
        orders: The most that can rest at once, in all instruments.
        levels: As `make_books`.
        maker_fee_ppm, taker_fee_ppm: In millionths of the notional.

    Raises:
        UsageError, DataError: A number is out of its bounds, or an instrument cannot be traded exactly.
    """

    def __init__(
        self,
        instruments: Sequence[Listing],
        *,
        accounts: int,
        orders: int = 1 << 17,
        levels: int = 1 << 16,
        maker_fee_ppm: int = 0,
        taker_fee_ppm: int = 0,
    ) -> None:
        self.books = make_books(len(instruments), orders=orders, levels=levels)
        self.state = make_venue_state(
            accounts=accounts,
            instruments=len(instruments),
            orders=orders,
            maker_fee_ppm=maker_fee_ppm,
            taker_fee_ppm=taker_fee_ppm,
        )
        self._out = np.zeros((OUT_ROWS_MADE, 8), np.int64)
        for slot, listing in enumerate(instruments):
            self._list(slot, listing)

    def _list(self, slot: int, listing: Listing) -> None:
        instrument, band = listing.instrument, listing.band_ticks * listing.instrument.tick_size
        terms = instrument_terms(instrument)
        if not 0 < listing.reference <= PRICE_MAX or listing.reference % instrument.tick_size:
            raise DataError(f"a reference price of {listing.reference}", subject=instrument.symbol, hint="a tick")
        if not 0 < band <= PRICE_MAX:
            raise DataError(f"a band of {listing.band_ticks} ticks", subject=instrument.symbol)
        if instrument.lot_size > LOTS_MAX:
            raise DataError(f"a lot of {instrument.lot_size}", subject=instrument.symbol)
        define(self.books, slot, instrument.tick_size)
        row = self.state.instruments[slot]
        row[: len(terms)] = terms
        row[LAST_TRADE], row[BAND] = listing.reference, band

    def limit(self, account: int, limits: AccountLimits) -> None:
        """Set what an account may do from now on.

        Raises:
            UsageError: No such account, a limit out of its bounds, or no such policy.
        """
        self._known(account)
        bounds = (LOTS_MAX, LOTS_MAX, LEDGER_MAX, LOTS_MAX)
        values = (limits.order_size, limits.position, limits.notional, limits.open_orders)
        if any(not 0 <= value <= bound for value, bound in zip(values, bounds, strict=True)):
            raise UsageError(f"limits of {values}", hint=f"each from 0 to {bounds}")
        if not 0 <= limits.messages <= MESSAGES_MAX:
            raise UsageError(f"{limits.messages} messages a second", hint=f"from 0 to {MESSAGES_MAX}")
        if limits.self_match not in SELF_MATCH_POLICIES:
            raise UsageError(f"no policy {limits.self_match!r}", hint=f"one of {', '.join(SELF_MATCH_POLICIES)}")
        row = self.state.limits[account]
        row[: len(values)] = values
        row[LIMIT_MESSAGES] = limits.messages
        row[SELF_MATCH] = SELF_MATCH_POLICIES.index(limits.self_match)

    def kill(self, account: int, *, on: bool = True) -> Cells:
        """Switch an account off: its resting orders are cancelled, and new ones rejected; or on again."""
        self._known(account)
        self.state.limits[account, LIMIT_KILLED] = int(on)
        return self.cancel_all(account) if on else empty_cells(0)

    def cancel_all(self, account: int) -> Cells:
        """Cancel whatever rests of an account."""
        self._known(account)
        parts = []
        for _ in range(len(self.state.orders)):  # Each turn but the last cancels one order at least.
            more = cancel_account(self.state, self.books, account, 0, self._out)
            parts.append(self._take())
            if not more:
                break
        return np.concatenate(parts)

    def order(
        self,
        account: int,
        slot: int,
        side: int,
        price: int,
        size: int,
        *,
        time: int,
        kind: str = "limit",
        number: int = 0,
    ) -> Cells:
        """One order; `kind` is `limit`, `ioc`, `post_only`, `fok`, or `market`, whose price is not looked at."""
        return self._one((kind, account, slot, side, price, size, 0, number, time))

    def cancel(self, account: int, slot: int, order_id: int, *, time: int) -> Cells:
        """Take a resting order out."""
        return self._one(("cancel", account, slot, BUY, 0, 0, order_id, 0, time))

    def replace(
        self, account: int, slot: int, order_id: int, price: int, size: int, *, time: int, number: int = 0
    ) -> Cells:
        """Give a resting order another price or size; it keeps its place and id only where it shrinks."""
        return self._one(("replace", account, slot, BUY, price, size, order_id, number, time))

    def _one(self, request: tuple[str | int, ...]) -> Cells:
        if request[0] not in KINDS:
            raise UsageError(f"no kind of request {request[0]!r}", hint=f"one of {', '.join(KINDS)}")
        return self.run(np.array([(KINDS.index(str(request[0])), *request[1:])], np.int64))[1]

    def run(self, requests: Requests) -> tuple[npt.NDArray[np.int64], Cells]:
        """Decide on requests, in order.

        Args:
            requests: Shape (n, REQUEST_COLUMNS); `venue_state` names the columns.

        Returns:
            Of each the reason why it was rejected, 0 for none (`VENUE_REASONS` names them); and what was decided.

        Raises:
            DataError: A request names no account, instrument, side or kind; none was carried out.
        """
        if requests.ndim != 2 or requests.shape[1] != REQUEST_COLUMNS:
            raise UsageError(f"requests of shape {requests.shape}", hint=f"(n, {REQUEST_COLUMNS}) int64")
        accounts, slots = self.state.accounts.shape[:2]
        bounds = {REQUEST_KIND: len(KINDS), REQUEST_ACCOUNT: accounts, REQUEST_SLOT: slots, REQUEST_SIDE: SELL + 1}
        for column, bound in bounds.items():
            wrong = np.flatnonzero((requests[:, column] < 0) | (requests[:, column] >= bound))
            if len(wrong):
                value = int(requests[wrong[0], column])
                raise DataError(
                    f"column {column} is {value}, not from 0 to {bound - 1}", position=f"request {int(wrong[0])}"
                )
        reasons = np.zeros(len(requests), np.int64)
        parts = []
        row = 0
        while row < len(requests):
            row = int(run_requests(self.state, self.books, requests, reasons, row, self._out, POWERS))
            parts.append(self._take())
        return reasons, np.concatenate(parts) if parts else empty_cells(0)

    def _take(self) -> Cells:
        rows = int(self.state.counters[OUT_ROWS])
        self.state.counters[OUT_ROWS] = 0
        return from_words(self._out[:rows].copy())

    def _known(self, account: int) -> None:
        if not 0 <= account < len(self.state.accounts):
            raise UsageError(f"there is no account {account}", hint=f"from 0 to {len(self.state.accounts) - 1}")

    def resting(self, slot: int, side: int) -> list[RestingOrder]:
        """What rests on one side of an instrument, first to trade first."""
        found = []
        row = int(first_order(self.books, slot, side))
        while row:
            order = self.state.orders[row]
            found.append(
                RestingOrder(
                    order_id=int(order_id_in(self.books, row)) << INDEX_BITS,
                    account=int(order[OWNER]),
                    side=side,
                    price=int(order[LIMIT_PRICE]),
                    left=int(order_left(self.books, row)),
                    number=int(order[OWNER_NUMBER]),
                )
            )
            row = int(order_after(self.books, slot, side, row))
        return found

    def verify(self) -> None:
        """Hold every rule that a venue keeps against what it holds now.

        Raises:
            InvariantError: Positions or cash do not add up to zero, what is open is not what rests, a book is crossed,
                or a level is not the sum of its orders.
        """
        for slot in range(self.state.accounts.shape[1]):
            where = f"instrument {int(self.state.instruments[slot, INSTRUMENT_ID])}"
            money = self.state.accounts[:, slot].astype(object)  # sums over accounts may be longer than 64 bits
            check(money[:, POSITION].sum() == 0, "positions do not add up to zero", subject=where)
            check((money[:, CASH] + money[:, FEES]).sum() == 0, "cash does not add up to zero", subject=where)
            balance = money[:, CASH] + money[:, FEES] + money[:, COST] - money[:, REALISED]
            check(not balance.any(), "an account's cash is not its profit less its cost", subject=where)
            sides = [self.resting(slot, side) for side in (BUY, SELL)]
            if all(sides):
                check(sides[BUY][0].price < sides[SELL][0].price, "the book is crossed", subject=where)
            working = np.zeros((len(money), 3), np.int64)
            for side, orders in enumerate(sides):
                shown: dict[int, int] = {}
                for order in orders:
                    working[order.account, side] += order.left
                    working[order.account, 2] += 1
                    shown[order.price] = shown.get(order.price, 0) + order.left
                    check(order.left > 0, "an order rests with nothing left", subject=where)
                    check(order.price % int(self.state.instruments[slot, TICK]) == 0, "a price is off", subject=where)
                    check(order.left % int(self.state.instruments[slot, LOT]) == 0, "a size is off", subject=where)
                listed = [(price, size) for price, size, _ in levels(self.books, slot, BID + side)]
                check(listed == list(shown.items()), "levels are not what rests", subject=where)
            kept = self.state.accounts[:, slot][:, [OPEN_BUY, OPEN_SELL, OPEN_ORDERS]]
            check(np.array_equal(kept, working), "what is open is not what rests", subject=where)
