"""The stream SNAPS as a `Snaps` store: each snapshot under a subject of its own, stored once.

A store carries the fence of its *subject*: nothing may be there yet. After an append without acknowledgement it is sent
again: refused by the fence, it was stored. No window of message ids is needed, so a writer may come back after weeks.
"""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

from tapehouse.bus import headers as header_rules
from tapehouse.bus.api import WRONG_LAST_SEQUENCE, WRONG_LAST_SUBJECT_SEQUENCE, api_error
from tapehouse.bus.connection import RETRY_PAUSE_S, Bus
from tapehouse.bus.stream_calls import call_stream
from tapehouse.core import BusUnavailableError, IntegrityError, InvariantError, MissingError
from tapehouse.log.snaps import SUBJECTS_MAX, check_snap

STORE_TIMEOUT_S = 2.0
STORE_ATTEMPTS_MAX = 60  # with RETRY_PAUSE_S between them, longer than a broker election
PAGES_MAX = 1000  # of 100,000 subjects each, as the server counts them
_NOTHING_YET = "0"


class JetStreamSnaps:
    """Snapshots in one stream, which must be there; see `log.snaps.Snaps`."""

    def __init__(self, bus: Bus, name: str) -> None:
        self._bus = bus
        self._name = name

    async def subjects(self, pattern: str) -> list[str]:
        found: set[str] = set()
        offset = 0
        for _ in range(PAGES_MAX):
            asked = {"subjects_filter": pattern, "offset": offset}
            info = await self._bus.patient_api(f"STREAM.INFO.{self._name}", asked)
            page = info["state"].get("subjects") or {}
            found.update(page)
            offset += len(page)
            if not page or offset >= int(info.get("total") or 0):
                return sorted(found)
            if offset > SUBJECTS_MAX:
                break
        raise InvariantError(f"more than {SUBJECTS_MAX} snapshots under one pattern", subject=pattern)

    async def load(self, subject: str) -> bytes | None:
        try:
            answer = await call_stream(self._bus, "STREAM.MSG.GET", self._name, {"last_by_subj": subject})
        except MissingError as error:
            if error.message == "no such message":
                return None
            raise
        return base64.b64decode(answer["message"].get("data") or "")

    async def store(self, subject: str, payload: bytes) -> bool:
        check_snap(subject, payload)
        fence = {header_rules.EXPECTED_LAST_OF_SUBJECT: _NOTHING_YET}
        failure: BusUnavailableError | None = None
        for _ in range(STORE_ATTEMPTS_MAX):
            try:
                answer = await self._bus.request(subject, payload, timeout_s=STORE_TIMEOUT_S, headers=fence)
                return self._stored(answer.data, subject, sent_before=failure is not None)
            except BusUnavailableError as error:
                failure = error
                await asyncio.sleep(RETRY_PAUSE_S)
        raise BusUnavailableError(
            "a snapshot was not acknowledged", subject=subject, hint="is a majority of the brokers up?"
        ) from failure

    def _stored(self, data: bytes, subject: str, *, sent_before: bool) -> bool:
        try:
            ack: dict[str, Any] = json.loads(data)
            error, stream = ack.get("error"), ack.get("stream")
        except (ValueError, AttributeError) as wrong:
            raise BusUnavailableError("an acknowledgement cannot be read", subject=subject) from wrong
        if error:
            if error.get("err_code") in (WRONG_LAST_SEQUENCE, WRONG_LAST_SUBJECT_SEQUENCE):
                return sent_before  # Sent again, it was ours that is there; or another's, which is the same.
            raise api_error(error, subject)
        if stream != self._name:
            raise IntegrityError(
                f"a snapshot was acknowledged by {stream or 'nobody'!r}",
                subject=subject,
                hint=f"another stream takes the subjects of {self._name}: see nats stream ls",
            )
        return True
