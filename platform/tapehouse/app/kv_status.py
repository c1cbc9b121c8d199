"""What a gateway of the KV tells of itself: INFO, status, readiness, leaders, metrics."""

from __future__ import annotations

import asyncio
import html
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from tapehouse.app.kv_rebalance import sharing_of
from tapehouse.core.clock import Clock
from tapehouse.core.errors import BusUnavailableError, TapehouseError, TransientError
from tapehouse.core.metrics import Metrics
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.gateway.http_faults import read_faults
from tapehouse.gateway.http_limits import HttpTraffic
from tapehouse.gateway.http_metrics import Family, as_json, counted_families, one, prometheus, shard_families
from tapehouse.gateway.http_perform import About
from tapehouse.gateway.http_routes import OPERATIONS
from tapehouse.gateway.resp_server import Traffic
from tapehouse.gateway.resp_session import REDIS_VERSION
from tapehouse.kv.client import Kv
from tapehouse.kv.faults import Faults
from tapehouse.kv.measures import ShardMeasures
from tapehouse.kv.node import ShardNode
from tapehouse.kv.patience import within

LINE_END = "\r\n"  # of INFO
NS_PER_MS = NS_PER_SECOND // 1_000
ASK_S = 2.0  # how long the broker is waited for, before a page says that it does not answer
READY_NS = 2 * NS_PER_SECOND  # in which a frame must come back from the log
FRESH_NS = NS_PER_SECOND // 2  # since the view was known to hold all of the log, without asking again


@dataclass(frozen=True, slots=True, kw_only=True)
class KvAbout:
    """One gateway as its status pages see it.

    Attributes:
        began: Monotonic ns.
        leaders: By shard the broker that leads its log; None while there is none, or on a single broker.
        resp, http: Of the gateways that are served.
        where: Their addresses, by name.
        allows_faults: Whether HTTP may change what a drill has on.
    """

    kv: Kv
    clock: Clock
    faults: Faults
    metrics: Metrics
    began: int
    leaders: Callable[[int], Awaitable[str]]
    resp: Traffic | None = None
    http: HttpTraffic | None = None
    where: dict[str, str]
    allows_faults: bool = False

    def about(self) -> About:
        """As the HTTP gateway takes it."""
        return About(
            status=self.status, ready=self.ready, leaders=self.told_leaders, metrics=self._prometheus,
            metrics_json=self._json, page=self.page, faults=self.told_faults,
            set_faults=self._turn if self.allows_faults else None,
        )  # fmt: skip

    async def status(self) -> dict[str, Any]:
        """Everything, at a glance."""
        shards, ready = await asyncio.gather(self._measure(), self.ready())
        return {
            "version": version("tapehouse"), "pid": os.getpid(), "uptime_s": self._uptime_s(), **self.where,
            "ready": ready["ready"], "reasons": ready["reasons"], "keys": self.kv.count_keys(),
            "faults": self.faults.told(), "shards": [self._shard(one) for one in shards],
            "rebalance": rebalance_told(self.kv), "connections": self._connections(),
        }  # fmt: skip

    async def ready(self) -> dict[str, Any]:
        """Whether writes and linearizable reads go through now; for each shard why not."""
        found = await asyncio.gather(*(self._why_not(node) for node in self.kv.nodes))
        reasons = [reason for reason in found if reason]
        return {"ready": not reasons, "reasons": reasons}

    async def told_leaders(self) -> dict[str, Any]:
        """The broker that leads each shard's log; null where nobody does, nobody answers, or there is but one."""
        return {
            "shards": [
                {"shard": node.shard, "stream": node.log.name, "leader": await self._leader(node.shard) or None}
                for node in self.kv.nodes
            ]
        }

    def told_faults(self) -> dict[str, Any]:
        """What a drill has on."""
        return self.faults.told()

    async def families(self) -> list[Family]:
        """All counters."""
        shards = await self._measure()
        found = [
            one("up_seconds", "gauge", "Since this gateway began to serve.", [({}, self._uptime_s())]),
            one("faults_on", "gauge", "Whether a drill injects faults.", [({}, float(self.faults.is_on))]),
            *shard_families(shards),
            *counted_families(self.metrics.table(), self.metrics.histograms()),
        ]
        sides = {name: side for name, side in (("resp", self.resp), ("http", self.http)) if side is not None}
        for field, kind, about in (
            ("connected", "gauge", "Connections now."),
            ("accepted", "counter", "Connections that were taken."),
            ("refused", "counter", "Connections that were too many."),
            ("bytes_in", "counter", "Bytes that clients sent."),
            ("bytes_out", "counter", "Bytes that clients were sent; of HTTP those of bodies."),
            ("memory", "gauge", "Bytes that are kept for clients."),
        ):
            name = f"client_{field}" + ("_total" if kind == "counter" else "")
            samples = [({"gateway": side}, float(getattr(traffic, field))) for side, traffic in sides.items()]
            found.append(one(name, "counter" if kind == "counter" else "gauge", about, samples))
        cuts = [
            ({"gateway": side, "why": why}, float(count))
            for side, traffic in sides.items()
            for why, count in sorted(traffic.cut.items())
        ]
        found.append(one("client_cut_total", "counter", "Connections that were cut off.", cuts))
        return found + self._resp_families() + self._http_families()

    async def page(self) -> bytes:
        """The state of things, for people."""
        status = await self.status()
        shards = status.pop("shards")
        names = list(shards[0])
        head = "".join(f"<th>{html.escape(name)}" for name in names)
        rows = "".join("<tr>" + "".join(f"<td>{html.escape(str(shard[name]))}" for name in names) for shard in shards)
        facts = "".join(f"<tr><th>{html.escape(name)}<td>{html.escape(str(value))}" for name, value in status.items())
        ways = "".join(
            f"<tr><td><code>{operation.method} {html.escape(operation.path)}</code><td>{html.escape(operation.summary)}"
            for operation in OPERATIONS
        )
        title = (
            "tapehouse kv" + ("" if status["ready"] else ": not ready") + (": FAULTS ON" if self.faults.is_on else "")
        )
        return (
            f"<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=5>"
            f"<title>{title}</title>"
            "<style>body{font:14px system-ui;margin:2em}th{text-align:left}td,th{padding:.2em .8em .2em 0}</style>"
            f"<h1>{title}</h1><table>{facts}</table><h2>Shards</h2><table><tr>{head}{rows}</table>"
            f"<h2>Requests</h2><table>{ways}</table></html>\n"
        ).encode()

    # Within.

    def _uptime_s(self) -> int:
        return (self.clock.monotonic_ns() - self.began) // NS_PER_SECOND

    async def _last(self, node: ShardNode) -> int | None:
        """The last sequence of a shard's log; None where the broker does not say in time."""
        try:
            async with asyncio.timeout(ASK_S):
                return (await node.log.extent()).last
        except (TransientError, TimeoutError):
            return None

    async def _leader(self, shard: int) -> str:
        try:
            async with asyncio.timeout(ASK_S):
                return await self.leaders(shard)
        except (TransientError, TimeoutError):
            return ""

    async def _measure(self) -> list[ShardMeasures]:
        nodes = tuple(self.kv.nodes)  # One may be added meanwhile.
        lasts = await asyncio.gather(*(self._last(node) for node in nodes))
        return [node.measure(last) for node, last in zip(nodes, lasts, strict=True)]

    async def _why_not(self, node: ShardNode) -> str:
        """Why a shard does not serve; empty where it does. A frame that came back lately is proof enough."""
        if node.failure is not None:
            return f"shard {node.shard} is halted: {node.failure}"
        age = node.staleness_ns
        if age is not None and age <= FRESH_NS:
            return ""
        try:
            await within(
                self.clock, READY_NS, asyncio.ensure_future(node.barrier()),
                lambda: BusUnavailableError(f"no frame came back within {READY_NS / NS_PER_SECOND:g} s"),
            )  # fmt: skip
        except TapehouseError as error:
            last = await self._last(node)
            if last is not None and last > node.applied:
                return f"shard {node.shard}: its view is {last - node.applied} frames behind"
            return f"shard {node.shard}: {error.message}; is a majority of the brokers up?"
        return ""

    def _shard(self, measured: ShardMeasures) -> dict[str, Any]:
        node = self.kv.nodes[measured.shard]
        found = measured.hits + measured.misses
        return {
            "shard": measured.shard, "stream": node.log.name, "position": measured.applied, "lag": measured.behind,
            "staleness_ms": None if measured.behind_ns is None else measured.behind_ns // NS_PER_MS,
            "keys": measured.keys, "evicted_keys": measured.evicted_keys, "memory_bytes": measured.bytes,
            "budget_bytes": measured.budget_bytes, "hit_ratio": round(measured.hits / found, 4) if found else 1.0,
            "queued_entries": measured.queued_entries, "frames": measured.frames, "entries": measured.entries,
            "snapshot_position": measured.snapshot_sequence, "halted": str(node.failure) if node.failure else None,
        }  # fmt: skip

    def _connections(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, traffic in (("resp", self.resp), ("http", self.http)):
            if traffic is not None:
                found[name] = {
                    "connected": traffic.connected, "accepted": traffic.accepted, "refused": traffic.refused,
                    "cut": dict(traffic.cut), "memory_bytes": traffic.memory,
                }  # fmt: skip
        if self.http is not None:
            found["http"]["watching"] = self.http.watching
        return found

    def _resp_families(self) -> list[Family]:
        if self.resp is None:
            return []
        kinds = [({"kind": kind}, float(count)) for kind, count in sorted(self.resp.kinds.items())]
        return [one("resp_requests_total", "counter", "Requests that reached the KV.", kinds)]

    def _http_families(self) -> list[Family]:
        traffic = self.http
        if traffic is None:
            return []
        requests = [
            ({"operation": name, "status": str(status)}, float(count))
            for (name, status), count in sorted(traffic.requests.items())
        ]
        seconds = Family("tapehouse_kv_http_request_seconds", "histogram", "From a request's head to its answer's end.")
        seconds.histograms = [({"operation": name}, times) for name, times in sorted(traffic.seconds.items())]
        return [
            one("http_requests_total", "counter", "Requests.", requests),
            one("http_malformed_total", "counter", "Requests that were no HTTP.", [({}, float(traffic.malformed))]),
            one("http_watching", "gauge", "Watchers now.", [({}, float(traffic.watching))]),
            seconds,
        ]

    async def _prometheus(self) -> bytes:
        return prometheus(await self.families())

    async def _json(self) -> dict[str, Any]:
        return as_json(await self.families())

    def _turn(self, members: dict[str, Any]) -> None:
        self.faults.turn(**read_faults(members))


def rebalance_told(kv: Kv) -> dict[str, object]:
    """How many shards the slots are to be spread over, how many slots have yet to move, and who moves them."""
    sharing = sharing_of(kv)
    return {
        "wanted_shards": sharing.shards, "slots_left": sharing.slots, "slots_of_nobody": sharing.homeless,
        "mover": sharing.mover,
    }  # fmt: skip


def info_text(
    kv: Kv, traffic: Traffic, *, port: int, connections_max: int, uptime_s: int, faults: Faults | None = None
) -> str:
    """INFO: Redis's names where there is such a number; positions and lag of each shard; faults of a drill."""
    drill = faults.told() if faults else {}
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
        "Rebalance": rebalance_told(kv),
        **({"Faults": {f"fault_{name}": value for name, value in drill.items()}} if drill else {}),
        "Keyspace": {"db0": f"keys={kv.count_keys()},expires=0,avg_ttl=0"},
    }  # fmt: skip
    return LINE_END.join(
        [f"# {title}{LINE_END}" + "".join(f"{name}:{told}{LINE_END}" for name, told in lines.items())
         for title, lines in sections.items()]
    )  # fmt: skip


def _ms(ns: int | None) -> int | str:
    """-1 where nothing is known, as Redis says it."""
    return -1 if ns is None else ns // NS_PER_MS
