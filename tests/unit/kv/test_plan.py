"""Which slots move: as few as can be, to equal shares, and the rest of a plan is found again after any part of it."""

from __future__ import annotations

from random import Random

import pytest

from tapehouse.core.errors import DataError
from tapehouse.kv.plan import Plan, plan_moves
from tapehouse.kv.slots import SLOTS, shard_of

OWNED = [False] * SLOTS


def fresh(shards: int) -> list[int]:
    return [shard_of(slot, shards) for slot in range(SLOTS)]


def done(holders: list[int], given: list[bool], shards: int, part: int | None = None) -> tuple[list[int], list[bool]]:
    """After the first so many moves."""
    holders, given = list(holders), list(given)
    for move in plan_moves(holders, given, shards)[:part]:
        for slot in range(move.first, move.last + 1):
            assert (holders[slot], given[slot]) == (move.source, move.is_given)
            holders[slot], given[slot] = move.target, False
    return holders, given


def sizes(holders: list[int]) -> list[int]:
    return [holders.count(shard) for shard in sorted(set(holders))]


@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 8), (8, 4), (3, 7), (7, 1), (5, 256)])
def test_shares_are_equal_and_little_moves(before: int, after: int) -> None:
    holders, _ = done(fresh(before), OWNED, after)
    assert set(holders) == set(range(after))
    assert max(sizes(holders)) - min(sizes(holders)) <= 1
    assert holders[0] == 0
    moved = sum(one != other for one, other in zip(fresh(before), holders, strict=True))
    assert moved == pytest.approx(SLOTS * abs(after - before) / max(before, after), abs=max(before, after))


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 100])
def test_what_is_even_stays_as_it_is(shards: int) -> None:
    assert plan_moves(fresh(shards), OWNED, shards) == []


def test_the_rest_of_a_plan_is_found_again() -> None:
    rng = Random(4)
    for _ in range(10):
        holders, shards = [rng.randrange(6) for _ in range(SLOTS)], rng.randrange(1, 9)
        holders[0] = 0
        given = [slot > 0 and rng.random() < 0.01 for slot in range(SLOTS)]
        found = plan_moves(holders, given, shards)
        ahead = [move.is_given for move in found]
        assert ahead == sorted(ahead, reverse=True)
        assert sum(move.last + 1 - move.first for move in found if move.is_given) == sum(given)
        part = rng.randrange(len(found))
        some = done(holders, given, shards, part)
        rest = sum(move.last + 1 - move.first for move in plan_moves(*some, shards))
        assert rest == sum(move.last + 1 - move.first for move in found[part:])
        last, _ = done(*some, shards)
        assert max(sizes(last)) - min(sizes(last)) <= 1


def test_a_plan_is_stored_as_text() -> None:
    plan = Plan(8, 4, 12_288)
    assert Plan.read(plan.stored) == plan
    assert len(Plan(256, 256, SLOTS).stored) <= 64  # What no view evicts.
    with pytest.raises(DataError, match="no plan"):
        Plan.read(b"8")
