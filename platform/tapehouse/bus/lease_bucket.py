"""The native NATS KV bucket that leases are kept in: `nats kv get leases <name>` shows one."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tapehouse.bus import headers as header_rules
from tapehouse.bus.bucket import fenced_put
from tapehouse.bus.connection import Bus
from tapehouse.bus.stream_calls import call_stream, settle, stream_info
from tapehouse.bus.topology import LEASES_BUCKET
from tapehouse.core import MissingError

_STREAM = f"KV_{LEASES_BUCKET}"
_DELETED = ("DEL", "PURGE")


class LeaseBucket:
    """The `LeaseStore` on NATS; made by `open`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    @classmethod
    async def open(cls, bus: Bus, *, replicas: int | None = None) -> LeaseBucket:
        """The bucket, made where it is not there yet."""
        try:
            await stream_info(bus, _STREAM)
        except MissingError:
            config = {
                "name": _STREAM,
                "description": "leases of tapehouse",
                "subjects": [f"$KV.{LEASES_BUCKET}.>"],
                "retention": "limits",
                "storage": "file",
                "discard": "new",
                "max_msgs_per_subject": 1,
                "max_consumers": -1,
                "num_replicas": replicas or bus.default_replicas(),
                "allow_rollup_hdrs": True,
                "allow_direct": True,
                "deny_delete": True,
            }
            await bus.patient_api(f"STREAM.CREATE.{_STREAM}", config)
            await settle(bus, _STREAM, f"$KV.{LEASES_BUCKET}.>")
        return cls(bus)

    @asynccontextmanager
    async def news(self, key: str) -> AsyncIterator[asyncio.Event]:
        """An event that is set when somebody writes the entry: at the sending, so that it may not be stored yet."""
        news = asyncio.Event()

        async def on_write(_: object) -> None:
            news.set()

        async with self._bus.listening(f"$KV.{LEASES_BUCKET}.{key}", on_write):
            yield news

    async def get(self, key: str) -> tuple[bytes | None, int]:
        try:
            answer = await call_stream(
                self._bus, "STREAM.MSG.GET", _STREAM, {"last_by_subj": f"$KV.{LEASES_BUCKET}.{key}"}
            )
        except MissingError as error:
            if error.message == "no such message":
                return None, 0
            raise
        stored = answer["message"]
        headers = header_rules.parse(base64.b64decode(stored["hdrs"])) if stored.get("hdrs") else {}
        deleted = headers.get("KV-Operation") in _DELETED
        return None if deleted else base64.b64decode(stored.get("data") or ""), int(stored["seq"])

    async def put(self, key: str, value: bytes, revision: int) -> int:
        return await fenced_put(self._bus, f"$KV.{LEASES_BUCKET}.{key}", value, expected=revision)
