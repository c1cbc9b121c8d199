"""Where everything stands in a ring's 4,096-byte header; docs/formats/ring.md is the account for other readers.

Each cursor has a cache line of its own, written by one side only. What a side keeps of the other's cursor (the cached
tail, the cached head) stands in a line that only this side touches, so that the hot loops stay off the other's line
until they must look.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from tapehouse.core import DataError, DecodeError, UsageError
from tapehouse.market import CELL_BYTES

MAGIC = b"THRG"
VERSION = 1
HEADER_BYTES = 4096
CELLS_MIN = 64
CELLS_LIMIT = 1 << 26  # 4 GiB of slots
RING_CELLS = 1 << 20  # the default: 64 MiB
WORDS = 64  # application words
IDENTITY_BYTES = 16

# Byte offsets. Line 0 is written once, before the file has its name.
CELLS = 8
IDENTITY = 16
POLICY = 32
# The producer's facts.
PRODUCER_PID = 64
PRODUCER_STARTED = 72  # in clock ticks since boot, as /proc/PID/stat has it: a pid alone is used again
PRODUCER_EPOCH = 80
CLOSED = 88
HEAD = 128
# The producer's own line.
CACHED_TAIL = 192
TOLD = 200  # dropped records that gap records have told of
TOLD_AFTER = 208  # the same once the gap record at GAP_INDEX is published
GAP_INDEX = 216
MISSING_TS_EVENT = 224  # times of the last dropped record
MISSING_TS_RECV = 232
TAIL = 256
CACHED_HEAD = 320  # the consumer's own line
DROPPED_RECORDS = 384
DROPPED_CELLS = 392
# The consumer's facts.
CONSUMER_PID = 448
CONSUMER_STARTED = 456
CONSUMER_EPOCH = 464
APPLICATION = 512

HEADER = np.dtype(
    {
        "names": ["magic", "version", "cell_bytes", "cells", "identity", "policy"],
        "formats": ["S4", "<u2", "<u2", "<i8", f"V{IDENTITY_BYTES}", "<i8"],
        "offsets": [0, 4, 6, CELLS, IDENTITY, POLICY],
        "itemsize": HEADER_BYTES,
    }
)


class Policy(IntEnum):
    """What happens to a record for which a full ring has no room."""

    BLOCK = 0  # the producer waits, up to a limit
    FAIL = 1  # the producer is told at once
    DROP = 2  # the record is counted, and a gap record says how many are missing


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a ring was created as."""

    cells: int
    policy: Policy
    creation: bytes


def check_cells(cells: int) -> None:
    """Refuse a capacity that no ring can have.

    Raises:
        UsageError: Not a power of two, too few or too many.
    """
    if not CELLS_MIN <= cells <= CELLS_LIMIT or cells & (cells - 1):
        raise UsageError(
            f"a ring cannot have {cells} cells", hint=f"take a power of two from {CELLS_MIN} to {CELLS_LIMIT}"
        )


def file_bytes(cells: int) -> int:
    """The length of a ring's file."""
    return HEADER_BYTES + cells * CELL_BYTES


def encode_header(identity: Identity) -> bytes:
    """The header of a fresh ring: all but the identity is zero."""
    header = np.zeros(1, HEADER)
    header["magic"], header["version"], header["cell_bytes"] = MAGIC, VERSION, CELL_BYTES
    header["cells"], header["policy"] = identity.cells, identity.policy
    header["identity"] = np.void(identity.creation)
    return header.tobytes()


def decode_header(data: bytes, *, size: int, subject: str) -> Identity:
    """Judge a file by its header and its length.

    Args:
        data: Its first bytes, up to 4,096.
        size: The length of the whole file.
        subject: Its path, for messages.

    Raises:
        DecodeError: No ring, or one of a newer layout.
        DataError: A ring whose file is damaged.
    """
    if len(data) < HEADER_BYTES or data[: len(MAGIC)] != MAGIC:
        raise DecodeError("this is no ring", subject=subject, hint="remove the file, or choose another name")
    header = np.frombuffer(data, HEADER, 1)[0]
    version, cells, policy = int(header["version"]), int(header["cells"]), int(header["policy"])
    if version != VERSION:
        raise DecodeError(
            f"a ring of layout {version}; this tapehouse knows {VERSION}",
            subject=subject,
            hint="drain it with the tapehouse that made it, then remove it",
        )
    if not CELLS_MIN <= cells <= CELLS_LIMIT or cells & (cells - 1) or int(header["cell_bytes"]) != CELL_BYTES:
        raise DataError(
            f"a ring of {cells} cells of {header['cell_bytes']} bytes cannot be", subject=subject, hint="remove it"
        )
    if policy not in list(Policy):
        raise DataError(f"policy {policy} is unknown", subject=subject, hint="remove the ring")
    if size != file_bytes(cells):
        raise DataError(
            f"{size} bytes where a ring of {cells} cells has {file_bytes(cells)}",
            subject=subject,
            hint="the file was cut or grown by something else: remove it",
        )
    return Identity(cells=cells, policy=Policy(policy), creation=header["identity"].tobytes())
