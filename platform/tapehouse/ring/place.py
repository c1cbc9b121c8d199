"""Where rings lie: one file each, in a directory that only its user can write."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tapehouse.core import MissingError, UsageError
from tapehouse.core.ids import check_name

SUFFIX = ".ring"
VARIABLE = "TAPEHOUSE_SHM"


def default_directory() -> Path:
    """What `TAPEHOUSE_SHM` says, else a directory of this user's in shared memory."""
    chosen = os.environ.get(VARIABLE)
    return Path(chosen) if chosen else Path("/dev/shm", f"tapehouse-{os.getuid()}")


def ring_path(name: str, directory: Path | None) -> Path:
    """The file of a ring, whether it is there or not.

    Raises:
        UsageError: Not a name.
    """
    return (directory or default_directory()) / (check_name(name, "ring") + SUFFIX)


def prepare(directory: Path) -> None:
    """Make the directory if it is missing, and see that nobody else can put files into it.

    Raises:
        MissingError: It cannot be made.
        UsageError: It belongs to somebody else, or others may write there.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.stat()
    except OSError as error:
        raise MissingError(
            f"no directory for rings: {error.strerror}",
            subject=str(directory),
            hint=f"set {VARIABLE} to a directory on a tmpfs that you can write",
        ) from error
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UsageError(
            "others can write here, and could change what is in a ring",
            subject=str(directory),
            hint=f"chmod 700 it, or set {VARIABLE} to a directory of your own",
        )


def list_rings(directory: Path | None = None) -> list[str]:
    """The names of the rings in a directory, sorted."""
    place = directory or default_directory()
    return sorted(path.name.removesuffix(SUFFIX) for path in place.glob(f"*{SUFFIX}")) if place.is_dir() else []
