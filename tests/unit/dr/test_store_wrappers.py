"""Retrying, counting, opening stores by URL, the probe's refusals, and a full disk."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapehouse.core.clock import VirtualClock
from tapehouse.core.errors import ConflictError, MissingError, StoreThrottledError, TapehouseError, UsageError
from tapehouse.dr.backup import backup
from tapehouse.dr.file_store import FileStore
from tapehouse.dr.open_store import open_store
from tapehouse.dr.probe import probe
from tapehouse.dr.restore import MemoryTarget, restore
from tapehouse.dr.store import ATTEMPTS_MAX, PAUSE_MAX_S, Counting, MemoryStore, Retrying
from tapehouse.dr.verify import verify
from tests.support.logs import extend, filled, messages_of


class Failing(MemoryStore):
    """Fails the next `times` calls on the store's side, before or after they took effect."""

    def __init__(self, times: int, *, after: bool = False) -> None:
        super().__init__()
        self.times = times
        self.after = after
        self.calls = 0

    def _fault(self) -> None:
        self.calls += 1
        if self.times > 0:
            self.times -= 1
            raise StoreThrottledError("slow down")

    async def get(self, key: str) -> bytes:
        self._fault()
        return await super().get(key)

    async def put(self, key: str, data: bytes, *, if_none_match: bool = False, if_match: str | None = None) -> str:
        if not self.after:
            self._fault()
        etag = await super().put(key, data, if_none_match=if_none_match, if_match=if_match)
        if self.after:
            self._fault()
        return etag

    async def list(self, prefix: str, *, after: str = ""):  # type: ignore[no-untyped-def]
        count = 0
        async for info in super().list(prefix, after=after):
            yield info
            count += 1
            if count == 2:
                self._fault()


class Pauses:
    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)


async def test_what_failed_on_the_stores_side_is_tried_again_a_bounded_number_of_times() -> None:
    pauses = Pauses()
    inner = Failing(3)
    store = Retrying(inner, jitter=lambda: 0.5, pause=pauses)
    await store.put("k", b"v")
    assert pauses.taken == [0.2, 0.4, 0.8]
    inner.times = 1000
    with pytest.raises(StoreThrottledError):
        await store.get("k")
    assert inner.calls == 4 + ATTEMPTS_MAX
    assert max(pauses.taken) <= PAUSE_MAX_S * 1.5


async def test_what_cannot_work_is_not_tried_again() -> None:
    inner = Counting(MemoryStore())
    store = Retrying(inner, jitter=lambda: 0.0)
    with pytest.raises(MissingError):
        await store.get("k")
    await store.put("k", b"v", if_none_match=True)
    with pytest.raises(ConflictError):
        await store.put("k", b"w", if_none_match=True)
    assert inner.requests == 3


async def test_a_conditional_write_that_only_lost_its_answer_has_succeeded() -> None:
    store = Retrying(Failing(1, after=True), jitter=lambda: 0.0, pause=Pauses())
    etag = await store.put("k", b"ours", if_none_match=True)
    assert (await store.head("k")).etag == etag


async def test_a_conditional_write_that_lost_to_another_has_not() -> None:
    inner = Failing(1)
    store = Retrying(inner, jitter=lambda: 0.0, pause=Pauses())
    await MemoryStore.put(inner, "k", b"theirs")
    with pytest.raises(ConflictError):
        await store.put("k", b"ours", if_none_match=True)
    assert await store.get("k") == b"theirs"


async def test_a_listing_goes_on_after_the_last_key_seen() -> None:
    inner = Failing(0)
    for key in "abcdef":
        await inner.put(key, b"")
    inner.times = 2
    store = Retrying(inner, jitter=lambda: 0.0, pause=Pauses())
    assert [info.key async for info in store.list("")] == list("abcdef")
    assert store.retries == 2


async def test_requests_and_bytes_are_counted() -> None:
    store = Counting(MemoryStore())
    await store.put("k", b"12345")
    await store.get("k")
    await store.head("k")
    assert [info.key async for info in store.list("")] == ["k"]
    await store.delete("k")
    assert (store.requests, store.bytes_sent, store.bytes_received) == (5, 5, 5)


# ------------------------------------------------------------------ URLs


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://x", "is no store"),
        ("backups", "is no store"),
        ("file://relative/path", "three slashes"),
        ("s3://", "names no bucket"),
        ("s3://bucket?endpont=http://x", "no setting"),
        ("s3://bucket?endpoint=localhost:9000", "is no endpoint"),
        ("s3://key:secret@bucket", "no secrets"),
        ("s3://bucket/../x", "no object key"),
    ],
)
def test_a_wrong_url_is_refused_in_words(url: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        open_store(url)


async def test_urls_open_stores(tmp_path: Path) -> None:
    for url in (f"file://{tmp_path}/a%20b", "memory://x"):
        store = open_store(url)
        await store.put("k", b"v")
        assert await store.get("k") == b"v"
        await store.close()
    assert (tmp_path / "a b" / "k").read_bytes() == b"v"
    s3 = open_store("s3://bucket/some/prefix?endpoint=http://127.0.0.1:1&region=eu-west-1")
    assert s3.url == "s3://bucket/some/prefix"
    await s3.close()


async def test_half_a_key_pair_is_refused() -> None:
    with pytest.raises(UsageError, match="secret key"):
        open_store("s3://bucket", access_key="only")


async def test_an_s3_store_without_credentials_says_how_to_give_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    store = open_store("s3://bucket?endpoint=http://127.0.0.1:1")
    with pytest.raises(MissingError, match="AWS_ACCESS_KEY_ID"):
        await store.get("k")
    await store.close()
    store = open_store("s3://bucket?endpoint=http://127.0.0.1:1&profile=nobody")
    with pytest.raises(MissingError, match="nobody"):
        await store.get("k")
    await store.close()


async def test_an_s3_store_that_does_not_answer_says_so() -> None:
    store = open_store("s3://bucket?endpoint=http://127.0.0.1:1", access_key="a", secret_key="b", retrying=False)
    with pytest.raises(StoreThrottledError, match=r"does not answer.*endpoint"):
        await store.get("k")
    await store.close()


# ------------------------------------------------------------------ the probe refuses


class IgnoresConditions(MemoryStore):
    async def put(self, key: str, data: bytes, *, if_none_match: bool = False, if_match: str | None = None) -> str:
        return await super().put(key, data)


class IgnoresIfMatch(MemoryStore):
    async def put(self, key: str, data: bytes, *, if_none_match: bool = False, if_match: str | None = None) -> str:
        return await super().put(key, data, if_none_match=if_none_match)


class StaleLists(MemoryStore):
    async def list(self, prefix: str, *, after: str = ""):  # type: ignore[no-untyped-def]
        return
        yield


class StaleReads(MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.first: dict[str, bytes] = {}

    async def get(self, key: str) -> bytes:
        return self.first.setdefault(key, await super().get(key))


@pytest.mark.parametrize(
    ("store", "why"),
    [
        (IgnoresConditions(), "8 of 8 racing"),
        (IgnoresIfMatch(), "If-Match"),
        (StaleLists(), "list"),
        (StaleReads(), "give back"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_the_probe_refuses_a_store_that_breaks_its_promises(store: MemoryStore, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        await probe(store, "00")


# ------------------------------------------------------------------ directories


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount)], capture_output=True)
    if made.returncode:
        pytest.skip(f"no right to mount a tmpfs here: {made.stderr.decode().strip()}")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


async def test_a_full_disk_is_an_error_and_leaves_nothing_half_written(small_disk: Path) -> None:
    store = FileStore(small_disk / "repository")
    await store.put("kept", b"x" * 1000)
    for condition in (False, True):
        with pytest.raises(MissingError, match="no space is left"):
            await store.put("segments/large", b"x" * 400_000, if_none_match=condition)
    with pytest.raises(MissingError, match="no such object"):
        await store.get("segments/large")
    assert [info.key async for info in store.list("")] == ["kept"]
    assert list((small_disk / "repository" / ".tmp").iterdir()) == []
    await store.put("segments/small", b"x" * 1000)


async def test_a_backup_onto_a_full_disk_leaves_the_last_one_whole(small_disk: Path) -> None:
    store = FileStore(small_disk / "repository")
    log = await filled("TAPE_demo", 10)
    await backup([log], store, {}, VirtualClock(1))
    source = random.Random(1)
    for last in range(11, 41):
        await extend(log, last, payload=source.randbytes(20_000))
    with pytest.raises(MissingError, match="no space is left"):
        await backup([log], store, {}, VirtualClock(2))
    report = await verify(store)
    assert (report.manifest, report.sound) == (1, True)
    target = MemoryTarget()
    await restore(store, target, VirtualClock())
    assert await messages_of(target.logs["TAPE_demo"], 1, 10) == await messages_of(log, 1, 10)


async def test_what_a_dead_writer_left_is_never_visible(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    await store.put("a", b"1")
    (tmp_path / ".tmp" / "0123").write_bytes(b"half")
    assert [info.key async for info in store.list("")] == ["a"]


async def test_a_file_where_a_directory_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = FileStore(tmp_path / "file")
    with pytest.raises(TapehouseError, match="directory"):
        await store.put("a", b"")
    with pytest.raises(TapehouseError):
        await FileStore(tmp_path).put("file/below", b"")
