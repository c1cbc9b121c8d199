"""RESP over real sockets, on a KV in memory: what clients do badly is bounded, told, and harms nobody else."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tapehouse.app.kv_gateway import make_gateway, tls_context
from tapehouse.core.clock import SystemClock
from tapehouse.core.errors import MissingError
from tapehouse.gateway.resp_server import Limits, RespServer, Traffic, listen
from tapehouse.gateway.resp_session import PIPELINE_MAX
from tapehouse.kv.client import Kv
from tapehouse.kv.entries import KEY_BYTES_MAX, VALUE_BYTES_MAX
from tapehouse.log import MemoryLog
from tests.support.kv_world import Link
from tests.support.resp_world import array

WAIT_S = 20.0


class Client:
    """One connection, as a plain program makes it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, data: bytes, reply: bytes) -> None:
        """Send, and be answered exactly that."""
        self.writer.write(data)
        told = await asyncio.wait_for(self.reader.readexactly(len(reply)), WAIT_S)
        assert told == reply

    async def rest(self) -> bytes:
        """All that comes until the other side closes."""
        return await asyncio.wait_for(self.reader.read(), WAIT_S)

    def close(self) -> None:
        self.writer.close()


class World:
    """A server and its clients."""

    def __init__(self, server: RespServer, port: int, link: Link) -> None:
        self.server, self.port, self.link = server, port, link
        self.clients: list[Client] = []

    async def client(self, **options: Any) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port, **options))
        self.clients.append(client)
        return client

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until something holds."""
        async with asyncio.timeout(WAIT_S):
            while not holds():  # noqa: ASYNC110 - nothing tells when counters change
                await asyncio.sleep(0.005)


@asynccontextmanager
async def serving(*, tls: ssl.SSLContext | None = None, token: str = "", **limits: Any) -> AsyncIterator[World]:
    link, life, clock, traffic = Link(MemoryLog("KV_0")), count(1), SystemClock(), Traffic()

    async def open_log(_: int) -> Link:
        return link

    with listen("127.0.0.1", 0) as sock:
        async with await Kv.open(open_log, new_life=lambda: next(life), clock=clock, shards=1) as kv:
            port = sock.getsockname()[1]
            gateway = make_gateway(kv, traffic, clock, port=port, connections_max=100)
            server = RespServer(gateway, traffic=traffic, token=token, limits=Limits(**limits))
            await server.start(sock, tls)
            world = World(server, port, link)
            try:
                yield world
            finally:
                link.unstick()
                for client in world.clients:
                    client.close()
                await server.stop()
    assert traffic.connected == 0
    assert traffic.memory == 0
    assert not server.connections


async def test_requests_of_one_read_and_of_many() -> None:
    async with serving() as world:
        one = await world.client()
        await one.ask(b"PING\r\nSET k v\r\nGET k\r\nINCR n\r\n", b"+PONG\r\n+OK\r\n$1\r\nv\r\n:1\r\n")
        for byte in array(b"GET", b"k"):  # A request comes in as many reads as bytes, and harms nobody meanwhile.
            one.writer.write(bytes([byte]))
            await asyncio.sleep(0)
        await one.ask(b"", b"$1\r\nv\r\n")
        raw = b"\xff\xfe\x00\r\n"  # no UTF-8, and none is asked for
        await one.ask(array(b"SET", raw, raw) + array(b"GET", raw), b"+OK\r\n$5\r\n" + raw + b"\r\n")
        await one.ask(b"DBSIZE\r\n", b":3\r\n")
        one.writer.write(b"INFO\r\n")
        length = int((await one.reader.readline())[1:])
        info = (await one.reader.readexactly(length + 2)).decode()
        assert "redis_version:7" in info
        assert "connected_clients:1" in info
        assert "requests_write:3" in info
        assert "db0:keys=3" in info
        assert "shard0:keys=4,position=" in info  # one of them is the KV's own
        assert world.server.requests == 9


async def test_hello_in_the_midst_of_a_pipeline_holds_from_its_place_on() -> None:
    async with serving() as world:
        one = await world.client()
        one.writer.write(b"GET none\r\nGET none\r\nHELLO 3\r\nGET none\r\nHELLO 2\r\nGET none\r\nPING\r\n")
        told = await asyncio.wait_for(one.reader.readuntil(b"+PONG\r\n"), WAIT_S)
        assert told.startswith(b"$-1\r\n$-1\r\n%7\r\n")
        assert told.endswith(b"*0\r\n$-1\r\n+PONG\r\n")
        assert told.count(b"_\r\n*14\r\n") == 1, "null of RESP3, then the answer to HELLO 2"


async def test_a_pipeline_longer_than_may_be_unanswered() -> None:
    async with serving() as world:
        one = await world.client()
        requests = 3 * PIPELINE_MAX
        await one.ask(b"INCR n\r\n" * requests, b"".join(b":%d\r\n" % each for each in range(1, requests + 1)))


async def test_what_is_too_large_is_refused_and_the_connection_lives() -> None:
    async with serving() as world:
        one = await world.client()
        one.writer.write(array(b"SET", bytes(KEY_BYTES_MAX + 1), b"v"))
        assert (await one.reader.readline()).startswith(b"-ERR")
        large = bytes(VALUE_BYTES_MAX)
        await one.ask(array(b"SET", bytes(KEY_BYTES_MAX), large), b"+OK\r\n")
        await one.ask(array(b"GET", bytes(KEY_BYTES_MAX)), b"$%d\r\n%b\r\n" % (len(large), large))


@pytest.mark.parametrize(
    "bomb",
    [
        b"*1000000000\r\n",
        b"*-x\r\n",
        b"*1\r\n$999999999999\r\n",
        b"*2\r\n$3\r\nGET\r\n:1\r\n",
        b"GET " + b"x" * 100_000,
        b'GET "no end\r\n',
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n" % (VALUE_BYTES_MAX + 1) + bytes(4_000_000),
    ],
)
async def test_a_protocol_error_is_told_after_what_came_before_then_the_connection_ends(bomb: bytes) -> None:
    async with serving(linger_s=WAIT_S) as world:
        other, one = await world.client(), await world.client()
        one.writer.write(b"SET k v\r\nGET k\r\n" + bomb)
        told = await one.rest()
        assert told.startswith(b"+OK\r\n$1\r\nv\r\n-ERR Protocol error: ")
        assert told.count(b"\r\n") == 4
        one.close()
        await world.until(lambda: world.server.traffic.connected == 1)
        await other.ask(b"GET k\r\n", b"$1\r\nv\r\n")


async def test_who_never_leaves_after_an_error_is_cut_off() -> None:
    async with serving(linger_s=0.05) as world:
        one = await world.client()
        one.writer.write(b"*x\r\n")
        await world.until(lambda: world.server.traffic.cut["linger"] == 1 and not world.server.connections)


async def test_half_a_request_and_then_nothing() -> None:
    async with serving() as world:
        one, other = await world.client(), await world.client()
        one.writer.write(b"*2\r\n$3\r\nGET\r\n$100\r\nhalf")
        one.writer.write_eof()
        assert await one.rest() == b""
        two = await world.client()
        two.writer.write(b"SET k v\r\nGET k\r\nGE")  # What is whole is answered though its sender sends no more.
        two.writer.write_eof()
        assert await two.rest() == b"+OK\r\n$1\r\nv\r\n"
        await other.ask(b"PING\r\n", b"+PONG\r\n")


@pytest.mark.parametrize(("gets", "why"), [(40, "stalled"), (300, "owed")])
async def test_a_client_that_reads_nothing_is_not_read_from_and_then_cut_off(gets: int, why: str) -> None:
    async with serving(stalled_s=0.2) as world:
        slow, other = await world.client(), await world.client()
        await other.ask(array(b"SET", b"k", bytes(500_000)), b"+OK\r\n")
        slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
        slow.writer.write(b"GET k\r\n" * gets)
        await world.until(lambda: world.server.traffic.cut[why])
        assert world.server.traffic.cut == {why: 1}
        await world.until(lambda: len(world.server.connections) == 1 and world.server.traffic.memory == 0)
        await other.ask(b"PING\r\n", b"+PONG\r\n")


async def test_a_request_for_more_values_than_fit_is_refused() -> None:
    async with serving() as world:
        one = await world.client()
        await one.ask(array(b"SET", b"k", bytes(500_000)), b"+OK\r\n")
        one.writer.write(b"MGET" + b" k" * 4_000 + b"\r\n")
        assert (await one.reader.readline()).startswith(b"-ERR the values have more than")
        await one.ask(b"MGET" + b" none" * 1_000 + b"\r\n", b"*1000\r\n" + b"$-1\r\n" * 1_000)


async def test_who_holds_most_is_cut_off_where_all_hold_too_much() -> None:
    async with serving(memory=1_000_000) as world:
        head = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$150000\r\n"
        small, large = await world.client(), await world.client()
        await small.ask(b"PING\r\n", b"+PONG\r\n")
        small.writer.write(head + bytes(100_000))
        others = [await world.client() for _ in range(2)]
        for each in (large, *others):
            each.writer.write(head.replace(b"150", b"500") + bytes(400_000))
        await world.until(lambda: world.server.traffic.cut["memory"] >= 1)
        await world.until(lambda: world.server.traffic.memory <= 1_000_000)
        await small.ask(bytes(50_000) + b"\r\n", b"+OK\r\n")


async def test_one_connection_too_many() -> None:
    async with serving(connections=20) as world:
        clients = [await world.client() for _ in range(20)]
        for each in clients:
            await each.ask(b"PING\r\n", b"+PONG\r\n")
        late = await world.client()
        assert await late.rest() == b"-ERR max number of clients reached\r\n"
        clients[0].close()
        await world.until(lambda: world.server.traffic.connected == 19)
        await (await world.client()).ask(b"PING\r\n", b"+PONG\r\n")
        assert world.server.traffic.refused == 1


async def test_a_client_that_vanishes_leaves_nothing_behind() -> None:
    async with serving() as world:
        world.link.faults.append("stuck")
        gone, other = await world.client(), await world.client()
        gone.writer.write(b"SET k v\r\nGET k\r\nSET k w\r\n")
        await world.until(lambda: world.server.traffic.kinds["write"] == 2)
        sock = gone.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # It resets the connection.
        gone.writer.transport.abort()
        await world.until(lambda: world.server.traffic.connected == 1)
        assert world.server.traffic.memory == 0
        world.link.unstick()
        await other.ask(b"GET k\r\n", b"$1\r\nv\r\n")  # It was on its way; what came behind was never begun.


async def test_a_client_that_sends_no_more_may_wait_so_long() -> None:
    async with serving(stop_s=0.1, linger_s=0.1) as world:
        world.link.faults.append("stuck")
        one = await world.client()
        one.writer.write(b"SET k v\r\n")
        one.writer.write_eof()
        await world.until(lambda: world.server.traffic.cut == {"left": 1})
        assert await one.rest() == b""


async def test_a_full_queue_says_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapehouse.kv.shard_writer.QUEUE_ENTRIES_MAX", 10)
    async with serving() as world:
        world.link.faults.append("stuck")
        one = await world.client()
        one.writer.write(b"INCR n\r\n" * 100)
        await world.until(lambda: world.server.traffic.kinds["write"] == 100)
        for _ in range(5):
            await asyncio.sleep(0)
        world.link.unstick()
        told = [await asyncio.wait_for(one.reader.readline(), WAIT_S) for _ in range(100)]
        done = [line for line in told if line.startswith(b":")]
        assert done == [b":%d\r\n" % each for each in range(1, len(done) + 1)]
        busy = [line for line in told if line.startswith(b"-BUSY")]
        assert len(done) + len(busy) == 100
        assert len(busy) >= 80
        await one.ask(b"GET n\r\n", b"$2\r\n%d\r\n" % len(done))


async def test_a_token() -> None:
    async with serving(token="secret", stranger_s=WAIT_S) as world:
        one = await world.client()
        await one.ask(b"GET k\r\n", b"-NOAUTH Authentication required.\r\n")
        await one.ask(b"AUTH wrong\r\n", b"-WRONGPASS invalid username-password pair or user is disabled.\r\n")
        await one.ask(b"AUTH secret\r\nGET k\r\n", b"+OK\r\n$-1\r\n")


async def test_a_stranger_may_not_stay() -> None:
    async with serving(token="secret", stranger_s=0.1) as world:
        stranger, known = await world.client(), await world.client()
        await known.ask(b"AUTH secret\r\n", b"+OK\r\n")
        assert await stranger.rest() == b""
        assert world.server.traffic.cut == {"stranger": 1}
        await known.ask(b"PING\r\n", b"+PONG\r\n")


async def test_tls(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    trusts = ssl.create_default_context(cafile=str(cert))
    async with serving(tls=tls_context(cert, key)) as world:
        one = await world.client(ssl=trusts)
        large = bytes(VALUE_BYTES_MAX)
        await one.ask(array(b"SET", b"k", large) + b"GET k\r\n", b"+OK\r\n$%d\r\n%b" % (len(large), large) + b"\r\n")
        one.writer.write(b"*x\r\n")
        assert (await one.rest()).startswith(b"-ERR Protocol error")
        plain = await world.client()
        plain.writer.write(b"PING\r\n")
        assert b"PONG" not in await plain.rest()
        assert world.server.traffic.accepted == 1


async def test_stop_answers_what_is_under_way() -> None:
    async with serving() as world:
        world.link.faults.append("stuck")
        busy, idle = await world.client(), await world.client()
        await idle.ask(b"PING\r\n", b"+PONG\r\n")
        busy.writer.write(b"SET k v\r\nGET k\r\n")
        await world.until(lambda: world.server.traffic.kinds["write"] == 1)
        stopping = asyncio.create_task(world.server.stop())
        assert await idle.rest() == b""
        assert not stopping.done()
        world.link.unstick()
        assert await busy.rest() == b"+OK\r\n$1\r\nv\r\n"
        await stopping
        assert not world.server.traffic.cut


async def test_stop_waits_no_longer_than_it_may() -> None:
    async with serving(stop_s=0.1) as world:
        world.link.faults.append("stuck")
        one = await world.client()
        one.writer.write(b"SET k v\r\n")
        await world.until(lambda: world.server.traffic.kinds["write"] == 1)
        await world.server.stop()
        assert await one.rest() == b""
        assert world.server.traffic.cut == {"stop": 1}


async def test_idle_connections_hold_no_task_and_no_timer() -> None:
    async with serving() as world:
        before = len(asyncio.all_tasks())
        for _ in range(50):
            await (await world.client()).ask(b"SET k v\r\n", b"+OK\r\n")
        await world.until(lambda: len(asyncio.all_tasks()) == before)
        assert world.server._watch is None
        assert world.server.traffic.memory == 0


async def test_a_port_that_is_taken() -> None:
    with listen("127.0.0.1", 0) as sock, pytest.raises(MissingError, match="choose another with --resp"):
        listen("127.0.0.1", sock.getsockname()[1])


async def test_a_fault_of_ours_ends_that_connection_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as world:
        bad, good = await world.client(), await world.client()
        heard: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))

        def fail(*_: object) -> Awaitable[None]:
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(Kv, "get_each", fail)
            bad.writer.write(b"EXISTS k\r\n")
            assert await bad.rest() == b""
        assert isinstance(heard[0]["exception"], ZeroDivisionError)
        await good.ask(b"GET k\r\n", b"$-1\r\n")
