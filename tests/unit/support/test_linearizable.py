"""What the checker of linearizability must catch, one history for each way to break the promise."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tapehouse.app.go_tools import ToolError, built_program
from tests.support.history import HistoryError, Operation, write_history
from tests.support.linearizable import assert_linearizable, check_histories, check_linearizable


def get(call: int, returned: int, value: str | None, revision: int = 0, client: str = "r") -> Operation:
    return Operation(
        client=client, key="a", kind="get", call=call, returned=returned, outcome="ok", value=value, revision=revision
    )


def put(call: int, returned: int | None, value: str, revision: int = 0, expected: int | None = None) -> Operation:
    return Operation(
        client="w",
        key="a",
        kind="put" if expected is None else "put-if",
        call=call,
        returned=returned,
        outcome="unknown" if returned is None else "ok",
        value=value,
        revision=revision,
        expected=expected,
    )


def delete(call: int, returned: int | None, revision: int = 0) -> Operation:
    outcome = "unknown" if returned is None else "ok"
    return Operation(
        client="w", key="a", kind="delete", call=call, returned=returned, outcome=outcome, revision=revision
    )


def refused(call: int, returned: int, expected: int, found: int) -> Operation:
    return Operation(
        client="w",
        key="a",
        kind="put-if",
        call=call,
        returned=returned,
        outcome="refused",
        value="no",
        expected=expected,
        found=found,
    )


X, Y = put(0, 1, "x", 1), put(2, 3, "y", 2)

BROKEN = {
    "stale read": ([X, Y, get(4, 5, "x", 1)], 3),
    "stale read, no revision told": ([X, Y, get(4, 5, "x")], 3),
    "a reader that saw the new value, then one the old": (
        [X, put(2, 9, "y", 2), get(3, 4, "y", 2), get(5, 6, "x", 1)],
        4,
    ),
    "lost acknowledged write": ([X, get(4, 5, None)], 2),
    "lost write under a later one": ([X, put(2, 3, "y", 2, expected=1), put(4, 5, "z", 3, expected=1)], 3),
    "two put-ifs won from one revision": ([X, put(2, 8, "y", 2, expected=1), put(3, 9, "z", 3, expected=1)], 3),
    "two put-ifs won from absent": ([put(0, 8, "y", 1, expected=0), put(0, 9, "z", 2, expected=0)], 2),
    "put-if refused at its own revision": ([X, refused(2, 3, 1, 1)], 2),
    "put-if refused by a revision that is over": ([X, Y, refused(4, 5, 7, 1)], 3),
    "put-if refused as absent, though present": ([X, refused(2, 3, 7, 0)], 2),
    "revision going backwards": ([put(0, 1, "x", 5), put(2, 3, "y", 4)], 2),
    "one revision for two writes": ([put(0, 1, "x", 5), put(2, 3, "y", 5)], 2),
    "revision going backwards over a delete": ([put(0, 1, "x", 5), delete(2, 3, 6), put(4, 5, "y", 6)], 3),
    "a value under another revision": ([X, get(2, 3, "x", 2)], 2),
    "read from the future": ([get(0, 1, "x", 1), put(2, 3, "x", 1)], 1),
    "read from the future of an ambiguous write": ([get(0, 1, "x", 1), put(2, None, "x")], 1),
    "value that nobody wrote": ([X, get(2, 3, "z", 1)], 2),
    "deleted, yet read": ([X, delete(2, 3, 2), get(4, 5, "x", 1)], 3),
    "delete of what was not there": ([delete(0, 1, 1)], 1),
    "ambiguous write seen, then unseen": ([X, put(2, None, "y"), get(4, 5, "y", 2), get(6, 7, "x", 1)], 4),
    "ambiguous write under two revisions": ([put(0, None, "y"), get(4, 5, "y", 2), get(6, 7, "y", 3)], 3),
    "ambiguous delete seen, then unseen": ([X, delete(2, None), get(4, 5, None), get(6, 7, "x", 1)], 4),
    "an ambiguous put-if that cannot have won": ([X, Y, put(4, None, "z", expected=1), get(6, 7, "z", 3)], 4),
}

SOUND = {
    "concurrent readers see old, then new": [X, put(2, 9, "y", 2), get(3, 4, "x", 1), get(5, 6, "y", 2)],
    "answers at one instant overlap": [X, put(2, 4, "y", 2), get(4, 5, "x", 1)],
    "an ambiguous write happens late": [put(0, None, "x"), Y, get(4, 5, "y", 2), get(6, 7, "x", 3)],
    "an ambiguous write never happens": [X, put(2, None, "y"), get(4, 5, "x", 1), get(6, 7, "x", 1)],
    "an ambiguous write is known by a refusal alone": [X, put(2, None, "y"), refused(4, 5, 1, 2), get(6, 7, "y", 2)],
    "an ambiguous delete is known by a put-if from absent": [X, delete(2, None), put(4, 5, "y", 3, expected=0)],
    "an ambiguous write makes a delete possible": [put(0, None, "x"), delete(2, 3, 5), get(4, 5, None)],
    "a key goes on after its delete": [X, delete(2, 3, 2), get(4, 5, None), put(6, 7, "x", 3, expected=0)],
    "two ambiguous writes of one value": [put(0, None, "x"), put(0, None, "x"), get(2, 3, "x", 1), get(4, 5, "x", 2)],
}


def test_broken_promises_are_caught_at_the_operation_that_shows_them(tmp_path: Path) -> None:
    paths = [write_history(tmp_path / f"{index}", history) for index, (history, _) in enumerate(BROKEN.values())]
    for (name, (_, line)), verdict in zip(BROKEN.items(), check_histories(paths), strict=True):
        assert verdict.violation is not None, name
        assert [each["line"] for each in verdict.violation["culprits"]] == [line], f"{name}: {verdict}"


def test_odd_but_sound_histories_are_accepted(tmp_path: Path) -> None:
    paths = [write_history(tmp_path / f"{index}", history) for index, history in enumerate(SOUND.values())]
    for name, verdict in zip(SOUND, check_histories(paths), strict=True):
        assert verdict.result == "ok", f"{name}: {verdict}"


def test_reads_of_weaker_levels_and_calls_without_effect_are_left_out(tmp_path: Path) -> None:
    stale = [
        Operation(client="r", key="a", kind="get", call=4, returned=5, outcome="ok", value="x", revision=1, level=level)
        for level in ("session", "eventual", "linearizable")
    ]
    failed = Operation(client="w", key="a", kind="put", call=4, returned=5, outcome="failed", value="z")
    verdict = check_linearizable(write_history(tmp_path / "weak", [X, Y, *stale[:2], failed]))
    assert (verdict.result, verdict.operations, verdict.left_out) == ("ok", 2, 3)
    assert check_linearizable(write_history(tmp_path / "strong", [X, Y, stale[2]])).result == "violation"


def test_a_failed_assertion_tells_and_draws_the_operations(tmp_path: Path) -> None:
    history, drawing = write_history(tmp_path / "bad", BROKEN["stale read"][0]), tmp_path / "bad.html"
    with pytest.raises(AssertionError) as failure:
        assert_linearizable(history, drawing=drawing)
    assert 'culprit: line 3, r: get -> "x" at revision 1' in str(failure.value)
    assert 'the key then holds "y" at revision 2' in str(failure.value)
    assert "<html" in drawing.read_text()


def test_a_search_that_is_too_hard_is_undecided_and_no_pass(tmp_path: Path) -> None:
    same = [put(0, 1000 + index, f"v{index}") for index in range(40)]
    history = write_history(tmp_path / "hard", [*same, get(2000, 2001, "nobody wrote this")])
    verdict = check_linearizable(history, memory_mb=1)
    assert (verdict.result, list(verdict.undecided)) == ("unknown", ["a"])
    with pytest.raises(AssertionError, match="undecided"):
        assert_linearizable(history, memory_mb=1)
    assert check_linearizable(history, time_limit_s=0.05).result == "unknown"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"client":"c","key":"a","kind":"incr","call":1}', "none of get, put"),
        ('{"client":"c","key":"a","kind":"get","call":1,"return":2,"outcome":"done"}', "outcome"),
        ('{"client":"c","key":"a","kind":"get","call":3,"return":2,"outcome":"ok"}', "before the call"),
        ('{"client":"c","key":"a","kind":"get","call":1,"outcome":"ok"}', "return time"),
        ('{"client":"c","key":"a","kind":"put","call":1,"return":2,"outcome":"ok"}', "value"),
        ('{"client":"c","key":"a","kind":"put-if","value":"x","call":1,"return":2,"outcome":"ok"}', "expected"),
        ('{"client":"c","key":"a","kind":"get","call":1,"return":2,"outcome":"ok","revison":2}', "revison"),
        ('{"client":"c","key":"a",', "EOF"),
        ("", "EOF"),
    ],
)
def test_a_line_that_is_no_operation_is_refused_by_its_number(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "history"
    path.write_text(f"{X.line()}\n{line}\n")
    with pytest.raises(HistoryError, match=message) as refusal:
        check_linearizable(path)
    assert f"{path}:2:" in str(refusal.value)


def test_a_machine_without_go_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAPEHOUSE_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "no-python"))
    with pytest.raises(ToolError, match=r"install Go 1\.21 or newer"):
        built_program("tool", "tool", ["install", "."])
