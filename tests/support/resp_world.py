"""A RESP connection to a KV in memory, as a test talks to it: bytes in, all replies out."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapehouse.gateway.resp_parse import Rows
from tapehouse.gateway.resp_perform import Gateway
from tapehouse.gateway.resp_runs import KvRuns
from tapehouse.gateway.resp_scan import Cursors
from tapehouse.gateway.resp_session import RespSession
from tapehouse.kv.client import Kv
from tests.support.kv_world import StillClock

_ROWS = Rows()


def array(*words: bytes) -> bytes:
    """A request as clients write it."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


class Talk:
    """One connection; `rebalanced` is what REBALANCE was asked for.

    Args:
        has_runs: Whether runs of GET and SET are taken in compiled code.
    """

    def __init__(self, kv: Kv, clock: StillClock, *, has_runs: bool = True, **options: Any) -> None:
        self.clock = clock
        self.rebalanced: list[int] = []
        self.gateway = Gateway(
            kv=kv, clock=clock, cursors=Cursors(), info=lambda: "# Server\r\nredis_version:7.0.0\r\n",
            keys=kv.count_keys, rebalance=self._rebalance, runs=KvRuns(kv),
        )  # fmt: skip
        runs = self.gateway.runs if has_runs else None
        self.session = RespSession(_ROWS, identity=1, runs=runs, **options)

    async def _rebalance(self, shards: int) -> None:
        self.rebalanced.append(shards)

    async def say(self, data: bytes) -> bytes:
        """The replies to what is sent; what is left unanswered is a failure."""
        told = b""
        used = self.session.read_at_once(np.frombuffer(bytearray(data), np.uint8), len(data))
        asked = self.session.feed(data[used:], self.clock.time_ns())
        while True:
            async for number, reply in self.gateway.perform(asked):
                self.session.answer(number, reply)
            replies = b"".join(self.session.take_replies())
            self.session.sent(len(replies))
            told += replies
            if self.session.wants_data or self.session.is_done:
                return told
            asked = self.session.feed(b"", self.clock.time_ns())

    async def ask(self, line: str) -> bytes:
        """The reply to a plain line."""
        return await self.say(line.encode() + b"\r\n")
