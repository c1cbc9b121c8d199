"""Errors of the KV as HTTP says them: a status, a word for programs, and what is known of a write's outcome.

The body is a problem (RFC 9457). `outcome` is `none` where nothing was done, so that a request may be sent again, and
`unknown` where a write was sent and may have been applied.
"""

from __future__ import annotations

from typing import Any

from tapehouse.core.errors import (
    BusUnavailableError,
    BusyError,
    DataError,
    DecodeError,
    GapError,
    MissingError,
    TapehouseError,
    TransientError,
    UsageError,
)
from tapehouse.gateway.http_values import PROBLEM_TYPE, Refused, Reply, json_reply
from tapehouse.kv.errors import (
    CrossSlotError,
    DerivedKeyError,
    NotServedHereError,
    OldValueError,
    OtherBranchError,
    OutcomeUnknownError,
    StaleError,
    WatchLaggedError,
)

RETRY_BUSY_S = 1
RETRY_AWAY_S = 2
TITLES = {
    400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    408: "Request Timeout", 409: "Conflict", 410: "Gone", 411: "Length Required", 412: "Precondition Failed",
    413: "Content Too Large", 415: "Unsupported Media Type", 421: "Misdirected Request", 431: "Header Fields Too Large",
    500: "Internal Server Error", 503: "Service Unavailable", 504: "Gateway Timeout",
}  # fmt: skip

# The first that fits; what retries may hope for is in seconds, 0 where asking again changes nothing.
_KINDS: tuple[tuple[type[TapehouseError], int, str, int], ...] = (
    (OutcomeUnknownError, 504, "outcome-unknown", 0),
    (BusyError, 503, "busy", RETRY_BUSY_S),
    (NotServedHereError, 503, "moving", RETRY_BUSY_S),
    (StaleError, 503, "stale", RETRY_AWAY_S),
    (WatchLaggedError, 410, "lagged", 0),
    (BusUnavailableError, 503, "unavailable", RETRY_AWAY_S),
    (TransientError, 503, "unavailable", RETRY_AWAY_S),
    (OtherBranchError, 409, "other-branch", 0),
    (DerivedKeyError, 403, "read-only", 0),
    (MissingError, 503, "not-served", RETRY_AWAY_S),
    (CrossSlotError, 400, "cross-slot", 0),
    (OldValueError, 500, "old-value", 0),
    (DecodeError, 500, "halted", 0),  # Bytes of the log: what callers send is read before.
    (GapError, 500, "halted", 0),
    (DataError, 400, "bad-request", 0),
    (UsageError, 400, "bad-request", 0),
)


def problem(status: int, code: str, detail: str, hint: str = "", **more: Any) -> dict[str, Any]:
    """An error's JSON."""
    told = {"title": TITLES[status], "status": status, "code": code, "detail": detail}
    return told | ({"hint": hint} if hint else {}) | more


def refused_reply(refused: Refused) -> Reply:
    """The answer to a request that cannot be done as it is asked."""
    told = problem(refused.status, refused.code, refused.detail, refused.hint, outcome="none")
    reply = json_reply(told, refused.status, refused.headers)
    return Reply(reply.status, reply.body, PROBLEM_TYPE, reply.headers)


def error_problem(error: TapehouseError) -> dict[str, Any]:
    """What the KV raised, as a problem."""
    found = (row for row in _KINDS if isinstance(error, row[0]))
    _, status, code, retry = next(found, (TapehouseError, 500, "internal", 0))
    where = ", ".join(part for part in (error.subject, error.position) if part)
    detail = f"{where}: {error.message}" if where else error.message
    more: dict[str, Any] = {"outcome": "unknown" if code == "outcome-unknown" else "none"}
    if code in ("internal", "old-value"):
        more = {}
    if retry:
        more["retry_after_s"] = retry
    return problem(status, code, detail, error.hint, **more)


def problem_reply(told: dict[str, Any]) -> Reply:
    """A problem as an answer, with `Retry-After` where asking again may help."""
    retry = told.get("retry_after_s")
    reply = json_reply(told, told["status"], {"Retry-After": str(retry)} if retry else {})
    return Reply(reply.status, reply.body, PROBLEM_TYPE, reply.headers)


def error_reply(error: TapehouseError) -> Reply:
    """The answer to a request that met this."""
    return problem_reply(error_problem(error))
