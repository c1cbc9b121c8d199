"""OUT: every decision as JSON, in order, with nothing missing whatever dies or is lost on the way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.app.out import ASIDE_CELLS, InOrder, OutProjector, check_out, out_subject, read_out, read_out_event
from tapehouse.core.errors import AmbiguousAppendError, BusUnavailableError, DecodeError, IntegrityError
from tapehouse.log import MemoryLog, MemorySnapshots
from tests.support.decided_day import DecidedDay, decided_day

TAPE = "day"


class KilledError(Exception):
    """Stands for the end of the process: nothing that follows it is sent."""


class FaultyOut(MemoryLog):
    """OUT in memory that loses messages, or their acknowledgements, and whose writer dies at one of them."""

    def __init__(self) -> None:
        super().__init__("OUT")
        self.sent = 0
        self.lost: set[int] = set()  # these appends do not arrive
        self.unanswered: set[int] = set()  # these arrive, and nobody says so
        self.dies_at: int | None = None
        self.in_flight = self.most_in_flight = 0
        self.let: Callable[[], asyncio.Future[None]] | None = None

    async def append(
        self,
        payload: bytes,
        *,
        expected_last: int | None,
        subject: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> int:
        number, self.sent = self.sent, self.sent + 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self.let is not None:
                await self.let()
            if self.dies_at is not None and number >= self.dies_at:
                raise KilledError
            if number in self.lost:
                raise BusUnavailableError("no leader")
            sequence = await super().append(payload, expected_last=expected_last, subject=subject, headers=headers)
            if number in self.unanswered:
                raise AmbiguousAppendError("no acknowledgement")
            return sequence
        finally:
            self.in_flight -= 1

    def stored(self) -> list[tuple[str, bytes, dict[str, str]]]:
        """What it holds."""
        return [(message.subject, message.payload, message.headers) for message in self._messages]


async def publish(
    events: MemoryLog, out: MemoryLog, *, window: int = 4, snapshots: MemorySnapshots | None = None
) -> OutProjector:
    """One life of a projector, to the end of EVENTS."""
    projector = OutProjector(TAPE, events, out, snapshots=snapshots, window=window, pause=no_pause)
    await projector.open()
    try:
        await projector.run()
    finally:
        projector.save()
    return projector


async def no_pause(seconds: float) -> None:
    """Tests do not wait."""


async def in_order(out: MemoryLog) -> list[dict[str, object]]:
    return [each.event async for each in read_out(out, TAPE)]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.integers(1, 7), st.integers(3, 60), st.integers(1, 9))
def test_each_record_is_told_with_its_cause_its_chain_and_what_is_left(
    seed: int, appends: int, frame_cells: int, window: int
) -> None:
    """However EVENTS was cut into appends and frames, the bytes are the same, and are what the day says."""

    async def run(day: DecidedDay) -> None:
        whole, out, other = MemoryLog("OUT"), MemoryLog("OUT"), await day.log(appends=len(day.inputs))
        await publish(await day.log(appends=appends, frame_cells=max(frame_cells, 12)), out, window=window)
        await publish(other, whole)
        told = await in_order(out)
        assert [(each["type"], each["causation"], each["correlation"]) for each in told] == [
            (want.type, want.causation, want.correlation) for want in day.told
        ]
        left = [(each["body"].get("left"), want.left) for each, want in zip(told, day.told, strict=True)]  # type: ignore[attr-defined]
        assert all(has == want for has, want in left)
        assert [message.payload async for message in out.read(1)] == [
            message.payload async for message in whole.read(1)
        ]
        assert len({each["id"] for each in told}) == len(told)

    asyncio.run(run(decided_day(seed, 12)))


@pytest.mark.parametrize("with_snapshots", [True, False])
async def test_a_projector_that_dies_at_any_message_leaves_no_gap(with_snapshots: bool) -> None:
    day = decided_day(3, 10)
    events = await day.log(appends=2, frame_cells=14)
    for dies_at in range(len(day.told) + 1):
        out, snapshots = FaultyOut(), MemorySnapshots() if with_snapshots else None
        out.dies_at = dies_at
        try:
            await publish(events, out, snapshots=snapshots)
        except KilledError:
            pass
        else:
            assert dies_at == len(day.told)
        out.dies_at = None
        await publish(events, out, snapshots=snapshots)
        found = await check_out(TAPE, events, out)
        assert (found.events, found.behind) == (len(day.told), 0)
        assert found.repeated <= 4, "a successor repeats one window at the most"


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_lost_messages_and_acknowledgements_and_kills_leave_no_gap(data: st.DataObject) -> None:
    async def run() -> None:
        day = decided_day(data.draw(st.integers(0, 50)), 12)
        events = await day.log(appends=3, frame_cells=30)
        out, snapshots = FaultyOut(), MemorySnapshots()
        some = st.sets(st.integers(0, 3 * len(day.told)), max_size=12)
        out.lost, out.unanswered = data.draw(some), data.draw(some)
        for dies_at in sorted(data.draw(some)):
            out.dies_at = dies_at
            with suppress(KilledError):
                await publish(events, out, snapshots=snapshots)
        out.dies_at = None
        await publish(events, out, snapshots=snapshots)
        found = await check_out(TAPE, events, out)
        assert (found.events, found.behind) == (len(day.told), 0)
        told = await in_order(out)
        assert [each["type"] for each in told] == [want.type for want in day.told]

    asyncio.run(run())


async def test_a_message_lost_before_a_kill_is_sent_by_the_successor_though_later_ones_are_there() -> None:
    day = decided_day(4, 8)
    events = await day.log(appends=8)
    out = FaultyOut()
    out.lost, out.dies_at = {5}, 8  # In the second window the second is lost, and the process dies before it resends.
    with pytest.raises(KilledError):
        await publish(events, out)
    stored = [json.loads(payload)["position"]["events"] for _, payload, _ in out.stored()]
    assert len(stored) == 7
    with pytest.raises(IntegrityError, match="missing, while later ones are there"):
        await check_out(TAPE, events, out)
    out.dies_at = None
    await publish(events, out)
    assert (await check_out(TAPE, events, out)).behind == 0


async def test_a_slow_broker_pushes_back_and_no_more_than_a_window_is_in_flight() -> None:
    day = decided_day(5, 12)
    events, out = await day.log(appends=12), FaultyOut()
    gate: asyncio.Queue[None] = asyncio.Queue()
    out.let = lambda: asyncio.ensure_future(gate.get())
    task = asyncio.create_task(publish(events, out, window=5))
    for _ in range(20):
        await asyncio.sleep(0)
    assert (out.in_flight, len(out.stored())) == (5, 0), "nobody answers, and nothing more is sent"
    for _ in day.told:
        gate.put_nowait(None)
    projector = await task
    assert out.most_in_flight == 5
    assert projector.metrics.get("out_messages_total") == len(day.told)
    assert projector.metrics.get("out_lag_cells") == 0
    assert await projector.lag() == 0


async def test_a_large_frame_is_folded_aside_and_no_snapshot_is_taken_of_half_of_it() -> None:
    day = decided_day(5, 80)
    assert len(day.cells) > ASIDE_CELLS
    events, out, snapshots = await day.log(appends=80), FaultyOut(), MemorySnapshots()
    task = asyncio.create_task(publish(events, out, snapshots=snapshots))
    for _ in range(3):
        await asyncio.sleep(0)  # It has begun to fold.
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await publish(events, out, snapshots=snapshots)
    assert (await check_out(TAPE, events, out)).behind == 0


async def test_a_broker_that_stays_away_ends_it_after_its_attempts() -> None:
    events, out = await decided_day(5, 3).log(), FaultyOut()
    out.lost = set(range(100_000))
    with pytest.raises(BusUnavailableError):
        await publish(events, out)
    assert out.stored() == []


async def test_it_goes_on_from_a_snapshot_and_says_the_same_bytes() -> None:
    day = decided_day(6, 20)
    events, snapshots, out = MemoryLog("EVENTS_day", log_id=bytes(range(16))), MemorySnapshots(), FaultyOut()
    await day.extend(events, last=10)
    await publish(events, out, snapshots=snapshots)
    assert "out" in snapshots.saved
    await day.extend(events, first=10)
    sent = out.sent
    await publish(events, out, snapshots=snapshots)
    assert out.sent - sent <= len(day.told) - sent + 4, "what is there is not sent again"
    assert (await check_out(TAPE, events, out)).behind == 0
    anew = FaultyOut()  # A snapshot beyond the end of OUT is of no use: all is told again.
    await publish(events, anew, snapshots=snapshots)
    assert (await check_out(TAPE, events, anew)).behind == 0


async def test_other_tapes_in_the_same_stream_do_not_matter() -> None:
    day, out = decided_day(7, 6), MemoryLog("OUT")
    events = await day.log()
    await out.append(b"{}", expected_last=None, subject="out.v1.other.order.filled")
    await publish(events, out)
    await out.append(b"{}", expected_last=None, subject="out.v1.day2.order.filled")
    again = await publish(events, out)
    assert again.metrics.get("out_messages_total") <= 4
    assert (await check_out(TAPE, events, out)).events == len(day.told)
    kinds = [each.event["type"] async for each in read_out(out, TAPE, kind="order.filled", from_position=20)]
    assert set(kinds) == {"order.filled"}


async def test_out_of_another_log_is_refused() -> None:
    day, out = decided_day(8, 6), MemoryLog("OUT")
    await publish(await day.log(), out)
    other = MemoryLog("EVENTS_day", log_id=bytes(16))
    await day.extend(other)
    with pytest.raises(IntegrityError, match="events of tape day that EVENTS_day does not have"):
        await publish(other, out)
    shorter = MemoryLog("EVENTS_day", log_id=bytes(range(16)))
    await day.extend(shorter, last=2)
    with pytest.raises(IntegrityError, match="nats stream purge OUT"):
        await publish(shorter, out)


async def test_a_message_of_somebody_else_is_named() -> None:
    out = MemoryLog("OUT")
    await out.append(b"{}", expected_last=None, subject=out_subject(TAPE, "order.filled"))
    with pytest.raises(DecodeError, match="another program wrote it"):
        await publish(await decided_day(8, 6).log(), out)


# The checker must catch what it is for.


async def altered(change: Callable[[list[tuple[str, bytes, dict[str, str]]]], None]) -> None:
    """Check an OUT in which something was changed."""
    day = decided_day(9, 10)
    events, out = await day.log(), FaultyOut()
    await publish(events, out)
    messages = out.stored()
    change(messages)
    other = MemoryLog("OUT")
    for subject, payload, headers in messages:
        await other.append(payload, expected_last=None, subject=subject, headers=headers)
    found = await check_out(TAPE, events, other)
    assert found.behind, "the change was not noticed"


async def test_the_checker_catches_a_dropped_message() -> None:
    def drop(messages: list[tuple[str, bytes, dict[str, str]]]) -> None:
        del messages[7]

    with pytest.raises(IntegrityError, match="missing"):
        await altered(drop)
    await altered(lambda messages: messages.pop() and None)  # type: ignore[func-returns-value]


async def test_the_checker_catches_a_changed_message() -> None:
    def change(messages: list[tuple[str, bytes, dict[str, str]]]) -> None:
        subject, payload, headers = messages[7]
        messages[7] = subject, payload.replace(b'"version":1', b'"version":2'), headers

    def move(messages: list[tuple[str, bytes, dict[str, str]]]) -> None:
        messages[7] = out_subject(TAPE, "order.gone"), *messages[7][1:]

    for each in (change, move):
        with pytest.raises(IntegrityError, match="not what EVENTS says"):
            await altered(each)


async def test_the_checker_catches_another_order() -> None:
    def swap(messages: list[tuple[str, bytes, dict[str, str]]]) -> None:
        messages[6], messages[7] = messages[7], messages[6]

    with pytest.raises(IntegrityError, match="missing"):
        await altered(swap)


async def test_the_rule_of_a_reader_takes_each_once_and_waits_for_what_is_out_of_turn() -> None:
    day = decided_day(9, 10)
    out = FaultyOut()
    await publish(await day.log(), out)
    events = [read_out_event(message) async for message in out.read(1)]
    rule = InOrder(after=-1)
    given = [events[0], events[2], events[1], events[1], events[2], events[0], events[3]]
    assert [rule.takes(each) for each in given] == [True, False, True, False, True, False, True]


@pytest.mark.parametrize("taken", [0, 1, 5])
async def test_who_waits_for_its_turn_publishes_nothing_and_then_what_is_lacking(taken: int) -> None:
    """The one before publishes some, and some more while another folds ahead of it; the two leave no gap."""
    day = decided_day(3, 10)
    events, out = await day.log(appends=2, frame_cells=14), FaultyOut()
    out.dies_at = taken
    with suppress(KilledError):
        await publish(events, out)
    there = len(out.stored())
    assert there == taken
    successor = OutProjector(TAPE, events, out, window=4, pause=no_pause)
    await successor.open()
    waiting = asyncio.create_task(successor.wait())
    while len(successor._held) < len(day.told) - taken:  # noqa: ASYNC110  (no event tells it)
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert len(out.stored()) == there, "it published before its turn"
    out.dies_at = out.sent + 2
    with suppress(KilledError):
        await publish(events, out)  # The one before is not dead yet.
    out.dies_at = None
    assert await successor.take_turn()
    await successor.run()
    found = await check_out(TAPE, events, out)
    assert (found.events, found.behind) == (len(day.told), 0)
    assert found.repeated <= 2 * 4, "more than a window of each life was sent again"


async def test_who_waits_holds_no_more_than_it_may_and_goes_on_when_out_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapehouse.app.out.HELD_MESSAGES_MAX", 8)
    day, looks = decided_day(3, 10), 0
    events, out = await day.log(appends=8), FaultyOut()

    async def pause(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            await publish(events, out)
        await asyncio.sleep(0)

    successor = OutProjector(TAPE, events, out, pause=pause)
    await successor.open()
    waiting = asyncio.create_task(successor.wait())
    while successor._host.progress is None or successor._host.progress.sequence < (await events.extent()).last:
        await asyncio.sleep(0)
        assert not waiting.done()
        assert looks >= 3 or len(successor._held) <= 8 + len(day.told) // 2
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert looks >= 3
    assert (await check_out(TAPE, events, out)).behind == 0


async def test_who_waited_on_an_out_that_was_emptied_says_so() -> None:
    day = decided_day(3, 10)
    events, out = await day.log(appends=2), FaultyOut()
    await publish(events, out)
    successor = OutProjector(TAPE, events, out, pause=no_pause)
    await successor.open()
    out._messages.clear()
    assert not await successor.take_turn()
