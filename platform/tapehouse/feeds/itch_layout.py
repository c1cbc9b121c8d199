"""What a TotalView-ITCH 5.0 message is: lengths by type, where fields lie, and the letters that they may hold.

Big endian. Every message begins with its type (1 byte), the stock's locate (u16), a tracking number (u16) and the time
in ns since midnight in New York (u48). Prices are u32 in units of 1e-4 USD.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

PRICE_UNIT = 100_000  # 1e-4 USD in units of 1e-9
NS_PER_DAY = 86_400 * 10**9

LENGTHS = {
    "S": 12, "R": 39, "H": 25, "Y": 20, "L": 26, "V": 35, "W": 12, "K": 28, "J": 35, "h": 21, "A": 36, "F": 40,
    "E": 31, "C": 36, "X": 23, "D": 19, "U": 35, "P": 44, "Q": 40, "B": 19, "I": 50, "N": 20, "O": 48,
}  # fmt: skip
HEAD_BYTES = 11  # of every message, up to and with its time
BOOK_TYPES = "AFECXDU"  # what changes a book
DECODED_TYPES = BOOK_TYPES + "PQHSR"  # the rest is counted and left out
STOCK_AT = {"R": 11, "H": 11, "Y": 11, "L": 15, "K": 11, "J": 11, "h": 11, "A": 24, "F": 24, "P": 24, "Q": 19, "I": 27,
            "N": 11, "O": 11}  # fmt: skip

# DBN's status actions, in `count` of a status cell: of trading states (H) and of system events (S).
PRE_OPEN, QUOTING, TRADING, HALT, PAUSE, CLOSE, POST_CLOSE, NOT_AVAILABLE = 1, 3, 7, 8, 9, 12, 13, 15
TRADING_STATES = {"H": HALT, "P": PAUSE, "Q": QUOTING, "T": TRADING}
SYSTEM_EVENTS = {"O": 0, "S": PRE_OPEN, "Q": TRADING, "M": POST_CLOSE, "E": CLOSE, "C": NOT_AVAILABLE}

# Fields of one letter: (offset, what the specification allows).
LETTERS = {
    "S": ((11, "OSQMEC"),),
    "W": ((11, "123"),),
    "H": ((19, "HPQT"),),
    "A": ((19, "BS"),),
    "F": ((19, "BS"),),
    "C": ((31, "YN"),),
    "P": ((19, "BS"),),
    "Q": ((39, "OCHI"),),
    "R": ((19, "QGSNAPZVB "), (25, "YN"), (29, "PT"), (30, "YN "), (31, "YNZ "), (32, "12 "), (33, "YN "), (38, "YN")),
}  # fmt: skip


def length_table() -> npt.NDArray[np.int64]:
    """Lengths by the code of the type's letter, shape (256,); 0 where there is no such type."""
    table = np.zeros(256, np.int64)
    for letter, length in LENGTHS.items():
        table[ord(letter)] = length
    return table


def status_table(states: dict[str, int]) -> npt.NDArray[np.int64]:
    """Status actions by the code of a letter, shape (256,); 0 (none of DBN's) for any other letter."""
    table = np.zeros(256, np.int64)
    for letter, action in states.items():
        table[ord(letter)] = action
    return table
