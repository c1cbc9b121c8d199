"""The verdict: agreement is said only where everything agrees, and a difference is found and named."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from tapehouse.core import DigestChain, VirtualClock
from tapehouse.engine import Engine
from tapehouse.engine.machine import DECIDED_KINDS
from tapehouse.market import CELL_BYTES, Cells, Kind
from tapehouse.replay import PathResult, Proof, Session, first_difference, verdict
from tests.support.bench import fold, quick_maker, shared_day


def result(name: str, outputs: Cells, **changed: object) -> PathResult:
    """The path that made these outputs."""
    _, report, cells, _ = shared_day(quick_maker)
    assert report.digests is not None
    chain = DigestChain(CELL_BYTES)
    decided = outputs[np.isin(outputs["kind"], DECIDED_KINDS)]
    chain.update(decided.tobytes())
    path = PathResult(
        name=name,
        decision_digest=chain.head().hex(),
        state_digest=report.digests.state.hex(),
        cells=len(cells),
        decisions=int((decided["cells"] > 0).sum()),
        seconds=1.25,
    )
    return replace(path, **changed)  # type: ignore[arg-type]


def changed_at(outputs: Cells, at: int) -> Cells:
    """The same decisions but for the price of one."""
    assert outputs["kind"][at] in DECIDED_KINDS
    other = outputs.copy()
    other["price"][at] += 1
    return other


async def test_live_and_replays_agree() -> None:
    logs, report, _, events = shared_day(quick_maker)
    paths, outputs = [result("live", events)], {"live": events}
    for name in ("replay", "again"):
        collected: list[Cells] = []
        session = Session(name, logs.tape, Engine(quick_maker()), clock=VirtualClock(), on_outputs=collected.append)
        paths.append(PathResult.of(await session.run(), note="from memory"))
        outputs[name] = np.concatenate(collected)
    proof = verdict(paths, outputs)
    assert (proof.equal, proof.difference) == (True, "")
    assert report.digests is not None
    assert paths[1].decision_digest == report.digests.decision.hex()
    assert (paths[1].decisions, paths[1].note) == (report.digests.decisions, "from memory")


def test_one_changed_decision_is_found_and_named() -> None:
    _, _, _, events = shared_day(quick_maker)
    orders = np.flatnonzero((events["kind"] == Kind.ORDER) & (events["cells"] > 0))
    at = int(orders[len(orders) // 2])
    other = changed_at(events, at)
    cell = events[at]
    where = f"output cell {at}: input cell {cell['sequence']}, index {cell['count']}"
    assert first_difference(events, other) == where
    proof = verdict([result("live", events), result("replay", other)], {"live": events, "replay": other})
    assert not proof.equal
    assert proof.difference == f"live and replay part at {where}"


def test_the_first_path_that_differs_is_the_one_that_is_named() -> None:
    _, _, _, events = shared_day(quick_maker)
    other = changed_at(events, 400)
    paths = [result("live", events), result("replay", events), result("restored", other)]
    proof = verdict(paths, {"live": events, "replay": events, "restored": other})
    assert proof.difference.startswith("live and restored part at output cell 400")


def test_a_shorter_run_is_told() -> None:
    _, _, cells, events = shared_day(quick_maker)
    engine = Engine(quick_maker())
    half = int(np.flatnonzero(cells["cells"] > 0)[3_000])
    part = fold(engine, cells[:half], [])
    digests = engine.digests()
    shorter = result("replay", part, state_digest=digests.state.hex(), cells=digests.cells, decisions=digests.decisions)
    cell = events[len(part)]
    for ordered in ((events, part), (part, events)):
        where = first_difference(*ordered)
        assert where == f"output cell {len(part)}, at input cell {cell['sequence']}: only one run has it"
    assert f"part at {where}" in verdict([result("live", events), shorter], {"live": events, "replay": part}).difference
    told = verdict([result("live", events), shorter], {}).difference
    assert told == f"live has {len(cells)} cells, replay {half}"


def test_the_same_decisions_but_another_state_is_told() -> None:
    _, _, cells, events = shared_day(quick_maker)
    for outputs in ({}, {"live": events, "replay": events}):
        proof = verdict([result("live", events), result("replay", events, state_digest="00")], outputs)
        assert not proof.equal
        assert proof.difference == f"live and replay decided alike but their states differ at cell {len(cells)}"


def test_other_decisions_whose_records_are_not_known_are_not_called_alike() -> None:
    _, _, _, events = shared_day(quick_maker)
    other = changed_at(events, 400)
    count = result("live", events).decisions
    proof = verdict([result("live", events), result("replay", other)], {"live": events})
    assert proof.difference == f"live and replay decided differently: {count} and {count} decisions"
    fewer = verdict([result("live", events), result("replay", events, decisions=3)], {})
    assert fewer.difference == f"live and replay decided differently: {count} and 3 decisions"


def test_a_proof_that_is_not_equal_always_says_why() -> None:
    _, _, _, events = shared_day(quick_maker)
    first = result("live", events)
    changes = ({"decision_digest": "00"}, {"state_digest": "00"}, {"cells": 1}, {"decisions": 1})
    for changed in changes:
        proof = verdict([first, replace(first, name="other", **changed)], {"live": events, "other": events})  # type: ignore[arg-type]
        assert not proof.equal
        assert proof.difference
    nothing = verdict([], {})
    assert (nothing.equal, nothing.difference) == (False, "there is nothing to compare")
    alone = verdict([first], {})
    assert (alone.equal, alone.difference) == (True, "")


def test_runs_that_agree_have_no_difference() -> None:
    _, _, _, events = shared_day(quick_maker)
    assert first_difference(events, events.copy()) == ""
    assert first_difference(events[:0], events[:0]) == ""


def test_the_json_is_one_line_of_exactly_this_shape() -> None:
    _, _, _, events = shared_day(quick_maker)
    first = result("live", events, note="not for scripts")
    text = Proof(paths=(first, replace(first, name="replay", seconds=0.12345678))).to_json()
    assert "\n" not in text
    told = json.loads(text)
    assert list(told) == ["paths", "equal"]
    assert told["equal"] is True
    assert [list(path) for path in told["paths"]] == [
        ["name", "decision_digest", "state_digest", "cells", "decisions", "seconds"]
    ] * 2
    assert told["paths"][0] == {
        "name": "live",
        "decision_digest": first.decision_digest,
        "state_digest": first.state_digest,
        "cells": first.cells,
        "decisions": first.decisions,
        "seconds": 1.25,
    }
    assert told["paths"][1]["seconds"] == 0.123457
    assert len(first.decision_digest) == len(first.state_digest) == 64
    unequal = Proof(paths=(first, replace(first, cells=1)))
    assert json.loads(unequal.to_json())["equal"] is False
