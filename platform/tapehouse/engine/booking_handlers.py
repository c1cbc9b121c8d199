"""Commands on what accounts own: how their fills are booked, cash that no fill led to, corrected positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tapehouse.core.units import UNDEFINED, to_fixed
from tapehouse.desk import POWERS, follow_up
from tapehouse.desk.cash_book import cash_unit
from tapehouse.desk.clients import Outcome
from tapehouse.desk.commands import BookCash, ConfigureAccount, CorrectPosition, OpenAccount
from tapehouse.desk.ledger import configure_account as set_booking
from tapehouse.desk.ledger import correct_position as correct
from tapehouse.desk.ledger_state import MAKER_FEE, METHOD, METHODS, MODE, MODES, TAKER_FEE
from tapehouse.desk.state import UNSETTLED
from tapehouse.desk.working import note_position
from tapehouse.log.envelope import Body, Envelope

if TYPE_CHECKING:
    from tapehouse.engine.commands import CommandDesk, Handler


def open_account(desk: CommandDesk, command: OpenAccount, envelope: Envelope) -> Outcome:
    """Give an account its number."""
    desk.account(command.account, envelope)
    return {"outcome": "accepted"}


def configure_account(desk: CommandDesk, command: ConfigureAccount, envelope: Envelope) -> Outcome:
    """Set how an account's fills are booked; what the command does not give stays."""
    state = desk.engine.desk
    account = desk.account(command.account, envelope)
    row = state.booking[account].tolist()
    booking: Body = {
        "mode": MODES[row[MODE]],
        "method": METHODS[row[METHOD]],
        "maker_fee_ppm": None if row[MAKER_FEE] == UNDEFINED else row[MAKER_FEE],
        "taker_fee_ppm": None if row[TAKER_FEE] == UNDEFINED else row[TAKER_FEE],
    }
    booking |= command.model_dump(exclude={"account"}, exclude_none=True)
    set_booking(state, account, **booking)
    desk.tell("account.configured", envelope, {"account": command.account, **booking})
    return {"outcome": "accepted"}


def book_cash(desk: CommandDesk, command: BookCash, envelope: Envelope) -> Outcome:
    """Book cash to an account; the account `external` is the other side."""
    known = [(instrument.currency, instrument.currency_exponent) for instrument in desk.engine.instruments.values()]
    exponent = cash_unit(command.currency, known)
    amount = to_fixed(command.amount, exponent)
    account = desk.account(command.account, envelope)
    desk.cash.book(account, command.currency, exponent, command.kind, amount)
    body = command.model_dump(mode="json") | {"exponent": exponent}
    desk.tell("cash.booked", envelope, body)
    return {"outcome": "accepted"}


def correct_position(desk: CommandDesk, command: CorrectPosition, envelope: Envelope) -> Outcome:
    """Change an account's position; the street is the other side. Reduce-only orders that are too large now are cut."""
    engine = desk.engine
    slot = engine.slot_of(command.instrument)
    instrument = engine.instrument_at(slot)
    size, price = instrument.fixed_size(command.size), instrument.fixed_price(command.price)
    account = desk.account(command.account, envelope)
    correct(engine.desk, account, slot, size, price)
    desk.tell("position.corrected", envelope, command.model_dump(mode="json"))
    engine.collect()  # What follows may be as much as the loop's margin.
    note_position(engine.desk, slot, account)
    if engine.desk.instruments[slot, UNSETTLED]:
        follow_up(engine.desk, engine.books, engine.ladder, engine.out, POWERS, slot, 0)
    return {"outcome": "accepted"}


HANDLERS: dict[type, Handler] = {
    OpenAccount: open_account,
    ConfigureAccount: configure_account,
    BookCash: book_cash,
    CorrectPosition: correct_position,
}
