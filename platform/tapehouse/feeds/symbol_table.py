"""Instruments of venues whose messages name the symbol each time: eight bytes to a small number, inside a kernel.

Numbers run from 1 in the order of first use. The table is made once for as many symbols as there can be, so a kernel
never has to stop for it but where a file has more, which no market does.
"""

from __future__ import annotations

from math import gcd

import numpy as np

from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.market import Instrument

SYMBOLS_MAX = 1 << 16
_ROWS = SYMBOLS_MAX * 2
_MULTIPLIER = np.int64(-7046029254386353131)  # 2^64 divided by the golden ratio
# Columns of `keys`: the symbol's bytes, its number (0 where the row is empty).
_SYMBOL, _NUMBER = range(2)
# Columns of `known`, by number: the symbol's bytes, the divisor of its prices, and what its format keeps of it.
SYMBOL, DIVISOR, STATE, KNOWN_COLUMNS = range(4)
COUNT = 0  # slot of `tally`

_CENT = 100  # in units of 1e-4


@kernel(inline=True)
def number_of(keys: Array, known: Array, tally: Array, symbol: Int) -> Int:
    """The number of a symbol, which is given one where it has none; 0 where there are too many."""
    mask = keys.shape[0] - 1
    at = ((symbol * _MULTIPLIER) >> 40) & mask
    while keys[at, _NUMBER] != 0:
        if keys[at, _SYMBOL] == symbol:
            return keys[at, _NUMBER]
        at = (at + 1) & mask
    if tally[COUNT] + 1 >= known.shape[0]:
        return np.int64(0)
    tally[COUNT] += 1
    keys[at, _SYMBOL] = symbol
    keys[at, _NUMBER] = tally[COUNT]
    known[tally[COUNT], SYMBOL] = symbol
    return tally[COUNT]


@kernel(inline=True)
def divide(known: Array, number: Int, price: Int) -> Int:
    """Make the divisor of a symbol's prices divide one price more."""
    divisor = known[number, DIVISOR]
    if divisor != 0 and price % divisor == 0:
        return divisor
    while price != 0:
        rest = divisor % price if divisor != 0 else np.int64(0)
        divisor = price
        price = rest
    known[number, DIVISOR] = divisor
    return divisor


class SymbolTable:
    """The arrays that the kernels take, and the instruments that they mean.

    Args:
        venue: Of the instruments.
        price_unit: What a price of the venue counts, in units of 1e-9; a cent is 100 of them.
    """

    def __init__(self, venue: str, price_unit: int) -> None:
        self.keys = np.zeros((_ROWS, 2), np.int64)
        self.known = np.zeros((SYMBOLS_MAX + 1, KNOWN_COLUMNS), np.int64)
        self.tally = np.zeros(1, np.int64)
        self._venue = venue
        self._price_unit = price_unit

    @property
    def instruments(self) -> tuple[Instrument, ...]:
        """All so far, by number; the tick divides a cent and every price that `divide` was shown."""
        made: list[Instrument] = []
        seen: set[str] = set()
        for number, (symbol, divisor) in enumerate(self.known[1 : self.tally[0] + 1, :2].tolist(), 1):
            text = symbol.to_bytes(8, "big", signed=True).decode("ascii", "backslashreplace").strip(" \0")
            tick = gcd(divisor, _CENT) if divisor else 1
            if not text or text in seen:  # the bytes of a damaged file
                text = f"{text}#{number}"
            seen.add(text)
            made.append(Instrument(id=number, symbol=text, venue=self._venue, tick_size=tick * self._price_unit))
        return tuple(made)

    def copied(self) -> SymbolTable:
        """The same symbols in arrays of its own, nothing else known of them."""
        other = SymbolTable(self._venue, self._price_unit)
        other.keys[:], other.known[:], other.tally[:] = self.keys, self.known, self.tally
        other.known[:, STATE] = 0
        return other
