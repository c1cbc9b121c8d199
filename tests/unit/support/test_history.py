"""What the recorder of histories writes, and what it refuses."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from tests.support.history import History, HistoryError, Operation, read_history, write_history
from tests.support.linearizable import assert_linearizable
from tests.support.register_day import simulate


def recorder(path: Path, **options: int) -> History:
    return History(path, clock=itertools.count(1).__next__, **options)


async def test_calls_are_written_with_their_times_and_answers(tmp_path: Path) -> None:
    path = tmp_path / "history"
    with recorder(path) as history:
        async with history.call("put", "a", client="c1", value="x") as call:
            call.ok(revision=3, shard=1, sequence=3)
        async with history.call("put-if", "a", client="c1", value=b"\xff", expected=2) as call:
            call.refused(found=3)
        async with history.call("get", b"a", client="c2", level="session", session="s") as call:
            call.ok(value=b"x", revision=3)
        async with history.call("delete", "a", client="c2") as call:
            call.failed()
        async with history.call("delete", "a", client="c2") as call:
            call.unknown()
    first, second, third, fourth, last = read_history(path)
    assert first == Operation(
        client="c1", key="a", kind="put", call=1, returned=2, outcome="ok", value="x", revision=3, shard=1, sequence=3
    )
    assert (second.value, second.outcome, second.found, second.call, second.returned) == ("ÿ", "refused", 3, 3, 4)
    assert (third.value, third.level, third.session) == ("x", "session", "s")
    assert (fourth.outcome, last.outcome, last.call, last.returned) == ("failed", "unknown", 9, None)
    assert_linearizable(path)


async def test_an_exception_leaves_the_call_ambiguous_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "history"
    with recorder(path) as history:
        for error in (TimeoutError, ConnectionError, asyncio.CancelledError):
            with pytest.raises(error):
                async with history.call("put", "a", client="c", value="x"):
                    raise error
    assert [(each.outcome, each.returned) for each in read_history(path)] == [("unknown", None)] * 3


async def test_a_call_without_an_outcome_is_an_error_of_the_test(tmp_path: Path) -> None:
    with recorder(tmp_path / "history") as history:
        with pytest.raises(HistoryError, match="without an outcome"):
            async with history.call("get", "a", client="c"):
                pass
        async with history.call("get", "a", client="c") as call:
            call.ok()
            with pytest.raises(HistoryError, match="one outcome"):
                call.unknown()
        async with history.call("put", "a", client="c", value="x") as call:
            with pytest.raises(HistoryError, match="never refused"):
                call.refused(found=1)
            call.ok()


async def test_a_full_history_refuses_the_call_before_it_is_made(tmp_path: Path) -> None:
    with recorder(tmp_path / "history", max_operations=1) as history:
        async with history.call("get", "a", client="c") as call:
            with pytest.raises(HistoryError, match="full"):
                history.call("get", "a", client="c")
            call.ok()
    assert history.operations == 1


async def test_a_call_that_ends_after_the_close_is_told(tmp_path: Path) -> None:
    history = recorder(tmp_path / "history")
    call = history.call("get", "a", client="c")
    await call.__aenter__()
    history.close()
    call.ok()
    with pytest.raises(HistoryError, match="still on its way"):
        await call.__aexit__(None, None, None)


@pytest.mark.parametrize(
    "arguments",
    [
        {"kind": "incr"},
        {"kind": "get", "level": "strong"},
        {"kind": "get", "value": "x"},
        {"kind": "put"},
        {"kind": "put-if", "value": "x"},
        {"kind": "delete", "expected": 0},
    ],
)
def test_calls_that_make_no_sense_are_refused(tmp_path: Path, arguments: dict[str, object]) -> None:
    with recorder(tmp_path / "history") as history, pytest.raises(HistoryError):
        history.call(key="a", client="c", **arguments)  # type: ignore[arg-type]


def test_lines_read_back_as_they_were_written(tmp_path: Path) -> None:
    operations = simulate(1, operations=300, keys=3, levels=("session", "eventual", "linearizable")).history
    path = write_history(tmp_path / "history", operations)
    assert read_history(path) == operations
    with open(path, "a") as output:
        output.write('{"client":"c"}\n')
    with pytest.raises(HistoryError, match=":301:"):
        read_history(path)
