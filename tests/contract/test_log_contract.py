"""The log contract on the log in memory, alone and shared, and on JetStream, on one server and on three."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tapehouse.bus import Bus, Cluster, JetStreamLog, StreamAdmin, connect, tape_spec
from tapehouse.log import Branch, Log, MemoryLog, SharedLog
from tests.contract.log_contract import Harness, LogContract
from tests.support.clusters import unique
from tests.support.proxy import TcpProxy

APPEND_TIMEOUT_S = 0.5  # of the append that is meant to time out


class MemoryHarness:
    """Logs in memory."""

    async def make(
        self, *, first: int = 1, branches: tuple[Branch, ...] | None = None, single_writer: bool = True
    ) -> Log:
        return MemoryLog("TAPE_memory", first=first, branches=branches)

    async def append_ambiguously(self, log: Log, payload: bytes, *, expected_last: int, stored: bool) -> None:
        assert isinstance(log, MemoryLog)
        log.fail_next_append(stored=stored)
        await log.append(payload, expected_last=expected_last)


class SharedHarness(MemoryHarness):
    """The same, shared by its readers."""

    async def make(
        self, *, first: int = 1, branches: tuple[Branch, ...] | None = None, single_writer: bool = True
    ) -> Log:
        return _Faulty(MemoryLog("TAPE_memory", first=first, branches=branches))

    async def append_ambiguously(self, log: Log, payload: bytes, *, expected_last: int, stored: bool) -> None:
        assert isinstance(log, _Faulty)
        log.within.fail_next_append(stored=stored)
        await log.append(payload, expected_last=expected_last)


class _Faulty(SharedLog):
    def __init__(self, within: MemoryLog) -> None:
        super().__init__(within, subject="tape_memory")
        self.within = within


class JetStreamHarness:
    """Logs on a real nats-server, with a proxy that loses answers or requests."""

    def __init__(self, bus: Bus, proxied: Bus, proxy: TcpProxy) -> None:
        self._bus = bus
        self._proxied = proxied
        self._proxy = proxy

    async def make(
        self, *, first: int = 1, branches: tuple[Branch, ...] | None = None, single_writer: bool = True
    ) -> Log:
        spec = replace(tape_spec(unique()), single_writer=single_writer)
        return await StreamAdmin(self._bus).ensure(spec, first_seq=first if first > 1 else None, branches=branches)

    async def append_ambiguously(self, log: Log, payload: bytes, *, expected_last: int, stored: bool) -> None:
        other_way = await JetStreamLog.open(self._proxied, log.name, timeout_s=APPEND_TIMEOUT_S)
        self._proxy.lose_answers, self._proxy.lose_requests = stored, not stored
        try:
            await other_way.append(payload, expected_last=expected_last)
        finally:
            assert self._proxy.lost_bytes > 0
            self._proxy.heal()


@pytest.fixture(params=["memory", "shared", "jetstream-1", "jetstream-3"])
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    if request.param == "memory":
        yield MemoryHarness()
        return
    if request.param == "shared":
        yield SharedHarness()
        return
    cluster: Cluster = request.getfixturevalue("cluster1" if request.param == "jetstream-1" else "cluster3")
    port = cluster.state.nodes[0].client_port
    async with (
        TcpProxy("127.0.0.1", port) as proxy,
        await connect(cluster.urls) as bus,
        await connect(proxy.url) as proxied,
    ):
        yield JetStreamHarness(bus, proxied, proxy)


class TestLog(LogContract):
    """Runs them all."""
