"""One line that names the culprit, and who must act."""

from __future__ import annotations

import pytest

from tapehouse import core
from tapehouse.core import InvariantError, TapehouseError, check, errors

EXIT_CODES = {
    "InvariantError": 1,
    "UsageError": 2,
    "MissingError": 3,
    "DataError": 4,
    "DecodeError": 4,
    "GapError": 4,
    "ConflictError": 1,
    "TransientError": 3,
    "BusUnavailableError": 3,
    "BusyError": 3,
    "AmbiguousAppendError": 3,
    "StoreThrottledError": 3,
    "IntegrityError": 4,
    "StrategyError": 1,
}


def all_errors(base: type[TapehouseError] = TapehouseError) -> set[type[TapehouseError]]:
    return {base}.union(*(all_errors(child) for child in base.__subclasses__()))


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({}, "it broke"),
        ({"subject": "TAPE_demo"}, "TAPE_demo: it broke"),
        ({"subject": "TAPE_demo", "position": "sequence 7"}, "TAPE_demo, sequence 7: it broke"),
        ({"position": "line 3", "hint": "mend it"}, "line 3: it broke (mend it)"),
    ],
)
def test_an_error_is_one_line(where: dict[str, str], expected: str) -> None:
    error = TapehouseError("it broke", **where)
    assert str(error) == expected
    assert error.args == ("it broke",)


def test_every_error_of_the_core_has_its_exit_code_and_is_public() -> None:
    ours = {error for error in all_errors() if error.__module__ == errors.__name__ and error is not TapehouseError}
    assert {error.__name__: error.exit_code for error in ours} == EXIT_CODES
    assert all(getattr(core, error.__name__) is error for error in ours)


def test_only_what_may_work_later_is_transient() -> None:
    transient = {error.__name__ for error in all_errors(core.TransientError) if error.__module__ == errors.__name__}
    assert transient == {
        "TransientError", "BusUnavailableError", "AmbiguousAppendError", "StoreThrottledError", "BusyError",
    }  # fmt: skip


def test_check_stops_at_a_broken_invariant_only() -> None:
    check(True, "fine")
    with pytest.raises(InvariantError, match=r"ring: 3 is not 4 \(this is a bug"):
        check(False, "3 is not 4", subject="ring")
