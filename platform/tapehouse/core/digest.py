"""Digest chains: one number that two runs must share, whatever batches they came in.

A chain hashes fixed-size records in blocks of `BLOCK_RECORDS`, counted from the chain's first record:
`h[0] = 32 zero bytes`, `h[k+1] = BLAKE3(h[k] || block k)`; the head after n records is
`BLAKE3(h[n // B] || the n % B records of the open block || n as u64 little-endian)`. So it does not depend on how the
records were split into calls, its state is small enough for a snapshot, and it hashes at memory speed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from blake3 import blake3

from tapehouse.core.errors import IntegrityError, InvariantError

BLOCK_RECORDS = 1024
HASH_BYTES = 32
_STATE = struct.Struct("<4sIQ32s")
_MAGIC = b"DCH1"


class DigestChain:
    """A BLAKE3 chain over records of `record_bytes` each."""

    def __init__(self, record_bytes: int) -> None:
        if record_bytes <= 0:
            raise InvariantError(f"records of {record_bytes} bytes cannot be chained")
        self.record_bytes = record_bytes
        self.count = 0
        self._link = bytes(HASH_BYTES)
        self._open = bytearray()

    def update(self, records: bytes | memoryview) -> None:
        """Chain whole records, in order.

        Raises:
            InvariantError: The bytes are no whole number of records.
        """
        view = memoryview(records)
        if view.nbytes == 0:  # of which a view of rows cannot be cast
            return
        view = view.cast("B")
        if len(view) % self.record_bytes:
            raise InvariantError(f"{len(view)} bytes are no whole records of {self.record_bytes}")
        self.count += len(view) // self.record_bytes
        block_bytes = BLOCK_RECORDS * self.record_bytes
        start = 0
        while start < len(view):
            if not self._open and len(view) - start >= block_bytes:  # A whole block is hashed where it lies.
                hasher = blake3(self._link)
                hasher.update(view[start : start + block_bytes])
                self._link = hasher.digest()
                start += block_bytes
                continue
            take = min(block_bytes - len(self._open), len(view) - start)
            self._open += view[start : start + take]
            start += take
            if len(self._open) == block_bytes:
                self._link = blake3(self._link + self._open).digest()
                self._open.clear()

    def head(self) -> bytes:
        """The digest of everything chained so far; reading it changes nothing."""
        return blake3(self._link + self._open + self.count.to_bytes(8, "little")).digest()

    def state(self) -> bytes:
        """What a snapshot must keep to go on from here."""
        return _STATE.pack(_MAGIC, self.record_bytes, self.count, self._link) + bytes(self._open)

    @classmethod
    def from_state(cls, state: bytes) -> DigestChain:
        """The chain whose `state` this is.

        Raises:
            IntegrityError: These bytes are no chain state.
        """
        if len(state) < _STATE.size:
            raise IntegrityError("a digest chain state is too short", hint="the snapshot is damaged: refold the log")
        magic, record_bytes, count, link = _STATE.unpack_from(state)
        tail = state[_STATE.size :]
        if magic != _MAGIC or record_bytes == 0 or len(tail) != (count % BLOCK_RECORDS) * record_bytes:
            raise IntegrityError("a digest chain state is damaged", hint="refold the log")
        chain = cls(record_bytes)
        chain.count = count
        chain._link = link
        chain._open = bytearray(tail)
        return chain


def combine(parts: Iterable[tuple[str, bytes]]) -> bytes:
    """One digest of named digests, independent of the order in which they come."""
    hasher = blake3()
    for name, digest in sorted(parts):
        encoded = name.encode()
        hasher.update(len(encoded).to_bytes(4, "little") + encoded + len(digest).to_bytes(4, "little") + digest)
    return hasher.digest()


def short(digest: bytes) -> str:
    """The first 16 hex digits, for people."""
    return digest.hex()[:16]
