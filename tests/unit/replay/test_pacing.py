"""Pacing on clocks that a test moves: what is due when, how late it came, and that lateness does not add up."""

from __future__ import annotations

import asyncio
import random

import pytest

from tapehouse.core import VirtualClock
from tapehouse.core.errors import UsageError
from tapehouse.replay import Pacer, parse_speed
from tapehouse.replay.pacing import LATENESS_SAMPLES_MAX, SPIN_NS

LOOK_NS = 20_000
TAPE = 1_767_623_400_000_000_000


class Oversleeping(VirtualClock):
    """Wakes up late, by up to `late_ns`; every look at it takes LOOK_NS."""

    def __init__(self, late_ns: int, seed: int = 1) -> None:
        super().__init__(5_000)
        self._late_ns = late_ns
        self._random = random.Random(seed)

    def monotonic_ns(self) -> int:
        self.advance(LOOK_NS)
        return super().monotonic_ns()

    async def sleep_until(self, monotonic_ns: int) -> None:
        if monotonic_ns > self.time_ns():
            await super().sleep_until(monotonic_ns + self._random.randrange(self._late_ns + 1))
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("text", "speed"),
    [("1x", 1.0), ("10x", 10.0), ("0.5", 0.5), ("2.5x", 2.5), ("1e3", 1000.0), ("max", None), ("1000000", 1e6)],
)
def test_speeds_are_read(text: str, speed: float | None) -> None:
    assert parse_speed(text) == speed


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "0x", "fast", "1xx", "nan", "inf", "1000001", "Max", "1 0"])
def test_what_is_no_speed_is_told(text: str) -> None:
    with pytest.raises(UsageError, match="is no speed"):
        parse_speed(text)


@pytest.mark.parametrize("speed", [0.5, 1.0, 10.0, 1000.0])
async def test_due_times_follow_from_the_start_alone(speed: float) -> None:
    clock = VirtualClock(123)
    pacer = Pacer(clock, speed, start_time=TAPE)
    for after in (0, 1_000_000, 1_000_000, 7_000_000_000, 86_400_000_000_000):
        assert pacer.due_ns(TAPE + after) == 123 + int(after / speed)
        await pacer.wait(TAPE + after)
        assert clock.monotonic_ns() == 123 + int(after / speed)
        assert abs(pacer.reached() - (TAPE + after)) <= speed + 1
    assert pacer.lateness_ns().tolist() == [0] * 5


async def test_a_record_whose_time_has_passed_is_not_waited_for() -> None:
    clock = VirtualClock(0)
    pacer = Pacer(clock, 1.0, start_time=TAPE)
    await pacer.wait(TAPE + 1_000)
    await pacer.wait(TAPE - 5_000)  # the tape's times need not grow
    assert clock.monotonic_ns() == 1_000
    assert pacer.lateness_ns().tolist() == [0, 6_000]


@pytest.mark.parametrize("speed", [1.0, 10.0])
async def test_waking_late_does_not_add_up(speed: float) -> None:
    late_ns = 4 * SPIN_NS
    clock = Oversleeping(late_ns)
    pacer = Pacer(clock, speed, start_time=TAPE)
    step = 20_000_000
    for at in range(1, 501):
        await pacer.wait(TAPE + at * step)
    late = pacer.lateness_ns()
    assert len(late) == 500
    assert late.min() >= 0
    assert late.max() <= late_ns + LOOK_NS
    assert late[-100:].mean() < 2 * late[:100].mean() + 1_000_000
    assert clock.monotonic_ns() - pacer.due_ns(TAPE + 500 * step) <= late_ns + 2 * LOOK_NS


async def test_a_clock_that_wakes_within_the_spin_is_met_to_a_reading() -> None:
    pacer = Pacer(Oversleeping(SPIN_NS // 2), 1.0, start_time=TAPE)
    for at in range(1, 200):
        await pacer.wait(TAPE + at * 10_000_000)
    assert pacer.lateness_ns().max() <= LOOK_NS


async def test_the_lateness_that_is_kept_is_bounded() -> None:
    pacer = Pacer(VirtualClock(10**12), 1.0, start_time=TAPE)
    pacer.samples = LATENESS_SAMPLES_MAX - 2
    for late in range(5):
        await pacer.wait(TAPE - late)
    assert pacer.samples == LATENESS_SAMPLES_MAX + 3
    assert len(pacer.lateness_ns()) == LATENESS_SAMPLES_MAX
    assert pacer.lateness_ns()[:3].tolist() == [2, 3, 4]
