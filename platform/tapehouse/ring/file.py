"""Making, opening, attaching and removing the file of a ring.

A file gets its name only when its header is whole, so nobody meets half a ring. Who replaces or removes one holds both
of its roles; who attaches looks, once it has the lock, whether the name still leads to the file that it locked.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tapehouse.core import ConflictError, MissingError
from tapehouse.ring.layout import (
    CONSUMER_PID,
    HEAD,
    HEADER_BYTES,
    PRODUCER_PID,
    TAIL,
    Identity,
    decode_header,
    encode_header,
    file_bytes,
)
from tapehouse.ring.lock import Role, is_held_elsewhere, try_lock
from tapehouse.ring.place import prepare

ATTACH_ATTEMPTS = 16
_PID_AT = {Role.PRODUCER: PRODUCER_PID, Role.CONSUMER: CONSUMER_PID}
_STARTED_FIELD = 19  # of /proc/PID/stat, counted behind the process's name


def read_header_word(descriptor: int, at: int) -> int:
    """One word of the header, through the file."""
    return int.from_bytes(os.pread(descriptor, 8, at), "little", signed=True)


def start_ticks(pid: int) -> int:
    """When a process began, in clock ticks since boot; 0 if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0
    return int(fields[_STARTED_FIELD])


def open_ring(path: Path, *, writable: bool = True) -> tuple[int, Identity]:
    """Open a ring's file and judge it; the caller closes the descriptor.

    Raises:
        MissingError: There is none.
        DecodeError: A foreign file or a newer layout.
        DataError: A damaged ring.
    """
    try:
        mode = os.O_RDWR if writable else os.O_RDONLY
        descriptor = os.open(path, mode | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError as error:
        raise MissingError("there is no such ring", subject=str(path), hint="its producer makes it") from error
    except OSError as error:
        raise MissingError(f"the ring cannot be opened: {error.strerror}", subject=str(path)) from error
    try:
        header = os.pread(descriptor, HEADER_BYTES, 0)
        return descriptor, decode_header(header, size=os.fstat(descriptor).st_size, subject=str(path))
    except BaseException:
        os.close(descriptor)
        raise


def is_named(descriptor: int, path: Path) -> bool:
    """Whether the path still leads to the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


def _taken(descriptor: int, path: Path, role: Role) -> ConflictError:
    pid = read_header_word(descriptor, _PID_AT[role])
    return ConflictError(
        f"process {pid} is its {role.name.lower()}",
        subject=str(path),
        hint=f"a ring has one; stop that process, or take another name (fuser {path} shows who has it open)",
    )


def attach(path: Path, role: Role) -> tuple[int, Identity]:
    """Open a ring and take one of its roles, which the descriptor holds until it is closed.

    Raises:
        ConflictError: A living process has the role.
        MissingError: There is no such ring.
        DataError: The file is no ring, or a damaged or newer one.
    """
    for _ in range(ATTACH_ATTEMPTS):
        descriptor, identity = open_ring(path)
        try:
            if not try_lock(descriptor, role):
                raise _taken(descriptor, path, role)
            if is_named(descriptor, path):
                return descriptor, identity
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # It was replaced between the opening and the lock: look at the new one.
    raise ConflictError("the ring is replaced again and again", subject=str(path), hint="see who creates it")


@contextmanager
def _sole(path: Path) -> Iterator[int]:
    """An existing ring with both roles held, so that nobody can attach to what is about to go."""
    descriptor, _ = attach(path, Role.PRODUCER)
    try:
        if not try_lock(descriptor, Role.CONSUMER):
            raise _taken(descriptor, path, Role.CONSUMER)
        yield descriptor
    finally:
        os.close(descriptor)


def _make(directory: Path, identity: Identity) -> int:
    """A whole ring without a name."""
    size = file_bytes(identity.cells)
    try:
        descriptor = os.open(directory, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise MissingError(
            f"no ring can be made here: {error.strerror}", subject=str(directory), hint="rings belong on a tmpfs"
        ) from error
    try:
        os.pwrite(descriptor, encode_header(identity), 0)
        # All memory is claimed now: a full tmpfs is an error here, and would be a fatal signal later.
        os.posix_fallocate(descriptor, 0, size)
        os.ftruncate(descriptor, size)
    except OSError as error:
        os.close(descriptor)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EFBIG):
            raise
        raise MissingError(
            f"no room for {size} bytes", subject=str(directory), hint="enlarge the tmpfs, or ask for fewer cells"
        ) from error
    return descriptor


def _link(descriptor: int, path: Path) -> None:
    """Name an unnamed file; FileExistsError if the name is taken."""
    # An absolute source ignores the directory descriptor, but with one Python follows the link to the open file.
    os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=0, follow_symlinks=True)


def create(path: Path, identity: Identity, *, reclaim: bool) -> None:
    """Put a fresh ring under a name that is free, or held by a ring that is dead and empty (or may be reclaimed).

    Raises:
        ConflictError: The ring is alive, or it is dead and has cells that nobody drained.
        MissingError: No room, or no such file system.
        DataError: Something that is no readable ring has the name.
    """
    prepare(path.parent)
    descriptor = _make(path.parent, identity)
    try:
        try:
            _link(descriptor, path)
            return
        except FileExistsError:
            pass
        with _sole(path) as old:
            undrained = read_header_word(old, HEAD) - read_header_word(old, TAIL)
            if undrained and not reclaim:
                raise ConflictError(
                    f"a dead ring of this name has {undrained} cells that nobody drained",
                    subject=str(path),
                    hint="attach a consumer and drain it, or reclaim it and lose them",
                )
            beside = path.with_suffix(f".{identity.creation.hex()}.new")
            _link(descriptor, beside)
            try:
                os.rename(beside, path)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(beside)
                raise
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Delete a ring that nobody is attached to, drained or not.

    Raises:
        ConflictError: A living process has a role.
        MissingError: There is none.
    """
    with _sole(path):
        os.unlink(path)


def is_alive(descriptor: int, role: Role) -> bool:
    """Whether a process other than the asker's own opening holds a role."""
    return is_held_elsewhere(descriptor, role)
