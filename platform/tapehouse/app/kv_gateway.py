"""A gateway of the replicated KV: its shards' streams on a broker, and RESP on a socket in front of them."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from ipaddress import ip_address
from itertools import count
from pathlib import Path

from tapehouse.app.bootstrap import DEFAULT_TAPE, Platform, home_directory, open_platform
from tapehouse.app.kv_derived import derived_of
from tapehouse.app.kv_rebalance import Rebalancing
from tapehouse.bus import JetStreamLog, kv_spec
from tapehouse.core.clock import Clock, SystemClock
from tapehouse.core.errors import MissingError, UsageError
from tapehouse.core.ids import new_writer_id
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.gateway.resp_parse import Rows
from tapehouse.gateway.resp_perform import Gateway
from tapehouse.gateway.resp_runs import KvRuns
from tapehouse.gateway.resp_scan import Cursors
from tapehouse.gateway.resp_server import CONNECTIONS_MAX, Limits, RespServer, Traffic, listen
from tapehouse.gateway.resp_session import REDIS_VERSION, RespSession
from tapehouse.kv.client import Kv
from tapehouse.kv.derived import Derived
from tapehouse.kv.levels import EVENTUAL, LINEARIZABLE, Level, Session
from tapehouse.kv.mover import warm as warm_mover
from tapehouse.kv.shard_map import SHARDS_MAX
from tapehouse.kv.shard_writer import Commit
from tapehouse.kv.view import BUDGET_BYTES
from tapehouse.log import MemoryLog

NEW_KV_SHARDS = 1
TOKEN_BYTES_MAX = 1_024
PORT_MAX = 65_535
NS_PER_MS = NS_PER_SECOND // 1_000
LINE_END = "\r\n"  # of INFO
LEVELS: dict[str, Level] = {"linearizable": LINEARIZABLE, "session": Session(), "eventual": EVENTUAL}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What a gateway is started with.

    Attributes:
        port: 0 for any that is free.
        shards: Of a new KV; None takes what there is, and 1 where there is none.
        token_file: Its text is what clients must know.
        level: Of a connection's reads, until it chooses another.
        tape: Whose desk's projections are read below the derived prefixes.
        budget_bytes: Of memory for each shard's view.
    """

    port: int
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """A gateway that serves."""

    host: str
    port: int
    kv: Kv
    server: RespServer
    traffic: Traffic
    tls: bool

    def table(self) -> dict[str, object]:
        """Where it is, and what it has."""
        return {
            "resp": f"{self.host}:{self.port}", "shards": len(self.kv.nodes), "keys": self.kv.count_keys(),
            "positions": [node.applied for node in self.kv.nodes], "tls": self.tls, "pid": os.getpid(),
        }  # fmt: skip


@asynccontextmanager
async def serve_kv_gateway(options: ServeOptions) -> AsyncIterator[Serving]:
    """Serve until the context is left; then what is under way is answered, and the views are stored for the next start.

    Raises:
        UsageError: The options contradict each other, or the KV.
        MissingError: The port is taken, or a file is not there.
        BusUnavailableError: No broker answers.
    """
    _check(options)
    token, tls = read_token(options.token_file), tls_context(options.tls_cert, options.tls_key)
    with listen(options.bind, options.port) as sock:
        host, port = sock.getsockname()[:2]
        kept = _kept(options)
        async with (
            open_platform(options.nats, home=options.home, patient=True) as platform,
            derived_of(platform, options.tape) as derived,
            await open_kv(platform, options, kept, derived) as kv,
        ):
            traffic, clock = Traffic(), SystemClock()
            gateway = make_gateway(kv, traffic, clock, port=port, connections_max=options.connections_max)
            limits = Limits(connections=options.connections_max)
            server = RespServer(gateway, traffic=traffic, token=token, level=options.level, limits=limits)
            await server.start(sock, tls)
            try:
                yield Serving(host=host, port=port, kv=kv, server=server, traffic=traffic, tls=tls is not None)
            finally:
                await server.stop()


def _check(options: ServeOptions) -> None:
    if not 0 <= options.port <= PORT_MAX:
        raise UsageError(f"port {options.port}", subject="--resp", hint=f"1 to {PORT_MAX}, 0 for any that is free")
    if options.shards is not None and not 0 < options.shards <= SHARDS_MAX:
        raise UsageError(f"{options.shards} shards", subject="--shards", hint=f"1 to {SHARDS_MAX}")
    if options.connections_max < 1:
        raise UsageError(f"{options.connections_max} connections", subject="--max-connections", hint="1 or more")
    if options.token_file is None and not _is_loopback(options.bind):
        raise UsageError(
            "anyone who reaches this address could write", subject=f"--bind {options.bind}",
            hint="add --token-file FILE, or bind 127.0.0.1",
        )  # fmt: skip


def _kept(options: ServeOptions) -> Path | None:
    """Where this gateway keeps its views; the port is its own, so the directory is. None for a port by chance."""
    if not options.port:
        return None
    place = home_directory(options.home) / "kv" / str(options.port)
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


async def open_kv(platform: Platform, options: ServeOptions, kept: Path | None, derived: Derived | None = None) -> Kv:
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
        budget_bytes=options.budget_bytes, snapshots=kept, derived=derived,
    )  # fmt: skip


def make_gateway(kv: Kv, traffic: Traffic, clock: Clock, *, port: int, connections_max: int) -> Gateway:
    """What the connections share, with INFO and DBSIZE as they are now."""
    began = time.monotonic()

    def info() -> str:
        uptime = int(time.monotonic() - began)
        return info_text(kv, traffic, port=port, connections_max=connections_max, uptime_s=uptime)

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


def info_text(kv: Kv, traffic: Traffic, *, port: int, connections_max: int, uptime_s: int) -> str:
    """INFO: Redis's names where there is such a number; positions and lag of each shard."""
    shards = [node.measure() for node in kv.nodes]
    sections: dict[str, dict[str, object]] = {
        "Server": {
            "redis_version": REDIS_VERSION, "redis_mode": "standalone", "tapehouse_version": version("tapehouse"),
            "process_id": os.getpid(), "tcp_port": port, "uptime_in_seconds": uptime_s,
        },
        "Clients": {"connected_clients": traffic.connected, "maxclients": connections_max},
        "Memory": {
            "used_memory": sum(shard.bytes for shard in shards) + traffic.memory,
            "maxmemory": sum(shard.budget_bytes for shard in shards), "clients_memory": traffic.memory,
        },
        "Stats": {
            "total_connections_received": traffic.accepted, "rejected_connections": traffic.refused,
            "total_net_input_bytes": traffic.bytes_in, "total_net_output_bytes": traffic.bytes_out,
            "keyspace_hits": sum(shard.hits for shard in shards),
            "keyspace_misses": sum(shard.absent for shard in shards),
            "evicted_values_read": sum(shard.misses for shard in shards),
            **{f"requests_{kind}": number for kind, number in sorted(traffic.kinds.items())},
            **{f"cut_{why}": number for why, number in sorted(traffic.cut.items())},
        },
        "Replication": {"role": "master", "connected_slaves": 0},
        "Shards": {
            f"shard{shard.shard}": f"keys={shard.keys},position={shard.applied},lag_ms={_ms(shard.behind_ns)},"
            f"queued={shard.queued_entries},frames={shard.frames},entries={shard.entries}"
            for shard in shards
        },
        "Keyspace": {"db0": f"keys={kv.count_keys()},expires=0,avg_ttl=0"},
    }  # fmt: skip
    return LINE_END.join(
        [f"# {title}{LINE_END}" + "".join(f"{name}:{told}{LINE_END}" for name, told in lines.items())
         for title, lines in sections.items()]
    )  # fmt: skip


def _ms(ns: int | None) -> int | str:
    """-1 where nothing is known, as Redis says it."""
    return -1 if ns is None else ns // NS_PER_MS


async def warm_kv() -> None:
    """Compile what a gateway runs: parser, view, and what they answer."""
    log, life = MemoryLog("KV_warm"), count(1)

    async def open_log(_: int) -> MemoryLog:
        return log

    clock = SystemClock()
    async with await Kv.open(open_log, new_life=lambda: next(life), clock=clock, shards=1) as kv:
        warm_mover(kv.nodes[0])
        gateway = make_gateway(kv, Traffic(), clock, port=0, connections_max=1)
        session = RespSession(Rows(), identity=1)
        asked = session.feed(b"SET k v\r\nGET k\r\nINCR n\r\nMGET k n\r\nSCAN 0\r\nDEL k\r\nINFO\r\n", clock.time_ns())
        async for number, reply in gateway.perform(asked, session.version):
            session.answer(number, reply)
