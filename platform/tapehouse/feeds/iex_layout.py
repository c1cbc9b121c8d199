"""What IEX sends: the IEX-TP header, and the messages of DEEP and TOPS. Little endian, prices in units of 1e-4 USD.

Every message begins with its type and one byte of its own, then the time (i64, UTC ns); all but system events then
have the symbol (8 bytes, blank padded).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

PRICE_UNIT = 100_000  # 1e-4 USD in units of 1e-9
PRICE_MAX = 10**12  # a hundred million USD
HEADER_BYTES = 40
VERSION = 1
PROTOCOLS = {0x8002: "TOPS 1.5", 0x8003: "TOPS 1.6", 0x8004: "DEEP 1.0"}

LENGTHS = {
    "S": 10, "D": 31, "H": 22, "I": 18, "O": 18, "P": 19, "E": 18, "8": 30, "5": 30, "T": 38, "B": 38, "Q": 42,
    "A": 80, "X": 26,
}  # fmt: skip
DECODED_TYPES = "SHOPE85TQ"  # the rest is counted and left out
SYMBOL_AT = 10
# What byte 1 of a message may be, where the specification says so.
LETTERS = {"S": "OSRMEC", "H": "HOPT", "O": "ON", "P": "\0\1", "E": "OC", "8": "\0\1", "5": "\0\1"}

# DBN's status actions, in `count` of a status cell.
STATUSES = {
    "S": {"O": 0, "S": 1, "R": 7, "M": 13, "E": 12, "C": 15},
    "H": {"H": 8, "O": 1, "P": 9, "T": 7},
    "O": {"O": 8, "N": 7},
    "P": {"\0": 14, "\1": 14},
    "E": {"O": 0, "C": 0},
}


def length_table() -> npt.NDArray[np.int64]:
    """Lengths by the code of the type's letter, shape (256,); 0 where there is no such type."""
    table = np.zeros(256, np.int64)
    for letter, length in LENGTHS.items():
        table[ord(letter)] = length
    return table


def status_table() -> npt.NDArray[np.int64]:
    """Status actions by type and byte 1, shape (256, 256)."""
    table = np.zeros((256, 256), np.int64)
    for letter, actions in STATUSES.items():
        for code, action in actions.items():
            table[ord(letter), ord(code)] = action
    return table
