"""From a URL to a store: `s3://bucket/prefix?endpoint=...`, `file:///path`, `memory://name`."""

from __future__ import annotations

import random
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from tapehouse.core.errors import UsageError
from tapehouse.dr.file_store import FileStore
from tapehouse.dr.store import MemoryStore, ObjectStore, Retrying, check_key

_S3_QUERY = {"endpoint", "region", "profile"}
_EXAMPLES = "for example s3://bucket/prefix?endpoint=http://127.0.0.1:9000 or file:///var/backups/desk"


def open_store(
    url: str, *, access_key: str | None = None, secret_key: str | None = None, retrying: bool = True
) -> ObjectStore:
    """The store behind a URL; nothing is connected or written yet.

    Args:
        access_key, secret_key: For an S3 store whose keys the caller knows; else AWS's standard chain finds them.
        retrying: Whether failures on the store's side are tried again.

    Returns:
        The store; the caller closes it.

    Raises:
        UsageError: The URL names no store.
    """
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise UsageError("a store's URL holds no secrets", hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if parts.scheme == "file":
        store: ObjectStore = _file_store(url)
    elif parts.scheme == "s3":
        store = _s3_store(url, access_key, secret_key)
    elif parts.scheme == "memory":
        store = MemoryStore(parts.netloc or "memory")
    else:
        raise UsageError(f"{url!r} is no store", hint=_EXAMPLES)
    return Retrying(store, jitter=random.random) if retrying else store


def _file_store(url: str) -> FileStore:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/") or parts.query:
        raise UsageError(f"{url!r} names no local directory", hint="file:///absolute/path, with three slashes")
    return FileStore(Path(unquote(parts.path)))


def _s3_store(url: str, access_key: str | None, secret_key: str | None) -> ObjectStore:
    from tapehouse.dr.s3 import Credentials, S3Location, S3Store  # Slow to import; local stores do without.

    parts = urlsplit(url)
    query = parse_qs(parts.query, keep_blank_values=True)
    unknown = sorted(set(query) - _S3_QUERY)
    if unknown:
        raise UsageError(f"{unknown[0]!r} is no setting of a store", hint=f"known: {', '.join(sorted(_S3_QUERY))}")
    settings = {name: values[-1] or None for name, values in query.items()}
    endpoint = settings.get("endpoint")
    if endpoint is not None and urlsplit(endpoint).scheme not in ("http", "https"):
        raise UsageError(f"{endpoint!r} is no endpoint", hint="http://host:port or https://host")
    if not parts.netloc:
        raise UsageError(f"{url!r} names no bucket", hint=_EXAMPLES)
    if (access_key is None) != (secret_key is None):
        raise UsageError("an access key needs its secret key, and the other way round")
    prefix = parts.path.strip("/")
    if prefix:
        check_key(prefix)
    location = S3Location(
        bucket=parts.netloc,
        prefix=prefix,
        endpoint=endpoint,
        region=settings.get("region"),
        profile=settings.get("profile"),
    )
    given = Credentials(access_key=access_key, secret_key=secret_key) if access_key and secret_key else None
    return S3Store(location, given)
