"""Random command streams, any batch split, any crash point: the logs and the state are the oracle's pure fold.

TAPEHOUSE_STREAMS is the number of worlds of a long run.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core.errors import TapehouseError
from tapehouse.desk.clients import Clients
from tapehouse.desk.commands import COMMANDS
from tests.support import desk_oracle
from tests.support.desk_oracle import HANDLERS, SlowDesk
from tests.support.desk_streams import ROWS
from tests.support.desk_world import Plan, World, check

WORLDS = int(os.environ.get("TAPEHOUSE_STREAMS") or 20)
OUTCOMES_MAX = 12  # of one client, so that numbers expire in a small world
# Types without a row yet; each has tests of its own.
NOT_STREAMED = {
    "account.configure", "instrument.register", "order.replace", "position.correct", "strategy.configure",
}  # fmt: skip
SEEDS = st.integers(0, 2**32)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of a few cells, so that one command's decisions span many; and small windows of outcomes."""
    monkeypatch.setattr("tapehouse.log.writer.FRAME_CELLS_MAX", 30)
    monkeypatch.setattr("tapehouse.engine.gated.KNOWN_FRAMES_MAX", 3)
    monkeypatch.setattr("tapehouse.desk.clients.OUTCOMES_MAX", OUTCOMES_MAX)


def live(plan: Plan) -> tuple[World, SlowDesk]:
    async def run() -> tuple[World, SlowDesk]:
        world = World(plan)
        await world.run()
        return world, await check(world, outcomes_max=OUTCOMES_MAX)

    return asyncio.run(run())


def test_every_type_of_command_is_streamed_or_named() -> None:
    assert set(ROWS) == set(HANDLERS)
    unknown = set(COMMANDS.names()) ^ (set(ROWS) | NOT_STREAMED)
    assert not unknown, f"{unknown}: a row in ROWS and one in HANDLERS, or a name in NOT_STREAMED"
    assert not set(ROWS) & NOT_STREAMED


def test_a_calm_world_has_decisions_of_all_kinds() -> None:
    """The stream is worth something: what the property is about comes up in it."""
    told: Counter[str] = Counter()
    for stream in range(3):
        world, oracle = live(Plan(stream=stream, commands=150))
        assert (world.lives, world.recovered) == (1, 0)
        for decision in oracle.decisions:
            told[decision["kind"]] += 1
            told[decision.get("type", "")] += 1
            told[decision.get("body", {}).get("outcome", "")] += 1
            told[f"reason {decision.get('reason', '')}"] += 1
            told[f"liquidity {decision.get('liquidity', '')}"] += 1
    for wanted in (
        "accepted", "rejected", "repeated", "expired", "parked", "account.opened", "kill.switched", "limits.set",
        "command.dropped", "reason 1", "reason 2", "reason 3", "reason 7", "liquidity 0", "liquidity 1",
    ):  # fmt: skip
        assert told[wanted], wanted


@given(
    stream=SEEDS,
    luck=SEEDS,
    kills=st.lists(st.integers(1, 400), max_size=4).map(tuple),
    snapshots=st.booleans(),
)
@settings(deadline=None, max_examples=WORLDS)
def test_any_stream_split_and_crash_is_the_pure_fold(
    stream: int, luck: int, kills: tuple[int, ...], snapshots: bool
) -> None:
    """Nothing lost, nothing doubled, nothing decided otherwise, and the same digests as a run without a kill."""
    live(Plan(stream=stream, luck=luck, kills=kills, snapshots=snapshots))


@pytest.mark.chaos
def test_a_kill_at_every_call_of_a_log() -> None:
    """One world, ended at each of its calls in turn."""
    for last in range(1, 700):
        live(Plan(stream=9, luck=last, commands=30, records=40, kills=(last,), snapshots=last % 2 == 0))


# Negative controls: what the checker must find.


def caught(plan: Plan) -> str:
    """What the checker says of a world that must not be as the oracle has it."""
    with pytest.raises((AssertionError, TapehouseError)) as found:
        live(plan)
    return f"{type(found.value).__name__} {found.value}"


def test_two_engines_without_a_fence_are_caught() -> None:
    for stream in range(3):
        assert live(Plan(stream=stream, commands=20, records=20))
        told = caught(Plan(stream=stream, commands=20, records=20, rivals=2, fenced=False))
        assert "EVENTS_world" in told, "a frame of the one comes again by the other"


def test_two_engines_with_a_fence_are_one_and_a_conflict() -> None:
    """The same rivals where the fence holds: one is told to stop, so the control is about the fence alone."""
    with pytest.raises(AssertionError, match="a fence closed on a writer that is alone"):
        live(Plan(stream=1, commands=20, records=20, rivals=2))


def test_commands_that_run_twice_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the outcomes that clients were given, a repeat has a second effect."""
    monkeypatch.setattr(Clients, "find", lambda self, client, number: None)
    told = caught(Plan(stream=1, commands=150))
    expected = told.partition(" instead of ")[2]
    assert "'repeated'" in expected or "'expired'" in expected


def test_a_lost_command_is_caught() -> None:
    async def run() -> None:
        world = World(Plan(stream=1, commands=20, records=20))
        await world.run()
        await world.commands.append(b"one more", expected_last=None)
        await check(world, outcomes_max=OUTCOMES_MAX)

    with pytest.raises(AssertionError, match="every command has its place on the tape"):
        asyncio.run(run())


def test_another_decision_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle has a mind of its own: another fee in it is seen at once."""
    monkeypatch.setattr(desk_oracle, "TAKER_PPM", 31)
    assert "fee" in caught(Plan(stream=1, commands=150))
