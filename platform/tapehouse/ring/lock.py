"""Exclusive roles, as open-file-description locks on two bytes of a ring's file.

The operating system frees such a lock when nothing refers to that opening of the file any more, kill -9 included, so a
held lock *is* a living holder. Unlike older POSIX locks they also keep two holders in one process apart.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from enum import IntEnum

# struct flock: type, whence, start, length, pid (0 for these locks), padded to its alignment.
_FLOCK = struct.Struct("hhqqi0q")


class Role(IntEnum):
    """Who may hold a ring; the number is the byte that the holder locks."""

    PRODUCER = 0
    CONSUMER = 1


def _flock(kind: int, role: Role) -> bytes:
    return _FLOCK.pack(kind, 0, role, 1, 0)


def try_lock(descriptor: int, role: Role) -> bool:
    """Take a role if nobody holds it; `give_back` ends it, or the end of the process."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK, role))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def give_back(descriptor: int, role: Role) -> None:
    """Unlock a role and close its descriptor; closing alone would not do while the file is mapped through it."""
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, role))
    os.close(descriptor)


def is_held_elsewhere(descriptor: int, role: Role) -> bool:
    """Whether another opening of the file holds a role; one's own lock does not count."""
    answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, role))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
