"""What HTTP requests ask, done with the KV: a request in, an answer out; sockets are the server's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_from_bytes

from tapehouse.core.clock import Clock
from tapehouse.core.errors import GapError, TapehouseError
from tapehouse.gateway.http_errors import error_problem, error_reply, problem, problem_reply, refused_reply
from tapehouse.gateway.http_levels import SESSION_HEADER, level_of, reader_session, writer_session
from tapehouse.gateway.http_openapi import openapi
from tapehouse.gateway.http_routes import HISTORY_DEFAULT, HISTORY_MAX, SCAN_DEFAULT, SCAN_MAX, Operation
from tapehouse.gateway.http_values import (
    BYTES_TYPE,
    Encoding,
    Refused,
    Reply,
    bad,
    duration_of,
    encoding_of,
    flag_of,
    json_reply,
    read_object,
    read_pairs,
    read_query,
    seconds,
    shown,
    told,
    whole,
    whole_of,
)
from tapehouse.gateway.http_watch import Watch
from tapehouse.kv import requests
from tapehouse.kv.client import Kv
from tapehouse.kv.entries import VALUE_BYTES_MAX, Entry, Status
from tapehouse.kv.levels import EVENTUAL, LINEARIZABLE, Level, Session
from tapehouse.kv.reference import Stored
from tapehouse.kv.requests import Outcome

SCAN_PORTION = 128  # keys whose values are in memory together while a page is made
PAGE_BYTES_MAX = 8 * 1024 * 1024  # of the values of one page; it ends early, and says that there is more
HISTORIES_AT_ONCE = 2  # each reads a log
REVISION_MAX = 2**63 - 1
NS_PER_MS = 1_000_000
_HELD = (Status.ABSENT, Status.PRESENT, Status.CHANGED, Status.REFUSED)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request, whole.

    Attributes:
        query: As it was sent.
        headers: By their names in lower case.
    """

    operation: Operation
    key: bytes = b""
    query: str = ""
    headers: Mapping[str, str] | None = None
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """A header by its name in lower case."""
        return None if self.headers is None else self.headers.get(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a gateway tells of itself.

    Attributes:
        ready: Whether it is, and for each shard why not.
        metrics: For Prometheus, and as JSON.
        set_faults: Changes what a drill has on; None where that was not allowed.
    """

    status: Callable[[], Awaitable[dict[str, Any]]]
    ready: Callable[[], Awaitable[dict[str, Any]]]
    leaders: Callable[[], Awaitable[dict[str, Any]]]
    metrics: Callable[[], Awaitable[bytes]]
    metrics_json: Callable[[], Awaitable[dict[str, Any]]]
    page: Callable[[], Awaitable[bytes]]
    faults: Callable[[], dict[str, Any]]
    set_faults: Callable[[dict[str, Any]], None] | None = None


class HttpGateway:
    """Answers requests; shared by all connections.

    Args:
        level: Of reads that name none.
    """

    def __init__(self, kv: Kv, clock: Clock, about: About, *, level: Level = LINEARIZABLE) -> None:
        self.kv = kv
        self.clock = clock
        self._about = about
        self._level = level
        self._histories = 0
        self._kinds: dict[str, Callable[[HttpRequest, dict[str, bytes]], Awaitable[Reply | Watch]]] = {
            "put_pairs": self._put_pairs, "get": self._get, "put": self._put, "delete": self._delete,
            "scan": self._scan, "history": self._history, "watch": self._watch,
        }  # fmt: skip

    async def answer(self, request: HttpRequest) -> Reply | Watch:
        """The answer to a request, also where it cannot be done."""
        try:
            query = read_query(request.query, frozenset(request.operation.query))
            kind = self._kinds.get(request.operation.name)
            return await (kind(request, query) if kind else self._tell(request))
        except Refused as refused:
            return refused_reply(refused)
        except TapehouseError as error:
            return error_reply(error)

    # Reading.

    async def _get(self, request: HttpRequest, query: dict[str, bytes]) -> Reply:
        encoding, level = encoding_of(query), level_of(query, request.header(SESSION_HEADER), self._level)
        requests.check_key(request.key)
        stored = await self.kv.get(request.key, level)
        headers = _session_headers(level)
        if stored is None:
            none = problem(404, "no-such-key", f"there is no key {shown(request.key)}")
            missing = problem_reply(none)
            return Reply(missing.status, missing.body, missing.content_type, headers)
        headers["ETag"] = f'"{stored.revision}"'
        if request.header("if-none-match") in (headers["ETag"], "*"):
            return Reply(304, headers=headers)
        if BYTES_TYPE in (request.header("accept") or ""):
            if stored.expiry:
                headers["Tapehouse-Expires-Ms"] = str(stored.expiry // NS_PER_MS)
            return Reply(200, stored.value, BYTES_TYPE, headers)
        return json_reply(_row(request.key, stored, encoding) | _session_member(level), headers=headers)

    async def _scan(self, request: HttpRequest, query: dict[str, bytes]) -> Reply:
        encoding, level = encoding_of(query), level_of(query, request.header(SESSION_HEADER), self._level)
        prefix, after = query.get("prefix", b""), query.get("after")
        limit = whole_of(query, "limit", 1, SCAN_MAX) or SCAN_DEFAULT
        rows: list[tuple[bytes, Stored]] = []
        size, more, at = 0, True, level
        while more and len(rows) < limit and size < PAGE_BYTES_MAX:
            portion = min(SCAN_PORTION, limit - len(rows))
            found = await self.kv.scan(prefix, at, after=after, limit=portion)
            rows += found
            size += sum(len(row.value) for _, row in found)
            more = len(found) == portion
            after = rows[-1][0] if rows else None
            at = level if isinstance(level, Session) else EVENTUAL  # The view has come as far as the level asks.
        page: dict[str, Any] = {"keys": [_row(key, row, encoding) for key, row in rows], "more": more}
        if more and after is not None:
            asked = {name: value for name, value in query.items() if name not in ("after", "session")}
            parts = asked | {"after": after}
            page["next"] = "/keys?" + "&".join(f"{name}={quote_from_bytes(part, '')}" for name, part in parts.items())
        return json_reply(page | _session_member(level), headers=_session_headers(level))

    async def _history(self, request: HttpRequest, query: dict[str, bytes]) -> Reply:
        encoding = encoding_of(query)
        limit = whole_of(query, "limit", 1, HISTORY_MAX) or HISTORY_DEFAULT
        if self._histories >= HISTORIES_AT_ONCE:
            raise Refused(
                503, "busy", f"{HISTORIES_AT_ONCE} histories are being read", "ask again", {"Retry-After": "2"}
            )
        self._histories += 1
        try:
            versions = await self.kv.history(request.key, limit=limit)
        except GapError as error:
            return problem_reply(error_problem(error) | {"status": 410, "title": "Gone", "code": "trimmed"})
        finally:
            self._histories -= 1
        rows = [
            told("value", one.value, encoding)
            | {
                "revision": str(one.revision), "expires_ms": _ms(one.expiry), "time_ms": one.time // NS_PER_MS,
                "sequence": one.sequence,
            }
            for one in versions
        ]  # fmt: skip
        return json_reply(told("key", request.key, encoding) | {"versions": rows})

    async def _watch(self, request: HttpRequest, query: dict[str, bytes]) -> Watch:
        last = request.header("last-event-id") or request.header(SESSION_HEADER)
        session = reader_session(query, last)
        return Watch(self.kv, query.get("prefix", b""), session, encoding_of(query))

    # Writing.

    async def _put_pairs(self, request: HttpRequest, query: dict[str, bytes]) -> Reply:
        encoding = encoding_of(query)
        pairs = read_pairs(request.body, encoding)
        session = writer_session(query, request.header(SESSION_HEADER))
        if len(pairs) > 1 and (request.header("if-match") or "revision" in query):
            raise bad("one revision for several keys", "a revision is one key's: ask for each by itself")
        entries = [self._put_entry(request, query, key, value) for key, value in pairs]
        if flag_of(query, "atomic"):
            outcome = await self.kv.batch(entries, session=session)
            ends: list[Outcome | TapehouseError] = list(outcome.outcomes)
        else:
            ends = await self._written(entries, session)
        rows = [_end(key, end, encoding) for (key, _), end in zip(pairs, ends, strict=True)]
        applied = sum(row["status"] == "applied" for row in rows)
        answer = {"applied": applied, "results": rows, "session": session.text}
        headers = {SESSION_HEADER.title(): session.text}
        retries = [row["error"]["retry_after_s"] for row in rows if "retry_after_s" in row.get("error", {})]
        status = _status_of(rows)
        if status == 503 and retries:
            headers["Retry-After"] = str(max(retries))
        return json_reply(answer, status, headers)

    async def _written(self, entries: list[Entry], session: Session) -> list[Outcome | TapehouseError]:
        """Entries by themselves: what became of each; what one meets keeps no other from its end."""
        ends = await asyncio.gather(
            *(self.kv.write(entry, session=session) for entry in entries), return_exceptions=True
        )
        found: list[Outcome | TapehouseError] = []
        for end in ends:
            if isinstance(end, BaseException) and not isinstance(end, TapehouseError):
                raise end
            found.append(end)
        return found

    async def _put(self, request: HttpRequest, query: dict[str, bytes]) -> Reply:
        session = writer_session(query, request.header(SESSION_HEADER))
        entry = self._put_entry(request, query, request.key, request.body)
        return _written_reply(request.key, await self.kv.write(entry, session=session), session)

    async def _delete(self, request: HttpRequest, query: dict[str, bytes]) -> Reply:
        session = writer_session(query, request.header(SESSION_HEADER))
        outcome = await self.kv.delete(request.key, revision=_revision(request, query), session=session)
        return _written_reply(request.key, outcome, session, absent=404)

    def _put_entry(self, request: HttpRequest, query: dict[str, bytes], key: bytes, value: bytes) -> Entry:
        if len(value) > VALUE_BYTES_MAX:
            raise Refused(413, "too-large", f"a value of {len(value)} bytes", f"at most {VALUE_BYTES_MAX}")
        match = request.header("if-none-match")
        if match not in (None, "*"):
            raise bad("If-None-Match of a write is *", "it asks that there is no such key")
        ttl = duration_of(query, "ttl")
        if ttl is not None and flag_of(query, "keep_ttl"):
            raise bad("ttl and keep_ttl together", "one of them")
        return requests.put(
            key, value, expiry=requests.expiry_after(None if ttl is None else seconds(ttl), self.clock.time_ns()),
            revision=_revision(request, query), if_absent=flag_of(query, "if_absent") or match == "*",
            if_present=flag_of(query, "if_present"), keep_expiry=flag_of(query, "keep_ttl"),
        )  # fmt: skip

    # About.

    async def _tell(self, request: HttpRequest) -> Reply:
        about, name = self._about, request.operation.name
        if name == "status":
            return json_reply(await about.status())
        if name == "readyz":
            ready = await about.ready()
            return json_reply(ready, 200) if ready["ready"] else json_reply(ready, 503, {"Retry-After": "2"})
        if name == "livez":
            return json_reply({"live": True})
        if name == "leader":
            return json_reply(await about.leaders())
        if name == "metrics":
            return Reply(200, await about.metrics(), "text/plain; version=0.0.4; charset=utf-8")
        if name == "metrics_json":
            return json_reply(await about.metrics_json())
        if name == "openapi":
            return json_reply(openapi())
        if name == "page":
            return Reply(200, await about.page(), "text/html; charset=utf-8")
        if name == "set_faults":
            if about.set_faults is None:
                raise Refused(
                    403, "not-allowed", "faults may not be changed here", "start the gateway with --allow-faults"
                )
            about.set_faults(read_object(request.body))
        return json_reply(about.faults())


def _revision(request: HttpRequest, query: dict[str, bytes]) -> int | None:
    """The revision that a write asks for, of the query or of `If-Match`; None for any."""
    asked, match = whole_of(query, "revision", 0, REVISION_MAX), request.header("if-match")
    if match is None:
        return asked
    if asked is not None:
        raise bad("a revision and If-Match", "one of them")
    return whole(match.strip().strip('"'), "If-Match", 0, REVISION_MAX)


def _row(key: bytes, stored: Stored, encoding: Encoding) -> dict[str, Any]:
    return (
        told("key", key, encoding)
        | told("value", stored.value, encoding)
        | {"revision": str(stored.revision), "expires_ms": _ms(stored.expiry)}
    )


def _ms(expiry: int) -> int | None:
    return expiry // NS_PER_MS if expiry else None


def _session_headers(level: Level) -> dict[str, str]:
    return {SESSION_HEADER.title(): level.text} if isinstance(level, Session) else {}


def _session_member(level: Level) -> dict[str, str]:
    return {"session": level.text} if isinstance(level, Session) else {}


def _end(key: bytes, end: Outcome | TapehouseError, encoding: Encoding) -> dict[str, Any]:
    """What became of one of several writes."""
    row: dict[str, Any] = dict(told("key", key, encoding))
    if isinstance(end, TapehouseError):
        found = error_problem(end)
        return row | {"status": "unknown" if found.get("outcome") == "unknown" else "failed", "error": found}
    return row | {"status": _word(end), "revision": str(end.revision)}


def _word(outcome: Outcome) -> str:
    """The word for an outcome; what is neither applied nor refused by a condition may have been applied."""
    if outcome.is_applied or outcome.status in _HELD:
        return outcome.status.name.lower()
    return "refused" if outcome.status is Status.BAD_BATCH else "unknown"


def _status_of(rows: list[dict[str, Any]]) -> int:
    """The status of several writes: that of the worst end, an unknown one before all."""
    words = {row["status"] for row in rows}
    if "unknown" in words:
        return 504
    if "failed" in words:
        return max(int(row["error"]["status"]) for row in rows if row["status"] == "failed")
    return 200 if words == {"applied"} else 412


def _written_reply(key: bytes, outcome: Outcome, session: Session, *, absent: int = 412) -> Reply:
    """The answer to one write."""
    word = _word(outcome)
    status = 200 if word == "applied" else 504 if word == "unknown" else absent if word == "absent" else 412
    headers = {SESSION_HEADER.title(): session.text}
    if outcome.revision and outcome.is_applied:
        headers["ETag"] = f'"{outcome.revision}"'
    row: dict[str, Any] = dict(told("key", key, "utf8"))
    row |= {"status": word, "revision": str(outcome.revision), "session": session.text}
    return json_reply(row, status, headers)
