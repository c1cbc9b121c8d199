"""A log in a JetStream stream: the `Log` port's adapter for production.

Every append is a request under a fence. What came of it is never guessed: refused and written nowhere, refused by the
fence, acknowledged, or sent and unanswered. Reads of the end go to the stream's leader and never go back: an answer
behind a sequence that this object has seen acknowledged comes from a leader that has been deposed, and is asked again.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

from nats.aio.msg import Msg

from tapehouse.bus import headers as header_rules
from tapehouse.bus.api import WRONG_LAST_SEQUENCE, ApiError, api_error
from tapehouse.bus.connection import RETRY_PAUSE_S, Bus
from tapehouse.bus.reader import read_stream
from tapehouse.bus.requests import NobodyListensError, UnansweredError
from tapehouse.bus.stream_calls import call_stream, stream_info
from tapehouse.bus.topology import read_branches
from tapehouse.core import (
    AmbiguousAppendError,
    BusUnavailableError,
    ConflictError,
    IntegrityError,
    MissingError,
    UsageError,
    check,
)
from tapehouse.log import Extent, Message

APPEND_TIMEOUT_S = 2.0
UNHEARD_PAUSE_S = 0.05  # before an append that reached nobody is sent again
STALE_ANSWERS_MAX = 60  # with RETRY_PAUSE_S between them, longer than a broker election


class JetStreamLog:
    """One stream as a log; see `log.port.Log` for the contract. Made by `StreamAdmin.ensure` or `open`."""

    def __init__(
        self,
        bus: Bus,
        name: str,
        *,
        subjects: tuple[str, ...],
        timeout_s: float = APPEND_TIMEOUT_S,
        seen_last: int = 0,
    ) -> None:
        """A log by its stream's name.

        Args:
            seen_last: A sequence that is known to be there, from an earlier connection.
        """
        self._bus = bus
        self._name = name
        self._subjects = subjects
        self._timeout_s = timeout_s
        self._seen_last = seen_last

    @classmethod
    async def open(cls, bus: Bus, name: str, *, timeout_s: float = APPEND_TIMEOUT_S) -> JetStreamLog:
        """The log that exists under this stream name.

        Raises:
            MissingError: There is none.
            UsageError: The stream is none of tapehouse's.
        """
        config = (await stream_info(bus, name))["config"]
        read_branches(name, config)
        return cls(bus, name, subjects=tuple(config.get("subjects") or ()), timeout_s=timeout_s)

    @property
    def name(self) -> str:
        return self._name

    @property
    def subject(self) -> str | None:
        """Its only subject; None where it takes several."""
        several = len(self._subjects) != 1 or "*" in self._subjects[0] or ">" in self._subjects[0]
        return None if several else self._subjects[0]

    @property
    def seen_last(self) -> int:
        """The highest sequence that this object knows to be there."""
        return self._seen_last

    async def extent(self) -> Extent:
        for _ in range(STALE_ANSWERS_MAX):
            info = await stream_info(self._bus, self._name)
            state = info["state"]
            last = int(state["last_seq"])
            if last >= self._seen_last:
                self._seen_last = last
                first = int(state["first_seq"]) if int(state["messages"]) else last + 1
                return Extent(first=first, last=last, branches=read_branches(self._name, info["config"]))
            await asyncio.sleep(RETRY_PAUSE_S)
        raise self._went_back(last)

    async def append(
        self,
        payload: bytes,
        *,
        expected_last: int | None,
        subject: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> int:
        subject = subject or self._only_subject()
        sent = header_rules.outgoing(headers, expected_last=expected_last, subject=self._name)
        answer = await self._send(subject, payload, sent)
        sequence = self._read_ack(answer.data, expected_last)
        self._seen_last = max(self._seen_last, sequence)
        return sequence

    async def _send(self, subject: str, payload: bytes, headers: dict[str, str] | None) -> Msg:
        """The leader's answer to an append.

        Where nobody listens nothing was written, so it may be sent again: a leader that was just chosen is not known to
        every server at once.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s
        while True:
            try:
                return await self._bus.request(subject, payload, timeout_s=self._timeout_s, headers=headers)
            except UnansweredError as error:
                raise self._ambiguous(error.message) from error
            except NobodyListensError as error:
                await stream_info(self._bus, self._name, patience_s=self._timeout_s)  # Says so where it is gone.
                if loop.time() + UNHEARD_PAUSE_S >= deadline:
                    raise BusUnavailableError(
                        "no leader takes appends now; nothing was written",
                        subject=self._name,
                        hint="is a majority of the brokers up? see tapehouse status",
                    ) from error
            await asyncio.sleep(UNHEARD_PAUSE_S)

    async def last(self) -> Message | None:
        for _ in range(STALE_ANSWERS_MAX):
            message = await self._leaders_last()
            found = message.sequence if message else 0
            if message is None and self._seen_last:
                # An empty log keeps its last sequence, which only its state tells.
                found = int((await stream_info(self._bus, self._name))["state"]["last_seq"])
            if found >= self._seen_last:
                self._seen_last = found
                return message
            await asyncio.sleep(RETRY_PAUSE_S)
        raise self._went_back(found)

    async def read(self, first: int, *, through: int | None = None, follow: bool = False) -> AsyncIterator[Message]:
        extent = await self.extent()
        end = through
        if not follow:
            end = extent.last if through is None else min(through, extent.last)
        async for message in read_stream(self._bus, self._name, extent, first, end):
            yield message

    async def trim(self, below: int) -> None:
        extent = await self.extent()
        below = min(below, extent.last)
        if below > extent.first:
            await call_stream(self._bus, "STREAM.PURGE", self._name, {"seq": below})

    async def last_under(self, pattern: str) -> Message | None:
        """The last message on a subject, or below one that ends with `.>`; None where there is none.

        A leader that was deposed may answer with an older one, so this is for readers who can bear to begin too early.
        """
        return await self._leaders_last(pattern)

    async def _leaders_last(self, pattern: str = ">") -> Message | None:
        try:
            answer = await call_stream(self._bus, "STREAM.MSG.GET", self._name, {"last_by_subj": pattern})
        except MissingError as error:
            if error.message == "no such message":
                return None
            raise
        stored = answer["message"]
        raw = base64.b64decode(stored["hdrs"]) if stored.get("hdrs") else b""
        return Message(
            sequence=int(stored["seq"]),
            subject=str(stored["subject"]),
            payload=base64.b64decode(stored.get("data") or ""),
            headers=header_rules.incoming(header_rules.parse(raw)) if raw else {},
        )

    def _only_subject(self) -> str:
        if self.subject is None:
            raise UsageError(
                "the log takes several subjects", subject=self._name, hint=f"one of {', '.join(self._subjects)}"
            )
        return self.subject

    def _read_ack(self, data: bytes, expected_last: int | None) -> int:
        try:
            ack = json.loads(data)
            error = ack.get("error")
            sequence, stream = int(ack.get("seq") or 0), str(ack.get("stream") or "")
        except (ValueError, AttributeError, TypeError) as wrong:
            raise self._ambiguous("the acknowledgement cannot be read") from wrong
        if error:
            self._refuse(error, expected_last)
        if stream != self._name or not sequence:
            raise IntegrityError(
                f"an append was acknowledged by {stream or 'nobody'!r}",
                subject=self._name,
                hint="another stream takes the same subject: see nats stream ls",
            )
        if expected_last is not None:
            check(sequence == expected_last + 1, f"sequence {sequence} under a fence at {expected_last}")
        return sequence

    def _refuse(self, error: dict[str, Any], expected_last: int | None) -> None:
        if error.get("err_code") == WRONG_LAST_SEQUENCE:
            raise ConflictError(
                f"refused under the fence {expected_last}: {error.get('description')}",
                subject=self._name,
                hint="another writer got there first",
            )
        told = api_error(error, self._name)
        if isinstance(told, MissingError) or (isinstance(told, ApiError) and told.status < 500):
            raise told
        # A failing store fails on one replica; the others may have the message.
        raise self._ambiguous(told.message) from told

    def _ambiguous(self, reason: str) -> AmbiguousAppendError:
        return AmbiguousAppendError(
            f"no acknowledgement: {reason}", subject=self._name, hint="read the last message to learn which"
        )

    def _went_back(self, last: int) -> IntegrityError:
        return IntegrityError(
            f"the log ends at {last}, behind sequence {self._seen_last}, which was there",
            subject=self._name,
            hint="acknowledged data is gone, or the stream was made anew: open it again, or restore",
        )
