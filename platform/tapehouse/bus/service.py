"""Micro services on NATS: `nats service ls` shows them, and their errors arrive as the errors they were.

A service has a dotted name (`tapehouse.desk`); its endpoints are subjects below it. Handlers of one endpoint run side
by side up to a bound; beyond it, requests wait in the order in which they came.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any

import nats.micro
from nats.micro.request import Request
from nats.micro.service import EndpointStats, Service

import tapehouse.core.errors as errors
from tapehouse.bus.connection import Bus
from tapehouse.bus.requests import NobodyListensError, UnansweredError
from tapehouse.core import BusUnavailableError, InvariantError, MissingError, TapehouseError, TransientError, UsageError

SIDE_BY_SIDE_MAX = 256  # requests of one endpoint in work at a time
REQUEST_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 10.0
ERROR_CODE = "Nats-Service-Error-Code"
_LOG = logging.getLogger(__name__)

EndpointHandler = Callable[[bytes], Awaitable[bytes]]


class Endpoint:
    """One subject of a service, and what came of its requests."""

    def __init__(self, subject: str, handler: EndpointHandler) -> None:
        self.subject = subject
        self.answered = 0
        self.failed = 0
        self._handler = handler
        self._slots = asyncio.Semaphore(SIDE_BY_SIDE_MAX)
        self._running: set[asyncio.Task[None]] = set()

    async def accept(self, request: Request) -> None:
        """Begin to work on a request, as soon as there is room."""
        await self._slots.acquire()
        task = asyncio.create_task(self._work(request))
        self._running.add(task)
        task.add_done_callback(self._done)

    async def finish(self) -> None:
        """Wait for the requests in work, for STOP_TIMEOUT_S at most; then cancel them."""
        running = set(self._running)
        if running:
            _, late = await asyncio.wait(running, timeout=STOP_TIMEOUT_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _work(self, request: Request) -> None:
        try:
            answer = await self._handler(request.data)
        except TapehouseError as error:
            self.failed += 1
            await _refuse(request, error)
        except Exception as error:
            self.failed += 1
            _LOG.exception("the handler of %s failed", self.subject)
            await _refuse(request, InvariantError(f"the service failed: {error!r}", subject=self.subject))
        else:
            self.answered += 1
            await request.respond(answer)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._slots.release()
        if not task.cancelled() and task.exception() is not None:
            # The answer could not be sent; the asker's time-out tells it.
            _LOG.error("no answer from %s: %r", self.subject, task.exception())


class ServiceHost:
    """A running service; made by `serve`."""

    def __init__(self, service: Service, endpoints: list[Endpoint]) -> None:
        self._service = service
        self.endpoints = endpoints

    async def __aenter__(self) -> ServiceHost:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Take no more requests, finish those in work, leave."""
        await self._service.stop()
        for endpoint in self.endpoints:
            await endpoint.finish()


async def serve(
    bus: Bus, name: str, version: str, endpoints: Mapping[str, EndpointHandler], *, description: str = ""
) -> ServiceHost:
    """Answer requests on `<name>.<endpoint>` for each endpoint.

    Args:
        name: Dotted, such as `tapehouse.desk`; shown with dashes in `nats service ls`.
        version: Semantic, such as `1.0.0`.
        endpoints: Handlers from request bytes to answer bytes; a TapehouseError they raise reaches the asker as it is.
    """
    hosted = {label: Endpoint(f"{name}.{label}", handler) for label, handler in endpoints.items()}

    def statistics(stats: EndpointStats) -> dict[str, int]:
        endpoint = hosted[stats.name]
        return {"answered": endpoint.answered, "failed": endpoint.failed}

    try:
        service = await nats.micro.add_service(
            bus.client,
            name=name.replace(".", "-"),
            version=version,
            description=description or None,
            stats_handler=statistics,
        )
        group = service.add_group(name=name)
        for label, endpoint in hosted.items():
            await group.add_endpoint(name=label, handler=endpoint.accept)
        await bus.flush()  # The server knows the subjects before the caller says that it serves.
    except ValueError as error:
        raise UsageError(f"cannot be served: {error}", subject=name) from error
    return ServiceHost(service, list(hosted.values()))


async def request(bus: Bus, subject: str, payload: bytes, *, timeout_s: float = REQUEST_TIMEOUT_S) -> bytes:
    """Ask a service and return its answer.

    Raises:
        MissingError: Nobody serves that subject.
        BusUnavailableError: No answer in time; whether the request was carried out is not known.
        TapehouseError: What the service raised, of the same class.
    """
    try:
        answer = await bus.request(subject, payload, timeout_s=timeout_s)
    except NobodyListensError:
        raise MissingError(
            "nobody serves this", subject=subject, hint="is the service running? nats service ls"
        ) from None
    except UnansweredError as error:
        raise BusUnavailableError(
            f"{error.message}; whether it was carried out is not known", subject=subject, hint=error.hint
        ) from error
    if answer.headers and ERROR_CODE in answer.headers:
        raise _raised(answer.data, answer.headers)
    return bytes(answer.data)


async def _refuse(request: Request, error: TapehouseError) -> None:
    known = next(kind for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind)
    told = {
        "error": known.__name__,
        "message": error.message,
        "subject": error.subject,
        "position": error.position,
        "hint": error.hint,
    }
    code = "503" if isinstance(error, TransientError) else "500" if isinstance(error, InvariantError) else "400"
    await request.respond_error(code, " ".join(str(error).split()), data=json.dumps(told).encode())


def _raised(data: bytes, headers: dict[str, str]) -> TapehouseError:
    """The error that a service's refusal stands for."""
    try:
        told: dict[str, Any] = json.loads(data)
        kind = getattr(errors, str(told["error"]), None)
        fields = {key: str(told.get(key, "")) for key in ("subject", "position", "hint")}
        message = str(told["message"])
    except (ValueError, KeyError, TypeError):
        # Not one of ours: another program answers there.
        return InvariantError(f"the service failed: {headers.get('Nats-Service-Error', 'without a reason')}")
    if not (isinstance(kind, type) and issubclass(kind, TapehouseError)) or kind is TapehouseError:
        return InvariantError(f"{told['error']}: {message}", **fields)
    return kind(message, **fields)
