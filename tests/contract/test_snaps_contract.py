"""The `Snaps` contract, in memory and on a real broker that loses answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tapehouse.bus import Cluster, StreamAdmin, StreamSpec, connect, snaps
from tapehouse.bus.snaps import JetStreamSnaps
from tapehouse.core.errors import DataError, UsageError
from tapehouse.log.snaps import SNAP_BYTES_MAX, MemorySnaps, Snaps, matches
from tests.support.clusters import unique
from tests.support.proxy import TcpProxy

LOOKS_MAX = 1000


@pytest.fixture(params=["memory", "jetstream"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Snaps, str]]:
    """A store and the first token of the subjects that it takes."""
    if request.param == "memory":
        yield MemorySnaps(), "snap"
        return
    cluster: Cluster = request.getfixturevalue("cluster1")
    name = unique("snap")
    async with await connect(cluster.urls) as bus:
        await StreamAdmin(bus).ensure(_spec(name))
        yield JetStreamSnaps(bus, name.upper()), name


def _spec(name: str) -> StreamSpec:
    return StreamSpec(name=name.upper(), subjects=(f"{name}.>",), single_writer=False, description="a test's")


async def test_what_is_stored_is_there_once_and_for_ever(store: tuple[Snaps, str]) -> None:
    snaps, root = store
    assert await snaps.load(f"{root}.a.1") is None
    assert await snaps.store(f"{root}.a.1", b"first") is True
    assert await snaps.store(f"{root}.a.1", b"second") is False
    assert await snaps.load(f"{root}.a.1") == b"first"
    assert await snaps.store(f"{root}.a.2", b"") is True
    assert await snaps.load(f"{root}.a.2") == b""
    assert await snaps.load(f"{root}.a") is None


async def test_subjects_are_listed_by_pattern(store: tuple[Snaps, str]) -> None:
    snaps, root = store
    for name in ("b.1.x", "b.2.x", "c.1.x", "b.1", "b.-5.x"):
        await snaps.store(f"{root}.{name}", name.encode())
    assert await snaps.subjects(f"{root}.b.*.x") == [f"{root}.b.-5.x", f"{root}.b.1.x", f"{root}.b.2.x"]
    assert await snaps.subjects(f"{root}.b.>") == [f"{root}.b.{end}" for end in ("-5.x", "1", "1.x", "2.x")]
    assert await snaps.subjects(f"{root}.*.1.*") == [f"{root}.b.1.x", f"{root}.c.1.x"]
    assert await snaps.subjects(f"{root}.d.>") == []


async def test_the_largest_is_stored_and_what_is_larger_refused(store: tuple[Snaps, str]) -> None:
    snaps, root = store
    whole = bytes(range(256)) * (SNAP_BYTES_MAX // 256)
    assert await snaps.store(f"{root}.large", whole)
    assert await snaps.load(f"{root}.large") == whole
    with pytest.raises(DataError, match=f"a snapshot of {SNAP_BYTES_MAX + 1} bytes"):
        await snaps.store(f"{root}.larger", whole + b"!")
    for subject in (f"{root}.*", f"{root}.>", f"{root}..a"):
        with pytest.raises(UsageError, match="one whole subject"):
            await snaps.store(subject, b"")


async def test_a_lost_answer_stores_once(cluster1: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snaps, "STORE_TIMEOUT_S", 0.3)
    name = unique("snap")
    port = cluster1.state.nodes[0].client_port
    async with (
        TcpProxy("127.0.0.1", port) as proxy,
        await connect(proxy.url) as bus,
        await connect(cluster1.urls) as well,
    ):
        await StreamAdmin(well).ensure(_spec(name))
        lossy, other = JetStreamSnaps(bus, name.upper()), JetStreamSnaps(well, name.upper())
        proxy.lose_answers = True
        task = asyncio.create_task(lossy.store(f"{name}.a", b"mine"))
        for _ in range(LOOKS_MAX):  # Until the broker has it, whose answer is lost on its way.
            if await other.load(f"{name}.a") is not None:
                break
            await asyncio.sleep(0.01)
        proxy.heal()
        assert await task is True
        assert await other.store(f"{name}.a", b"theirs") is False
        assert await other.load(f"{name}.a") == b"mine"


def test_patterns() -> None:
    assert matches("a.*.c", "a.b.c")
    assert matches("a.>", "a.b.c")
    assert not matches("a.>", "a")
    assert not matches("a.*", "a.b.c")
    assert not matches("a.b", "a.c")
