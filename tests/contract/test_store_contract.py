"""The object store contract: one suite on memory, a directory, SeaweedFS and MinIO."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tapehouse.core.errors import ConflictError, MissingError, UsageError
from tapehouse.dr.embedded_store import Endpoint
from tapehouse.dr.file_store import FileStore
from tapehouse.dr.probe import RACERS, probe
from tapehouse.dr.s3 import Credentials, S3Location, S3Store
from tapehouse.dr.store import Counting, MemoryStore, ObjectStore, Retrying
from tests.support.minio import MinioServer, minio
from tests.support.seaweed import seaweed

__all__ = ["minio", "seaweed"]


@pytest.fixture(params=["memory", "file", "wrapped", "seaweed", "minio"])
def empty_store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """A store of each kind; servers are started when the first test needs them."""
    if request.param == "memory":
        return MemoryStore()
    if request.param == "file":
        return FileStore(tmp_path / "not" / "there yet")
    if request.param == "wrapped":
        return Retrying(Counting(MemoryStore()), jitter=lambda: 0.5)
    if request.param == "seaweed":
        seaweedfs: Endpoint = request.getfixturevalue("seaweed")
        url, credentials = seaweedfs.endpoint, seaweedfs.credentials
    else:
        server: MinioServer = request.getfixturevalue("minio")
        url, credentials = server.endpoint, Credentials(access_key=server.access_key, secret_key=server.secret_key)
    return S3Store(S3Location(bucket="contract", prefix=f"run/{secrets.token_hex(4)}", endpoint=url), credentials)


@pytest.fixture
async def store(empty_store: ObjectStore) -> AsyncIterator[ObjectStore]:
    if isinstance(empty_store, S3Store):
        await empty_store.create_bucket()
    yield empty_store
    await empty_store.close()


async def keys(store: ObjectStore, prefix: str, after: str = "") -> list[str]:
    return [info.key async for info in store.list(prefix, after=after)]


@pytest.mark.parametrize("size", [0, 1, 100_000, 9_000_000])
async def test_gives_back_what_was_put(store: ObjectStore, size: int) -> None:
    data = secrets.token_bytes(min(size, 1000)) * (size // 1000 or 1) if size else b""
    etag = await store.put("a/object.bin", data)
    assert await store.get("a/object.bin") == data
    info = await store.head("a/object.bin")
    assert (info.key, info.size, info.etag) == ("a/object.bin", len(data), etag)


async def test_overwrites_without_a_condition(store: ObjectStore) -> None:
    first = await store.put("k", b"one")
    second = await store.put("k", b"two")
    assert first != second
    assert await store.get("k") == b"two"


async def test_what_is_not_there_is_missing(store: ObjectStore) -> None:
    with pytest.raises(MissingError):
        await store.get("nothing/here")
    with pytest.raises(MissingError):
        await store.head("nothing/here")
    await store.delete("nothing/here")
    assert await keys(store, "nothing/") == []


async def test_if_none_match_writes_once(store: ObjectStore) -> None:
    await store.put("once", b"first", if_none_match=True)
    with pytest.raises(ConflictError):
        await store.put("once", b"second", if_none_match=True)
    assert await store.get("once") == b"first"
    await store.delete("once")
    await store.put("once", b"third", if_none_match=True)
    assert await store.get("once") == b"third"


async def test_if_match_swaps_only_what_was_read(store: ObjectStore) -> None:
    old = await store.put("lease", b"one")
    new = await store.put("lease", b"two", if_match=old)
    with pytest.raises(ConflictError):
        await store.put("lease", b"three", if_match=old)
    assert await store.get("lease") == b"two"
    await store.put("lease", b"four", if_match=new)
    assert await store.get("lease") == b"four"
    await store.delete("lease")
    with pytest.raises(ConflictError):
        await store.put("lease", b"five", if_match=new)
    with pytest.raises(MissingError):
        await store.get("lease")


async def test_one_of_many_racing_writers_wins(store: ObjectStore) -> None:
    async def race(number: int) -> int | None:
        try:
            await store.put("raced", str(number).encode(), if_none_match=True)
        except ConflictError:
            return None
        return number

    winners = [number for number in await asyncio.gather(*map(race, range(16))) if number is not None]
    assert len(winners) == 1
    assert await store.get("raced") == str(winners[0]).encode()


async def test_one_of_many_racing_swappers_wins(store: ObjectStore) -> None:
    etag = await store.put("swapped", b"start")

    async def race(number: int) -> int | None:
        try:
            await store.put("swapped", str(number).encode(), if_match=etag)
        except ConflictError:
            return None
        return number

    winners = [number for number in await asyncio.gather(*map(race, range(8))) if number is not None]
    assert len(winners) == 1
    assert await store.get("swapped") == str(winners[0]).encode()


async def test_lists_in_order_by_prefix_and_from_a_key_on(store: ObjectStore) -> None:
    names = ["a/1", "a/2", "a/20", "a/3-x.seg.zst", "ab", "b/1"]
    for name in reversed(names):
        await store.put(name, name.encode())
    assert await keys(store, "") == names
    assert await keys(store, "a/") == names[:4]
    assert await keys(store, "a/2") == ["a/2", "a/20"]
    assert await keys(store, "a/", after="a/2") == ["a/20", "a/3-x.seg.zst"]
    assert [info.size async for info in store.list("b/")] == [3]
    await store.delete("a/20")
    assert await keys(store, "a/2") == ["a/2"]


async def test_lists_more_than_a_page(store: ObjectStore) -> None:
    names = [f"many/{number:05d}" for number in range(1100)]
    for start in range(0, len(names), 50):
        await asyncio.gather(*(store.put(name, b"") for name in names[start : start + 50]))
    assert await keys(store, "many/") == names
    assert await keys(store, "many/", after=names[1050]) == names[1051:]


@pytest.mark.parametrize("key", ["", "/a", "a//b", "../a", "a/..", "a/.hidden", "a b", "a\n", "ä", "x" * 600])
async def test_refuses_keys_that_mean_something_else_elsewhere(store: ObjectStore, key: str) -> None:
    for call in (store.get, store.head, store.delete, lambda name: store.put(name, b"")):
        with pytest.raises(UsageError):
            await call(key)


async def test_refuses_two_conditions_and_an_empty_etag(store: ObjectStore) -> None:
    with pytest.raises(UsageError):
        await store.put("k", b"", if_none_match=True, if_match="x")
    with pytest.raises(UsageError):
        await store.put("k", b"", if_match="")


async def test_the_probe_passes_and_leaves_nothing(store: ObjectStore) -> None:
    report = await probe(store, secrets.token_hex(8))
    assert len(report.promises) == 5
    assert any(str(RACERS) in promise for promise in report.promises)
    assert await keys(store, "") == []
