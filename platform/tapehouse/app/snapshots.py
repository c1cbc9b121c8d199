"""Snapshots in files: one file to a machine, replaced whole or not at all.

A new snapshot is written beside the old one, synced, and renamed over it; then the directory is synced. So a crash at
any moment leaves the old snapshot or the new one. One process writes a directory at a time; if two did, the digest in
every snapshot would show what is torn, and the log would be folded again.
"""

from __future__ import annotations

import os
from pathlib import Path

from tapehouse.core.errors import MissingError
from tapehouse.core.ids import check_name

SUFFIX = ".snapshot"


class FileSnapshots:
    """A `SnapshotStore` in a directory, which is made when it is first needed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def load(self, name: str) -> bytes | None:
        """The newest snapshot's bytes; None where there is none.

        Raises:
            MissingError: It is there and cannot be read.
        """
        path = self._path(name)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise MissingError(f"a snapshot cannot be read: {error.strerror}", subject=str(path)) from error

    def save(self, name: str, data: bytes) -> None:
        """Replace the snapshot; returns when it is on the disk.

        Raises:
            MissingError: The directory cannot be written, or is full; the old snapshot stands.
        """
        path = self._path(name)
        fresh = path.with_suffix(".new")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with open(fresh, "wb", buffering=0) as file:
                view = memoryview(data)
                while len(view):
                    view = view[os.write(file.fileno(), view) :]
                os.fsync(file.fileno())
            os.replace(fresh, path)
            self._sync_directory()
        except OSError as error:
            raise MissingError(
                f"a snapshot cannot be written: {error.strerror}",
                subject=str(path),
                hint="is there room, and may this user write there?",
            ) from error

    def _path(self, name: str) -> Path:
        return self.directory / (check_name(name, "machine") + SUFFIX)

    def _sync_directory(self) -> None:
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
