"""What clients of the HTTP gateway do badly is bounded, told, and harms nobody else; so are brokers that are away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tapehouse.app.kv_status import FRESH_NS
from tapehouse.gateway.http_routes import BODY_BYTES_MAX
from tapehouse.kv.client import Kv
from tapehouse.kv.entries import VALUE_BYTES_MAX
from tests.support.http_world import WAIT_S, World, rest, serving

HEAD = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"


async def still_served(world: World) -> None:
    """Somebody else is answered as ever."""
    assert (await world.ask("POST", "/key", {"other": "v"})).status == 200
    assert (await world.ask("GET", "/key/other")).json["value"] == "v"


@pytest.mark.parametrize(
    "bomb",
    [
        b"\x00\x01\x02\xff\r\n\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"GET /livez HTTP/9.9\r\n\r\n",
        b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\n\r\n",
        HEAD + b"X: " + b"x" * 100_000 + b"\r\n\r\n",
        HEAD + b"".join(b"X%d: x\r\n" % number for number in range(10_000)) + b"\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"PUT /key/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"PUT /key/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_refused_and_its_connection_ends(bomb: bytes) -> None:
    async with serving() as world:
        reader, writer = await world.raw()
        writer.write(bomb)
        told = await rest(reader)
        assert told.startswith(b"HTTP/1.0 400")
        assert len(told) < 1_000
        await still_served(world)
        assert (await world.ask("GET", "/key/k")).status == 404
        assert world.server.traffic.malformed == 1


async def test_a_bomb_behind_a_request() -> None:
    async with serving() as world:
        reader, writer = await world.raw()
        writer.write(HEAD + b"\r\n")
        assert (await asyncio.wait_for(reader.readuntil(b"}\n"), WAIT_S)).startswith(b"HTTP/1.1 200")
        put = b"PUT /key/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nv"
        writer.write(put + b"nonsense\r\n\r\n")  # What comes in one read with it is not begun.
        told = await rest(reader)
        assert told.startswith(b"HTTP/1.0 400")
        assert world.server.traffic.malformed == 1
        assert (await world.ask("GET", "/key/k")).status == 404


async def test_half_a_head_and_idle_connections_end() -> None:
    async with serving(idle_s=0.2) as world:
        (slow, slow_writer), (idle, _) = await world.raw(), await world.raw()
        for byte in HEAD[:40]:
            slow_writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert await rest(slow) == b""
        assert await rest(idle) == b""
        await still_served(world)


async def test_half_a_body_is_told_so() -> None:
    async with serving(body_s=0.2) as world:
        reader, writer = await world.raw()
        writer.write(b"PUT /key/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf")
        told = await rest(reader)
        assert told.startswith(b"HTTP/1.1 408")
        assert b'"outcome":"none"' in told
        left, leaver = await world.raw()
        leaver.write(b"PUT /key/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf")
        leaver.write_eof()
        await rest(left)
        await still_served(world)
        assert (await world.ask("GET", "/key/k")).status == 404


async def test_bodies_that_are_too_large() -> None:
    async with serving() as world:
        reader, writer = await world.raw()
        writer.write(b"POST /key HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (BODY_BYTES_MAX + 1))
        assert (await asyncio.wait_for(reader.readline(), WAIT_S)).startswith(b"HTTP/1.1 413")
        chunks, chunker = await world.raw()
        chunker.write(b"PUT /key/k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunker.write(b"%x\r\n" % (VALUE_BYTES_MAX + 1) + bytes(VALUE_BYTES_MAX + 1) + b"\r\n0\r\n\r\n")
        assert (await asyncio.wait_for(chunks.readline(), WAIT_S)).startswith(b"HTTP/1.1 413")
        asks, asker = await world.raw()
        asker.write(
            b"POST /key HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
            % (BODY_BYTES_MAX + 1)
        )
        assert (await asyncio.wait_for(asks.readline(), WAIT_S)).startswith(b"HTTP/1.1 413"), "before it is sent"
        may, may_writer = await world.raw()
        may_writer.write(b"PUT /key/k HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n")
        assert (await asyncio.wait_for(may.readuntil(b"\r\n\r\n"), WAIT_S)) == b"HTTP/1.1 100 Continue\r\n\r\n"
        may_writer.write(b"v")
        assert (await asyncio.wait_for(may.readline(), WAIT_S)).startswith(b"HTTP/1.1 200")
        await still_served(world)


async def test_a_long_pipeline_is_answered_in_order() -> None:
    async with serving() as world:
        reader, writer = await world.raw()
        requests = 200
        for number in range(requests):
            writer.write(b"GET /key/%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % number)
        told = b""
        while told.count(b"no key") < requests:
            told += await asyncio.wait_for(reader.read(65_536), WAIT_S)
        assert [told.index(b"no key '%d'" % number) for number in range(requests)] == sorted(
            told.index(b"no key '%d'" % number) for number in range(requests)
        )


async def test_who_sends_more_than_may_be_unanswered_is_cut_off() -> None:
    async with serving(held=200_000) as world:
        world.links[0].faults.append("stuck")
        reader, writer = await world.raw()
        writer.write(b"PUT /key/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nv")
        await world.until(lambda: world.server._active == 1)
        writer.write(b"GET /key/k HTTP/1.1\r\nHost: localhost\r\nX: %b\r\n\r\n" % (b"x" * 10_000) * 100)
        await rest(reader)
        await world.until(lambda: world.server.traffic.cut["held"] == 1)
        world.links[0].unstick()
        await still_served(world)


async def test_who_holds_most_is_cut_off_where_all_hold_too_much() -> None:
    async with serving(memory=2_000_000, body_s=WAIT_S) as world:
        head = b"PUT /key/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500000\r\n\r\n"
        for _ in range(5):
            _, writer = await world.raw()
            writer.write(head + bytes(499_999))
        await world.until(lambda: world.server.traffic.cut["memory"] >= 1)
        assert world.server.traffic.memory <= 2_000_000
        assert (await world.ask("GET", "/livez")).status == 200


async def test_a_reader_that_takes_nothing_is_cut_off() -> None:
    async with serving(stalled_s=0.2) as world:
        await world.ask("PUT", "/key/k", bytes(VALUE_BYTES_MAX))
        reader, writer = await world.raw()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(40):
            writer.write(b"GET /key/k HTTP/1.1\r\nHost: localhost\r\nAccept: application/octet-stream\r\n\r\n")
        await world.until(lambda: world.server.traffic.cut["stalled"] == 1)
        await still_served(world)
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        await rest(reader)


async def test_one_connection_too_many() -> None:
    async with serving(connections=2) as world:
        kept = [await world.raw() for _ in range(2)]
        for _, writer in kept:
            writer.write(HEAD + b"\r\n")
        await world.until(lambda: world.server.traffic.connected == 2)
        reader, _ = await world.raw()
        told = await rest(reader)
        assert told.startswith(b"HTTP/1.1 503")
        assert b"Retry-After" in told
        assert world.server.traffic.refused == 1
        kept[0][1].close()
        await world.until(lambda: world.server.traffic.connected == 1)
        assert (await world.ask("GET", "/livez")).status == 200


async def test_watchers_are_bounded_and_told_that_they_are_alive() -> None:
    async with serving(watchers=1, heartbeat_s=0.05) as world:
        url = f"http://127.0.0.1:{world.port}/watch"
        async with asyncio.timeout(WAIT_S), world.http.get(url) as stream:
            await stream.content.readuntil(b": still here\n\n")
            busy = await world.ask("GET", "/watch")
            assert (busy.status, busy.json["code"]) == (503, "busy")


async def test_a_full_queue_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapehouse.kv.shard_writer.QUEUE_ENTRIES_MAX", 10)
    async with serving() as world:
        world.links[0].faults.append("stuck")
        asks = [asyncio.create_task(world.ask("PUT", f"/key/{number}", b"v")) for number in range(40)]
        await world.until(lambda: sum(task.done() for task in asks) >= 20 and world.links[0].is_stuck)
        world.links[0].unstick()
        told = await asyncio.gather(*asks)
        busy = [one for one in told if one.status == 503]
        assert {one.status for one in told} == {200, 503}, [one.body for one in told]
        assert all(one.json["code"] == "busy" and one.json["outcome"] == "none" for one in busy)
        assert all(int(one.headers["Retry-After"]) > 0 for one in busy)
        page = (await world.ask("GET", "/keys?limit=100")).json
        assert len(page["keys"]) == 40 - len(busy), "what was refused was not done"


async def test_outcomes_without_a_majority() -> None:
    async with serving(patience_s=0.4) as world:
        await world.ask("PUT", "/key/k", b"1")
        world.links[0].faults.append("stuck")
        sent = asyncio.create_task(world.ask("PUT", "/key/k", b"2"))
        await world.until(lambda: world.links[0].is_stuck)
        queued = asyncio.create_task(world.ask("POST", "/key", {"q": "1", "r": "2"}))
        unknown, none = await sent, await queued
        assert (unknown.status, unknown.json["code"], unknown.json["outcome"]) == (504, "outcome-unknown", "unknown")
        assert none.status == 503
        assert [row["error"]["outcome"] for row in none.json["results"]] == ["none", "none"]
        assert int(none.headers["Retry-After"]) > 0
        read = await world.ask("GET", "/key/k")
        assert (read.status, read.json["code"]) == (503, "unavailable")
        stale = await world.ask("GET", "/key/k?level=eventual&max_staleness=1ms")
        assert (stale.status, stale.json["code"]) == (503, "stale")
        assert (await world.ask("GET", "/key/k?level=eventual")).json["value"] == "1", "eventual reads go on"
        ready = await world.ask("GET", "/readyz")
        assert (ready.status, ready.json["ready"]) == (503, False)
        assert "is a majority of the brokers up?" in ready.json["reasons"][0]
        world.links[0].unstick()
        await world.until(lambda: not world.links[0].is_stuck)
        await still_served(world)
        assert (await world.ask("GET", "/readyz")).status == 200
        assert (await world.ask("GET", "/key/k")).json["value"] == "2", "what was unknown had come true"


async def test_a_view_that_is_behind_is_not_ready() -> None:
    async with serving(patience_s=0.2) as world:
        await world.links[0].hold()
        await world.ask("PUT", "/key/k", b"1")
        await world.until(lambda: (world.kv.nodes[0].staleness_ns or 0) > FRESH_NS)
        ready = await world.ask("GET", "/readyz")
        assert ready.status == 503
        assert "frames behind" in ready.json["reasons"][0]
        assert (await world.ask("GET", "/status")).json["shards"][0]["lag"] >= 1
        world.links[0].let_go()
        await still_served(world)


async def test_a_halted_view_says_so() -> None:
    async with serving() as world:
        await world.links[0].log.append(b"no frame at all", expected_last=None)
        await world.until(lambda: world.kv.nodes[0].failure is not None)
        ready = await world.ask("GET", "/readyz")
        assert "halted" in ready.json["reasons"][0]
        put = await world.ask("PUT", "/key/k", b"v")
        assert (put.status, put.json["code"]) == (500, "halted")


async def test_stop_answers_what_is_under_way_and_ends_watchers() -> None:
    async with serving() as world:
        world.links[0].faults.append("stuck")
        watching = await world.http.get(f"http://127.0.0.1:{world.port}/watch")
        busy = asyncio.create_task(world.ask("PUT", "/key/k", b"v"))
        await world.until(lambda: world.links[0].is_stuck)
        stopping = asyncio.create_task(world.server.stop())
        async with asyncio.timeout(WAIT_S):
            await watching.read()
        assert not stopping.done()
        world.links[0].unstick()
        assert (await busy).status == 200
        await stopping
        assert not world.server.traffic.cut


async def test_stop_waits_no_longer_than_it_may() -> None:
    async with serving(stop_s=0.1) as world:
        world.links[0].faults.append("stuck")
        reader, writer = await world.raw()
        writer.write(b"PUT /key/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nv")
        await world.until(lambda: world.links[0].is_stuck)
        async with asyncio.timeout(WAIT_S):
            await world.server.stop()
        assert await rest(reader) == b""
        assert world.server.traffic.cut == {"stop": 1}


async def test_a_client_that_vanishes_has_what_it_asked_for_done() -> None:
    async with serving() as world:
        world.links[0].faults.append("stuck")
        _, writer = await world.raw()
        writer.write(b"PUT /key/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nv")
        await world.until(lambda: world.links[0].is_stuck)
        writer.transport.abort()
        await world.until(lambda: world.server.traffic.connected == 0)
        world.links[0].unstick()
        await world.until(lambda: world.server._active == 0)
        assert (await world.ask("GET", "/key/k")).json["value"] == "v"


async def test_a_fault_of_ours_is_told_and_others_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as world:
        heard: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))

        async def fail(*_: object) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(Kv, "get", fail)
            told = await world.ask("GET", "/key/k")
        assert (told.status, told.json["code"]) == (500, "internal")
        assert b"ZeroDivision" not in told.body
        assert isinstance(heard[0]["exception"], ZeroDivisionError)
        await still_served(world)
