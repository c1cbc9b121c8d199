"""A desk's projections behind a gateway of the KV, on a real broker, while the desk's logs grow."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tapehouse.app.bootstrap import open_platform
from tapehouse.app.kv_gateway import ServeOptions, serve_kv_gateway
from tapehouse.app.kv_load.link import Doors, greet
from tapehouse.app.kv_load.replies import Reply, request
from tapehouse.app.kv_service import serve_kv
from tapehouse.app.projector import Projector
from tapehouse.bus import Cluster
from tapehouse.core.errors import BusUnavailableError, UsageError
from tapehouse.log import FrameWriter, MemoryLog
from tests.support.clusters import unique
from tests.support.desk_day import make_day, split


@pytest.mark.timeout(120)
async def test_redis_clients_read_what_the_desk_has_decided(kv_cluster1: Cluster, tmp_path: Path) -> None:
    day = await make_day(seed=3, records=600, commands=False)
    name = unique("derived")
    whole = Projector(day.tape, day.events, None)
    await whole.open()
    await whole.run()
    (key, position), *_ = whole.items("positions/strategy/")
    assert position["fills"] > 0
    options = ServeOptions(resp=0, nats=kv_cluster1.urls[0], home=tmp_path, tape=name)
    async with (
        open_platform(kv_cluster1.urls[0], home=tmp_path) as platform,
        serve_kv_gateway(options) as serving,
    ):
        host, _, port = serving.where["resp"].rpartition(":")
        doors = Doors(addresses=((host, int(port)),))

        async def ask(*lines: str) -> list[Reply]:
            return await greet(doors, 0, [request(*line.encode().split()) for line in lines])

        with pytest.raises(UsageError, match=f"tape {name}: no host serves it"):
            await ask(f"GET {key}")
        tape, events = await platform.tape(name, create=True), await platform.events(name, create=True)
        writers = [await FrameWriter.open(log, writer=1) for log in (tape, events)]
        projector = Projector(tape, events, None)
        await projector.open()
        running = asyncio.create_task(projector.run(follow=True))
        try:
            async with await serve_kv(platform.bus, name, projector):
                assert await ask(f"GET {key}") == [None], "nothing has happened yet"
                for writer, cells in zip(writers, (day.cells, day.outputs), strict=True):
                    for start, end in split(cells, 400):
                        await writer.append(cells[start:end])
                # The logs hold it now: whoever asks for all that they hold is given it, however far the host is.
                for level in ("linearizable", "session", "eventual 0"):
                    _, found, price = await ask(f"READLEVEL {level}", f"GET {key}", "GET prices/AAPL")
                    assert json.loads(found) == position  # type: ignore[arg-type]
                    assert json.loads(price) == whole.get("prices/AAPL")  # type: ignore[arg-type]
                _, eventual, both = await ask("READLEVEL eventual", f"GET {key}", f"MGET {key} positions/none")
                assert both == [eventual, None]
                assert eventual == found
                _, keys = (await ask("SCAN 0 MATCH positions/* COUNT 1000"))[0]  # type: ignore[misc]
                assert keys == sorted(one.encode() for one, _ in whole.items("positions/"))
                for refused in (f"SET {key} 1", f"DEL {key}", "INCR pnl/strategy"):
                    with pytest.raises(UsageError, match="READONLY"):
                        await ask(refused)
                assert await ask("SET position/mine 1", "GET position/mine") == [b"OK", b"1"]
                assert (await ask("DEL position/mine"))[0] == 1
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_a_host_that_is_behind_is_told_of_and_not_waited_for_for_ever() -> None:
    """Negative control of the level: a projector that has folded less is never answered from."""
    from tapehouse.app.kv_service import KvService

    day = await make_day(seed=3, records=100, commands=False)
    empty = Projector(MemoryLog("TAPE_x"), MemoryLog("EVENTS_x"), None)
    await empty.open()
    await empty.run()
    service = KvService(empty)
    for asked, log in (({"after": 1}, "EVENTS"), ({"after_tape": 1}, "TAPE")):
        with pytest.raises(BusUnavailableError, match=f"stand at sequence 0 of {log}, not 1"):
            await service.get(json.dumps({"key": "prices/AAPL", **asked}).encode())
    assert (await day.events.extent()).last > 0
