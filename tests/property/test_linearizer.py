"""The linearizability checker accepts what a correct store recorded, and decides as the search of all orders does."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.history import Operation, write_history
from tests.support.linearizable import check_histories, check_linearizable
from tests.support.linearizer_oracle import linearizable
from tests.support.register_day import simulate


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("histories")


def test_correct_stores_are_accepted(folder: Path) -> None:
    paths = []
    for seed in range(120):
        day = simulate(
            seed,
            operations=20 + seed,
            clients=2 + seed % 6,
            keys=1 + seed % 3,
            ambiguous=(seed % 5) * 0.06,
            repeated=(seed % 4) * 0.2,
            tells_revisions=seed % 3 > 0,
            levels=("linearizable", "session", "eventual") if seed % 2 else ("linearizable",),
        )
        paths.append(write_history(folder / f"good{seed}.jsonl", day.history))
    verdicts = check_histories(paths)
    assert [str(each) for each in verdicts if each.result != "ok"] == []
    assert any(each.left_out for each in verdicts)
    assert all(each.operations > 0 for each in verdicts)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    operations=st.integers(1, 120),
    clients=st.integers(1, 8),
    keys=st.integers(1, 3),
    ambiguous=st.floats(0, 0.3),
    repeated=st.floats(0, 1),
    tells_revisions=st.booleans(),
)
def test_any_correct_store_is_accepted(
    folder: Path,
    seed: int,
    operations: int,
    clients: int,
    keys: int,
    ambiguous: float,
    repeated: float,
    tells_revisions: bool,
) -> None:
    day = simulate(
        seed,
        operations=operations if tells_revisions else min(operations, 30),  # else the search may reach its limits
        clients=clients,
        keys=keys,
        ambiguous=ambiguous,
        repeated=repeated,
        tells_revisions=tells_revisions,
    )
    verdict = check_linearizable(write_history(folder / "any.jsonl", day.history))
    assert verdict.result == "ok", str(verdict)


def test_decides_as_the_search_through_all_orders(folder: Path) -> None:
    histories = list(_tiny_histories(1500))
    paths = [write_history(folder / f"tiny{index}.jsonl", each) for index, each in enumerate(histories)]
    expected = ["ok" if linearizable(each) else "violation" for each in histories]
    verdicts = check_histories(paths)
    wrong = [
        (str(verdict), wanted, [each.line() for each in history])
        for verdict, wanted, history in zip(verdicts, expected, histories, strict=True)
        if verdict.result != wanted
    ]
    assert wrong == []
    assert min(expected.count("ok"), expected.count("violation")) > len(histories) // 10  # both are exercised


def test_the_explained_prefix_is_the_smallest(folder: Path) -> None:
    histories = [each for each in _tiny_histories(300) if not linearizable(each)]
    paths = [write_history(folder / f"bad{index}.jsonl", each) for index, each in enumerate(histories)]
    for history, verdict in zip(histories, check_histories(paths), strict=True):
        assert verdict.violation is not None
        culprits = [history[each["line"] - 1] for each in verdict.violation["culprits"]]
        (end,) = {each.returned for each in culprits}
        assert end is not None
        assert not linearizable(_until(history, end))
        assert linearizable(_until(history, end - 1)), [each.line() for each in history]


def test_a_hundred_thousand_operations_and_one_stale_read(
    folder: Path, record_property: Callable[[str, object], None]
) -> None:
    history = simulate(7, operations=100_000, clients=20, keys=100, ambiguous=0.02).history
    good = check_linearizable(write_history(folder / "long.jsonl", history))
    assert good.result == "ok", str(good)
    stale = max(
        (index for index, each in enumerate(history) if each.kind == "get" and each.key == "k42" and each.revision),
    )
    earlier = next(each for each in history if each.key == "k42" and each.kind == "get" and each.revision)
    history[stale] = replace(history[stale], value=earlier.value, revision=earlier.revision)
    bad = check_linearizable(write_history(folder / "stale.jsonl", history))
    assert bad.violation is not None
    assert bad.violation["key"] == "k42"
    assert [each["line"] for each in bad.violation["culprits"]] == [stale + 1]
    record_property("seconds", (good.seconds, bad.seconds))
    print(
        f"{good.operations} operations on {good.keys} keys: {good.seconds:.1f} s; with a stale read {bad.seconds:.1f} s"
    )


def _until(history: list[Operation], moment: int) -> list[Operation]:
    """What was known of a history at a moment."""
    part = []
    for each in history:
        if each.call <= moment and (each.returned is None or each.returned <= moment):
            part.append(each)
        elif each.call <= moment and each.kind != "get":
            part.append(replace(each, outcome="unknown", returned=None, revision=0, found=None))
    return part


def _tiny_histories(count: int) -> Iterator[list[Operation]]:
    """Histories of up to six operations on one key, most of them with an answer or a time changed."""
    for seed in range(count):
        random_ = random.Random(seed)
        history = simulate(
            seed,
            operations=random_.randint(3, 6),
            clients=random_.randint(1, 4),
            keys=1,
            ambiguous=0.35,
            repeated=random_.choice((0.0, 0.7)),
            tells_revisions=random_.random() < 0.6,
            weights=random_.choice(((5, 3, 3, 1), (3, 3, 1, 3), (3, 1, 4, 2))),
        ).history
        for _ in range(random_.choice((0, 1, 1, 2))):
            index = random_.randrange(len(history))
            history[index] = _changed(history[index], history, random_)
        yield history


def _changed(operation: Operation, history: list[Operation], random_: random.Random) -> Operation:
    values = [each.value for each in history if each.kind in ("put", "put-if")]
    revision = random_.randint(1, 7)
    choices: list[Operation] = []
    if operation.outcome != "unknown":
        choices.append(replace(operation, outcome="unknown", returned=None, revision=0, found=None))
        if operation.kind == "get":
            choices += [replace(operation, value=None, revision=0)] * 2
            choices += [replace(operation, value=random_.choice(values), revision=operation.revision)] if values else []
            choices += [replace(operation, revision=revision)] if operation.value is not None else []
            length = (operation.returned or 0) - operation.call
            moved = random_.randrange(300)
            choices.append(replace(operation, call=moved, returned=moved + length))
    if operation.kind in ("put-if", "delete"):
        choices.append(replace(operation, outcome="refused", returned=operation.returned or operation.call, revision=0))
        choices[-1] = replace(choices[-1], found=random_.choice((0, revision)))
    if operation.kind in ("put-if", "delete") and operation.outcome != "refused":
        choices.append(
            replace(operation, expected=random_.choice((revision, revision if operation.kind == "delete" else 0)))
        )
    if operation.outcome == "ok" and operation.kind != "get":
        choices.append(replace(operation, revision=random_.choice((0, revision))))
    return random_.choice(choices) if choices else operation
