"""The micro service of a desk: what is answered, when it is busy, and what it never does."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tapehouse.app.desk_service import CommandIndex, DeskService
from tapehouse.client.outcomes import Outcomes
from tapehouse.core import VirtualClock
from tapehouse.core.errors import (
    BusUnavailableError,
    BusyError,
    DataError,
    DecodeError,
    InvariantError,
    MissingError,
    TransientError,
)
from tapehouse.log import FrameWriter, MemoryLog
from tests.support.decided_day import NOW, event_record
from tests.support.memory_platform import desk_running, make_platform

KILL = {"type": "account.kill", "body": {"account": "manual"}}


class Desk:
    """A service on logs in memory; what the desk decides is said by hand, or by a desk that runs on the same logs."""

    def __init__(self, commands: MemoryLog | None = None, events: MemoryLog | None = None, **options: Any) -> None:
        self.commands = commands or MemoryLog("CMDS_day")
        self.events = events or MemoryLog("EVENTS_day")
        self.outcomes = Outcomes(self.events, waiting_max=options.pop("waiting_max", 8))
        self.index = CommandIndex(self.commands)
        self.consumed = 0
        self.service = DeskService(
            "day", self.commands, self.outcomes, self.index, clock=VirtualClock(NOW), status=self.status,
            consumed=lambda: self.consumed, **options,
        )  # fmt: skip
        self._tasks: list[asyncio.Task[None]] = []

    async def status(self) -> dict[str, Any]:
        return {"mode": "gated"}

    async def __aenter__(self) -> Desk:
        await self.outcomes.open()
        await self.index.open()
        self._tasks = [asyncio.create_task(self.outcomes.run()), asyncio.create_task(self.index.run())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def send(self, told: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(await self.service.send(json.dumps(told).encode()))
        return answer

    async def outcome(self, **asked: Any) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(await self.service.outcome(json.dumps(asked).encode()))
        return answer

    async def stored(self) -> list[dict[str, Any]]:
        return [json.loads(message.payload) async for message in self.commands.read(1)]

    async def decide(self, command_id: str, ordinal: int, kind: str = "command.outcome", **body: Any) -> None:
        record = event_record(kind, ordinal, 0, command_id, command_id, body)
        record["sequence"][0] = ordinal
        await (await FrameWriter.open(self.events, writer=1)).append(record)


async def settle() -> None:
    """Let everything that can go on do so."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_real_desk_answers_commands_of_both_forms_and_repeats() -> None:
    platform = await make_platform()
    async with desk_running(platform), Desk(platform.logs["commands"], platform.logs["events"], wait_s=60.0) as desk:
        first = await desk.send({**KILL, "client": "ops", "number": 7})
        assert (first["outcome"], first["client"], first["number"]) == ("accepted", "ops", 7)
        again = await desk.send({**KILL, "client": "ops", "number": 7})
        assert (again["outcome"], again["first"]) == ("repeated", "accepted")
        assert again["position"] > first["position"]
        assert (await desk.outcome(client="ops", number=7))["position"] == first["position"]
        assert (await desk.outcome(id=again["command_id"]))["outcome"] == "repeated"
        envelope = {
            "id": "mine", "type": "account.kill", "version": 1, "client": "other", "number": 3, "correlation": "c",
            "time": 5, "body": {"account": "manual"},
        }  # fmt: skip
        whole = await desk.send(envelope)
        assert (whole["outcome"], whole["command_id"]) == ("accepted", "mine")
        assert (await desk.send({**envelope, "id": "late", "number": 2}))["outcome"] == "expired"
        refused = await desk.send({"type": "order.cancel", "body": {"instrument": "ALFA", "order_id": 5}})
        assert (refused["outcome"], refused["reason"].partition("'")[0]) == ("rejected", "unknown instrument ")
        many = await asyncio.gather(*(desk.send(KILL) for _ in range(8)))
        assert [each["outcome"] for each in many] == ["accepted"] * 8, "its own numbers come in order"


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"type": "order.submit", "body": {"instrument": "A", "side": "buy", "price": "x", "size": 1}}, "price: "),
        ({"type": "order.submit", "body": {"instrument": "A", "side": "up", "price": 1, "size": 1}}, "side: "),
        ({"type": "order.none", "body": {}}, "unknown type"),
        ({"type": "account.kill", "body": {"account": "a", "why": 1}}, "why: "),
        ({"type": "account.kill"}, "body: an object"),
        ({**KILL, "price": 3}, "price: unknown"),
        ({**KILL, "number": 3}, "number: says nothing without client"),
        ({**KILL, "client": "a", "number": True}, "number: "),
        ({**KILL, "client": ""}, "client: "),
        ({**KILL, "wait_ms": 60_000}, "wait_ms: 60000"),
        ({**KILL, "id": "x"}, "version: Field required"),
    ],
)
async def test_what_is_not_valid_is_answered_at_once_with_its_field_and_not_stored(
    told: dict[str, Any], said: str
) -> None:
    async with Desk() as desk:
        with pytest.raises(DataError, match=said):
            await desk.send(told)
        assert await desk.stored() == []


async def test_bytes_that_are_no_json_are_said_to_be_none() -> None:
    async with Desk() as desk:
        for data in (b"{", b"[]", b"x" * 100_000):
            with pytest.raises(DecodeError):
                await desk.service.send(data)


async def test_beyond_its_bound_it_is_busy_at_once_and_stores_nothing() -> None:
    async with Desk(waiting_max=3) as desk:
        waiting = [asyncio.create_task(desk.send({**KILL, "client": f"c{at}", "number": 1})) for at in range(3)]
        await settle()
        with pytest.raises(BusyError, match="3 commands wait") as caught:
            await desk.send(KILL)
        assert isinstance(caught.value, TransientError), "whoever sent it may send it again"
        assert "send it again" in caught.value.hint
        stored = await desk.stored()
        assert len(stored) == 3
        for at, command in enumerate(stored):
            await desk.decide(command["id"], at, outcome="accepted", order_id=at)
        answers = await asyncio.gather(*waiting)
        assert sorted(answer["order_id"] for answer in answers) == [0, 1, 2]
        task = asyncio.create_task(desk.send({**KILL, "client": "d", "number": 1}))
        await settle()
        assert len(await desk.stored()) == 4, "there is room again"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert desk.outcomes.waiting == 0, "one that has gone makes room"


async def test_it_is_busy_while_the_sequencer_has_too_many_to_take() -> None:
    async with Desk(queued_max=2) as desk:
        for number in (1, 2):
            await desk.send({**KILL, "client": "a", "number": number, "wait_ms": 0})
        await settle()
        with pytest.raises(BusyError, match="2 commands are stored and not yet taken"):
            await desk.send(KILL)
        desk.consumed = 1
        assert (await desk.send({**KILL, "wait_ms": 0}))["outcome"] == "stored"


async def test_a_wait_ends_with_where_the_command_is_and_how_to_ask_again() -> None:
    async with Desk() as desk:
        answer = await desk.send({**KILL, "client": "ops", "number": 4, "wait_ms": 0})
        assert (answer["outcome"], answer["sequence"], answer["client"], answer["number"]) == ("stored", 1, "ops", 4)
        assert "may be decided later; the same client and number can be sent again" in answer["reason"]
        later = asyncio.create_task(desk.outcome(client="ops", number=4))
        await settle()
        await desk.decide(answer["command_id"], 9, outcome="rejected", reason="no")
        decided = await later
        assert (decided["outcome"], decided["reason"], decided["position"]) == ("rejected", "no", 9)


async def test_an_append_without_acknowledgement_is_made_again_and_answered_once() -> None:
    async with Desk() as desk:
        desk.commands.fail_next_append(stored=True)
        task = asyncio.create_task(desk.send({**KILL, "client": "ops", "number": 4}))
        await settle()
        first, second = await desk.stored()
        assert first == second, "the desk runs it once: it is the same client and number"
        await desk.decide(first["id"], 9, outcome="accepted")
        await desk.decide(first["id"], 10, outcome="repeated", first="accepted")
        assert (await task)["outcome"] == "accepted"


async def test_an_envelope_without_a_client_is_never_stored_twice() -> None:
    async with Desk() as desk:
        desk.commands.fail_next_append(stored=False)
        envelope = {
            "id": "x", "type": "account.kill", "version": 1, "correlation": "x", "time": 0, "body": {"account": "a"}
        }  # fmt: skip
        with pytest.raises(BusUnavailableError, match="not known"):
            await desk.send(envelope)
        assert await desk.stored() == []


async def test_a_command_that_was_parked_is_answered_as_such() -> None:
    async with Desk() as desk:
        task = asyncio.create_task(desk.send({**KILL, "client": "ops", "number": 1}))
        await settle()
        (stored,) = await desk.stored()
        await desk.decide(stored["id"], 3, kind="command.parked", reason="version 9 is newer", sequence=1)
        answer = await task
        assert (answer["outcome"], answer["reason"]) == ("parked", "version 9 is newer")


async def test_a_service_that_starts_anew_knows_what_was_decided() -> None:
    async with Desk() as before:
        sent = await before.send({**KILL, "client": "ops", "number": 1, "wait_ms": 0})
        await before.decide(sent["command_id"], 5, outcome="accepted", order_id=77)
    async with Desk(before.commands, before.events) as after:
        assert (await after.outcome(client="ops", number=1))["order_id"] == 77
        assert (await after.outcome(id=sent["command_id"]))["order_id"] == 77
        with pytest.raises(MissingError, match="no such command"):
            await after.outcome(client="ops", number=2)
        with pytest.raises(DataError, match="id, or client and number"):
            await after.outcome(client="ops")


async def test_a_follower_that_fails_ends_all_waiting_and_takes_no_more() -> None:
    async with Desk() as desk:
        task = asyncio.create_task(desk.send({**KILL, "client": "ops", "number": 1}))
        await settle()
        await desk.events.append(b"no frame", expected_last=0)
        for each in (task, desk.send(KILL)):
            with pytest.raises(DecodeError):
                await each


async def test_a_host_that_stops_lets_those_who_wait_go() -> None:
    async with Desk() as desk:
        task = asyncio.create_task(desk.send({**KILL, "client": "ops", "number": 1}))
        await settle()
        desk.outcomes.close()
        assert (await task)["outcome"] == "stored"
        with pytest.raises(BusyError, match="stopping"):
            await desk.send(KILL)
        assert len(await desk.stored()) == 1


async def test_info_says_types_with_their_schemas_and_how_much_waits() -> None:
    async with Desk() as desk:
        told = json.loads(await desk.service.info(b""))
        assert (told["tape"], told["mode"]) == ("day", "gated")
        assert told["queue"] == {"waiting": 0, "waiting_max": 8, "queued": 0, "queued_max": 4096}
        assert "price" in told["types"]["order.submit"]["schema"]["properties"]


def test_more_may_not_wait_than_are_served_side_by_side() -> None:
    with pytest.raises(InvariantError):
        Desk(waiting_max=256)


async def test_what_is_kept_is_bounded() -> None:
    events, commands = MemoryLog("EVENTS_day"), MemoryLog("CMDS_day")
    async with Desk(commands, events) as desk:
        for number in range(6):
            sent = await desk.send({**KILL, "client": "ops", "number": number, "wait_ms": 0})
            await desk.decide(sent["command_id"], number, outcome="accepted")
    commands_seen = [json.loads(message.payload)["id"] async for message in commands.read(1)]
    outcomes, index = Outcomes(events, kept=2), CommandIndex(commands, kept=2)
    await outcomes.open(frames_back=5)
    await index.open(back=5)
    assert [outcomes.known(each) is not None for each in commands_seen] == [False] * 4 + [True] * 2
    assert [index.by_number("ops", number) is not None for number in range(6)] == [False] * 4 + [True] * 2
