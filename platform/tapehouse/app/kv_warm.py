"""Compiling what a gateway of the KV runs, before anybody waits for it."""

from __future__ import annotations

import asyncio
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tapehouse.app.kv_gateway import make_gateway
from tapehouse.core.clock import SystemClock
from tapehouse.gateway.resp_parse import Rows
from tapehouse.gateway.resp_runs import ReadRun
from tapehouse.gateway.resp_server import Traffic
from tapehouse.gateway.resp_session import RespSession
from tapehouse.kv.client import Kv
from tapehouse.kv.many import Many, Packed
from tapehouse.kv.mover import warm as warm_mover
from tapehouse.log import MemoryLog

_WARM_LINES = (
    b"SET k v\r\nGET k\r\nINCR n\r\nMGET k n\r\nSCAN 0\r\nSET l v EX 9\r\nDEL l\r\nINFO\r\nDBSIZE\r\n",
    b"READLEVEL eventual\r\n", b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\nPING\r\nGET k\r\n", b"READLEVEL session\r\nGET k\r\n",
)  # fmt: skip


async def warm_kv() -> None:
    """Compile what a gateway runs: parser, view, and what they answer, at every level; moving slots; snapshots."""
    log, life, clock = MemoryLog("KV_warm"), count(1), SystemClock()

    async def open_log(_: int) -> MemoryLog:
        return log

    with TemporaryDirectory() as kept:
        async with await Kv.open(
            open_log, new_life=lambda: next(life), clock=clock, shards=1, snapshots=Path(kept)
        ) as kv:
            warm_mover(kv.nodes[0])
            gateway = make_gateway(kv, Traffic(), clock, port=0, connections_max=1)
            session = RespSession(Rows(), identity=1, runs=gateway.runs)
            for text in _WARM_LINES:
                data = bytearray(text)
                used = session.read_at_once(np.frombuffer(data, np.uint8), len(data))
                asked = session.feed(bytes(data[used:]), clock.time_ns())
                async for number, reply in gateway.perform(asked):
                    session.answer(number, reply)
            run = session.feed(b"READLEVEL linearizable\r\nGET k\r\n", clock.time_ns())[0]
            replies: asyncio.Future[bytes | BaseException] = asyncio.get_running_loop().create_future()
            if isinstance(run.request, ReadRun) and gateway.runs.start(
                run.request, run.level, run.version, replies.set_result
            ):
                await replies
            await Many(kv).get(Packed.of([b"k", b"none"]))
