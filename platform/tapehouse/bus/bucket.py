"""A native NATS KV bucket, as `nats kv` has them: entries under subjects, each written under its own fence."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from nats.aio.msg import Msg

from tapehouse.bus import headers as header_rules
from tapehouse.bus.api import WRONG_LAST_SEQUENCE, WRONG_LAST_SUBJECT_SEQUENCE, ApiError, api_error
from tapehouse.bus.connection import PATIENCE_S, RETRY_PAUSE_S, Bus
from tapehouse.bus.requests import NobodyListensError, UnansweredError
from tapehouse.bus.stream_calls import call_stream, settle, stream_info
from tapehouse.core import AmbiguousAppendError, BusUnavailableError, ConflictError, MissingError, UsageError

PUT_TIMEOUT_S = 2.0
BATCH_MESSAGES = 512  # of one request of all entries
BATCH_BYTES = 8 * 1024 * 1024
BATCH_S = 5.0  # without its next message, a batch is asked for again
OPERATION = "KV-Operation"
_DELETED = ("DEL", "PURGE")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_END, _NONE = "204", "404"  # of a batch


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketEntry:
    """The last message of a key.

    Attributes:
        sequence: Of the bucket's stream; the fence of the next write.
        value: None where the key was deleted.
    """

    key: str
    sequence: int
    value: bytes | None
    headers: dict[str, str]


class Bucket:
    """A bucket; made by `open`."""

    def __init__(self, bus: Bus, name: str) -> None:
        self.name = name
        self._bus = bus
        self._stream = f"KV_{name}"
        self._head = f"$KV.{name}."

    @classmethod
    async def open(cls, bus: Bus, name: str, *, create: bool = True, description: str = "") -> Bucket:
        """The bucket, made where it is not there yet.

        Raises:
            UsageError: No bucket can have that name, or not beside our own streams; or it allows no direct reads.
            MissingError: It is not there, and not to be created.
        """
        if not _NAME.fullmatch(name) or name.isdecimal():
            raise UsageError(f"{name!r} is no name of a bucket", hint="letters, digits, _ and -, and not digits alone")
        bucket = cls(bus, name)
        try:
            config = (await stream_info(bus, bucket._stream))["config"]
        except MissingError:
            if not create:
                raise MissingError("there is no such bucket", subject=name, hint="see nats kv ls") from None
            config = {
                "name": bucket._stream, "description": description, "subjects": [f"{bucket._head}>"],
                "retention": "limits", "storage": "file", "discard": "new", "max_msgs_per_subject": 1,
                "max_consumers": -1, "num_replicas": bus.default_replicas(), "allow_rollup_hdrs": True,
                "allow_direct": True, "deny_delete": True,
            }  # fmt: skip
            await bus.patient_api(f"STREAM.CREATE.{bucket._stream}", config)
            await settle(bus, bucket._stream, f"{bucket._head}>")
        if not config.get("allow_direct"):
            raise UsageError("the bucket allows no direct reads", subject=name, hint="nats stream edit --allow-direct")
        return bucket

    async def entries(self) -> AsyncIterator[BucketEntry]:
        """The last message of every key, deleted ones too, in the order of their sequences.

        A replica that is behind may answer, so the leader is asked at the end whether that was all; each was the last
        one at some moment, and the fence of a write knows whether it still is.

        Raises:
            BusUnavailableError: No batch came in PATIENCE_S.
        """
        first = 1
        while True:
            batch, is_last = await self._patient_batch(first)
            for entry in batch:
                yield entry
                first = entry.sequence + 1
            if is_last and not await self._has_from(first):
                return

    async def get(self, key: str) -> BucketEntry | None:
        """A key's last message, as the leader has it; None where there never was one.

        Raises:
            BusUnavailableError: No leader answers.
        """
        try:
            answer = await call_stream(
                self._bus, "STREAM.MSG.GET", self._stream, {"last_by_subj": f"{self._head}{key}"}
            )
        except MissingError as error:
            if error.message == "no such message":
                return None
            raise
        stored = answer["message"]
        headers = header_rules.parse(base64.b64decode(stored["hdrs"])) if stored.get("hdrs") else {}
        value = base64.b64decode(stored.get("data") or "")
        return _entry(key, int(stored["seq"]), value, headers)

    async def write(self, key: str, value: bytes | None, headers: dict[str, str], *, expected: int) -> int:
        """Set a key, or mark it as deleted (None), where its last message is `expected` (0: none); the new sequence.

        Raises:
            ConflictError: It is another one.
            AmbiguousAppendError: Sent, and nobody knows; read the key.
            BusUnavailableError: It was not sent.
        """
        sent = headers if value is not None else {**headers, OPERATION: _DELETED[0]}
        return await fenced_put(self._bus, f"{self._head}{key}", value or b"", expected=expected, headers=sent)

    async def _has_from(self, first: int) -> bool:
        """Whether the leader has a message from this sequence on."""
        try:
            await call_stream(
                self._bus, "STREAM.MSG.GET", self._stream, {"seq": first, "next_by_subj": f"{self._head}>"}
            )
        except MissingError as error:
            if error.message == "no such message":
                return False
            raise
        await asyncio.sleep(RETRY_PAUSE_S)
        return True

    async def _patient_batch(self, first: int) -> tuple[list[BucketEntry], bool]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE_S
        while True:
            try:
                return await self._batch(first)
            except (TimeoutError, BusUnavailableError) as error:
                if loop.time() > deadline:
                    raise BusUnavailableError("the bucket's entries were not read", subject=self.name) from error
                await asyncio.sleep(RETRY_PAUSE_S)

    async def _batch(self, first: int) -> tuple[list[BucketEntry], bool]:
        """Entries from a sequence on, and whether they were the last."""
        arrived: asyncio.Queue[Msg] = asyncio.Queue()
        inbox = self._bus.client.new_inbox()
        asked = {
            "seq": first, "batch": BATCH_MESSAGES, "max_bytes": BATCH_BYTES, "next_by_subj": f"{self._head}>",
        }  # fmt: skip
        found: list[BucketEntry] = []
        async with self._bus.listening(inbox, arrived.put):
            await self._bus.publish(f"$JS.API.DIRECT.GET.{self._stream}", json.dumps(asked).encode(), reply=inbox)
            while True:
                async with asyncio.timeout(BATCH_S):
                    message = await arrived.get()
                headers = dict(message.headers or {})
                status = headers.get("Status", "")
                if status == _NONE:
                    return found, True
                if status == _END:
                    return found, not int(headers.get("Nats-Num-Pending", "0"))
                if status:
                    raise BusUnavailableError(headers.get("Description", status), subject=self.name)
                key = headers["Nats-Subject"].removeprefix(self._head)
                found.append(_entry(key, int(headers["Nats-Sequence"]), message.data, headers))


async def fenced_put(
    bus: Bus, subject: str, value: bytes, *, expected: int, headers: dict[str, str] | None = None
) -> int:
    """Publish to a bucket's subject where its last message is `expected`; its sequence. Errors as `Bucket.write`."""
    fence = {header_rules.EXPECTED_LAST_OF_SUBJECT: str(expected)}
    try:
        answer = await bus.request(subject, value, timeout_s=PUT_TIMEOUT_S, headers={**(headers or {}), **fence})
        ack: dict[str, Any] = json.loads(answer.data)
    except UnansweredError as error:
        raise AmbiguousAppendError(error.message, subject=subject, hint="read the entry") from error
    except NobodyListensError as error:
        raise BusUnavailableError("no leader takes writes now", subject=subject) from error
    except ValueError as error:
        raise AmbiguousAppendError("the acknowledgement cannot be read", subject=subject) from error
    if "error" in ack:
        refused = api_error(ack["error"], subject)
        if isinstance(refused, ApiError) and refused.code in (WRONG_LAST_SEQUENCE, WRONG_LAST_SUBJECT_SEQUENCE):
            raise ConflictError(refused.message, subject=subject) from refused
        if isinstance(refused, BusUnavailableError):
            raise AmbiguousAppendError(refused.message, subject=subject, hint="read the entry") from refused
        raise refused
    return int(ack["seq"])


def _entry(key: str, sequence: int, value: bytes, headers: dict[str, str]) -> BucketEntry:
    is_gone = headers.get(OPERATION) in _DELETED or "Nats-Marker-Reason" in headers
    return BucketEntry(
        key=key, sequence=sequence, value=None if is_gone else value, headers=header_rules.incoming(headers)
    )
