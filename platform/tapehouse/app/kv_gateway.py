"""A gateway of the replicated KV: its shards' streams on a broker, and RESP, HTTP or both in front of them."""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from tapehouse.app.bootstrap import DEFAULT_TAPE, Platform, home_directory, open_platform
from tapehouse.app.kv_derived import derived_of
from tapehouse.app.kv_rebalance import Rebalancing
from tapehouse.app.kv_status import NS_PER_MS, KvAbout, info_text
from tapehouse.bus import JetStreamLog, kv_spec
from tapehouse.core.clock import Clock, SystemClock
from tapehouse.core.errors import MissingError, UsageError
from tapehouse.core.ids import new_writer_id
from tapehouse.core.metrics import Metrics
from tapehouse.gateway.http_limits import HttpLimits, HttpTraffic
from tapehouse.gateway.http_perform import HttpGateway
from tapehouse.gateway.http_server import HttpServer
from tapehouse.gateway.resp_perform import Gateway
from tapehouse.gateway.resp_runs import KvRuns
from tapehouse.gateway.resp_scan import Cursors
from tapehouse.gateway.resp_server import CONNECTIONS_MAX, Limits, RespServer, Traffic, listen
from tapehouse.kv.client import Kv
from tapehouse.kv.derived import Derived
from tapehouse.kv.faults import Faults
from tapehouse.kv.levels import EVENTUAL, LINEARIZABLE, Level, Session
from tapehouse.kv.shard_map import SHARDS_MAX
from tapehouse.kv.shard_writer import Commit
from tapehouse.kv.view import BUDGET_BYTES

NEW_KV_SHARDS = 1
TOKEN_BYTES_MAX = 1_024
PORT_MAX = 65_535
LEVELS: dict[str, Level] = {"linearizable": LINEARIZABLE, "session": Session(), "eventual": EVENTUAL}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What a gateway is started with.

    Attributes:
        resp, http: Ports, 0 for any that is free; None where it is not served.
        shards: Of a new KV; None takes what there is, and 1 where there is none.
        token_file: Its text is what clients must know.
        level: Of a connection's reads, until it chooses another.
        tape: Whose desk's projections are read below the derived prefixes.
        budget_bytes: Of memory for each shard's view.
        faults: What a drill injects from the start.
        allow_faults: Whether HTTP may change that while it serves.
    """

    resp: int | None = None
    http: int | None = None
    bind: str = "127.0.0.1"
    shards: int | None = None
    nats: str | None = None
    home: Path | None = None
    token_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    commit: Commit = "group"
    level: Level = LINEARIZABLE
    connections_max: int = CONNECTIONS_MAX
    tape: str = DEFAULT_TAPE
    budget_bytes: int = BUDGET_BYTES
    faults: Faults | None = None
    allow_faults: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """A gateway that serves.

    Attributes:
        where: Its addresses, by what is spoken there.
    """

    where: dict[str, str]
    kv: Kv
    resp: RespServer | None
    http: HttpServer | None
    faults: Faults
    tls: bool

    def table(self) -> dict[str, object]:
        """Where it is, and what it has."""
        return {
            **self.where, "shards": len(self.kv.nodes), "keys": self.kv.count_keys(),
            "positions": [node.applied for node in self.kv.nodes], "tls": self.tls, "pid": os.getpid(),
            **({"faults": self.faults.told()} if self.faults.is_on else {}),
        }  # fmt: skip

    def done(self) -> dict[str, object]:
        """What it did, for its end."""
        traffics = [server.traffic for server in (self.resp, self.http) if server is not None]
        cut = sum((traffic.cut for traffic in traffics), Counter[str]())
        requests = self.resp.requests if self.resp else 0
        requests += sum(self.http.traffic.requests.values()) if self.http else 0
        return {
            "stopped": True, "connections": sum(traffic.accepted for traffic in traffics),
            "refused": sum(traffic.refused for traffic in traffics), "cut": dict(cut), "requests": requests,
        }  # fmt: skip


@asynccontextmanager
async def serve_kv_gateway(options: ServeOptions) -> AsyncIterator[Serving]:
    """Serve until the context is left; then what is under way is answered, and the views are stored for the next start.

    Raises:
        UsageError: The options contradict each other, or the KV.
        MissingError: A port is taken, or a file is not there.
        BusUnavailableError: No broker answers.
    """
    _check(options)
    token, tls = read_token(options.token_file), tls_context(options.tls_cert, options.tls_key)
    clock, metrics, faults = SystemClock(), Metrics(), options.faults or Faults()
    refuses, faults.refuses_write = (
        faults.refuses_write,
        None,
    )  # A new KV is made by writes: none is refused.
    with ExitStack() as sockets:
        listening = {
            name: sockets.enter_context(listen(options.bind, port, f"--{name}"))
            for name, port in (("resp", options.resp), ("http", options.http))
            if port is not None
        }
        kept = _kept(options)
        async with (
            open_platform(options.nats, home=options.home, patient=True) as platform,
            derived_of(platform, options.tape) as derived,
            await open_kv(platform, options, kept, derived, faults=faults, metrics=metrics) as kv,
            AsyncExitStack() as servers,
        ):
            faults.refuses_write = refuses

            async def leader(shard: int) -> str:
                return await platform.admin.leader(kv_spec(shard).name)

            where = {name: _address(name, sock, tls is not None) for name, sock in listening.items()}
            resp_traffic, http_traffic = Traffic(), HttpTraffic()
            about = KvAbout(
                kv=kv, clock=clock, faults=faults, metrics=metrics, began=clock.monotonic_ns(), leaders=leader,
                resp=resp_traffic if "resp" in where else None, http=http_traffic if "http" in where else None,
                where=where, allows_faults=options.allow_faults,
            )  # fmt: skip
            resp = http = None
            if "resp" in listening:
                gateway = make_gateway(
                    kv, resp_traffic, clock, port=listening["resp"].getsockname()[1],
                    connections_max=options.connections_max, faults=faults,
                )  # fmt: skip
                limits = Limits(connections=options.connections_max)
                resp = RespServer(gateway, traffic=resp_traffic, token=token, level=options.level, limits=limits)
                await resp.start(listening["resp"], tls)
                servers.push_async_callback(resp.stop)
            if "http" in listening:
                bounds = HttpLimits(connections=min(options.connections_max, HttpLimits().connections))
                asked = HttpGateway(kv, clock, about.about(), level=options.level)
                http = HttpServer(asked, traffic=http_traffic, token=token, limits=bounds)
                await http.start(listening["http"], tls)
                servers.push_async_callback(http.stop)
            yield Serving(where=where, kv=kv, resp=resp, http=http, faults=faults, tls=tls is not None)


def _address(name: str, sock: socket.socket, tls: bool) -> str:
    host, port = sock.getsockname()[:2]
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return place if name == "resp" else f"http{'s' if tls else ''}://{place}"


def _check(options: ServeOptions) -> None:
    ports = [(option, port) for option, port in (("--resp", options.resp), ("--http", options.http))]
    if all(port is None for _, port in ports):
        raise UsageError("nothing to serve", hint="give --resp PORT, --http PORT, or both")
    for option, port in ports:
        if port is not None and not 0 <= port <= PORT_MAX:
            raise UsageError(f"port {port}", subject=option, hint=f"1 to {PORT_MAX}, 0 for any that is free")
    if options.shards is not None and not 0 < options.shards <= SHARDS_MAX:
        raise UsageError(f"{options.shards} shards", subject="--shards", hint=f"1 to {SHARDS_MAX}")
    if options.connections_max < 1:
        raise UsageError(f"{options.connections_max} connections", subject="--max-connections", hint="1 or more")
    if options.token_file is None and not _is_loopback(options.bind):
        raise UsageError(
            "anyone who reaches this address could write", subject=f"--bind {options.bind}",
            hint="add --token-file FILE, or bind 127.0.0.1",
        )  # fmt: skip
    if options.allow_faults and (options.token_file is None or options.http is None):
        raise UsageError(
            "faults are changed over HTTP, by who has the token", subject="--allow-faults",
            hint="add --http PORT and --token-file FILE",
        )  # fmt: skip


def _kept(options: ServeOptions) -> Path | None:
    """Where this gateway keeps its views; a port is its own, so the directory is. None for ports by chance."""
    port = options.resp or options.http
    if not port:
        return None
    place = home_directory(options.home) / "kv" / str(port)
    place.mkdir(parents=True, exist_ok=True)
    return place


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_token(path: Path | None) -> str:
    """What clients must know; empty without a file.

    Raises:
        MissingError: The file cannot be read.
        UsageError: It holds no token.
    """
    if path is None:
        return ""
    try:
        with path.open("rb") as file:
            token = file.read(TOKEN_BYTES_MAX + 1).strip()
        text = token.decode("ascii")
    except OSError as error:
        raise MissingError(error.strerror or str(error), subject=str(path), hint="see --token-file") from error
    except UnicodeDecodeError as error:
        raise UsageError("a token of other than ASCII characters", subject=str(path)) from error
    if not text or len(text) > TOKEN_BYTES_MAX or not text.isprintable() or " " in text:
        raise UsageError(
            f"no token: one word of up to {TOKEN_BYTES_MAX} characters", subject=str(path),
            hint="make one: openssl rand -hex 32",
        )  # fmt: skip
    return text


def tls_context(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """TLS with this certificate; None without one.

    Raises:
        MissingError: A file cannot be read.
        UsageError: They are no certificate and its key.
    """
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise UsageError("TLS takes a certificate and its key", hint="give both --tls-cert and --tls-key")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key, password=lambda: b"")  # Nobody is there to be asked for one.
    except ssl.SSLError as error:
        raise UsageError(
            f"no certificate and its key: {error.reason or error}", subject=f"{cert}, {key}",
            hint="PEM files; the key without a password",
        ) from error  # fmt: skip
    except OSError as error:
        raise MissingError(error.strerror or str(error), subject=f"{cert}, {key}") from error
    return context


async def open_kv(
    platform: Platform,
    options: ServeOptions,
    kept: Path | None,
    derived: Derived | None = None,
    *,
    faults: Faults | None = None,
    metrics: Metrics | None = None,
) -> Kv:
    """The KV on a broker; its streams are made where they are not there."""

    async def open_log(shard: int) -> JetStreamLog:
        return await platform.admin.ensure(kv_spec(shard))

    shards = options.shards
    if shards is None:
        streams = {stream.name: stream.messages for stream in await platform.admin.list()}
        if not streams.get(kv_spec(0).name):
            shards = NEW_KV_SHARDS
    return await Kv.open(
        open_log, new_life=new_writer_id, clock=SystemClock(), shards=shards, commit=options.commit,
        budget_bytes=options.budget_bytes, snapshots=kept, derived=derived, faults=faults, metrics=metrics,
    )  # fmt: skip


def make_gateway(
    kv: Kv, traffic: Traffic, clock: Clock, *, port: int, connections_max: int, faults: Faults | None = None
) -> Gateway:
    """What the connections share, with INFO and DBSIZE as they are now."""
    began = time.monotonic()

    def info() -> str:
        uptime = int(time.monotonic() - began)
        return info_text(kv, traffic, port=port, connections_max=connections_max, uptime_s=uptime, faults=faults)

    first = clock.time_ns() // NS_PER_MS  # No cursor of an earlier run is met.
    return Gateway(
        kv=kv,
        clock=clock,
        cursors=Cursors(first),
        info=info,
        keys=kv.count_keys,
        rebalance=Rebalancing(kv, clock).begin,
        runs=KvRuns(kv),
    )
