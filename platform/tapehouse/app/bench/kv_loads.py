"""The loads that the KV and its peers are given: so many clients, so many requests of each under way, random keys.

What speaks RESP is asked by redis-benchmark, unmodified, after all keys were set; etcd and rqlite by a program of ours
that does the same (`peers/kv`). rqlite gets what a pipeline holds as one request of many statements.
"""

from __future__ import annotations

import json
import re
import socket
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field

from tapehouse.app.bench.kv_programs import KV_PEER
from tapehouse.core.check import check
from tapehouse.core.errors import MissingError

KEYS, KEYS_QUICK = 100_000, 500
VALUE_BYTES = 128
SECONDS = 2.0  # of a measurement
QUICK_REQUESTS = 240
PROBE_ROUNDS, PROBE_MIN = 4, 40  # requests of each lane, and at least, by which a measurement's length is chosen
ROUNDS_MIN = 4
FILL_TOGETHER = 512
PATIENCE_S = 120.0
NS_PER_MS = 1e6
HOST = "127.0.0.1"
_RATE = re.compile(r"throughput summary: ([0-9.]+) requests per second")
_SUMMARY = re.compile(r"avg\s+min\s+p50\s+p95\s+p99\s+max\s+([0-9. ]+)")
_P999 = re.compile(r"^(\d+\.\d+)% <= (\d+\.\d+) milliseconds", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Load:
    """So many clients, so many requests of each under way."""

    clients: int
    pipeline: int

    @property
    def name(self) -> str:
        """As rows show it."""
        who = "1 client" if self.clients == 1 else f"{self.clients} clients"
        return who if self.clients == self.pipeline == 1 else f"{who}, P={self.pipeline}"

    @property
    def lanes(self) -> int:
        """Requests under way."""
        return self.clients * self.pipeline


LOADS = (Load(1, 1), Load(50, 1), Load(50, 16), Load(50, 64))
LOADS_QUICK = (Load(1, 1), Load(4, 8))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured: `seconds` each, or so many `requests` where it is to be quick."""

    keys: int = KEYS
    seconds: float = SECONDS
    requests: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One measurement: operations a second, latencies of requests in ns."""

    rate: float
    p50: float
    p99: float
    p999: float


@dataclass(slots=True)
class Runs:
    """Several measurements of the same."""

    told: list[Told] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """Of each."""
        return [one.rate for one in self.told]

    @property
    def latencies(self) -> dict[str, float]:
        """The percentiles of a row: the median over the runs."""
        return {name: statistics.median(getattr(one, name) for one in self.told) for name in ("p50", "p99", "p999")}


# RESP.


def key(number: int) -> bytes:
    """As redis-benchmark makes it."""
    return b"key:%012d" % number


def fill_resp(port: int, keys: int) -> None:
    """Set every key.

    Raises:
        InvariantError: An answer was another than OK.
    """
    value = b"x" * VALUE_BYTES
    with socket.create_connection((HOST, port), timeout=PATIENCE_S) as link:
        for first in range(0, keys, FILL_TOGETHER):
            numbers = range(first, min(first + FILL_TOGETHER, keys))
            end = b"$%d\r\n%b\r\n" % (VALUE_BYTES, value)
            link.sendall(b"".join(b"*3\r\n$3\r\nSET\r\n$16\r\n%b\r\n%b" % (key(number), end) for number in numbers))
            wanted = b"+OK\r\n" * len(numbers)
            heard = _hear(link, len(wanted))
            check(heard == wanted, f"{heard[:80]!r}", subject="SET")


def require_filled(port: int, keys: int) -> None:
    """Raise where a server of RESP does not hold all keys, or not values of their size."""
    with socket.create_connection((HOST, port), timeout=PATIENCE_S) as link:
        link.sendall(b"DBSIZE\r\nGET %b\r\n" % key(keys - 1))
        wanted = b":%d\r\n$%d\r\n" % (keys, VALUE_BYTES)
        heard = _hear(link, len(wanted) + VALUE_BYTES + 2)
        check(heard.startswith(wanted), f"{heard[:40]!r}, not {wanted!r}", subject="DBSIZE and GET after the run")


def _hear(link: socket.socket, size: int) -> bytes:
    heard = b""
    while len(heard) < size:
        piece = link.recv(1 << 16)
        check(piece != b"", f"the server closed the connection after {heard[:80]!r}")
        heard += piece
    return heard


def measure_resp(port: int, command: str, load: Load, plan: Plan) -> Told:
    """redis-benchmark's GET or SET, for about as long as the plan says."""
    if plan.requests:
        return _redis_benchmark(port, command, load, plan, max(plan.requests, load.lanes * 2))
    probe = _redis_benchmark(port, command, load, plan, max(load.lanes * PROBE_ROUNDS, PROBE_MIN))
    count = max(int(probe.rate * plan.seconds), load.lanes * ROUNDS_MIN)
    return _redis_benchmark(port, command, load, plan, count)


def _redis_benchmark(port: int, command: str, load: Load, plan: Plan, requests: int) -> Told:
    words = [
        "redis-benchmark", "-h", HOST, "-p", str(port), "-t", command, "-n", str(requests), "-c", str(load.clients),
        "-P", str(load.pipeline), "-d", str(VALUE_BYTES), "-r", str(plan.keys), "--precision", "3",
    ]  # fmt: skip
    return parse_redis_benchmark(_run(words))


def parse_redis_benchmark(text: str) -> Told:
    """What redis-benchmark printed.

    Raises:
        InvariantError: It is no report of one.
    """
    rate, summary = _RATE.search(text), _SUMMARY.search(text)
    check(rate is not None and summary is not None, f"no report: {text[-200:]!r}", subject="redis-benchmark")
    assert rate is not None
    assert summary is not None
    columns = [float(word) for word in summary.group(1).split()]
    tail = next(float(ms) for percent, ms in _P999.findall(text) if float(percent) >= 99.9)
    p50, p99 = columns[2], columns[4]
    # The summary and the distribution stand in buckets of their own.
    return Told(rate=float(rate.group(1)), p50=p50 * NS_PER_MS, p99=p99 * NS_PER_MS, p999=max(tail, p99) * NS_PER_MS)


# etcd and rqlite.


def fill_peer(name: str, endpoints: Sequence[str], plan: Plan) -> None:
    """Write every key."""
    _kvpeer(name, endpoints, plan, "-kind", "fill")


def measure_peer(name: str, endpoints: Sequence[str], kind: str, load: Load, plan: Plan) -> Told:
    """One load on etcd or rqlite; every answer is looked at."""
    words = ["-kind", kind, "-clients", str(load.clients), "-pipeline", str(load.pipeline)]
    words += ["-requests", str(plan.requests)] if plan.requests else ["-duration", f"{plan.seconds}s"]
    told = json.loads(_kvpeer(name, endpoints, plan, *words))
    latencies = {each: float(told[each]) for each in ("p50", "p99", "p999")}
    return Told(rate=told["operations"] / told["seconds"], **latencies)


def _kvpeer(name: str, endpoints: Sequence[str], plan: Plan, *words: str) -> str:
    program = KV_PEER.find()
    if program is None:
        raise MissingError("it was not built", subject=name, hint="make peers")
    command = [str(program), "load", "-peer", name, "-endpoints", ",".join(endpoints), "-keys", str(plan.keys)]
    return _run([*command, "-value-bytes", str(VALUE_BYTES), *words])


def _run(words: list[str]) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingError(str(error), subject=words[0]) from error
    if done.returncode:
        raise MissingError(f"it failed: {(done.stderr or done.stdout).strip()[-300:]}", subject=words[0])
    return done.stdout
