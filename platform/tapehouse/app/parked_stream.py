"""Copies each parked input, with its bytes and the reason, to the stream PARKED, for whoever repairs it.

A projector without state of its own: what PARKED holds of this desk says how far it came. Each message is there at
least once, under an id that the same event gives always. Bytes come from TAPE, where every input stays.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from tapehouse.core.errors import AmbiguousAppendError, BusUnavailableError, GapError, IntegrityError
from tapehouse.core.ids import check_name
from tapehouse.core.metrics import Metrics
from tapehouse.desk.commands import EVENTS
from tapehouse.desk.parking_commands import CommandParked, InputParked
from tapehouse.log import Log, decode_message, deterministic_id
from tapehouse.market import Cells, Kind, records_of, unpack_payload
from tapehouse.query.parked import is_about_parking
from tapehouse.query.record_at import read_record

APPEND_ATTEMPTS_MAX = 5
ID_HEADER = "Tapehouse-Id"


class ParkedStream:
    """The inputs that one desk parked, as messages under `parked.v1.<tape>`."""

    def __init__(self, name: str, tape: Log, events: Log, parked: Log, *, metrics: Metrics | None = None) -> None:
        self.subject = f"parked.v1.{check_name(name, 'tape')}"
        self._name = name
        self._tape = tape
        self._events = events
        self._parked = parked
        self.metrics = metrics or Metrics()
        self._log_id = ""
        self._next = (0, -1)  # EVENTS sequence to read from, and the last event that is copied already

    async def open(self) -> None:
        """Find out how far PARKED is: the last message of this desk's log there."""
        extent = await self._events.extent()
        self._log_id = extent.branches[0].log_id.hex()
        self._next = extent.first, -1
        have, held = await self._parked.extent(), 0
        async for message in self._parked.read(have.first, through=have.last):
            if message.subject != self.subject:
                continue
            try:
                told = json.loads(message.payload)
                if told["log"] != self._log_id:
                    continue  # Of an earlier tape of that name.
                place = int(told["events_sequence"]), int(told["event"])
            except (ValueError, KeyError, TypeError) as error:
                raise IntegrityError(
                    "a message of PARKED cannot be read",
                    subject=self._parked.name,
                    position=f"sequence {message.sequence}",
                    hint="somebody else wrote it: take it out, and start again",
                ) from error
            self._next = max(self._next, place, key=lambda known: known[1])
            held += 1
        self.metrics.set("parked_total", held)

    async def run(self, *, follow: bool = False) -> None:
        """Copy what is not there yet; with `follow`, go on until cancelled.

        Raises:
            BusUnavailableError: PARKED took no message in APPEND_ATTEMPTS_MAX attempts.
        """
        if not self._log_id:
            await self.open()
        first, _ = self._next
        first = max(first, (await self._events.extent()).first)
        async for message in self._events.read(first, follow=follow):
            header, cells = decode_message(message)
            for at, record in records_of(cells, Kind.EVENT):
                event, payload = header.first_ordinal + at, unpack_payload(record)
                if event > self._next[1] and is_about_parking(payload):
                    await self._copy(event, message.sequence, record, payload)

    async def _copy(self, event: int, sequence: int, record: Cells, payload: bytes) -> None:
        _, body = EVENTS.decode(payload)
        if not isinstance(body, CommandParked | InputParked):
            return
        position = int(record["sequence"][0])
        told: dict[str, Any] = {
            "id": deterministic_id("parked", self._log_id, event),
            "tape": self._name,
            "log": self._log_id,
            "event": event,
            "events_sequence": sequence,
            "position": position,
            "time": int(record["ts_recv"][0]),
            "input": "command" if isinstance(body, CommandParked) else "record",
            **body.model_dump(),
            "data": await self._bytes(position, isinstance(body, CommandParked)),
        }
        await self._append(json.dumps(told, sort_keys=True, separators=(",", ":")).encode(), str(told["id"]))
        self._next = sequence, event
        self.metrics.add("parked_total")

    async def _bytes(self, position: int, is_command: bool) -> str | None:
        """The input, base64: a command's message, a record's cells; None where TAPE was trimmed beyond it."""
        try:
            record = await read_record(self._tape, position)
        except GapError:
            return None
        data = record.tobytes()
        if is_command and 0 <= int(record["size"][0]) <= len(data):
            data = unpack_payload(record)
        return base64.b64encode(data).decode()

    async def _append(self, payload: bytes, key: str) -> None:
        for attempt in range(APPEND_ATTEMPTS_MAX):
            try:
                await self._parked.append(payload, expected_last=None, subject=self.subject, headers={ID_HEADER: key})
                return
            except AmbiguousAppendError as error:  # Perhaps twice: at least once, under one id.
                if attempt + 1 == APPEND_ATTEMPTS_MAX:
                    raise BusUnavailableError(
                        "a parked input was not acknowledged", subject=self._parked.name, position=f"id {key}"
                    ) from error
