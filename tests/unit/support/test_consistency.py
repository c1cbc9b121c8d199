"""The checkers of weaker read levels accept a correct store and catch each broken promise."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.consistency import Finding, check_converged, check_fold, check_session, check_written
from tests.support.history import HistoryError, Operation
from tests.support.register_day import simulate


def rules(findings: list[Finding]) -> list[str]:
    return [each.rule for each in findings]


def write(call: int, revision: int, value: str | None, client: str = "c", outcome: str = "ok") -> Operation:
    return Operation(
        client=client,
        key="a",
        kind="put" if value else "delete",
        call=call,
        returned=None if outcome == "unknown" else call + 1,
        outcome=outcome,
        value=value,
        revision=revision,
    )


def read(call: int, revision: int, value: str | None, level: str = "session", sequence: int = 0) -> Operation:
    return Operation(
        client="c",
        key="a",
        kind="get",
        call=call,
        returned=call + 1,
        outcome="ok",
        value=value,
        revision=revision,
        level=level,
        sequence=sequence,
    )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), keys=st.integers(1, 4), repeated=st.floats(0, 1), ambiguous=st.floats(0, 0.3))
def test_a_correct_store_is_accepted(seed: int, keys: int, repeated: float, ambiguous: float) -> None:
    day = simulate(
        seed,
        operations=200,
        keys=keys,
        repeated=repeated,
        ambiguous=ambiguous,
        levels=("linearizable", "session", "eventual"),
    )
    assert check_written(day.history) == []
    assert check_session(day.history) == []
    assert check_fold(day.history, day.fold) == []
    assert check_converged(day.views, day.fold) == []


def test_views_that_ignore_the_token_are_caught() -> None:
    caught = 0
    for seed in range(20):
        history = simulate(seed, operations=200, ambiguous=0.0, levels=("eventual",)).history
        pretended = [replace(each, level="session") if each.kind == "get" else each for each in history]
        assert check_session(history) == []
        caught += bool(check_session(pretended))
    assert caught == 20


def test_session_violations() -> None:
    one, two = write(0, 1, "x", "other"), write(2, 2, "y", "other")
    assert rules(check_session([one, two, read(4, 2, "y"), read(6, 1, "x")])) == ["monotonic"]
    assert rules(check_session([one, replace(two, client="c"), read(6, 1, "x")])) == ["own writes"]
    assert rules(check_session([one, replace(two, client="c"), read(6, 0, None)])) == ["own writes"]
    assert rules(check_session([write(0, 5, "x"), write(2, 4, "y")])) == ["own writes"]
    assert rules(check_session([read(0, 1, "x", sequence=9), read(2, 1, "x", sequence=8)])) == ["sequence"]
    gone = write(4, 3, None, "other")
    assert check_session([one, two, read(4, 2, "y"), gone, read(6, 0, None)]) == []
    assert rules(check_session([one, two, read(4, 2, "y"), gone, read(6, 0, None), read(8, 2, "y")])) == ["monotonic"]
    assert check_session([one, gone, read(6, 0, None), read(8, 0, None)]) == []
    assert rules(
        check_session([one, two, read(4, 2, "y"), replace(gone, revision=2, client="third"), read(6, 0, None)])
    ) == ["monotonic"]


def test_a_session_spans_clients_and_its_open_calls_promise_nothing() -> None:
    one, two = write(0, 1, "x", "other"), write(2, 2, "y", "other")
    first, second = replace(read(4, 2, "y"), session="s"), replace(read(6, 1, "x"), session="s", client="d")
    assert rules(check_session([one, two, first, second])) == ["monotonic"]
    assert check_session([one, two, first, replace(second, session="t")]) == []
    assert check_session([one, two, replace(first, returned=9), second]) == []
    assert check_session([one, two, first, replace(second, level="eventual")]) == []


def test_answers_without_revisions_are_no_pass() -> None:
    with pytest.raises(HistoryError, match="tells no revision"):
        check_session([write(0, 0, "x")])
    with pytest.raises(HistoryError, match="tells no revision"):
        check_fold([write(0, 0, "x")], {"a": ("x", 1)})
    with pytest.raises(HistoryError, match="no view"):
        check_converged({}, {})


def test_values_that_were_never_written() -> None:
    one = write(5, 1, "x")
    assert check_written([one, read(7, 1, "x", "eventual")]) == []
    assert rules(check_written([one, read(7, 1, "z", "eventual")])) == ["written"]
    assert rules(check_written([one, read(1, 1, "x", "eventual")])) == ["written"]
    assert rules(check_written([one, replace(read(7, 1, "x"), key="b")])) == ["written"]
    assert rules(check_written([replace(one, outcome="failed"), read(7, 1, "x")])) == ["written"]
    assert rules(check_written([one, read(7, 2, "x")])) == ["revision"]
    assert check_written([write(5, 0, "x", outcome="unknown"), read(7, 3, "x")]) == []


def test_what_the_log_must_hold_at_the_end() -> None:
    one, two, maybe = write(0, 1, "x"), write(2, 2, "y"), write(2, 0, "z", outcome="unknown")
    assert check_fold([one, two], {"a": ("y", 2)}) == []
    assert check_fold([one, maybe], {"a": ("z", 2)}) == check_fold([one, maybe], {"a": ("x", 1)}) == []
    assert check_fold([one, write(2, 2, None)], {}) == []
    assert check_fold([one, write(2, 0, None, outcome="unknown")], {}) == []
    for lost in ({}, {"a": ("x", 1)}, {"a": ("x", 2)}, {"a": ("y", 3)}):
        assert rules(check_fold([one, two], lost)) == ["fold"]
    assert rules(check_fold([one, maybe], {"a": ("z", 1)})) == ["fold"]
    assert rules(check_fold([one, write(2, 2, None)], {"a": ("x", 1)})) == ["fold"]
    assert rules(check_fold([one], {"a": ("x", 1), "b": ("x", 2)})) == ["fold"]


def test_views_that_differ_from_the_log() -> None:
    fold = {"a": ("x", 1), "b": ("y", 2)}
    found = check_converged({"n0": fold, "n1": {"a": ("x", 1)}, "n2": {**fold, "c": ("z", 3)}}, fold)
    assert [each.text for each in found] == [
        "'b' is None in n1, ('y', 2) in the log",
        "'c' is ('z', 3) in n2, None in the log",
    ]
