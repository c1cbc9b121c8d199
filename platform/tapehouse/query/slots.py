"""Which instrument of a tape has which slot, for folds that take instruments as they come."""

from __future__ import annotations

import numpy as np

from tapehouse.book.flow import NO_SLOT, UNWANTED
from tapehouse.core.errors import DataError, DecodeError, MissingError
from tapehouse.market import Cells, Instrument, Kind, read_definition, records_of
from tapehouse.query.columns import Dictionary, Ints

SLOTS_MAX = 64  # instruments with a book or bars, as many as a desk trades
_FIRST_ROOM = 1024


class Slots:
    """Slots are given in the order in which instruments are used first.

    Args:
        symbol: Only the instruments of this symbol; None for all.
        most: Slots that there are.
    """

    def __init__(self, symbol: str | None = None, *, most: int = SLOTS_MAX) -> None:
        self.dictionary = Dictionary()
        self.instruments: list[Instrument] = []  # by slot
        self.array: Ints = np.full(_FIRST_ROOM, NO_SLOT, np.int64)
        self._symbol, self._most = symbol, most

    def learn(self, record: Cells) -> list[int]:
        """Take up definitions; the slots whose instrument's terms are others now."""
        known = self.dictionary.instruments
        for _, definition in records_of(record, Kind.DEFINITION):
            instrument = read_definition(definition)
            known[instrument.id] = instrument
        changed = [slot for slot, item in enumerate(self.instruments) if known[item.id] != item]
        for slot in changed:
            self.instruments[slot] = known[self.instruments[slot].id]
        return changed

    def take(self, number: int) -> int | None:
        """Give an instrument id its slot; None where it is none of the wanted.

        Raises:
            DecodeError: Nothing defined it.
            DataError: All slots are given.
        """
        instrument = self.dictionary.instruments.get(number)
        if instrument is None:
            raise DecodeError(f"instrument {number} is used before its definition", subject="TAPE")
        if number >= len(self.array):
            longer = np.full(1 << number.bit_length(), NO_SLOT, np.int64)
            longer[: len(self.array)] = self.array
            self.array = longer
        if self._symbol is not None and instrument.symbol != self._symbol:
            self.array[number] = UNWANTED
            return None
        slot = len(self.instruments)
        if slot >= self._most:
            raise DataError(
                f"this is for {self._most} instruments at most", subject=instrument.symbol, hint="choose one instrument"
            )
        self.array[number] = slot
        self.instruments.append(instrument)
        return slot

    def require_symbol(self, subject: str) -> None:
        """Raise MissingError where an instrument was asked for that nothing defined."""
        if self._symbol is not None and not self.dictionary.defines(self._symbol):
            known = sorted({instrument.symbol for instrument in self.dictionary.instruments.values()})
            raise MissingError(
                f"no instrument {self._symbol!r}",
                subject=subject,
                hint=f"there are {', '.join(known[:10]) or 'none yet'}",
            )

    def ids(self, slots: Ints) -> Ints:
        """The instrument id of each slot."""
        return np.array([instrument.id for instrument in self.instruments], np.int64)[slots]
