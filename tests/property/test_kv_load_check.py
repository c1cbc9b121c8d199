"""The load generator's checker against the obvious one, which looks at a whole history at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tapehouse.app.kv_load.check import End, ReadChecker, Wrong
from tapehouse.app.kv_load.values import ValueMaker

MAKER = ValueMaker(run=1, value_bytes=48, filling=bytes(80_000))
CONNECTIONS, KEYS = 3, 2


@dataclass
class Event:
    """One request: when it began and ended, and the write that it made or saw."""

    is_read: bool
    connection: int
    key: int
    began: int
    ended: int | None = None
    write: int = -1
    known: list[int] = field(default_factory=list)


def oracle(history: list[Event], level: str) -> int:
    """How many reads saw what was overwritten, judged by all pairs of writes."""
    writes = {event.write: event for event in history if not event.is_read}

    def known(number: int) -> int | None:
        """When a write was first known to have taken effect."""
        moments = [event.ended for event in history if event.write == number and event.ended is not None]
        return min(moments, default=None)

    wrong = 0
    for read in history:
        if not read.is_read or read.ended is None:
            continue
        mine = known(read.write)
        for number, later in writes.items():
            if later.key != read.key or number == read.write or mine is None or not mine < later.began:
                continue
            effect = known(number)
            if level == "linearizable":
                overwritten = effect is not None and effect < read.began
            else:
                overwritten = any(
                    event.connection == read.connection and event.write == number and event.ended is not None
                    and event.ended < read.ended
                    for event in history
                )  # fmt: skip
            if overwritten:
                wrong += 1
                break
    return wrong


@given(data=st.data(), level=st.sampled_from(["linearizable", "session"]))
def test_it_finds_what_the_obvious_one_finds(data: Any, level: Any) -> None:
    judge = ReadChecker(run=1, level=level, keys=KEYS, writes_max=64)
    history: list[Event] = []
    pending: list[tuple[Event, int]] = []
    numbers: list[tuple[int, Event]] = []
    for moment in range(1, data.draw(st.integers(1, 40)) + 1):
        if pending and data.draw(st.booleans()):
            event, mark = pending.pop(data.draw(st.integers(0, len(pending) - 1)))
            event.ended = moment
            if not event.is_read:
                judge.end_write(event.write, End.DONE)
                continue
            number, written = data.draw(st.sampled_from([one for one in numbers if one[1].key == event.key]))
            event.write = number
            value = MAKER.make(connection=written.connection, key=written.key, number=number)
            judge.end_read(event.connection, event.key, value, mark)
            continue
        connection, key = data.draw(st.integers(0, CONNECTIONS - 1)), data.draw(st.integers(0, KEYS - 1))
        is_read = any(written.key == key for _, written in numbers) and data.draw(st.booleans())
        event = Event(is_read=is_read, connection=connection, key=key, began=moment)
        if is_read:
            pending.append((event, judge.begin_read(key)))
        else:
            event.write = judge.begin_write(connection, key)
            numbers.append((event.write, event))
            pending.append((event, 0))
        history.append(event)
    what = Wrong.STALE if level == "linearizable" else Wrong.WENT_BACK
    assert judge.verdict.counts[what] == judge.verdict.violations == oracle(history, level)


@given(data=st.data())
def test_a_register_that_tells_the_truth_is_never_blamed(data: Any) -> None:
    """Each request takes effect at one moment between its beginning and its end."""
    judge = ReadChecker(run=1, level="linearizable", keys=1, writes_max=64)
    register: bytes | None = None
    under_way: list[list[Any]] = []  # is it a read, mark, whether it took effect, what it saw
    for _ in range(data.draw(st.integers(1, 60))):
        action = data.draw(st.sampled_from(["begin", "effect", "end"]))
        if action == "begin":
            is_read = data.draw(st.booleans())
            under_way.append([is_read, judge.begin_read(0) if is_read else judge.begin_write(0, 0), False, None])
        chosen = [one for one in under_way if one[2] == (action == "end")] if action != "begin" else []
        if not chosen:
            continue
        one = chosen[data.draw(st.integers(0, len(chosen) - 1))]
        if action == "effect":
            one[2], one[3] = True, register
            if not one[0]:
                register = MAKER.make(connection=0, key=0, number=one[1])
        elif one[0]:
            judge.end_read(0, 0, one[3], one[1])
        else:
            judge.end_write(one[1], End.DONE)
        if action == "end":
            under_way.remove(one)
    assert judge.verdict.violations == 0
