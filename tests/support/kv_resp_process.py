"""`tapehouse kv serve` itself as a gateway of a campaign: asked over RESP, killed, stopped and cut off like the others.

RESP tells no revisions, so its histories have gets, puts and deletes without them; see `kv_process.py` for the rest.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.cli import Shell
from tests.support.kv_process import ANSWER_S, START_S, STOP_S, UnansweredError

NOTHING_DONE = ("BUSY", "TRYAGAIN")


class KvServeProcess:
    """The product's gateway process, with the face of `KvProcess`; always on the port that it had first.

    Args:
        urls: Of the brokers, or of proxies before them.
        shards: Of the KV, where it is new.
    """

    def __init__(self, urls: Sequence[str], home: Path, *, shards: int) -> None:
        self._shell = Shell(home)
        self._words = ["--nats", ",".join(urls), "--json"]
        self._new = ["--shards", str(shards)]
        self._port = 0
        self._process: subprocess.Popen[str] | None = None
        self._clients: dict[str, redis.asyncio.Redis] = {}  # by read level
        self._is_ready = False
        self.starts = 0

    @property
    def is_up(self) -> bool:
        """Whether it can be asked; one that was stopped counts as up."""
        return self._is_ready and self._process is not None and self._process.poll() is None

    async def start(self) -> None:
        """Start it; it answers from then on."""
        words = [*self._words, *(() if self.starts else self._new)]
        self._process = await asyncio.to_thread(self._shell.start, "kv", "serve", "--resp", self._port, *words)
        assert self._process.stdout is not None
        line = await asyncio.wait_for(asyncio.to_thread(self._process.stdout.readline), START_S)
        assert line, self._process.communicate()
        self._port = int(json.loads(line)["resp"].rpartition(":")[2])
        self._is_ready = True
        self.starts += 1

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> None:
        """Kill it as a crash does, and wait until it is gone."""
        assert self._process is not None
        self._is_ready = False
        self.signal(signal.SIGKILL)
        await asyncio.to_thread(self._process.communicate)

    async def close(self) -> None:
        """End it; it may have ended before."""
        for client in self._clients.values():
            await client.aclose()
        if self._process is None:
            return
        if self._process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGINT)
        try:
            await asyncio.to_thread(self._process.communicate, timeout=STOP_S)
        except subprocess.TimeoutExpired:
            await self.kill()

    async def ask(self, *, op: str, key: str, level: str = "linearizable", **words: Any) -> dict[str, Any]:
        """Do one get, put or delete; as `KvProcess.ask`.

        Raises:
            UnansweredError: Nobody knows what became of it.
        """
        try:
            client = await self._client(level)
            if op == "get":
                return {"status": "ok", "value": await client.get(key), "revision": 0}
            if op == "put":
                assert await client.set(key, words["value"]) is True
                return {"status": "ok", "revision": 0}
            assert op == "delete"
            return {"status": "ok" if await client.delete(key) else "refused", "revision": 0}
        except redis.ResponseError as error:
            if str(error).startswith(NOTHING_DONE):
                return {"status": "failed" if op != "get" else "unknown", "why": str(error)}
            if str(error).startswith("UNKNOWN"):
                raise UnansweredError(str(error)) from error
            raise
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            raise UnansweredError(str(error)) from error

    async def _client(self, level: str) -> redis.asyncio.Redis:
        """Connections at a level: each says READLEVEL before anything else, as it is made."""
        if level not in self._clients:

            class AtLevel(redis.asyncio.Connection):
                async def on_connect(self) -> None:
                    await super().on_connect()
                    await self.send_command("READLEVEL", level)
                    assert await self.read_response() in (b"OK", "OK")

            pool = redis.asyncio.ConnectionPool(
                connection_class=AtLevel, host="127.0.0.1", port=self._port, decode_responses=True,
                socket_timeout=ANSWER_S, retry=Retry(NoBackoff(), 0),
            )  # fmt: skip
            self._clients[level] = redis.asyncio.Redis(connection_pool=pool)
        return self._clients[level]
