"""The slow, obvious answer to whether a tiny history of one key is linearizable: every order is tried.

Nothing is left open here: a write whose revision was not told is tried with every revision that could matter, and an
ambiguous one at every place and left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.support.history import Operation

Register = tuple[str | None, int, int]  # value, its revision (0: absent), the last write's revision


def linearizable(history: Sequence[Operation]) -> bool:
    """Whether some order of all answered operations, and any ambiguous ones, explains every answer."""
    operations = [
        each for each in history if each.outcome != "failed" and not (each.kind == "get" and each.outcome == "unknown")
    ]
    named = [each.revision for each in operations] + [each.expected or 0 for each in operations]
    highest = max([*named, *(each.found or 0 for each in operations), 0]) + len(operations) + 1
    return _search((None, 0, 0), operations, highest)


def _search(register: Register, left: list[Operation], highest: int) -> bool:
    answered = [each.returned for each in left if each.outcome != "unknown" and each.returned is not None]
    if not answered:
        return True
    for operation in left:
        if operation.call <= min(answered):
            others = [each for each in left if each is not operation]
            for after in _outcomes(register, operation, highest):
                if _search(after, others, highest):
                    return True
    return False


def _outcomes(register: Register, operation: Operation, highest: int) -> Iterator[Register]:
    """The registers that an operation with this answer can leave."""
    value, revision, last = register
    ambiguous = operation.outcome == "unknown"
    if operation.kind == "get":
        if operation.value == value and operation.revision in (0, revision):
            yield register
        return
    expected = operation.expected
    holds = expected is None or expected == revision
    if operation.kind == "delete":
        holds = holds and revision != 0
    if operation.outcome == "refused":
        if not holds and operation.found == revision:
            yield register
        return
    if not holds or (not ambiguous and operation.found not in (None, revision)):
        return
    told = 0 if ambiguous else operation.revision
    for written in [told] if told else range(last + 1, highest + 1):
        if written > last:
            yield (None, 0, written) if operation.kind == "delete" else (operation.value, written, written)
