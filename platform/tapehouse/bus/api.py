"""JetStream's JSON API: one call, and what its error codes mean to us."""

from __future__ import annotations

import json
from typing import Any

from tapehouse.bus.requests import Requester
from tapehouse.core import BusUnavailableError, DecodeError, MissingError, UsageError

API_TIMEOUT_S = 5.0
SERVICE_UNAVAILABLE = 503  # no leader now, no quorum, out of resources
STREAM_NOT_FOUND = 10059
CONSUMER_NOT_FOUND = 10014
NO_MESSAGE_FOUND = 10037
WRONG_LAST_SEQUENCE = 10071
WRONG_LAST_SUBJECT_SEQUENCE = 10164
STREAM_NAME_IN_USE = 10058
NO_SUITABLE_PEERS = 10005
REPLICAS_NEED_A_CLUSTER = 10074
JETSTREAM_DISABLED = (10039, 10076)
_MISSING = {CONSUMER_NOT_FOUND: "consumer", NO_MESSAGE_FOUND: "message"}


class NoStreamError(MissingError):
    """A server says that there is no such stream."""


class ApiError(UsageError):
    """The broker refused a call for a reason that trying again does not change.

    `code` is JetStream's own number for the reason, `status` the class of it, as HTTP has them.
    """

    def __init__(self, message: str, *, code: int, status: int, subject: str = "", hint: str = "") -> None:
        super().__init__(message, subject=subject, hint=hint)
        self.code = code
        self.status = status


async def call_api(
    requester: Requester, call: str, body: dict[str, Any] | None = None, *, timeout_s: float = API_TIMEOUT_S
) -> dict[str, Any]:
    """Make one call, such as `STREAM.INFO.TAPE_demo`, and return its answer.

    Raises:
        MissingError: No such stream, consumer or message; or the server has no JetStream.
        BusUnavailableError: No answer, or not now.
        ApiError: Refused; `code` is the server's.
    """
    payload = json.dumps(body).encode() if body is not None else b""
    answer = await requester.request(f"$JS.API.{call}", payload, timeout_s=timeout_s)
    try:
        value = json.loads(answer.data)
    except ValueError as error:
        raise DecodeError("an API answer is no JSON", subject=call) from error
    if not isinstance(value, dict):
        raise DecodeError("an API answer is no JSON object", subject=call)
    if "error" in value:
        raise api_error(value["error"], call)
    return value


def api_error(error: dict[str, Any], subject: str) -> MissingError | BusUnavailableError | ApiError:
    """The error of ours that an error object of the API stands for."""
    code = int(error.get("err_code") or 0)
    said = str(error.get("description") or "refused without a reason")
    if code == STREAM_NOT_FOUND:
        return NoStreamError("no such stream", subject=subject)
    if code in _MISSING:
        return MissingError(f"no such {_MISSING[code]}", subject=subject)
    if code in JETSTREAM_DISABLED:
        return MissingError(f"no JetStream there: {said}", subject=subject, hint="start nats-server with JetStream")
    status = int(error.get("code") or 0)
    if status == SERVICE_UNAVAILABLE:
        return BusUnavailableError(said, subject=subject, hint="is a majority of the brokers up? see tapehouse status")
    return ApiError(said, code=code, status=status, subject=subject)
