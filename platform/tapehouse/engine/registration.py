"""What an `instrument.register` command means on a tape: pure, so that sequencer and engine come to the same answer.

The sequencer asks before it admits the command, and writes the definition of a new instrument directly before it; the
engine asks when it decides, with the definition in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tapehouse.core.errors import DataError, TapehouseError
from tapehouse.core.units import UNDEFINED
from tapehouse.desk.commands import COMMANDS, RegisterInstrument
from tapehouse.desk.state import INSTRUMENTS_MAX, SYMBOL_IDS_MAX, instrument_terms
from tapehouse.market import Instrument
from tapehouse.market.instrument_file import EXPONENT_MAX, EXPONENT_MIN, declared_instrument

OPTIONS_MAX = 1024
NAME_MAX = 64  # characters of a symbol, venue, currency or calendar
STEP_MAX = 1 << 40  # of a tick or lot, in units of its exponent
_REGISTER = b"instrument.register"
_CHOSEN = ("id", "revision", "session_close_ns")  # not the command's to say


def registered(command: RegisterInstrument, instruments: Mapping[int, Instrument]) -> Instrument:
    """The instrument that a command registers: the one that is there with these terms, or a new one with the next id.

    Args:
        instruments: All of the tape so far, by id.

    Raises:
        DataError: It is there with other terms, its symbol is another's, a tape has no room for it, or its terms are
            none that a desk can trade.
    """
    underlyings = {known.symbol: known.id for known in instruments.values() if known.asset_class != "option"}
    number = max(instruments, default=0) + 1
    made = declared_instrument(command, number, underlyings)
    for known in instruments.values():
        if known.symbol != made.symbol:
            continue
        if known.venue == made.venue:
            return _same(known, made)
        if made.asset_class != "option":
            raise DataError(
                f"{known.venue or 'another venue'} has the symbol already",
                subject=made.symbol,
                hint="orders name an instrument by its symbol alone: register it under another",
            )
    _require_sense(made)
    _require_room(made, instruments)
    return made


def definition_of(payload: bytes, instruments: Mapping[int, Instrument]) -> Instrument | None:
    """The instrument that must be defined before a message of CMDS is admitted; None where there is none."""
    if _REGISTER not in payload:  # Most commands are others, and a sequencer reads none of them.
        return None
    try:
        _, command = COMMANDS.decode(payload)
        if not isinstance(command, RegisterInstrument):
            return None
        made = registered(command, instruments)
    except TapehouseError:  # The engine answers it with the reason.
        return None
    return None if made.id in instruments else made


def _same(known: Instrument, made: Instrument) -> Instrument:
    """What is there, where the terms are the same."""
    if replace(made, **{name: getattr(known, name) for name in _CHOSEN}) == known:
        return known
    was, asked = known.terms(), made.terms()
    names = [name for name in asked | was if name not in _CHOSEN and was.get(name) != asked.get(name)]
    told = ", ".join(f"{name} {was.get(name)!r}, not {asked.get(name)!r}" for name in names)
    raise DataError(f"it is registered with {told}", subject=known.symbol)


def _require_sense(made: Instrument) -> None:
    """Refuse what the engine could not trade, or a record could not hold."""
    for name in ("symbol", "venue", "currency", "calendar"):
        if len(getattr(made, name)) > NAME_MAX:
            raise DataError(f"a {name} of more than {NAME_MAX} characters", subject=made.symbol[:NAME_MAX])
    for name in ("price_exponent", "size_exponent"):
        if not EXPONENT_MIN <= getattr(made, name) <= EXPONENT_MAX:
            raise DataError(
                f"a {name} of {getattr(made, name)}", subject=made.symbol, hint=f"{EXPONENT_MIN} to {EXPONENT_MAX}"
            )
    for name in ("tick_size", "lot_size"):
        if not 0 < getattr(made, name) <= STEP_MAX:
            raise DataError(
                f"a {name} of {getattr(made, name)} units", subject=made.symbol, hint="declare coarser exponents"
            )
    if not 0 <= made.expiry_ns < UNDEFINED:
        raise DataError("its expiry is not between 1970 and 2262", subject=made.symbol)
    instrument_terms(made)


def _require_room(made: Instrument, instruments: Mapping[int, Instrument]) -> None:
    options = sum(known.asset_class == "option" for known in instruments.values())
    if made.id >= SYMBOL_IDS_MAX:
        raise DataError(f"a tape has {SYMBOL_IDS_MAX - 1} instruments at most", subject=made.symbol)
    if made.asset_class == "option":
        if options >= OPTIONS_MAX:
            raise DataError(f"a tape holds {OPTIONS_MAX} options at most", subject=made.symbol)
        if not made.underlying:
            raise DataError("an option comes after its underlying", subject=made.symbol)
    elif len(instruments) - options >= INSTRUMENTS_MAX:
        raise DataError(f"a desk trades {INSTRUMENTS_MAX} instruments at most", subject=made.symbol)
