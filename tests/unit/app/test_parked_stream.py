"""The stream PARKED holds every parked input with its bytes, at least once, wherever its writer was killed."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tapehouse.app.book_keeper import BookKeeper
from tapehouse.app.parked_stream import APPEND_ATTEMPTS_MAX, ID_HEADER, ParkedStream
from tapehouse.app.projector import Projector
from tapehouse.book.projection import PricesProjection
from tapehouse.bus import parked_spec
from tapehouse.core.errors import BusUnavailableError, DataError, DecodeError, GapError, IntegrityError, MissingError
from tapehouse.log import FrameHeader, MemoryLog
from tapehouse.log.snaps import MemorySnaps
from tapehouse.query import QuerySession
from tapehouse.query.record_at import read_record
from tests.support.bench import LOG_ID, cell, level, trade
from tests.support.taped_bench import TapedBench

GARBAGE = (b"\xff\x00", b"[1]", b'{"refused": "20000 bytes"}')


def poisoned() -> TapedBench:
    """A desk that parked three commands and two records."""
    bench = TapedBench()
    bench.feed(level("buy", 99, 20), level("sell", 101, 20))
    bench.send("desk.poison", policy="park")
    for payload in GARBAGE:
        bench.send_bytes(payload, f"cmds:{bench.commands}", f"cmds:{bench.commands}")
        bench.feed(trade(0, 99, 1))
    bench.feed(trade(0, 99, 7, instrument=9), level("buy", 99, 21), trade(0, 99, 8, instrument=9))
    return bench


async def told(parked: MemoryLog) -> list[dict[str, Any]]:
    return [json.loads(message.payload) async for message in parked.read(1)]


def stream(logs: dict[str, Any], parked: MemoryLog) -> ParkedStream:
    return ParkedStream("day", logs["tape"], logs["events"], parked)


async def test_each_parked_input_is_there_with_its_bytes_and_reason() -> None:
    bench, parked = poisoned(), MemoryLog("PARKED")
    logs = await bench.logs()
    copier = stream(logs, parked)
    await copier.run()
    found = await told(parked)
    assert [base64.b64decode(each["data"]) for each in found[:3]] == list(GARBAGE)
    records = [base64.b64decode(each["data"]) for each in found[3:]]
    assert [len(data) for data in records] == [64, 64]
    assert [int.from_bytes(data[40:48], "little") for data in records] == [7, 8]  # the sizes of the trades
    assert [each["input"] for each in found] == ["command"] * 3 + ["record"] * 2
    assert all("no JSON" in each["reason"] or "envelope" in each["reason"] for each in found[:3])
    assert found[3]["reason"] == "instrument 9 is used before its definition"
    assert (found[0]["tape"], found[0]["log"]) == ("day", LOG_ID[::-1].hex())
    assert copier.metrics.get("parked_total") == 5
    messages = [message async for message in parked.read(1)]
    assert {message.subject for message in messages} == {"parked.v1.day"}
    assert parked_spec().subjects == ("parked.v1.>",)
    assert [message.headers[ID_HEADER] for message in messages] == [each["id"] for each in found]
    assert len({each["id"] for each in found}) == 5


async def test_a_killed_one_goes_on_where_parked_ends() -> None:
    bench, whole = poisoned(), MemoryLog("PARKED")
    await stream(await bench.logs(), whole).run()
    expected = await told(whole)
    for frames in range(1, len(bench.frames) + 1):
        parked = MemoryLog("PARKED")
        await parked.append(b"another tape's", expected_last=None, subject="parked.v1.other")
        await stream(await bench.logs(frames=frames), parked).run()
        again = stream(await bench.logs(), parked)
        await again.run()
        messages = [message async for message in parked.read(2)]
        assert [json.loads(message.payload) for message in messages] == expected
        assert again.metrics.get("parked_total") == 5


async def test_a_tape_made_anew_begins_again() -> None:
    bench, parked = poisoned(), MemoryLog("PARKED")
    await stream(await bench.logs(), parked).run()
    await stream(await bench.logs(log_id=b"0123456789abcdef"), parked).run()
    found = await told(parked)
    assert [each["position"] for each in found[:5]] == [each["position"] for each in found[5:]]
    assert len({each["id"] for each in found}) == 10


@pytest.mark.parametrize("stored", [True, False])
async def test_an_append_without_acknowledgement_is_repeated_under_the_same_id(stored: bool) -> None:
    bench, parked = poisoned(), MemoryLog("PARKED")
    parked.fail_next_append(stored=stored)
    await stream(await bench.logs(), parked).run()
    ids = [each["id"] for each in await told(parked)]
    assert len(ids) == 5 + stored
    assert len(set(ids)) == 5


async def test_it_does_not_try_for_ever() -> None:
    class Lost(MemoryLog):
        async def append(self, payload: bytes, **more: Any) -> int:
            self.fail_next_append(stored=False)
            tries.append(payload)
            return await super().append(payload, **more)

    tries: list[bytes] = []
    copier = stream(await poisoned().logs(), Lost("PARKED"))
    with pytest.raises(BusUnavailableError, match="not acknowledged"):
        await copier.run()
    assert len(tries) == APPEND_ATTEMPTS_MAX
    assert len(set(tries)) == 1


async def test_bytes_that_the_tape_lost_are_said_to_be_missing() -> None:
    bench, parked = poisoned(), MemoryLog("PARKED")
    logs = await bench.logs()
    await logs["tape"].trim((await logs["tape"].extent()).last)
    await stream(logs, parked).run()
    assert [each["data"] is None for each in await told(parked)] == [True, True, True, False, False]


@pytest.mark.parametrize("payload", [b"?", b"[]", b"{}", b'{"log": "x"'])
async def test_a_foreign_message_under_its_subject_is_told(payload: bytes) -> None:
    parked = MemoryLog("PARKED")
    await parked.append(payload, expected_last=None, subject="parked.v1.day")
    with pytest.raises(IntegrityError, match="cannot be read"):
        await stream(await poisoned().logs(), parked).run()


async def test_the_views_beside_a_desk_go_on_behind_what_it_skipped() -> None:
    bench = poisoned()
    bench.feed(cell(127), level("buy", 99, 33), level("sell", 101, 3, instrument=9))
    logs = await bench.logs()
    projector = Projector(logs["tape"], logs["events"], None)
    await projector.open()
    await projector.run()
    assert projector.get("prices/ALFA")["bid_size"] == "33"
    keeper = BookKeeper(logs["tape"], MemorySnaps())
    assert (await keeper.run()).cells == bench.ordinal
    with QuerySession(**logs) as session:
        assert (await session.sql("SELECT bid_size FROM prices WHERE symbol = 'ALFA'")).item() == 33
        assert (await session.sql("SELECT bid_size FROM bbo ORDER BY ordinal DESC LIMIT 1")).item() == 33
    strict = PricesProjection()
    header, cells = FrameHeader(log_id=LOG_ID, writer=1, epoch=1, first_ordinal=0), cell(127)
    with pytest.raises(DecodeError, match="kind 127 is unknown"):
        strict.apply(header, cells)


async def test_a_record_is_found_by_its_ordinal() -> None:
    bench = poisoned()
    logs, ordinal = await bench.logs(), 0
    for cells, _ in bench.frames:
        at = 0
        while at < len(cells):
            length = int(cells["cells"][at])
            assert (await read_record(logs["tape"], ordinal + at)).tobytes() == cells[at : at + length].tobytes()
            if length > 1:
                with pytest.raises(DataError, match="no record begins there"):
                    await read_record(logs["tape"], ordinal + at + 1)
            at += length
        ordinal += len(cells)
    with pytest.raises(MissingError, match="not come to it"):
        await read_record(logs["tape"], ordinal)
    await logs["tape"].trim(3)
    with pytest.raises(GapError, match="trimmed"):
        await read_record(logs["tape"], 0)
