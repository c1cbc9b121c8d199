"""A follower of a log whose broker goes away again and again."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tapehouse.core import BusUnavailableError, GapError
from tapehouse.log import MemoryLog, Message, PatientLog
from tapehouse.log.patient import PAUSE_S

AWAY = "nobody answers"


class Flaky(MemoryLog):
    """A log that goes away after every second message that it gives, and for a while at the beginning."""

    away = 3

    async def read(self, first: int, *, through: int | None = None, follow: bool = False) -> AsyncIterator[Message]:
        if self.away:
            self.away -= 1
            raise BusUnavailableError(AWAY)
        given = 0
        async for message in super().read(first, through=through, follow=follow):
            if given == 2:
                raise BusUnavailableError(AWAY)
            given += 1
            yield message


async def filled(messages: int) -> Flaky:
    log = Flaky("CMDS_x")
    for number in range(messages):
        await log.append(b"%d" % number, expected_last=None)
    return log


async def test_a_follower_gets_every_message_once() -> None:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    found = []
    async for message in PatientLog(await filled(7), pause=pause).read(2, follow=True):
        found.append(message.sequence)
        if message.sequence == 7:
            break
    assert found == [2, 3, 4, 5, 6, 7]
    assert pauses == [PAUSE_S] * 5, "three times at the beginning, and after every second message"


async def test_who_does_not_follow_hears_of_it() -> None:
    log = PatientLog(await filled(1))
    with pytest.raises(BusUnavailableError, match=AWAY):
        async for _ in log.read(1):
            pass


async def test_other_faults_are_told_to_a_follower_too() -> None:
    log = await filled(3)
    log.away = 0
    await log.trim(3)
    with pytest.raises(GapError):
        async for _ in PatientLog(log).read(1, follow=True):
            pass


async def test_all_else_is_the_log_itself() -> None:
    log = await filled(2)
    patient = PatientLog(log)
    assert (patient.name, (await patient.extent()).last) == ("CMDS_x", 2)
    assert await patient.append(b"2", expected_last=None) == 3
    last = await patient.last()
    assert last is not None
    assert last.payload == b"2"
    await patient.trim(3)
    assert (await log.extent()).first == 3
