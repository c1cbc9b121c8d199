"""The sockets of the HTTP gateway: aiohttp parses, and each connection is bounded from outside.

A guard stands between every socket and aiohttp's protocol. It counts what a client holds, looks after one that takes
nothing, and cuts off whoever is beyond the bounds; slow heads and idle connections end by aiohttp's own timer, slow
bodies by ours.
"""

from __future__ import annotations

import asyncio
import hmac
import socket
import ssl
from contextlib import suppress
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from aiohttp import HttpVersion11, web

from tapehouse.gateway.http_errors import problem, problem_reply, refused_reply
from tapehouse.gateway.http_guard import Guard
from tapehouse.gateway.http_limits import HttpLimits, HttpTraffic, quiet_logger
from tapehouse.gateway.http_perform import HttpGateway, HttpRequest
from tapehouse.gateway.http_routes import Operation, find_operation
from tapehouse.gateway.http_values import Refused, Reply
from tapehouse.gateway.http_watch import HEARTBEAT, Watch

LINE_BYTES_MAX = 24 * 1024  # a session of 256 shards fits
HEADER_BYTES_MAX = 16 * 1024
HEADERS_MAX = 64
LINGER_S = 1.0
SERVER = "tapehouse"
CLIENT_LEFT = 499  # as web servers count it; never sent
BACKLOG = 512
CHUNK_BYTES = 64 * 1024


class HttpServer:
    """Serves HTTP on a socket, from `start` to `stop`.

    Args:
        traffic: Counted here.
        token: That clients must give as a bearer; empty where nobody need say who he is. Then only requests to this
            machine's addresses by number, or to `localhost`, are taken, as a page in a browser could make others.
    """

    def __init__(
        self, gateway: HttpGateway, *, traffic: HttpTraffic, token: str = "", limits: HttpLimits | None = None
    ) -> None:
        self.gateway = gateway
        self.traffic = traffic
        self.limits = limits or HttpLimits()
        self.is_stopping = False
        self._token = token.encode()
        self._guards: dict[Any, Guard] = {}  # by aiohttp's protocol
        self._active = 0
        self._quiet: asyncio.Future[None] | None = None
        self._stopped: asyncio.Future[None] | None = None
        self._server: asyncio.Server | None = None
        self._watched: dict[Guard, None] = {}
        self._watch_handle: asyncio.TimerHandle | None = None
        self._web: web.Server | None = None

    async def start(self, sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Take connections; the socket is closed by `stop`."""
        loop = asyncio.get_running_loop()
        self._stopped = loop.create_future()
        self._web = web.Server(
            self._handle, access_log=None, logger=quiet_logger(self.traffic, loop),
            keepalive_timeout=self.limits.idle_s, lingering_time=LINGER_S, max_line_size=LINE_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX, max_headers=HEADERS_MAX,
            read_bufsize=CHUNK_BYTES, auto_decompress=False,
        )  # fmt: skip
        self._server = await loop.create_server(
            self._guard, sock=sock, backlog=BACKLOG, ssl=tls,
            ssl_handshake_timeout=self.limits.handshake_s if tls else None,
        )  # fmt: skip

    async def stop(self) -> None:
        """Take nothing more, answer what is under way, and close; who is not done in time is cut off."""
        if self._server is None or self._web is None or self._stopped is None:
            return
        self.is_stopping = True
        self._server.close()
        if not self._stopped.done():
            self._stopped.set_result(None)
        self._web.pre_shutdown()
        if self._active:
            self._quiet = asyncio.get_running_loop().create_future()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._quiet, self.limits.stop_s)
        for guard in list(self._guards.values()):
            if guard.is_active:
                guard.cut("stop")
        await self._web.shutdown(LINGER_S)
        for guard in list(self._guards.values()):
            guard.abort()
        if self._watch_handle is not None:
            self._watch_handle.cancel()

    # What guards ask.

    def _guard(self) -> Guard:
        assert self._web is not None
        return Guard(self, self._web())

    def admit(self, guard: Guard) -> bool:
        """Whether there is room for a new connection."""
        if self.is_stopping or len(self._guards) >= self.limits.connections:
            self.traffic.refused += 1
            return False
        self.traffic.accepted += 1
        self.traffic.connected += 1
        self._guards[guard.inner] = guard
        return True

    def leave(self, guard: Guard) -> None:
        """A connection is gone."""
        if self._guards.pop(guard.inner, None) is not None:
            self.traffic.connected -= 1
            self.traffic.memory -= guard.held
        self._watched.pop(guard, None)

    def holds(self, guard: Guard, more: int) -> None:
        """A connection holds so many bytes more; where all together hold too many, who holds most is cut off."""
        self.traffic.memory += more
        if more > 0 and guard.received > self.limits.held:
            guard.cut("held")
        elif more > 0 and self.traffic.memory > self.limits.memory:
            max(self._guards.values(), key=lambda one: one.held).cut("memory")

    def watch(self, guard: Guard) -> None:
        """Look after a connection that has not taken what it was sent."""
        self._watched[guard] = None
        if self._watch_handle is None:
            self._watch_handle = asyncio.get_running_loop().call_later(self.limits.stalled_s / 4, self._look)

    def _look(self) -> None:
        self._watch_handle = None
        now = asyncio.get_running_loop().time()
        for guard in list(self._watched):
            if guard.is_overdue(now, self.limits.stalled_s):
                guard.cut("stalled")
            elif not guard.is_stuck:
                self._watched.pop(guard, None)
        if self._watched:
            self._watch_handle = asyncio.get_running_loop().call_later(self.limits.stalled_s / 4, self._look)

    # Requests.

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request, from its head to the end of its answer."""
        loop, guard = asyncio.get_running_loop(), self._guards.get(request.protocol)
        if guard is None:  # It was cut off meanwhile.
            return web.Response(status=503)
        began, name, operation = loop.time(), "none", None
        self._active += 1
        guard.begin(_head_bytes(request))
        try:
            try:
                operation, asked = await self._read(request, guard)
                name = operation.name
                reply = await self.gateway.answer(asked)
            except Refused as refused:
                reply = refused_reply(refused)
            except (ConnectionError, asyncio.CancelledError):
                raise
            except Exception as fault:  # A fault of ours: this client is told, the others are served.
                loop.call_exception_handler({"message": "an HTTP request failed", "exception": fault})
                reply = problem_reply(problem(500, "internal", "the gateway failed on this request"))
            if isinstance(reply, Watch):
                return await self._stream(request, guard, reply)
            response = await self._send(request, guard, reply)
            self.traffic.note(name, reply.status, loop.time() - began)
            return response
        except ConnectionError:  # Its client has left: what was begun is done, and nobody is there to be told.
            self.traffic.note(name, CLIENT_LEFT, None)
            return web.Response(status=503)
        finally:
            guard.end()
            self._active -= 1
            if not self._active and self._quiet is not None and not self._quiet.done():
                self._quiet.set_result(None)

    async def _read(self, request: web.BaseRequest, guard: Guard) -> tuple[Operation, HttpRequest]:
        """What a request asks, once its sender may ask it and its body is whole.

        Raises:
            Refused: It may not be asked, or not so.
        """
        self._check_origin(request)
        try:
            operation, key, query = find_operation(request.method, _target(request.raw_path))
        except Refused:
            self._check_token(request)
            raise
        if not operation.is_open:
            self._check_token(request)
        headers = {name.lower(): value for name, value in request.headers.items()}
        body = await self._body(request, guard, operation)
        return operation, HttpRequest(operation, key, query, headers, body)

    def _check_origin(self, request: web.BaseRequest) -> None:
        """Keep pages of a browser out, which can send requests to this machine though its network cannot."""
        host = urlsplit(f"//{request.headers.get('Host', '')}")
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.netloc.lower():
            raise Refused(403, "cross-origin", f"a page of {origin[:128]} may not ask this gateway")
        if not self._token and not _is_local(host.hostname or ""):
            raise Refused(
                421, "no-such-host", f"this gateway is not {host.netloc[:128]!r}",
                "ask it by its address or as localhost; other names need a token (--token-file)",
            )  # fmt: skip

    def _check_token(self, request: web.BaseRequest) -> None:
        if not self._token:
            return
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(
            given.strip().encode("utf-8", "surrogateescape"), self._token
        ):
            raise Refused(
                401, "unauthorized", "the gateway wants its token", "Authorization: Bearer …, see --token-file",
                {"WWW-Authenticate": 'Bearer realm="tapehouse"'},
            )  # fmt: skip

    async def _body(self, request: web.BaseRequest, guard: Guard, operation: Operation) -> bytes:
        """The body, where the operation takes one.

        Raises:
            Refused: It is too large, packed, too slow, or not wanted.
        """
        if not request.body_exists:
            if operation.body:
                raise Refused(411, "no-body", "the request has no body", "a body, with Content-Length or in chunks")
            return b""
        most = operation.body_bytes_max
        if request.content_length == 0 and not most:
            return b""
        if not most:
            raise Refused(400, "bad-request", f"{request.method} {operation.path} takes no body")
        packed = request.headers.get("Content-Encoding", "identity")
        if packed.lower() != "identity":
            raise Refused(415, "bad-encoding", f"a body packed as {packed[:64]}", "send it as it is")
        large = Refused(413, "too-large", f"a body of more than {most} bytes", f"at most {most} here")
        if (request.content_length or 0) > most:
            raise large
        if request.version == HttpVersion11 and request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # What follows is the answer's own head.
        pieces: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self.limits.body_s):
                while not request.content.at_eof():
                    piece = await request.content.readany()
                    size += len(piece)
                    if size > most:
                        raise large
                    pieces.append(piece)
        except TimeoutError as error:
            raise Refused(
                408, "too-slow", f"the body did not come within {self.limits.body_s:g} s", "", {"Connection": "close"}
            ) from error
        except web.RequestPayloadError as error:
            raise Refused(400, "bad-request", "the body is no such body: its length or chunks are wrong") from error
        guard.body_bytes = size
        return b"".join(pieces)

    # Answers.

    async def _send(self, request: web.BaseRequest, guard: Guard, reply: Reply) -> web.StreamResponse:
        guard.owe(len(reply.body))
        headers = {"Content-Type": reply.content_type, "Cache-Control": "no-store", "Server": SERVER, **reply.headers}
        if reply.status == 304:
            headers.pop("Content-Type")
        response = web.Response(status=reply.status, body=reply.body, headers=headers)
        if self.is_stopping or headers.get("Connection") == "close":
            response.force_close()
        await response.prepare(request)
        await response.write_eof()
        self.traffic.bytes_out += len(reply.body)
        return response

    async def _stream(self, request: web.BaseRequest, guard: Guard, watch: Watch) -> web.StreamResponse:
        """Events until the client leaves or the gateway stops."""
        if self.traffic.watching >= self.limits.watchers:
            refused = Refused(503, "busy", f"{self.limits.watchers} watch already", "", {"Retry-After": "10"})
            return await self._send(request, guard, refused_reply(refused))
        assert self._stopped is not None
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store"}
        )
        response.force_close()
        self.traffic.watching += 1
        self.traffic.note("watch", 200, None)
        self._active -= 1  # A watcher is never done: it does not keep `stop` waiting.
        events = watch.events()
        coming: asyncio.Future[bytes] | None = None
        gone = guard.gone()
        try:
            await response.prepare(request)
            if request.method == "HEAD":
                return response
            while not (self._stopped.done() or gone.done()):
                coming = coming or asyncio.ensure_future(anext(events))
                ends: set[asyncio.Future[Any]] = {coming, self._stopped, gone}
                done, _ = await asyncio.wait(
                    ends, timeout=self.limits.heartbeat_s,
                    return_when=asyncio.FIRST_COMPLETED,
                )  # fmt: skip
                if coming in done:
                    try:
                        event = coming.result()
                    except StopAsyncIteration:
                        break
                    coming = None
                    self.traffic.bytes_out += len(event)
                    await response.write(event)
                elif not done:
                    await response.write(HEARTBEAT)
            return response
        finally:
            self._active += 1
            self.traffic.watching -= 1
            if coming is not None:
                coming.cancel()
                with suppress(asyncio.CancelledError, StopAsyncIteration):
                    await coming
            await events.aclose()


def _is_local(host: str) -> bool:
    """Whether a name can only mean what the client's own machine says: an address by number, or localhost."""
    try:
        ip_address(host)
    except ValueError:
        return host in ("", "localhost") or host.endswith(".localhost")
    return True


def _target(raw: str) -> str:
    """Path and query, also where a proxy's client sent a whole address."""
    if raw.startswith("/"):
        return raw
    _, found, rest = raw.partition("://")
    return "/" + rest.partition("/")[2] if found else raw


def _head_bytes(request: web.BaseRequest) -> int:
    """How many bytes a request's head took, spaces aside."""
    return len(request.method) + len(request.raw_path) + sum(len(k) + len(v) + 3 for k, v in request.raw_headers) + 12
