"""Reads of a projector over NATS: the micro service `tapehouse.kv.<tape>` and its callers.

Requests and answers are JSON. `get` takes {"key"} and answers {"value", "nearest", "position"}. `items` takes
{"prefix", "skip", "at"} and answers a page of {"items", "more", "at", "position"}; the pages of one listing come from
one state, which the service keeps for a while. `digests` takes nothing. With {"after"}, a sequence of EVENTS, and
{"after_tape"}, one of TAPE, `get` and the first page wait until that is folded: who was told an outcome reads what it
led to.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tapehouse.app.projector import Projector, missing
from tapehouse.bus import Bus
from tapehouse.bus.service import ServiceHost, request, serve
from tapehouse.core.errors import BusUnavailableError, ConflictError, DecodeError, MissingError, UsageError
from tapehouse.core.ids import check_name

VERSION = "1.0.0"
PAGE_ITEMS_MAX = 1000
PAGE_BYTES_MAX = 512 * 1024  # half of what a NATS message holds by default
LISTINGS_MAX = 8  # kept for the pages that follow
LISTING_ATTEMPTS_MAX = 3
REACH_S = 1.0  # how long a read waits for the projections to come to what its asker has heard


class NotServedError(MissingError):
    """No host serves this tape's projections now."""


def service_name(tape: str) -> str:
    """The service of one tape's projections."""
    return f"tapehouse.kv.{check_name(tape, 'tape')}"


async def serve_kv(bus: Bus, tape: str, projector: Projector) -> ServiceHost:
    """Answer reads of this projector until the host that is returned is stopped."""
    service = KvService(projector)
    return await serve(
        bus,
        service_name(tape),
        VERSION,
        {"get": service.get, "items": service.items, "digests": service.digests},
        description=f"projections of tape {tape}: orders, positions, prices, surface",
    )


class KvService:
    """The handlers: request bytes to answer bytes."""

    def __init__(self, projector: Projector) -> None:
        self._projector = projector
        self._listings: dict[tuple[str, str], list[tuple[str, Any]]] = {}

    async def get(self, data: bytes) -> bytes:
        """One value, or the keys nearest to a key that is not there."""
        asked = _read(data)
        key = _text(asked, "key")
        await self._reach(asked)
        value = self._projector.get(key)
        nearest = self._projector.nearest(key) if value is None else []
        return _write({"value": value, "nearest": nearest, "position": self._projector.position()})

    async def items(self, data: bytes) -> bytes:
        """A page of a listing."""
        asked = _read(data)
        prefix, at = _text(asked, "prefix"), _text(asked, "at", "")
        skip = asked.get("skip", 0)
        if not isinstance(skip, int) or skip < 0:
            raise UsageError(f"skip is {skip!r}", subject="items", hint="a number of items")
        if not at:
            await self._reach(asked)
            position = self._projector.position()
            at = f"{position['tape']}.{position['events']}"
            self._keep(prefix, at)
        listing = self._listings.get((prefix, at))
        if listing is None:
            raise ConflictError("the listing is no longer kept", subject=prefix, hint="list again from the beginning")
        page: list[tuple[str, Any]] = []
        used = 0
        for item in listing[skip : skip + PAGE_ITEMS_MAX]:
            used += len(json.dumps(item))
            if page and used > PAGE_BYTES_MAX:
                break
            page.append(item)
        more = skip + len(page) < len(listing)
        return _write({"items": page, "more": more, "at": at, "position": self._projector.position()})

    async def digests(self, data: bytes) -> bytes:
        """Every machine's state digest, and where it was taken."""
        return _write({"digests": self._projector.digests(), "position": self._projector.position()})

    async def _reach(self, asked: dict[str, Any]) -> None:
        """Wait for the sequences of EVENTS and of TAPE that the asker has heard.

        Raises:
            BusUnavailableError: The projections do not come so far in REACH_S.
        """
        after, tape = (_sequence(asked, name, log) for name, log in (("after", "EVENTS"), ("after_tape", "TAPE")))
        try:
            async with asyncio.timeout(REACH_S):
                await self._projector.until(events=after, tape=tape)
        except TimeoutError:
            position = self._projector.position()
            log, stands, wanted = (
                ("EVENTS", position["events"], after)
                if position["events"] < after
                else ("TAPE", position["tape"], tape)
            )
            raise BusUnavailableError(
                f"the projections stand at sequence {stands} of {log}, not {wanted}",
                subject="tapehouse.kv",
                hint="the host is behind: ask again",
            ) from None

    def _keep(self, prefix: str, at: str) -> None:
        self._listings.pop((prefix, at), None)
        self._listings[prefix, at] = self._projector.items(prefix)
        while len(self._listings) > LISTINGS_MAX:
            del self._listings[next(iter(self._listings))]


async def ask_get(bus: Bus, tape: str, key: str, *, after: int = 0) -> Any:
    """One value from the host that serves this tape, with all that EVENTS held through sequence `after`.

    Raises:
        MissingError: No such key; the nearest are offered.
        NotServedError: No host serves the tape.
        BusUnavailableError: No answer came.
    """
    value, nearest = await ask_find(bus, tape, key, after=after)
    if value is None:
        raise missing(key, nearest)
    return value


async def ask_find(bus: Bus, tape: str, key: str, *, after: int = 0, after_tape: int = 0) -> tuple[Any, list[str]]:
    """As `ask_get`, with what TAPE held through `after_tape` too; None and the nearest keys where there is none."""
    answer = await _ask(bus, tape, "get", {"key": key, "after": after, "after_tape": after_tape})
    return answer["value"], list(answer["nearest"])


async def ask_items(bus: Bus, tape: str, prefix: str, *, after: int = 0, after_tape: int = 0) -> list[tuple[str, Any]]:
    """All keys that begin with a prefix, with their values, as of one moment.

    Args:
        after, after_tape: Sequences of EVENTS and TAPE that it does not come before.

    Raises:
        NotServedError: No host serves the tape.
        BusUnavailableError: No answer came.
    """
    for attempt in range(LISTING_ATTEMPTS_MAX):
        try:
            return await _ask_pages(bus, tape, prefix, {"after": after, "after_tape": after_tape})
        except ConflictError:
            if attempt + 1 == LISTING_ATTEMPTS_MAX:
                raise
    return []


async def _ask_pages(bus: Bus, tape: str, prefix: str, place: dict[str, int]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    at, more = "", True
    while more:
        asked = {"prefix": prefix, "skip": len(found), "at": at, **place}
        answer = await _ask(bus, tape, "items", asked)
        found += [(str(key), value) for key, value in answer["items"]]
        at, more = answer["at"], answer["more"] and bool(answer["items"])
    return found


async def ask_digests(bus: Bus, tape: str) -> dict[str, str]:
    """Every machine's state digest, in hex."""
    answer = await _ask(bus, tape, "digests", {})
    return dict(answer["digests"])


async def _ask(bus: Bus, tape: str, endpoint: str, body: dict[str, Any]) -> dict[str, Any]:
    subject = f"{service_name(tape)}.{endpoint}"
    try:
        return _read(await request(bus, subject, _write(body)))
    except MissingError as error:
        if error.subject != subject:  # It comes from the service itself.
            raise
        raise NotServedError(
            "no host serves it", subject=f"tape {tape}", hint=f"start one: tapehouse host --tape {tape}"
        ) from error


def _read(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise DecodeError(f"no JSON: {error}", subject="tapehouse.kv") from error
    if not isinstance(value, dict):
        raise DecodeError("no JSON object", subject="tapehouse.kv")
    return value


def _write(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _sequence(asked: dict[str, Any], name: str, log: str) -> int:
    value = asked.get(name, 0)
    if not isinstance(value, int) or value < 0:
        raise UsageError(f"{name} is {value!r}", subject="tapehouse.kv", hint=f"a sequence of {log}")
    return value


def _text(asked: dict[str, Any], name: str, default: str | None = None) -> str:
    value = asked.get(name, default)
    if not isinstance(value, str):
        raise UsageError(f"{name} is {value!r}, no text", subject="tapehouse.kv")
    return value
