"""Reading a stream in order and without a hole, by a consumer that is thrown away at the first doubt.

The consumer is ephemeral, lives in memory on one server and acknowledges nothing; messages are asked for in batches
ahead of the reader, so that both sides are bounded in messages and bytes, and come in through a callback. Nothing
rests on the consumer: each message names its sequence, and after a reconnect, a silence while the log has grown, or a
message out of order, a new consumer starts at the next sequence wanted. Only that fresh one may prove a gap.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from tapehouse.bus import headers as header_rules
from tapehouse.bus.connection import PATIENCE_S, RETRY_PAUSE_S, Bus
from tapehouse.bus.topology import read_branches
from tapehouse.core import BusUnavailableError, GapError, IntegrityError, TapehouseError, TransientError
from tapehouse.log import Extent, Message
from tapehouse.log.port import MESSAGES_PER_READ_MAX

BATCH_MESSAGES = MESSAGES_PER_READ_MAX // 2
BATCH_BYTES = 16 * 1024 * 1024  # no less than the largest message with its headers
BATCHES_AHEAD = 2
IDLE_CHECK_S = 1.0  # silence after which the leader is asked whether there is more
READ_PATIENCE_S = 30.0  # without a message that is known to be there, or without any answer
_BATCH_LIFE_NS = 60 * 1_000_000_000
_CONSUMER_LIFE_NS = 120 * 1_000_000_000
_ACK_TOKENS = 9  # `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.…`; the newer form has two tokens before


async def read_stream(bus: Bus, name: str, extent: Extent, first: int, end: int | None) -> AsyncIterator[Message]:
    """Messages `first` to `end` (None: for ever), each exactly once and in order.

    Raises:
        GapError: A message is not there: trimmed, or lost.
        IntegrityError: The stream was replaced by another one meanwhile.
        MissingError: It was deleted.
        BusUnavailableError: No progress within READ_PATIENCE_S.
    """
    if end is not None and first > end:
        return
    _require_there(name, extent.first, first)
    reader = _Reader(bus, name, extent.log_id, first, end)
    try:
        while end is None or reader.next_sequence <= end:
            while reader.arrived:
                message = reader.take()
                if message is not None:
                    yield message
            if end is None or reader.next_sequence <= end:
                await reader.more()
    finally:
        await reader.close()


class _Reader:
    """The state of one read: where it is, what has arrived, and the consumer of the moment."""

    def __init__(self, bus: Bus, name: str, log_id: bytes, first: int, end: int | None) -> None:
        self.next_sequence = first
        self.arrived: deque[Msg] = deque()
        self._bus = bus
        self._name = name
        self._log_id = log_id
        self._end = end
        self._bytes = 0
        self._news = asyncio.Event()
        self._subscription: Subscription | None = None
        self._consumer = ""
        self._inbox = ""
        self._batches: dict[str, int] = {}  # reply subject of a batch asked for -> messages still to come
        self._batch_number = 0
        self._asked_through = first - 1
        self._doubt = True  # the next step begins with a fresh consumer
        self._fresh = False  # nothing has come from this consumer yet
        self._behind = False  # the last check found messages that have not come
        self._deadline = 0.0
        bus.on_reconnect(self._reconnected)

    def take(self) -> Message | None:
        """The next message that has arrived; None where it was out of order, and a fresh consumer is due."""
        raw = self.arrived.popleft()
        self._bytes -= len(raw.data)
        sequence = _sequence_of(raw)
        if sequence != self.next_sequence:
            if self._fresh:
                raise GapError(
                    f"sequence {self.next_sequence} is missing; the next there is {sequence}",
                    subject=self._name,
                    hint="it was trimmed meanwhile or lost: read this range from segments",
                )
            self._doubt = True
            self.arrived.clear()
            self._bytes = 0
            return None
        self._fresh = False
        self._behind = False
        self._deadline = 0.0
        self.next_sequence += 1
        return Message(
            sequence=sequence, subject=raw.subject, payload=raw.data, headers=header_rules.incoming(raw.headers)
        )

    async def more(self) -> None:
        """Wait until something has arrived, or some doubt is settled."""
        if not self._deadline:
            self._deadline = _now() + READ_PATIENCE_S
        try:
            if self._doubt:
                if self._fresh:  # The last consumer brought nothing: do not hurry the next.
                    await asyncio.sleep(RETRY_PAUSE_S)
                    self._require_patience("no consumer works")
                await self._restart()
            await self._ask()
            self._news.clear()
            if self.arrived or self._doubt:
                return
            try:
                async with asyncio.timeout(IDLE_CHECK_S):
                    await self._news.wait()
            except TimeoutError:
                await self._check_idle()
        except TransientError as error:
            self._doubt = True
            self._require_patience(error.message, error)

    async def close(self) -> None:
        """Give the consumer back."""
        self._bus.off_reconnect(self._reconnected)
        await self._drop_consumer()

    async def _restart(self) -> None:
        await self._drop_consumer()
        self.arrived.clear()
        self._bytes = 0
        self._batches.clear()
        self._asked_through = self.next_sequence - 1
        self._inbox = self._bus.client.new_inbox()
        self._subscription = await self._bus.subscribe(f"{self._inbox}.*", self._on_message)
        # Named by us: asked for twice it is one consumer, and it can be given back though the answer was lost.
        self._consumer = f"read-{secrets.token_hex(8)}"
        config = {
            "name": self._consumer,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self.next_sequence,
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "max_waiting": BATCHES_AHEAD * 2,
            "inactive_threshold": _CONSUMER_LIFE_NS,
        }
        left = max(self._deadline - _now(), 0.1)
        await self._bus.patient_api(
            f"CONSUMER.CREATE.{self._name}.{self._consumer}",
            {"stream_name": self._name, "config": config},
            patience_s=min(left, PATIENCE_S),
        )
        self._doubt, self._fresh = False, True

    async def _ask(self) -> None:
        """Ask for the next batch where there is room for it."""
        while len(self._batches) < BATCHES_AHEAD and self._bytes < BATCH_BYTES:
            room = MESSAGES_PER_READ_MAX - len(self.arrived) - sum(self._batches.values())
            wanted = min(BATCH_MESSAGES, room)
            if self._end is not None:
                wanted = min(wanted, self._end - self._asked_through)
            if wanted <= 0 or (wanted < BATCH_MESSAGES and self._batches):
                return
            self._batch_number += 1
            reply = f"{self._inbox}.{self._batch_number}"
            request = {"batch": wanted, "max_bytes": BATCH_BYTES, "expires": _BATCH_LIFE_NS}
            self._batches[reply] = wanted
            self._asked_through += wanted
            await self._bus.publish(
                f"$JS.API.CONSUMER.MSG.NEXT.{self._name}.{self._consumer}", json.dumps(request).encode(), reply=reply
            )

    async def _on_message(self, message: Msg) -> None:
        if message.reply:
            self.arrived.append(message)
            self._bytes += len(message.data)
            oldest = next(iter(self._batches), None)  # The server fills batches in the order they were asked for.
            if oldest is not None:
                self._batches[oldest] -= 1
                if not self._batches[oldest]:
                    del self._batches[oldest]
        elif message.subject in self._batches:
            self._asked_through -= self._batches.pop(message.subject)
            if not _ended_early(message.headers or {}):
                self._doubt = True  # The consumer is gone, or the server it lives on.
        self._news.set()

    async def _check_idle(self) -> None:
        """Nothing came for a while: is there anything that should have come?"""
        info = await self._bus.patient_api(f"STREAM.INFO.{self._name}", patience_s=IDLE_CHECK_S * 2)
        if read_branches(self._name, info["config"])[-1].log_id != self._log_id:
            raise IntegrityError(
                "the stream now holds another branch of the log", subject=self._name, hint="open the log again"
            )
        if int(info["state"]["last_seq"]) < self.next_sequence:
            self._deadline = 0.0  # Nothing is due, so nothing is late.
            return
        if int(info["state"]["messages"]):
            _require_there(self._name, int(info["state"]["first_seq"]), self.next_sequence)
        self._require_patience(f"message {self.next_sequence} is there and does not come")
        self._doubt, self._behind = self._behind, True  # Once may be chance: it may be on its way.

    def _require_patience(self, reason: str, cause: TransientError | None = None) -> None:
        if _now() >= self._deadline:
            raise BusUnavailableError(
                f"no message for {READ_PATIENCE_S:g} s: {reason}",
                subject=self._name,
                position=f"sequence {self.next_sequence}",
                hint="is a majority of the brokers up? see tapehouse status",
            ) from cause

    def _reconnected(self) -> None:
        self._doubt = True
        self._news.set()

    async def _drop_consumer(self) -> None:
        subscription, self._subscription = self._subscription, None
        consumer, self._consumer = self._consumer, ""
        if subscription is not None and not self._bus.client.is_closed:
            await subscription.unsubscribe()
        if consumer and self._bus.is_connected:
            # Nobody waits for an answer, as where it does not arrive the server drops the consumer by itself after
            # _CONSUMER_LIFE_NS: each read costs a round trip less.
            with contextlib.suppress(TapehouseError):
                await self._bus.publish(f"$JS.API.CONSUMER.DELETE.{self._name}.{consumer}", b"")


def _require_there(name: str, first_there: int, wanted: int) -> None:
    if wanted < first_there:
        raise GapError(
            f"sequence {wanted} was trimmed; the log begins at {first_there}",
            subject=name,
            hint="read the older range from segments",
        )


def _ended_early(headers: dict[str, str]) -> bool:
    """Whether a batch's end is one that happens in good health: out of time, or out of bytes."""
    return headers.get("Status") == "408" or "MaxBytes" in headers.get("Description", "")


def _sequence_of(message: Msg) -> int:
    tokens: list[Any] = message.reply.split(".")
    return int(tokens[5] if len(tokens) == _ACK_TOKENS else tokens[7])


def _now() -> float:
    return asyncio.get_running_loop().time()
