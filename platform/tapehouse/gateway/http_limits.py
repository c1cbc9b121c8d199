"""What clients of the HTTP gateway may take, and what is counted of them."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from tapehouse.core.metrics import SECONDS_BOUNDS, Histogram
from tapehouse.gateway.http_routes import BODY_BYTES_MAX

CONNECTIONS_MAX = 2_000
MEMORY_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """What clients may take.

    Attributes:
        connections: At once; one more is told so and closed.
        memory: Bytes kept for all of them together; beyond it who holds most is cut off.
        held: Bytes that one may have sent and not been answered, a body and what is behind it in the pipeline.
        idle_s: Without a whole head of a request, before a connection is closed.
        body_s: For a body to come.
        stalled_s: Without a byte taken of an answer.
        watchers: At once.
        heartbeat_s: Between signs of life to a watcher.
        stop_s: In which `stop` lets requests under way be answered.
        handshake_s: Of TLS.
    """

    connections: int = CONNECTIONS_MAX
    memory: int = MEMORY_BYTES
    held: int = BODY_BYTES_MAX + 1024 * 1024
    idle_s: float = 30.0
    body_s: float = 30.0
    stalled_s: float = 30.0
    watchers: int = 512
    heartbeat_s: float = 15.0
    stop_s: float = 12.0
    handshake_s: float = 10.0


@dataclass(slots=True)
class HttpTraffic:
    """What came and went since the start.

    Attributes:
        connected, watching: Now.
        accepted, refused: Connections; refused ones were too many.
        cut: Connections that were cut off, by reason.
        malformed: Requests that were no HTTP.
        requests: By operation and status.
        seconds: By operation, from a request's head to its answer's end; watchers are not counted.
        memory: Bytes that are kept for clients now.
    """

    connected: int = 0
    watching: int = 0
    accepted: int = 0
    refused: int = 0
    cut: Counter[str] = field(default_factory=Counter)
    malformed: int = 0
    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    seconds: dict[str, Histogram] = field(default_factory=dict)
    bytes_in: int = 0
    bytes_out: int = 0
    memory: int = 0

    def note(self, name: str, status: int, seconds: float | None) -> None:
        """Count one request."""
        self.requests[name, status] += 1
        if seconds is not None:
            self.seconds.setdefault(name, Histogram(SECONDS_BOUNDS)).observe(seconds)


class _Faults(logging.Handler):
    """What aiohttp would write to a log: requests that are no HTTP are counted, faults go to the loop's handler."""

    def __init__(self, traffic: HttpTraffic, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(logging.DEBUG)
        self._traffic, self._loop = traffic, loop

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is None or isinstance(error, web.RequestPayloadError | HttpProcessingError):
            self._traffic.malformed += 1
        else:
            self._loop.call_exception_handler({"message": record.getMessage(), "exception": error})


def quiet_logger(traffic: HttpTraffic, loop: asyncio.AbstractEventLoop) -> logging.Logger:
    """A logger for aiohttp that writes nothing and loses nothing."""
    logger = logging.Logger("tapehouse.http", logging.DEBUG)
    logger.addHandler(_Faults(traffic, loop))
    return logger
