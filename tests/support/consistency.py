"""Checkers of what the weaker read levels promise, over recorded histories; each is one pass and obvious.

- `check_written`: what was read was written before, by somebody, under that revision (every level).
- `check_session`: within a session nothing goes back: reads are monotonic and see the session's own writes.
- `check_fold`, `check_converged`: once all is quiet, no acknowledged write is missing and every view equals the log.

Each returns what it found wrong; an empty list is a pass. Histories need revisions for this.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.support.history import HistoryError, Operation

Held = tuple[str, int]  # a value and its revision
_CALL, _RETURN = 0, 1  # at one instant calls come first: intervals are closed, so they overlap


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One broken promise: its name, what happened, and the operations that show it."""

    rule: str
    text: str
    operations: tuple[Operation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """The furthest that a session knows a key to be, and the answer that told it."""

    floor: int
    operation: Operation


def check_written(operations: Sequence[Operation]) -> list[Finding]:
    """Reads whose value nobody had begun to write to that key, or under another revision."""
    writes: dict[tuple[str, str | None], list[Operation]] = defaultdict(list)
    for operation in operations:
        if operation.writes:
            writes[operation.key, operation.value].append(operation)
    findings = []
    for read in operations:
        if read.kind != "get" or read.outcome != "ok" or read.value is None:
            continue
        sources = [each for each in writes[read.key, read.value] if each.call <= _end(read)]
        if not sources:
            text = f"{read.client} read {read.value!r} of {read.key!r}, which nobody had written"
            findings.append(Finding(rule="written", text=text, operations=(read,)))
        elif read.revision and not any(each.revision in (0, read.revision) for each in sources):
            text = f"{read.client} read {read.value!r} of {read.key!r} at revision {read.revision}, not the write's"
            findings.append(Finding(rule="revision", text=text, operations=(read, *sources)))
    return findings


def check_session(operations: Sequence[Operation]) -> list[Finding]:
    """Operations of a session that are behind an earlier one's answer; gets of level `eventual` promise nothing here.

    Raises:
        HistoryError: An answer tells no revision, so that nothing could be found.
    """
    answered = [each for each in operations if _counts_in_session(each)]
    deletes: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        if operation.kind == "delete" and operation.writes:
            deletes[operation.key].append(operation)
    events = [(each.call, _CALL, index) for index, each in enumerate(answered)]
    events += [(_end(each), _RETURN, index) for index, each in enumerate(answered)]
    seen: dict[tuple[str, str], _Seen] = {}
    applied: dict[tuple[str, int], Operation] = {}
    bounds: dict[int, tuple[_Seen | None, Operation | None]] = {}
    findings = []
    for _, kind, index in sorted(events):
        operation = answered[index]
        name = operation.session or operation.client
        here, view = (name, operation.key), (name, operation.shard)
        if kind == _CALL:
            bounds[index] = seen.get(here), applied.get(view)
            continue
        before, at = bounds.pop(index)
        reached = _reached(operation, before, deletes[operation.key])
        if before is not None and reached < before.floor + operation.writes:
            rule = "own writes" if before.operation.writes else "monotonic"
            text = f"session {name}: {_told(operation)} came after {_told(before.operation)}"
            findings.append(Finding(rule=rule, text=text, operations=(before.operation, operation)))
        if operation.sequence and at is not None and operation.sequence < at.sequence:
            text = f"session {name} was answered at sequence {operation.sequence} after {at.sequence}"
            findings.append(Finding(rule="sequence", text=text, operations=(at, operation)))
        if reached > (seen[here].floor if here in seen else 0):
            seen[here] = _Seen(floor=reached, operation=operation)
        if operation.sequence > (applied[view].sequence if view in applied else 0):
            applied[view] = operation
    return findings


def check_fold(operations: Sequence[Operation], fold: Mapping[str, Held]) -> list[Finding]:
    """Keys whose value in the log, folded, is not that of their last write.

    Args:
        fold: Present keys with value and revision, once all writes are over.

    Raises:
        HistoryError: An acknowledged write tells no revision.
    """
    keys: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        if operation.writes:
            _require_revision(operation)
            keys[operation.key].append(operation)
    findings = []
    for key in sorted(keys.keys() | fold.keys()):
        last = max((each for each in keys[key] if each.outcome == "ok"), key=_revision, default=None)
        open_ones = [each for each in keys[key] if each.outcome == "unknown"]
        held = fold.get(key)
        if _explains(last, open_ones, held):
            continue
        shown = (last,) if last else ()
        text = f"{key!r} holds {held or 'nothing'} after {_told(last)}"
        findings.append(Finding(rule="fold", text=text, operations=shown))
    return findings


def check_converged(views: Mapping[str, Mapping[str, Held]], fold: Mapping[str, Held]) -> list[Finding]:
    """Keys in which a view differs from the log, folded, once all is quiet.

    Args:
        views: By the view's name, its present keys with value and revision.
    """
    if not views:
        raise HistoryError("no view was given, so nothing was compared")
    return [
        Finding(rule="converged", text=f"{key!r} is {held.get(key)} in {name}, {fold.get(key)} in the log")
        for name, held in sorted(views.items())
        for key in sorted(held.keys() | fold.keys())
        if held.get(key) != fold.get(key)
    ]


def _reached(operation: Operation, before: _Seen | None, deletes: Iterable[Operation]) -> int:
    """The least revision that the key had reached when it gave this answer, 0 where it must have been empty."""
    if _revision(operation):
        return _revision(operation)
    if before is None:
        return 0
    deleted = before.operation.kind == "delete" and before.operation.outcome == "ok"
    if deleted or _revision(before.operation) == 0:  # It was absent then already.
        return before.floor
    # Found absent: a delete after what the session knew must have been under way.
    later = [each.revision or before.floor + 1 for each in deletes if each.call <= _end(operation)]
    return min((revision for revision in later if revision > before.floor), default=0)


def _explains(last: Operation | None, open_ones: Sequence[Operation], held: Held | None) -> bool:
    if held is None:
        return last is None or last.kind == "delete" or any(each.kind == "delete" for each in open_ones)
    value, revision = held
    if last is not None and revision <= last.revision:
        return last.kind != "delete" and (value, revision) == (last.value, last.revision)
    return any(each.value == value for each in open_ones)


def _counts_in_session(operation: Operation) -> bool:
    if operation.outcome not in ("ok", "refused") or operation.level == "eventual":
        return False
    _require_revision(operation)
    return True


def _require_revision(operation: Operation) -> None:
    told = operation.revision or operation.outcome != "ok" or (operation.kind == "get" and operation.value is None)
    if not told:
        raise HistoryError(f"{_told(operation)} tells no revision: what it saw cannot be checked")


def _revision(operation: Operation) -> int:
    return operation.found or 0 if operation.outcome == "refused" else operation.revision


def _end(operation: Operation) -> int:
    assert operation.returned is not None, "an answer has a return time"
    return operation.returned


def _told(operation: Operation | None) -> str:
    if operation is None:
        return "no acknowledged write"
    value = "" if operation.value is None else f" {operation.value!r}"
    return f"{operation.kind} {operation.key!r}{value} {operation.outcome} at revision {_revision(operation)}"
