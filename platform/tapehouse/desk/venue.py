"""An exchange of its own, in memory: the order core without a tape. Accounts trade with each other in every instrument.

It is for simulations: a desk's state, rows of requests at full speed, and the same records as a desk writes. A rejected
request is a reason, never an exception; exceptions are for what nobody should ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tapehouse.book import levels, make_books
from tapehouse.core.check import check
from tapehouse.core.errors import UsageError
from tapehouse.desk.conservation import verify_conservation
from tapehouse.desk.control_commands import LOTS_MAX, PPM_MAX
from tapehouse.desk.kernels import LADDER
from tapehouse.desk.money import POWERS
from tapehouse.desk.requests import (
    BUY,
    CANCEL,
    ORDER_TYPES,
    POST_ONLY_FLAG,
    REDUCE_ONLY_FLAG,
    REPLACE,
    REQUEST_ACCOUNT,
    REQUEST_COLUMNS,
    REQUEST_DISPLAY,
    REQUEST_EXPIRY,
    REQUEST_FLAGS,
    REQUEST_KIND,
    REQUEST_NUMBER,
    REQUEST_PRICE,
    REQUEST_SIDE,
    REQUEST_SIZE,
    REQUEST_SLOT,
    REQUEST_STOP,
    REQUEST_TARGET,
    REQUEST_TIME_IN_FORCE,
    REQUEST_TYPE,
    SELF_MATCH_POLICIES,
    SELL,
    TIMES_IN_FORCE,
    Requests,
)
from tapehouse.desk.risk import PRICE_MAX
from tapehouse.desk.state import (
    ID_BASE,
    INDEX,
    INSTRUMENT_ID,
    INSTRUMENTS_MAX,
    INTERNAL_VENUE,
    LAST_TRADE,
    LIMIT_BAND,
    LIMIT_MESSAGES,
    LIMIT_NOTIONAL,
    LIMIT_OPEN_ORDERS,
    LIMIT_ORDER_SIZE,
    LIMIT_POSITION,
    LOT,
    MESSAGES_MAX,
    OPEN_BUY,
    OPEN_ORDERS,
    OPEN_SELL,
    ORDINAL,
    OUT_ROWS,
    OVERFLOWS,
    SELF_MATCH,
    STREET,
    SWITCHED_OFF,
    TICK,
    WORKING_MAX,
    Array64,
    WorkingOrder,
    define_instrument,
    make_desk,
    working_orders,
)
from tapehouse.desk.venue_loop import REQUEST_ROWS_MAX, run_requests
from tapehouse.desk.working import mass_cancel
from tapehouse.market import Cells, Instrument, empty_cells, from_words

ACCOUNTS = STREET  # of a venue, numbered from 0
OUT_ROWS_MADE = REQUEST_ROWS_MAX + 4_096
NOTIONAL_MAX = 1 << 61


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountLimits:
    """What an account may do.

    Args:
        order_size, position: In lots.
        notional: Of one order, in 10^-9 of the instrument's currency.
        band_ppm: How far from the last trade an order may be on the side where it hurts; 0 for as far as it likes.
        messages: In a second of engine time, over all instruments.
        self_match: One of SELF_MATCH_POLICIES, for all instruments.
    """

    order_size: int = 10_000
    position: int = 100_000
    notional: int = 10**17
    open_orders: int = WORKING_MAX
    band_ppm: int = 0
    messages: int = MESSAGES_MAX
    self_match: str = "cancel_newest"


class Venue:
    """An exchange of its own.

    Attributes:
        desk: Its state. An instrument is named by its place among `instruments`, its slot.

    Args:
        instruments: What it trades, 64 at most; accounts trade with each other, whatever venue an instrument names.
        maker_fee_ppm, taker_fee_ppm: In millionths of the notional.

    Raises:
        UsageError, DataError: A number is out of its bounds, or an instrument cannot be traded exactly.
    """

    def __init__(self, instruments: Sequence[Instrument], *, maker_fee_ppm: int = 0, taker_fee_ppm: int = 0) -> None:
        if not 0 < len(instruments) <= INSTRUMENTS_MAX:
            raise UsageError(f"a venue of {len(instruments)} instruments", hint=f"from 1 to {INSTRUMENTS_MAX}")
        if abs(maker_fee_ppm) > PPM_MAX or abs(taker_fee_ppm) > PPM_MAX:
            raise UsageError("a fee of more than the notional", hint=f"fees are in millionths, at most {PPM_MAX}")
        self.desk = make_desk(maker_fee_ppm=maker_fee_ppm, taker_fee_ppm=taker_fee_ppm)
        self._slots = len(instruments)
        self._books = make_books(1, orders=1)  # nothing is recorded: a core wants to be given some
        self._ladder = np.zeros((2, LADDER), np.int64)
        self._out = np.zeros((OUT_ROWS_MADE, 8), np.int64)
        for slot, instrument in enumerate(instruments):
            define_instrument(self.desk, slot, replace(instrument, venue=INTERNAL_VENUE))
        for account in range(ACCOUNTS):
            self.limit(account, AccountLimits())

    def open_at(self, slot: int, price: int) -> None:
        """Say what price bands lie around until the first trade; without it, around the middle of the book.

        Raises:
            UsageError: No such instrument, or no price of it.
        """
        self._known_slot(slot)
        if not 0 < price <= PRICE_MAX or price % int(self.desk.instruments[slot, TICK]):
            raise UsageError(f"a reference price of {price}", hint="a positive whole number of ticks")
        self.desk.instruments[slot, LAST_TRADE] = price

    def limit(self, account: int, limits: AccountLimits, *, slot: int | None = None) -> None:
        """Set what an account may do from now on, in all instruments or in one.

        Raises:
            UsageError: No such account or instrument, a limit out of its bounds, or no such policy.
        """
        self._known(account)
        bounds = {
            LIMIT_ORDER_SIZE: (limits.order_size, LOTS_MAX),
            LIMIT_POSITION: (limits.position, LOTS_MAX),
            LIMIT_NOTIONAL: (limits.notional, NOTIONAL_MAX),
            LIMIT_OPEN_ORDERS: (limits.open_orders, WORKING_MAX),
            LIMIT_BAND: (limits.band_ppm, PPM_MAX),
        }
        wrong = [f"{value}, not from 0 to {most}" for value, most in bounds.values() if not 0 <= value <= most]
        if wrong:
            raise UsageError(f"limits of {'; '.join(wrong)}")
        if not 0 <= limits.messages <= MESSAGES_MAX:
            raise UsageError(f"{limits.messages} messages a second", hint=f"from 0 to {MESSAGES_MAX}")
        if limits.self_match not in SELF_MATCH_POLICIES:
            raise UsageError(f"no policy {limits.self_match!r}", hint=f"one of {', '.join(SELF_MATCH_POLICIES)}")
        if slot is not None:
            self._known_slot(slot)
        slots = slice(None) if slot is None else slice(slot, slot + 1)
        for column, (value, _) in bounds.items():
            self.desk.limits[account, slots, column] = value
        conduct = self.desk.conduct[account]
        conduct[LIMIT_MESSAGES], conduct[SELF_MATCH] = limits.messages, SELF_MATCH_POLICIES.index(limits.self_match)

    def kill(self, account: int, *, on: bool = True) -> Cells:
        """Switch an account off: its working orders are cancelled, and new ones rejected; or on again."""
        self._known(account)
        self.desk.conduct[account, SWITCHED_OFF] = int(on)
        return self.cancel_all(account) if on else empty_cells(0)

    def cancel_all(self, account: int | None = None, *, slot: int | None = None, side: int | None = None) -> Cells:
        """Cancel what works, of an account, in an instrument, of a side; None for any. It counts as one request."""
        if account is not None:
            self._known(account)
        if slot is not None:
            self._known_slot(slot)
        self.desk.counters[ORDINAL] += 1
        self.desk.counters[[INDEX, ID_BASE]] = 0
        chosen = [-1 if value is None else value for value in (account, slot, side)]
        parts = []
        more = 1
        while more:  # Each turn fills `out` with cancels of a bounded number of orders.
            more = mass_cancel(self.desk, self._out, *chosen)
            parts.append(self._take())
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
        order_type: str = "limit",
        time_in_force: str = "gtc",
        post_only: bool = False,
        reduce_only: bool = False,
        stop: int = 0,
        display: int = 0,
        expiry: int = 0,
        number: int = 0,
    ) -> Cells:
        """One order, with the terms that `tapehouse.desk.requests` describes; what became of it."""
        if order_type not in ORDER_TYPES:
            raise UsageError(f"no type {order_type!r} of an order", hint=f"one of {', '.join(ORDER_TYPES)}")
        if time_in_force not in TIMES_IN_FORCE:
            raise UsageError(f"no time in force {time_in_force!r}", hint=f"one of {', '.join(TIMES_IN_FORCE)}")
        flags = POST_ONLY_FLAG * post_only | REDUCE_ONLY_FLAG * reduce_only
        return self._one(
            time,
            {
                REQUEST_ACCOUNT: account, REQUEST_SLOT: slot, REQUEST_SIDE: side, REQUEST_PRICE: price,
                REQUEST_SIZE: size, REQUEST_TYPE: ORDER_TYPES.index(order_type), REQUEST_FLAGS: flags,
                REQUEST_TIME_IN_FORCE: TIMES_IN_FORCE.index(time_in_force), REQUEST_STOP: stop,
                REQUEST_DISPLAY: display, REQUEST_EXPIRY: expiry, REQUEST_NUMBER: number,
            },
        )  # fmt: skip

    def cancel(self, account: int, slot: int, order_id: int, *, time: int) -> Cells:
        """Take a working order out; nothing is said where there is none."""
        return self._one(
            time, {REQUEST_KIND: CANCEL, REQUEST_ACCOUNT: account, REQUEST_SLOT: slot, REQUEST_TARGET: order_id}
        )

    def replace(
        self, account: int, slot: int, order_id: int, price: int, size: int, *, time: int, number: int = 0
    ) -> Cells:
        """Give a working order another price or size, 0 for what it has; where it shrinks it keeps its place."""
        return self._one(
            time,
            {
                REQUEST_KIND: REPLACE, REQUEST_ACCOUNT: account, REQUEST_SLOT: slot, REQUEST_TARGET: order_id,
                REQUEST_PRICE: price, REQUEST_SIZE: size, REQUEST_NUMBER: number,
            },
        )  # fmt: skip

    def _one(self, time: int, columns: dict[int, int]) -> Cells:
        request = np.zeros((1, REQUEST_COLUMNS), np.int64)
        for column, value in columns.items():
            request[0, column] = value
        return self.run(request, np.array([time], np.int64))[1]

    def run(self, requests: Requests, times: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Cells]:
        """Decide on requests, in order, each an input of its own: the n-th that a venue ever had has ordinal n.

        Args:
            requests: Shape (n, REQUEST_COLUMNS) int64; `tapehouse.desk.requests` names the columns. An order's id is
                that of its request x 4096.
            times: Shape (n,) int64, UTC ns; engine time is the largest so far.

        Returns:
            Of each the reason why it was rejected, 0 for none (`REASONS` names them); and what was decided. Of what
            names nothing known, or a working order that is none, the reason is all that is told.

        Raises:
            UsageError: The arrays have another shape or type.
        """
        shapes = requests.shape, times.shape
        if shapes != ((len(times), REQUEST_COLUMNS), (len(requests),)):
            raise UsageError(f"requests and times of shapes {shapes}", hint=f"(n, {REQUEST_COLUMNS}) and (n,)")
        if requests.dtype != np.int64 or times.dtype != np.int64:
            raise UsageError(f"requests of {requests.dtype} at times of {times.dtype}", hint="int64 and int64")
        reasons = np.zeros(len(requests), np.int64)
        parts = []
        row = 0
        while row < len(requests):
            row = int(
                run_requests(self.desk, self._books, self._ladder, requests, times, reasons, row, self._out, POWERS)
            )
            parts.append(self._take())
            check(self.desk.counters[OVERFLOWS] == 0, "a fill was too large to be counted", position=f"request {row}")
        return reasons, np.concatenate(parts) if parts else empty_cells(0)

    def _take(self) -> Cells:
        rows = int(self.desk.counters[OUT_ROWS])
        self.desk.counters[OUT_ROWS] = 0
        return from_words(self._out[:rows].copy())

    def _known(self, account: int) -> None:
        if not 0 <= account < ACCOUNTS:
            raise UsageError(f"there is no account {account}", hint=f"from 0 to {ACCOUNTS - 1}")

    def _known_slot(self, slot: int) -> None:
        if not 0 <= slot < self._slots:
            raise UsageError(f"there is no instrument in slot {slot}", hint=f"from 0 to {self._slots - 1}")

    def working(self, slot: int) -> list[WorkingOrder]:
        """What works in an instrument: bids, asks, then the stops that wait; each by price and then by age."""
        self._known_slot(slot)
        return working_orders(self.desk, slot)

    def resting(self, slot: int, side: int) -> list[WorkingOrder]:
        """What rests on one side of an instrument, first to trade first."""
        return [order for order in self.working(slot) if order.side == side and not order.waits]

    def money(self, account: int, slot: int) -> Array64:
        """An account's amounts in an instrument; `tapehouse.desk.state` names the columns."""
        self._known(account)
        self._known_slot(slot)
        amounts: Array64 = self.desk.accounts[account, slot]
        return amounts

    def verify(self) -> None:
        """Hold every rule that a venue keeps against what it holds now.

        Raises:
            InvariantError: Positions or cash do not add up to zero, what is open is not what works, a book is crossed,
                or a level is not the sum of its orders.
        """
        desk = self.desk
        verify_conservation(desk.accounts, desk.legs, desk.booking, desk.instruments, self._slots)
        for slot in range(self._slots):
            where = f"instrument {int(desk.instruments[slot, INSTRUMENT_ID])}"
            sides = [self.resting(slot, side) for side in (BUY, SELL)]
            if all(sides):
                check(sides[BUY][0].price < sides[SELL][0].price, "the book is crossed", subject=where)
            for side, orders in enumerate(sides):
                shown: dict[int, int] = {}
                for order in orders:
                    shown[order.price] = shown.get(order.price, 0) + order.shown
                listed = [(price, size) for price, size, _ in levels(desk.own, slot, side)]
                check(listed == list(shown.items()), "levels are not what rests", subject=where)
            working = np.zeros((len(desk.accounts), 3), np.int64)
            for order in self.working(slot):
                working[order.account, order.side] += order.left
                working[order.account, 2] += 1
                check(0 < order.shown <= order.left, "an order works with nothing left", subject=where)
                check(order.price % int(desk.instruments[slot, TICK]) == 0, "a price is off", subject=where)
                check(order.left % int(desk.instruments[slot, LOT]) == 0, "a size is off", subject=where)
            kept = desk.accounts[:, slot][:, [OPEN_BUY, OPEN_SELL, OPEN_ORDERS]]
            check(np.array_equal(kept, working), "what is open is not what works", subject=where)
