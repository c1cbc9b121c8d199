"""Refilling a log: fences, lost acknowledgements, refusals, and somebody else's messages."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from tapehouse.core.errors import (
    AmbiguousAppendError,
    BusUnavailableError,
    ConflictError,
    IntegrityError,
)
from tapehouse.dr.refill import ATTEMPTS_MAX, Refill
from tapehouse.log.memory import MemoryLog
from tapehouse.log.port import Message
from tests.support.logs import filled, messages_of


async def no_pause(seconds: float) -> None:
    await asyncio.sleep(0)


async def stream(messages: list[Message]) -> AsyncIterator[Message]:
    for message in messages:
        yield message


class Flaky(MemoryLog):
    """A log whose appends fail as a broker's do at a leader change, as often as its seed says."""

    def __init__(self, name: str, seed: int, share: float) -> None:
        super().__init__(name)
        self._random = random.Random(seed)
        self._share = share
        self.faults = 0

    async def append(self, payload, **options):  # type: ignore[no-untyped-def]
        for _ in range(self._random.randrange(4)):  # Appends under way overtake each other.
            await asyncio.sleep(0)
        if self._random.random() < self._share:
            self.faults += 1
            kind = self._random.randrange(3)
            if kind == 0:
                raise BusUnavailableError("no leader")
            if kind == 1:
                await super().append(payload, **options)
            raise AmbiguousAppendError("no acknowledgement")
        return await super().append(payload, **options)

    async def last(self):  # type: ignore[no-untyped-def]
        if self._random.random() < self._share / 2:
            raise BusUnavailableError("no leader")
        return await super().last()


@pytest.mark.parametrize("under_way", [1, 2, 16])
@pytest.mark.parametrize("seed", range(6))
async def test_every_message_is_there_once_whatever_fails(seed: int, under_way: int) -> None:
    source = await filled("TAPE_demo", 300)
    messages = await messages_of(source, 1, 300)
    log = Flaky("TAPE_demo", seed, 0.2)
    refill = Refill(log, last=0, under_way=under_way, pause=no_pause)
    assert await refill.run(stream(messages)) == 300
    assert await messages_of(log, 1, 300) == messages
    assert log.faults > 10, "the control: appends did fail"


async def test_goes_on_after_what_is_there() -> None:
    source = await filled("TAPE_demo", 20)
    log = await filled("TAPE_demo", 12)
    refill = Refill(log, last=12)
    assert await refill.run(stream(await messages_of(source, 13, 20))) == 8
    assert await messages_of(log, 1, 20) == await messages_of(source, 1, 20)


async def test_somebody_elses_message_stops_it() -> None:
    source = await filled("TAPE_demo", 20)
    log = await filled("TAPE_demo", 12)
    await log.append(b"mine", expected_last=12)
    with pytest.raises(ConflictError, match="message 13 is not ours"):
        await Refill(log, last=12, pause=no_pause).run(stream(await messages_of(source, 13, 20)))
    assert (await log.extent()).last == 13


async def test_a_wrong_acknowledgement_stops_it() -> None:
    class Wrong(MemoryLog):
        async def append(self, payload, **options):  # type: ignore[no-untyped-def]
            return await super().append(payload, **options) + 1

    source = await filled("TAPE_demo", 3)
    with pytest.raises(IntegrityError, match="message 1 was stored as 2"):
        await Refill(Wrong("TAPE_demo"), last=0).run(stream(await messages_of(source, 1, 3)))


async def test_a_log_that_lost_what_it_acknowledged_stops_it() -> None:
    class Forgetful(MemoryLog):
        async def append(self, payload, **options):  # type: ignore[no-untyped-def]
            if self._last == 5:
                del self._messages[3:]
                raise AmbiguousAppendError("no acknowledgement")
            return await super().append(payload, **options)

    source = await filled("TAPE_demo", 9)
    with pytest.raises(IntegrityError, match="ends at 3, behind the acknowledged 5"):
        await Refill(Forgetful("TAPE_demo"), last=0, under_way=1).run(stream(await messages_of(source, 1, 9)))


async def test_a_cluster_that_stays_away_ends_it_with_words() -> None:
    class Away(MemoryLog):
        tries = 0

        async def append(self, payload, **options):  # type: ignore[no-untyped-def]
            self.tries += 1
            raise BusUnavailableError("no leader")

    source = await filled("TAPE_demo", 3)
    log = Away("TAPE_demo")
    with pytest.raises(BusUnavailableError, match="goes on where it stopped"):
        await Refill(log, last=0, under_way=1, pause=no_pause).run(stream(await messages_of(source, 1, 3)))
    assert log.tries == ATTEMPTS_MAX + 1
