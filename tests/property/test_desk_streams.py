"""Random command streams, any batch split, any crash point: the logs and the state are the oracle's pure fold.

TAPEHOUSE_STREAMS is the number of worlds of a long run.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core.errors import TapehouseError
from tapehouse.desk import bulk
from tapehouse.desk import requests as r
from tapehouse.desk.clients import Clients
from tapehouse.desk.commands import COMMANDS
from tapehouse.engine import Engine, read_tape, sequencer
from tapehouse.log import FrameWriter, Log
from tapehouse.market import Action, Cells
from tests.support import desk_slow, desk_world
from tests.support.desk_oracle import HANDLERS, SlowDesk
from tests.support.desk_streams import ROWS
from tests.support.desk_world import Plan, World, check

WORLDS = int(os.environ.get("TAPEHOUSE_STREAMS") or 20)
OUTCOMES_MAX = 12  # of one client, so that numbers expire in a small world
SENDERS_MAX, WINDOW = 3, 64  # clients of frames, and their windows: likewise
BOUNDS = {"outcomes_max": OUTCOMES_MAX, "senders_max": SENDERS_MAX, "window": WINDOW}
SEEDS = st.integers(0, 2**32)
LOOKS = 12  # worlds in which an append comes late


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of a few cells, so that one command's decisions span many; and small windows of outcomes."""
    monkeypatch.setattr("tapehouse.log.writer.FRAME_CELLS_MAX", 30)
    monkeypatch.setattr("tapehouse.engine.gated.KNOWN_FRAMES_MAX", 3)
    monkeypatch.setattr("tapehouse.desk.clients.OUTCOMES_MAX", OUTCOMES_MAX)
    monkeypatch.setattr("tapehouse.engine.loop.make_bulk", partial(bulk.make_bulk, SENDERS_MAX, WINDOW))
    restored = partial(bulk.restore_bulk, clients=SENDERS_MAX, window=WINDOW)
    monkeypatch.setattr("tapehouse.engine.machine.restore_bulk", restored)


def live(plan: Plan) -> tuple[World, SlowDesk]:
    async def run() -> tuple[World, SlowDesk]:
        world = World(plan)
        await world.run()
        return world, await check(world, **BOUNDS)

    return asyncio.run(run())


def test_every_type_of_command_is_streamed() -> None:
    assert set(ROWS) == set(HANDLERS) == set(COMMANDS.names())


def test_a_calm_world_has_decisions_of_all_kinds() -> None:
    """The stream is worth something: what the property is about comes up in it."""
    told: Counter[str] = Counter()
    for stream in range(3, 11):
        world, oracle = live(Plan(stream=stream, commands=180))
        assert (world.lives, world.recovered) == (1, 0)
        for decision in oracle.decisions:
            told[decision["kind"]] += 1
            told[decision.get("type", "")] += 1
            told[decision.get("body", {}).get("outcome", "")] += 1
            told[f"action {decision.get('action', '')}"] += 1
            told[f"reason {decision.get('reason', '')}"] += 1
            told[f"liquidity {decision.get('liquidity', '')}"] += 1
            told["answer"] += "answer" in decision
            told["crossed"] += bool(decision.get("counter"))
            told["replaced"] += bool(decision.get("replaced"))
    letters = (
        Action.ACCEPTED, Action.REJECTED, Action.CANCELLED, Action.EXPIRED, Action.TRIGGERED, Action.REPEATED,
    )  # fmt: skip
    actions = [f"action {int(letter)}" for letter in letters]
    reasons = (
        r.KILLED, r.BAD_SIZE, r.BAD_PRICE, r.TOO_LARGE, r.WOULD_CROSS, r.UNKNOWN_ORDER, r.NOT_FILLABLE, r.BAD_REQUEST,
        r.NO_MARKET, r.NOT_REDUCING, r.BAD_STOP, r.BAD_DISPLAY, r.BAD_EXPIRY, r.UNKNOWN_ACCOUNT, r.STALE_NUMBER,
        r.SESSION_ENDED,
    )  # fmt: skip
    for wanted in (
        "accepted", "rejected", "repeated", "expired", "parked", "account.opened", "account.configured", "cash.booked",
        "instrument.registered", "kill.switched", "limits.set", "position.corrected", "strategy.configured", "answer",
        "crossed", "replaced", "liquidity 0", "liquidity 1", *actions, *(f"reason {reason}" for reason in reasons),
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


def test_orders_of_frames_that_run_twice_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the outcomes that senders of frames were given, an order that is sent again has a second effect."""
    apply = Engine.apply

    def forgetful(self: Engine, *given: Any) -> None:
        told = self._routes.bulk
        for array in (told.clients, told.outcomes):
            array[:] = 0
        told.counts[[bulk.CLIENTS, bulk.LAST_PLACE]] = 0
        apply(self, *given)

    monkeypatch.setattr(Engine, "apply", forgetful)
    expected = caught(Plan(stream=1, commands=150)).partition(" instead of ")[2]
    assert f"'action': {int(Action.REPEATED)}" in expected or f"'reason': {r.STALE_NUMBER}" in expected


def test_a_lost_order_of_a_frame_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    place = sequencer.place_orders

    def forgetful(cells: Cells, **given: int) -> Cells:
        placed = place(cells, **given)
        return np.delete(placed, [2, 3]) if len(placed) > 8 else placed

    monkeypatch.setattr(sequencer, "place_orders", forgetful)
    assert "every command has its place on the tape" in caught(Plan(stream=1, commands=40))


def test_a_take_over_that_looks_once_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the life before had under way comes between its look at the tape and its fence: commands come twice."""

    async def look_once(log: Log, *, writer: int, frame_cells: int) -> Any:
        state = await read_tape(log)
        return state, await FrameWriter.open(log, writer=writer, frame_cells=frame_cells)

    monkeypatch.setattr(desk_world, "take_tape", look_once)
    told = ""
    for seed in range(LOOKS):
        try:
            live(Plan(stream=106, luck=seed, commands=40, kills=(25, 30, 35, 40)))
        except AssertionError as error:
            told += str(error)
    assert "every command has its place on the tape, once" in told


def test_a_lost_command_is_caught() -> None:
    async def run() -> None:
        world = World(Plan(stream=1, commands=20, records=20))
        await world.run()
        await world.commands.append(b"one more", expected_last=None)
        await check(world, **BOUNDS)

    with pytest.raises(AssertionError, match="every command has its place on the tape"):
        asyncio.run(run())


def test_another_decision_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle has a mind of its own: another fee in it is seen at once."""
    monkeypatch.setattr(desk_slow, "TAKER_PPM", 31)
    assert "fee" in caught(Plan(stream=1, commands=150))
