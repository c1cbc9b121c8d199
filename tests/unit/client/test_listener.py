"""One reader of EVENTS for all that a client sent: nobody misses an outcome, whatever the reader goes through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tapehouse.client.listener import READ_ATTEMPTS_MAX, WAITING_MAX, Listener, unread_id
from tapehouse.core import VirtualClock
from tapehouse.core.errors import BusUnavailableError, GapError, TapehouseError
from tapehouse.desk.order_frames import place_orders
from tapehouse.log import Codec, FrameHeader, MemoryLog, Message, encode_frame
from tapehouse.market import Cells
from tests.support.bench import LOG_ID, NOW, EngineBench, command_bytes
from tests.support.bulk_orders import orders


class Faulty(MemoryLog):
    """A log whose readers fail as told, and count."""

    def __init__(self) -> None:
        super().__init__("EVENTS_t", log_id=LOG_ID)
        self.failures: list[TapehouseError] = []
        self.reads = 0
        self._ordinal = 0

    async def read(self, first: int, *, through: int | None = None, follow: bool = False) -> AsyncIterator[Message]:
        self.reads += 1
        if self.failures:
            raise self.failures.pop(0)
        async for message in super().read(first, through=through, follow=follow):
            yield message

    async def decide(self, cells: Cells) -> None:
        header = FrameHeader(log_id=LOG_ID, writer=1, epoch=1, first_ordinal=self._ordinal, codec=Codec.PLAIN)
        self._ordinal += len(cells)
        await self.append(encode_frame(cells, header), expected_last=(await self.extent()).last)


class Desk:
    """An engine whose decisions go to a faulty log."""

    def __init__(self) -> None:
        self.bench = EngineBench()
        self.log = Faulty()

    async def send(self, name: str) -> None:
        payload = command_bytes(int(name), "account.kill", {"account": "alice"})
        self.bench.send_bytes(payload, f"command-{name}", "tests")
        await self.log.decide(self.bench.outputs)


@pytest.fixture
def desk() -> Desk:
    """Nothing is decided yet."""
    return Desk()


async def settle(listener: Listener) -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_many_wait_on_one_reader(desk: Desk) -> None:
    listener = Listener(desk.log, clock=VirtualClock(NOW))
    await listener.open()
    waiting = {name: await listener.expect(f"command-{name}") for name in ("1", "2", "3")}
    for name in ("2", "3", "1"):
        await desk.send(name)
    positions = [(await waiting[name]).position for name in ("2", "3", "1")]
    assert positions == sorted(positions)
    await listener.open()
    assert desk.log.reads == 1
    await listener.close()


async def test_a_reader_that_fails_goes_on_where_it_was(desk: Desk) -> None:
    clock = VirtualClock(NOW)
    desk.log.failures = [BusUnavailableError("away")] * (READ_ATTEMPTS_MAX - 1)
    listener = Listener(desk.log, clock=clock)
    await listener.open()
    waiting = await listener.expect("command-1")
    await desk.send("1")
    for _ in range(READ_ATTEMPTS_MAX):
        await settle(listener)
        clock.advance(10**9)
    assert (await waiting).outcome == "accepted"
    assert desk.log.reads == READ_ATTEMPTS_MAX
    await listener.close()


@pytest.mark.parametrize("error", [GapError("trimmed"), BusUnavailableError("away")])
async def test_where_it_fails_for_good_everybody_hears_and_the_next_one_starts_anew(
    desk: Desk, error: TapehouseError
) -> None:
    clock = VirtualClock(NOW)
    desk.log.failures = [error] * READ_ATTEMPTS_MAX
    listener = Listener(desk.log, clock=clock)
    await listener.open()
    waiting, answers = await listener.expect("command-1"), listener.expect_orders(1, 1, 2)
    for _ in range(READ_ATTEMPTS_MAX):
        await settle(listener)
        clock.advance(10**9)
    for future in (waiting, answers.done):
        with pytest.raises(type(error), match=error.message):
            await future
    desk.log.failures = []
    listener.forget("command-1")
    await listener.open()
    again = await listener.expect("command-1")
    await desk.send("1")
    assert (await again).outcome == "accepted"
    await listener.close()


async def test_closing_tells_who_waits(desk: Desk) -> None:
    listener = Listener(desk.log, clock=VirtualClock(NOW))
    await listener.open()
    waiting = await listener.expect("command-1")
    await listener.close()
    with pytest.raises(BusUnavailableError, match="the client was closed"):
        await waiting


async def test_only_so_many_wait_at_once(desk: Desk) -> None:
    listener = Listener(desk.log, clock=VirtualClock(NOW))
    for at in range(WAITING_MAX):
        await listener.expect(f"many-{at}")
    more = asyncio.create_task(listener.expect("command-1"))
    await settle(listener)
    assert not more.done()
    listener.forget("many-7")
    await more
    listener.forget("many-7")
    assert listener._room.locked(), "a place is given back once"


async def test_what_has_no_id_can_be_asked_for_later(desk: Desk) -> None:
    listener = Listener(desk.log, clock=VirtualClock(NOW))
    await listener.open()
    other = listener.expect_orders(1, 1, 1)
    desk.bench.commands = 9
    desk.bench.send_bytes(b"no command", "cmds:9", "cmds:9")
    await desk.log.decide(desk.bench.outputs)
    await settle(listener)
    assert (await (await listener.expect(unread_id(9)))).outcome == "parked"
    listener.forget_orders(other)
    await listener.close()


async def test_orders_are_told_by_client_and_number_and_the_first_answer_counts(desk: Desk) -> None:
    listener = Listener(desk.log, clock=VirtualClock(NOW))
    await listener.open()
    mine, other = listener.expect_orders(5, 10, 3), listener.expect_orders(6, 10, 3)
    for client, number, count in ((6, 12, 1), (5, 10, 2), (5, 10, 3)):
        made = place_orders(orders(client, number, count), sequence=1, now=NOW, source=2)
        await desk.log.decide(desk.bench.feed(made))
    await mine.done
    assert [chr(action) for action in mine.action] == ["a"] * 3
    assert other.missing.tolist() == [10, 11]
    assert (mine.order_id >> 12 == mine.position).all()
    await listener.close()
