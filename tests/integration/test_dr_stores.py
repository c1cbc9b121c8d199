"""Backup, verify and restore over real object stores: MinIO, SeaweedFS and a directory; and what goes wrong there."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tapehouse.core.clock import SystemClock
from tapehouse.core.errors import IntegrityError, MissingError, StoreThrottledError, UsageError
from tapehouse.dr import (
    MachineSnapshot,
    MemoryTarget,
    NoRepositoryError,
    ObjectStore,
    Repository,
    SegmentLog,
    backup,
    open_store,
    probe,
    restore,
    verify,
)
from tapehouse.dr.embedded_store import EmbeddedStore, Endpoint, find_weed
from tapehouse.dr.s3 import Credentials, S3Location, S3Store
from tapehouse.log.log_digest import digest_messages
from tests.support.logs import OLD_ID, extend, filled, messages_of
from tests.support.minio import MinioServer, minio, running_minio
from tests.support.seaweed import seaweed

__all__ = ["minio", "seaweed"]


@pytest.fixture(params=["file", "minio", "seaweed"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Credentials | None]:
    """A URL with nothing behind it yet, and the keys it needs."""
    prefix = secrets.token_hex(4)
    if request.param == "file":
        return f"file://{tmp_path}/repository", None
    if request.param == "minio":
        server: MinioServer = request.getfixturevalue("minio")
        credentials = Credentials(access_key=server.access_key, secret_key=server.secret_key)
        return f"s3://tapehouse/{prefix}?endpoint={server.endpoint}", credentials
    endpoint: Endpoint = request.getfixturevalue("seaweed")
    return f"s3://tapehouse/{prefix}?endpoint={endpoint.endpoint}", endpoint.credentials


@pytest.fixture
async def store(place: tuple[str, Credentials | None]) -> AsyncIterator[ObjectStore]:
    url, credentials = place
    if credentials is not None:
        bucket = S3Store(S3Location(bucket="tapehouse", endpoint=url.partition("endpoint=")[2]), credentials)
        await bucket.create_bucket()
        await bucket.close()
    made = open_store(
        url,
        access_key=credentials.access_key if credentials else None,
        secret_key=credentials.secret_key if credentials else None,
    )
    yield made
    await made.close()


async def test_a_repository_round_trip(store: ObjectStore) -> None:
    await probe(store, secrets.token_hex(8))
    tape = await filled("TAPE_demo", 6000, payload=secrets.token_bytes(700))
    commands = await filled("CMDS_demo", 50)
    state = secrets.token_bytes(900_000)
    book = {"book": MachineSnapshot(log="TAPE_demo", log_id=OLD_ID, sequence=6000, data=state)}
    first = await backup([tape, commands], store, book, SystemClock(), specs={"TAPE_demo": {"subjects": ["a"]}})
    assert first.segments_new == 3
    unchanged = await backup([tape, commands], store, book, SystemClock(), specs={"TAPE_demo": {"subjects": ["a"]}})
    assert (unchanged.written, unchanged.bytes_sent) == (False, 0)
    await extend(tape, 9000)
    second = await backup([tape, commands], store, book, SystemClock(), specs={"TAPE_demo": {"subjects": ["a"]}})
    assert (second.segments_new, second.segments_reused, second.chunks_new) == (2, 2, 0)
    assert (await verify(store)).sound

    target = MemoryTarget()
    report = await restore(store, target, SystemClock())
    assert target.snapshots == {"book": state}
    for origin in (tape, commands):
        last = (await origin.extent()).last
        assert await messages_of(target.logs[origin.name], 1, last) == await messages_of(origin, 1, last)
    source = SegmentLog.of(await Repository.open(store), report.manifest, "TAPE_demo")
    read = [message async for message in source.read(4000, through=8500)]
    assert read == await messages_of(tape, 4000, 8500)
    head = digest_messages(await messages_of(tape, 1, 9000), next_sequence=1)
    assert report.logs[1].head == head


async def test_a_damaged_or_deleted_object_is_named(store: ObjectStore) -> None:
    log = await filled("TAPE_demo", 5000)
    await backup([log], store, {}, SystemClock())
    keys = [info.key async for info in store.list("segments/")]
    assert len(keys) == 2
    data = bytearray(await store.get(keys[0]))
    data[len(data) // 2] ^= 0x10
    await store.put(keys[0], bytes(data))
    await store.delete(keys[1])
    report = await verify(store)
    assert [damage.key for damage in report.damaged] == keys
    with pytest.raises(IntegrityError) as caught:
        await restore(store, MemoryTarget(), SystemClock())
    assert caught.value.subject in keys


async def test_of_backups_at_once_the_repository_stays_one_chain(store: ObjectStore) -> None:
    log = await filled("TAPE_demo", 300)
    results = await asyncio.gather(*(backup([log], store, {}, SystemClock()) for _ in range(4)), return_exceptions=True)
    assert any(not isinstance(result, BaseException) for result in results)
    await extend(log, 400)
    await backup([log], store, {}, SystemClock())
    report = await verify(store)
    assert report.sound
    target = MemoryTarget()
    await restore(store, target, SystemClock())
    assert await messages_of(target.logs["TAPE_demo"], 1, 400) == await messages_of(log, 1, 400)


async def test_a_wrong_bucket_or_key_is_said_in_words(minio: MinioServer) -> None:
    log = await filled("TAPE_demo", 3)
    url = f"s3://no-such-bucket?endpoint={minio.endpoint}"
    nowhere = open_store(url, access_key=minio.access_key, secret_key=minio.secret_key)
    with pytest.raises(MissingError, match="no such bucket"):
        await backup([log], nowhere, {}, SystemClock())
    with pytest.raises(MissingError):
        await restore(nowhere, MemoryTarget(), SystemClock())
    await nowhere.close()
    stranger = open_store(url, access_key="wrong", secret_key="wrongwrong")
    with pytest.raises(UsageError, match="refused the credentials"):
        await backup([log], stranger, {}, SystemClock())
    await stranger.close()
    thief = open_store(url, access_key=minio.access_key, secret_key="wrongwrong")
    with pytest.raises(UsageError, match="refused the credentials"):
        await restore(thief, MemoryTarget(), SystemClock())
    await thief.close()


async def test_an_empty_bucket_holds_no_repository(store: ObjectStore) -> None:
    with pytest.raises(NoRepositoryError):
        await restore(store, MemoryTarget(), SystemClock())


async def test_a_server_that_is_away_and_comes_back_loses_nothing(tmp_path: Path) -> None:
    """MinIO is stopped in the middle of a backup and goes on later: the retries carry the backup through."""
    with running_minio(tmp_path) as server:
        credentials = Credentials(access_key=server.access_key, secret_key=server.secret_key)
        bucket = S3Store(S3Location(bucket="tapehouse", endpoint=server.endpoint), credentials)
        await bucket.create_bucket()
        await bucket.close()
        store = open_store(server.url("tapehouse"), access_key=server.access_key, secret_key=server.secret_key)
        log = await filled("TAPE_demo", 20_000, payload=secrets.token_bytes(300))
        paused = asyncio.Event()

        def pause(name: str, done: int, total: int) -> None:
            if done == 6000:
                server.process.send_signal(signal.SIGSTOP)
                paused.set()

        async def wake() -> None:
            await paused.wait()
            await asyncio.sleep(1)
            server.process.send_signal(signal.SIGCONT)

        waking = asyncio.create_task(wake())
        await backup([log], store, {}, SystemClock(), progress=pause)
        await waking
        assert (await verify(store)).sound
        server.process.terminate()
        server.process.wait(20)
        with pytest.raises(StoreThrottledError, match="does not answer"):
            await backup([log], store, {}, SystemClock())
        await store.close()


# ------------------------------------------------------------------ the embedded server


async def test_the_embedded_store_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    server = EmbeddedStore(tmp_path)
    for written in (b"first", b"second"):
        endpoint = await server.start()
        store = endpoint.store()
        if written == b"second":
            assert await store.get("k") == b"first"
        await store.put("k", written)
        assert await store.get("k") == written
        assert [info.key async for info in store.list("")] == ["k"]
        await store.close()
        await server.stop()
    assert server.endpoint is None
    await server.stop()


def test_the_embedded_store_dies_with_its_parent(tmp_path: Path) -> None:
    script = (
        "import asyncio, os, sys\n"
        "from pathlib import Path\n"
        "from tapehouse.dr.embedded_store import EmbeddedStore\n"
        "async def main():\n"
        "    server = EmbeddedStore(Path(sys.argv[1]))\n"
        "    await server.start()\n"
        "    print(server.process_id, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(child, 0)
    handle = os.pidfd_open(child)
    try:
        parent.kill()
        parent.wait(20)
        assert is_dead(handle), "the server outlived its parent"
    finally:
        os.close(handle)
        parent.stdout.close()


def is_dead(handle: int) -> bool:
    """Whether the process of a pidfd ends within 20 seconds."""
    import select

    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(20_000))


def test_without_seaweedfs_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match=r"tapehouse\[demo\]"):
        find_weed()
