"""What OUT must be able to tell of its end: in memory and on a real broker alike."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tapehouse.app.out import OutLog
from tapehouse.bus import Cluster, StreamAdmin, StreamSpec, connect
from tapehouse.log import MemoryLog
from tests.support.clusters import unique


@pytest.fixture(params=["memory", "jetstream"])
async def log(request: pytest.FixtureRequest) -> AsyncIterator[tuple[OutLog, str]]:
    """A plain log of many subjects, and the first token of those that it takes."""
    if request.param == "memory":
        yield MemoryLog("OUT"), "out"
        return
    cluster: Cluster = request.getfixturevalue("cluster1")
    name = unique("out")
    spec = StreamSpec(name=name.upper(), subjects=(f"{name}.>",), single_writer=False, description="a test's")
    async with await connect(cluster.urls) as bus:
        yield await StreamAdmin(bus).ensure(spec), name


async def test_the_last_message_under_a_subject(log: tuple[OutLog, str]) -> None:
    out, root = log
    assert await out.last_under(f"{root}.main.>") is None
    for subject, payload in (("main.order.filled", b"1"), ("main.order.accepted", b"2"), ("main2.order.filled", b"3")):
        await out.append(payload, expected_last=None, subject=f"{root}.{subject}", headers={"Tapehouse-X": "7"})
    last = await out.last_under(f"{root}.main.>")
    assert last is not None
    assert (last.sequence, last.payload, last.headers) == (2, b"2", {"Tapehouse-X": "7"})
    one = await out.last_under(f"{root}.main.order.filled")
    assert one is not None
    assert (one.subject, one.payload) == (f"{root}.main.order.filled", b"1")
    assert await out.last_under(f"{root}.mai.>") is None
