"""Content-defined chunks: a snapshot cut where its bytes say so, so that unchanged parts keep their names.

A window of 32 bytes is hashed at every byte (a gear hash: each byte's table value, shifted by its distance), and a
chunk ends where 16 bits of the hash are zero, but never below CHUNK_BYTES_MIN or above CHUNK_BYTES_MAX. An insertion
near the start of a canonical snapshot then changes one or two chunks and not all that follow.

Source: the gear hash of Ddelta (Xia et al. 2014), its 32-byte window computed in five doubling steps over an array.
"""

from __future__ import annotations

import numpy as np
from blake3 import blake3

CHUNK_BYTES_MIN = 16 * 1024
CHUNK_BYTES_MAX = 512 * 1024
_BOUNDARY_BITS = 0xFFFF_0000  # all zero at one byte of 65,536; the top bits depend on the whole window
_WINDOW_STEPS = 5  # 2^5 bytes
_TABLE = np.frombuffer(blake3(b"tapehouse chunk boundaries").digest(length=1024), "<u4")


def split_chunks(data: bytes) -> list[bytes]:
    """The chunks of `data`, in order; their concatenation is `data`. No data has no chunks."""
    ends = np.flatnonzero(_window_hash(data) & np.uint32(_BOUNDARY_BITS) == 0) + 1
    chunks: list[bytes] = []
    start = 0
    while start < len(data):
        nearest = int(np.searchsorted(ends, start + CHUNK_BYTES_MIN))
        end = int(ends[nearest]) if nearest < len(ends) else len(data)
        end = min(end, start + CHUNK_BYTES_MAX, len(data))
        chunks.append(data[start:end])
        start = end
    return chunks


def _window_hash(data: bytes) -> np.ndarray:
    """At each byte, the sum over its 32-byte window of table values shifted by their distance, modulo 2^32."""
    hashes = _TABLE[np.frombuffer(data, np.uint8)]
    for step in range(_WINDOW_STEPS):
        width = 1 << step
        wider = hashes.copy()
        wider[width:] += hashes[:-width] << np.uint32(width)
        hashes = wider
    return hashes
