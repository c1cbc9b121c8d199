"""Logs on real servers: drift, holes, lost connections, and what the broker's faults look like to us."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from tapehouse.bus import (
    Bus,
    Cluster,
    JetStreamLog,
    StreamAdmin,
    cmds_spec,
    connect,
    events_spec,
    tape_spec,
)
from tapehouse.bus.topology import stream_config
from tapehouse.core import (
    BusUnavailableError,
    DataError,
    GapError,
    IntegrityError,
    MissingError,
    UsageError,
)
from tapehouse.core.ids import new_log_id
from tapehouse.log import Branch, Message
from tests.support.clusters import free_config, unique
from tests.support.proxy import TcpProxy

WAIT_S = 30


@pytest.fixture
async def bus(cluster1: Cluster) -> AsyncIterator[Bus]:
    async with await connect(cluster1.urls) as bus:
        yield bus


@pytest.fixture
async def bus3(cluster3: Cluster) -> AsyncIterator[Bus]:
    async with await connect(cluster3.urls) as bus:
        yield bus


async def fill(log: JetStreamLog, count: int) -> None:
    last = (await log.extent()).last
    for index in range(count):
        await log.append(b"%d" % (last + index + 1), expected_last=last + index)


async def test_ensure_makes_then_verifies(bus: Bus) -> None:
    admin, spec = StreamAdmin(bus), tape_spec(unique())
    log_id = new_log_id()
    log = await admin.ensure(spec, log_id=log_id)
    await fill(log, 2)
    again = await admin.ensure(spec)
    extent = await again.extent()
    assert (extent.log_id, extent.last) == (log_id, 2)
    assert (await (await JetStreamLog.open(bus, spec.name)).extent()).log_id == log_id
    with pytest.raises(UsageError, match=r"tapehouse\.log_id"):
        await admin.ensure(spec, log_id=new_log_id())
    with pytest.raises(UsageError, match=r"tapehouse\.writers is 'one'"):
        await admin.ensure(replace(spec, single_writer=False))


async def test_each_drift_is_named(bus: Bus) -> None:
    admin, spec = StreamAdmin(bus), tape_spec(unique())
    await admin.ensure(spec)
    info = await bus.api(f"STREAM.INFO.{spec.name}")
    await bus.api(f"STREAM.UPDATE.{spec.name}", {**info["config"], "max_age": 3_600_000_000_000, "max_msgs": 5})
    with pytest.raises(UsageError) as caught:
        await admin.ensure(spec)
    assert "max_age is 3600000000000, not 0" in caught.value.message
    assert "max_msgs is 5, not -1" in caught.value.message


async def test_a_foreign_stream_is_left_alone(bus: Bus) -> None:
    admin, spec = StreamAdmin(bus), tape_spec(unique())
    await bus.api(f"STREAM.CREATE.{spec.name}", {"name": spec.name, "subjects": list(spec.subjects)})
    for attempt in (admin.ensure(spec), admin.delete(spec.name), JetStreamLog.open(bus, spec.name)):
        with pytest.raises(UsageError, match="did not make"):
            await attempt
    assert spec.name not in [status.name for status in await admin.list()]


async def test_two_processes_may_ensure_at_once(bus3: Bus) -> None:
    admin, spec = StreamAdmin(bus3), events_spec(unique())
    logs = await asyncio.gather(*(admin.ensure(spec) for _ in range(4)))
    assert len({(await log.extent()).log_id for log in logs}) == 1


async def test_more_copies_than_servers(bus: Bus) -> None:
    with pytest.raises(MissingError, match="3 copies need as many servers"):
        await StreamAdmin(bus).ensure(tape_spec(unique(), replicas=3))


async def test_status_list_delete(bus3: Bus) -> None:
    admin, spec = StreamAdmin(bus3), cmds_spec(unique())
    log = await admin.ensure(spec)
    await log.append(b"{}", expected_last=None, subject=f"{spec.subjects[0][:-1]}order.submit")
    with pytest.raises(UsageError, match="several subjects"):
        await log.append(b"{}", expected_last=None)
    status = await admin.status(spec.name)
    assert (status.messages, status.first, status.last, status.replicas) == (1, 1, 1, 3)
    assert status.leader in ("n0", "n1", "n2")
    assert status.name in [each.name for each in await admin.list()]
    await admin.delete(spec.name)
    with pytest.raises(MissingError):
        await admin.status(spec.name)
    with pytest.raises(MissingError):
        await admin.delete(spec.name)


async def test_a_new_stream_is_known_to_every_server(cluster3: Cluster) -> None:
    ports = [node.client_port for node in cluster3.state.nodes]
    buses = [await connect(f"nats://127.0.0.1:{port}") for port in ports]
    try:
        for number in range(6):
            spec = replace(tape_spec(unique()), single_writer=False)
            log = await StreamAdmin(buses[number % 3]).ensure(spec)
            for bus in buses:
                with pytest.raises(MissingError, match="no such message"):  # Not: no such stream.
                    await bus.api(f"STREAM.MSG.GET.{spec.name}", {"seq": 1})
            answers = await asyncio.gather(*(bus.request(spec.subjects[0], b"x", timeout_s=WAIT_S) for bus in buses))
            assert sorted(json.loads(answer.data)["seq"] for answer in answers) == [1, 2, 3]
            assert (await log.extent()).last == 3
    finally:
        for bus in buses:
            await bus.close()


async def test_stepping_down_changes_the_leader(bus3: Bus) -> None:
    admin, spec = StreamAdmin(bus3), tape_spec(unique())
    log = await admin.ensure(spec)
    before = await admin.leader(spec.name)
    await admin.step_down(spec.name)
    async with asyncio.timeout(WAIT_S):
        while (after := await admin.leader(spec.name)) in ("", before):  # noqa: ASYNC110  (the broker sends no event)
            await asyncio.sleep(0.05)
    assert after != before
    await fill(log, 1)


async def test_a_log_that_is_not_there(bus: Bus) -> None:
    log = JetStreamLog(bus, "TAPE_nowhere", subjects=("tape.v1.nowhere",))
    for attempt in (log.extent(), log.last(), log.append(b"x", expected_last=0), log.trim(2)):
        with pytest.raises(MissingError):
            await attempt
    with pytest.raises(MissingError):
        await JetStreamLog.open(bus, "TAPE_nowhere")


async def test_a_payload_larger_than_the_broker_takes(bus: Bus) -> None:
    log = await StreamAdmin(bus).ensure(tape_spec(unique()))
    with pytest.raises(DataError, match="more than the broker takes"):
        await log.append(bytes(9 * 1024 * 1024), expected_last=0)
    assert (await log.extent()).last == 0


async def test_a_hole_is_reported_with_its_place(bus: Bus) -> None:
    spec = tape_spec(unique())
    config = stream_config(spec, replicas=1, branches=(Branch(log_id=new_log_id()),))
    await bus.api(f"STREAM.CREATE.{spec.name}", {**config, "deny_delete": False})
    log = await JetStreamLog.open(bus, spec.name)
    await fill(log, 5)
    await bus.api(f"STREAM.MSG.DELETE.{spec.name}", {"seq": 3})
    seen = []
    with pytest.raises(GapError, match="sequence 3 is missing; the next there is 4"):  # noqa: PT012
        async for message in log.read(1):
            seen.append(message.sequence)
    assert seen == [1, 2]


async def test_our_logs_refuse_to_lose_a_message(bus: Bus) -> None:
    log = await StreamAdmin(bus).ensure(tape_spec(unique()))
    await fill(log, 2)
    with pytest.raises(UsageError):
        await bus.api(f"STREAM.MSG.DELETE.{log.name}", {"seq": 1})


async def test_trimming_overtakes_a_slow_follower(bus: Bus) -> None:
    log = await StreamAdmin(bus).ensure(tape_spec(unique()))
    await fill(log, 1)
    reading = aiter(log.read(1, follow=True))
    assert (await anext(reading)).sequence == 1
    await fill(log, 1200)
    await log.trim(1150)
    with pytest.raises(GapError, match="trimmed"):  # noqa: PT012
        async with asyncio.timeout(WAIT_S):
            async for _ in reading:
                await asyncio.sleep(0)


async def follow(log: JetStreamLog, through: int, seen: list[Message]) -> None:
    async for message in log.read(1, through=through, follow=True):
        seen.append(message)


async def test_a_follower_outlives_lost_connections(cluster1: Cluster, bus: Bus) -> None:
    log = await StreamAdmin(bus).ensure(tape_spec(unique()))
    async with TcpProxy("127.0.0.1", cluster1.state.nodes[0].client_port) as proxy, await connect(proxy.url) as far:
        seen: list[Message] = []
        task = asyncio.create_task(follow(await JetStreamLog.open(far, log.name), 300, seen))
        for _ in range(3):
            await fill(log, 100)
            proxy.cut()
        async with asyncio.timeout(WAIT_S):
            await task
        assert [message.sequence for message in seen] == list(range(1, 301))
        assert far.metrics.get("bus_reconnects_total") >= 1


async def test_a_follower_whose_consumer_vanishes_goes_on(bus: Bus) -> None:
    log = await StreamAdmin(bus).ensure(tape_spec(unique()))
    await fill(log, 10)
    seen: list[Message] = []
    task = asyncio.create_task(follow(log, 20, seen))
    async with asyncio.timeout(WAIT_S):
        while len(seen) < 10:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        names = (await bus.api(f"CONSUMER.NAMES.{log.name}"))["consumers"]
        assert len(names) == 1
        await bus.api(f"CONSUMER.DELETE.{log.name}.{names[0]}")
        await fill(log, 10)
        await task
    assert [message.sequence for message in seen] == list(range(1, 21))
    assert (await bus.api(f"CONSUMER.NAMES.{log.name}"))["consumers"] is None or not (
        await bus.api(f"CONSUMER.NAMES.{log.name}")
    )["consumers"]


async def test_a_follower_is_told_when_its_log_is_replaced_or_deleted(bus: Bus) -> None:
    admin = StreamAdmin(bus)
    for replaced, error in ((True, IntegrityError), (False, MissingError)):
        spec = tape_spec(unique())
        log = await admin.ensure(spec)
        await fill(log, 1)
        reading = aiter(log.read(1, follow=True))
        await anext(reading)
        await admin.delete(spec.name)
        if replaced:
            await admin.ensure(spec)
        with pytest.raises(error):
            async with asyncio.timeout(WAIT_S):
                await anext(reading)


async def test_an_answer_behind_what_was_acknowledged_is_not_believed(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tapehouse.bus.jetstream.STALE_ANSWERS_MAX", 2)
    admin, spec = StreamAdmin(bus), tape_spec(unique())
    log = await admin.ensure(spec)
    await fill(log, 3)
    await admin.delete(spec.name)
    await fill(await admin.ensure(spec), 1)
    for attempt in (log.last(), log.extent()):
        with pytest.raises(IntegrityError, match="ends at 1, behind sequence 3"):
            await attempt


async def test_without_a_connection_nothing_is_sent(tmp_path: Path) -> None:
    cluster = Cluster(free_config(tmp_path))
    cluster.start()
    try:
        async with await connect(cluster.urls) as bus:
            log = await StreamAdmin(bus).ensure(tape_spec(unique()))
            await fill(log, 1)
            cluster.kill_node(0)
            async with asyncio.timeout(WAIT_S):
                while bus.is_connected:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            with pytest.raises(BusUnavailableError, match="nothing was sent"):
                await log.append(b"x", expected_last=1)
            cluster.restart_node(0)
            assert (await log.extent()).last == 1
            await fill(log, 1)
    finally:
        cluster.stop()


async def test_nobody_there() -> None:
    with pytest.raises(BusUnavailableError, match=r"nobody answers at nats://127\.0\.0\.1:1"):
        await connect("nats://127.0.0.1:1", timeout_s=0.5)


async def test_stored_headers_are_json_safe(bus: Bus) -> None:
    log = await StreamAdmin(bus).ensure(tape_spec(unique()))
    value = json.dumps({"ü": [1, 2]})
    await log.append(b"x", expected_last=0, headers={"A": value})
    last = await log.last()
    assert last is not None
    assert last.headers == {"A": value}
