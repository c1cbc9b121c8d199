"""A ring's file in memory: header, slots, and the slots once more behind them.

With the second mapping, cells from any index on are contiguous up to the ring's whole capacity: no record is ever
split at the end, a reader's view needs no copy, and kernels work in place.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from typing import Any

import numpy as np

from tapehouse.core import MissingError
from tapehouse.market import CELL, CELL_BYTES, Cells
from tapehouse.ring.kernels import touch
from tapehouse.ring.layout import HEADER_BYTES

# Linux's numbers, the same on every architecture that tapehouse runs on; Python's mmap module has not all of them.
_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000
_MAP_POPULATE = 0x8000
_PROT_NONE = 0
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int),
    ctypes.c_int64,
]
_libc.munmap.restype = ctypes.c_int
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def _map(address: int | None, count: int, protection: int, flags: int, descriptor: int, start: int) -> int:
    found = _libc.mmap(address, count, protection, flags, descriptor, start)
    if found == _FAILED or found is None:
        error = ctypes.get_errno()
        raise MissingError(
            f"{count} bytes of memory cannot be mapped: {os.strerror(error)}",
            hint="see the limits of this process (ulimit -v, cgroup memory)",
        )
    return int(found)


class Mapping:
    """The mapped ring; the memory goes when neither this nor any view of it is left."""

    __slots__ = ("_buffer", "address", "cells")

    def __init__(self, descriptor: int, cells: int, *, writable: bool = True, slots: bool = True) -> None:
        """Map a ring's file and touch every page of it.

        Args:
            descriptor: The open file; it may be closed afterwards.
            cells: The ring's capacity, 0 < cells, of a file long enough.
            writable: Whether this side writes at all.
            slots: False maps the header alone.

        Raises:
            MissingError: No memory, or pages larger than the header.
        """
        if mmap.PAGESIZE > HEADER_BYTES:
            raise MissingError(
                f"memory pages of {mmap.PAGESIZE} bytes", hint="a ring needs a kernel with pages of 4,096 bytes"
            )
        slot_bytes = cells * CELL_BYTES if slots else 0
        total = HEADER_BYTES + 2 * slot_bytes
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        base = _map(None, total, _PROT_NONE, private, -1, 0)
        buffer = (ctypes.c_char * total).from_address(base)
        weakref.finalize(buffer, _libc.munmap, base, total).atexit = False  # A view may be used until the very end.
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        shared = mmap.MAP_SHARED | _MAP_FIXED | _MAP_POPULATE
        _map(base, HEADER_BYTES + slot_bytes, protection, shared, descriptor, 0)
        if slots:
            _map(base + HEADER_BYTES + slot_bytes, slot_bytes, protection, shared, descriptor, HEADER_BYTES)
        touch(base, total)
        self._buffer: Any = buffer
        self.address = base
        self.cells = cells

    def view(self) -> Cells:
        """Both copies of the slots as one array of 2 x `cells` cells."""
        return np.frombuffer(self._buffer, CELL, 2 * self.cells, HEADER_BYTES)

    @property
    def keeper(self) -> Any:
        """An object that keeps the memory while it lives."""
        return self._buffer
