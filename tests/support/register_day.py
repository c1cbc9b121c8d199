"""Histories of a store that keeps its promises, simulated: what the checkers of histories must accept.

One log, whose positions are the revisions; each write takes effect at one instant between its call and its answer, or,
where the answer is lost, at any time later or never. Linearizable gets look at the log's end, the others at views that
follow it, session gets at one that is not behind the session's token.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tests.support.history import Operation

Held = tuple[str, int]
KINDS = ("get", "put", "put-if", "delete")


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """A simulated run: its history, the log folded at its end, and the views once they have caught up."""

    history: list[Operation]
    fold: dict[str, Held]
    views: dict[str, dict[str, Held]]


@dataclass(slots=True)
class _Log:
    """Every effect in order, and each key's value after any of them."""

    changes: dict[str, list[tuple[int, str | None]]] = field(default_factory=dict)
    length: int = 0

    def write(self, key: str, value: str | None) -> int:
        self.length += 1
        self.changes.setdefault(key, []).append((self.length, value))
        return self.length

    def held(self, key: str, position: int) -> Held | None:
        for revision, value in reversed(self.changes.get(key, ())):
            if revision <= position:
                return None if value is None else (value, revision)
        return None


def simulate(
    seed: int,
    *,
    operations: int,
    clients: int = 5,
    keys: int = 2,
    views: int = 3,
    ambiguous: float = 0.1,
    repeated: float = 0.1,
    levels: tuple[str, ...] = ("linearizable",),
    tells_revisions: bool = True,
    weights: tuple[int, int, int, int] = (5, 3, 3, 1),
) -> Day:
    """Run `clients` side by side until they have made so many operations.

    Args:
        ambiguous: Share of calls whose answer is lost.
        repeated: Share of writes whose value others write too.
        levels: Of gets, chosen at random.
        tells_revisions: Whether answers carry revisions always, or only half of the time.
        weights: Of get, put, put-if, delete.
    """
    random_ = random.Random(seed)
    log, history, followers, tokens = _Log(), list[Operation](), [0] * views, [0] * clients
    known: dict[tuple[int, str], int] = {}
    pending: list[tuple[int, int, Callable[[int], None]]] = []
    made = 0

    def at(moment: int, action: Callable[[int], None]) -> None:
        nonlocal made
        made += 1
        heapq.heappush(pending, (moment, made, action))

    def start(client: int, now: int) -> None:
        if len(history) >= operations:
            return
        kind = random_.choices(KINDS, weights)[0]
        key = f"k{random_.randrange(keys)}"
        value = None
        if kind in ("put", "put-if"):
            value = f"same{random_.randrange(2)}" if random_.random() < repeated else f"v{len(history)}"
        call = Operation(
            client=f"c{client}",
            key=key,
            kind=kind,
            call=now,
            value=value,
            expected=known.get((client, key), 0) if kind == "put-if" else None,
            level=random_.choice(levels) if kind == "get" else "",
        )
        index = len(history)
        history.append(call)
        lost = random_.random() < ambiguous
        takes = random_.randrange(1, 2000 if lost else 50)
        if not lost or random_.random() < 0.6:
            at(now + takes, lambda then: answer(client, index, then, lost))
        if lost:
            at(now + 60, lambda then: start(client, then))

    def answer(client: int, index: int, now: int, lost: bool) -> None:
        result = _effect(history[index], log, followers, tokens[client], random_)
        if lost:
            return
        returned = now + random_.randrange(0, 30)
        done = replace(result, returned=returned)
        known[client, done.key] = done.found or 0 if done.outcome == "refused" else done.revision
        if not tells_revisions and random_.random() < 0.5:
            done = replace(done, revision=0)
        history[index] = done
        if done.level != "eventual":
            tokens[client] = max(tokens[client], done.sequence)
        at(returned + random_.randrange(1, 20), lambda then: start(client, then))

    for client in range(clients):
        at(random_.randrange(20), lambda then, client=client: start(client, then))  # type: ignore[misc]
    while pending:
        now, _, action = heapq.heappop(pending)
        action(now)
        behind = random_.randrange(views)
        followers[behind] = random_.randint(followers[behind], log.length)
    fold = {key: held for key in log.changes if (held := log.held(key, log.length)) is not None}
    return Day(history=history, fold=fold, views={f"n{view}": dict(fold) for view in range(views)})


def _effect(call: Operation, log: _Log, followers: list[int], token: int, random_: random.Random) -> Operation:
    """What the store does and answers at the instant when a call takes effect."""
    if call.kind == "get":
        position = log.length
        if call.level in ("session", "eventual"):
            view = random_.randrange(len(followers))
            if call.level == "session":
                followers[view] = max(followers[view], token)
            position = followers[view]
        held = log.held(call.key, position)
        value, revision = held or (None, 0)
        return replace(call, outcome="ok", value=value, revision=revision, sequence=position)
    present = log.held(call.key, log.length)
    revision = present[1] if present else 0
    if call.kind == "delete" and present is None:
        return replace(call, outcome="refused", found=0, sequence=log.length)
    if call.expected is not None and call.expected != revision:
        return replace(call, outcome="refused", found=revision, sequence=log.length)
    written = log.write(call.key, call.value)
    found = revision if call.kind == "delete" and random_.random() < 0.5 else None
    return replace(call, outcome="ok", revision=written, found=found, sequence=written)
