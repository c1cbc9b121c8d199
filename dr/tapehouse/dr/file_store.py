"""An object store in a directory: `file:///var/backups/desk`.

A write goes to a temporary file, is fsynced, and then takes its name in one step: by `link` where it must not be there
yet (which fails if it is), by `rename` otherwise. So no half-written object is ever visible, and of racing conditional
writers exactly one wins. `if_match`, unconditional writes and deletes take one advisory lock, so compare and swap is
atomic among all that use this adapter on this machine; over NFS that holds only where its locks do.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TypeVar

from blake3 import blake3

from tapehouse.core.errors import MissingError, TapehouseError, TransientError, UsageError
from tapehouse.dr.store import ObjectInfo, check_condition, check_key, check_prefix, conflict, missing

_TEMPORARY = ".tmp"
_LOCK = ".lock"
_T = TypeVar("_T")


class FileStore:
    """Objects as files below one directory, which is made at the first write."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    @property
    def url(self) -> str:
        return f"file://{self._root}"

    async def get(self, key: str) -> bytes:
        return await self._run(key, self._path(key).read_bytes)

    async def put(self, key: str, data: bytes, *, if_none_match: bool = False, if_match: str | None = None) -> str:
        check_condition(if_none_match, if_match)
        path = self._path(key)
        return await self._run(key, lambda: self._put(key, path, data, if_none_match, if_match))

    async def head(self, key: str) -> ObjectInfo:
        def look() -> ObjectInfo:
            data = self._path(key).read_bytes()
            return ObjectInfo(key=key, size=len(data), etag=_etag(data))

        return await self._run(key, look)

    async def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        check_prefix(prefix)
        for info in await self._run(prefix, lambda: self._list(prefix, after)):
            yield info

    async def delete(self, key: str) -> None:
        path = self._path(key)

        def remove() -> None:
            with self._locked():
                path.unlink(missing_ok=True)
                if path.parent.is_dir():
                    _sync_directory(path.parent)

        if self._root.is_dir():
            await self._run(key, remove)

    async def close(self) -> None:
        return

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    async def _run(self, key: str, call: Callable[[], _T]) -> _T:
        """Run a blocking call in a thread; its errors become ours."""
        try:
            return await asyncio.to_thread(call)
        except OSError as error:
            raise self._translate(error, key) from error

    def _put(self, key: str, path: Path, data: bytes, if_none_match: bool, if_match: str | None) -> str:
        self._make_directory(path.parent)
        temporary = self._write_temporary(data)
        try:
            if if_none_match:
                try:
                    os.link(temporary, path)
                except FileExistsError:
                    raise conflict(self.url, key, "it is there already") from None
            else:
                with self._locked():
                    if if_match is not None and _etag_of(path) != if_match:
                        raise conflict(self.url, key, "it has changed")
                    os.rename(temporary, path)
            _sync_directory(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
        return _etag(data)

    def _write_temporary(self, data: bytes) -> Path:
        directory = self._root / _TEMPORARY
        self._make_directory(directory)
        temporary = directory / secrets.token_hex(16)
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        return temporary

    def _make_directory(self, directory: Path) -> None:
        """Make a directory so that it survives a power loss: each new one is synced into its parent."""
        if directory.is_dir():
            return
        self._make_directory(directory.parent)
        directory.mkdir(exist_ok=True)
        _sync_directory(directory.parent)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self._root / _LOCK, "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _list(self, prefix: str, after: str) -> tuple[ObjectInfo, ...]:
        start = self._root / prefix.rpartition("/")[0]
        found: list[ObjectInfo] = []
        for directory, directories, files in os.walk(start):
            directories[:] = [name for name in directories if not name.startswith(".")]
            for name in files:
                path = Path(directory, name)
                key = path.relative_to(self._root).as_posix()
                if name.startswith(".") or not key.startswith(prefix) or key <= after:
                    continue
                with contextlib.suppress(FileNotFoundError):  # Deleted since the walk saw it.
                    found.append(ObjectInfo(key=key, size=path.stat().st_size, etag=""))
        return tuple(sorted(found, key=lambda info: info.key))

    def _translate(self, error: OSError, key: str) -> TapehouseError:
        where = f"{self.url}/{key}"
        if error.errno in (errno.ENOENT, errno.EISDIR):
            return missing(self.url, key)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return MissingError("no space is left", subject=where, hint="free some, or choose another store")
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return UsageError("permission denied", subject=where, hint="check the owner and mode of the directory")
        if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG):
            return UsageError("it is no directory", subject=where, hint="check the path in the URL")
        return TransientError(f"the file system failed: {error.strerror}", subject=where)


def _etag(data: bytes) -> str:
    return blake3(data).hexdigest()


def _etag_of(path: Path) -> str | None:
    try:
        return _etag(path.read_bytes())
    except FileNotFoundError:
        return None


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
