"""`tapehouse up`, `down`, `status`: the embedded cluster and the desk's host."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from tapehouse.bus import Cluster, ClusterConfig

PORT_MAX = 61_000  # of the first broker's clients: monitoring and the other brokers come above it
_STOPPED_BY = (signal.SIGINT, signal.SIGTERM)
_POLL_S = 0.2


def up(
    *,
    nodes: Literal[1, 3, 5] = 3,
    profile: Literal["durable", "fast"] = "durable",
    port: int = 4222,
    home: Path | None = None,
    foreground: bool = False,
    host: bool = True,
    strategy: str = "maker",
    json: bool = False,
) -> int:
    """Start real nats-server processes on this machine, and the host of the tape `main`.

    They run on in the background until `tapehouse down`; with --foreground until Ctrl-C, and nothing is left behind.

    Examples:

        tapehouse up --nodes 3 --profile durable

        tapehouse up --nodes 1 --profile fast --foreground --no-host

    Parameters
    ----------
    nodes
        1, 3 or 5 brokers; with 3 and 5 every log has three copies.
    profile
        `durable`: every acknowledged write is on the disks. `fast`: the server's default sync; unsafe on power loss.
    port
        Client port of the first broker; further ones, routes (port + 2000) and monitoring (port + 4000) follow.
        0 finds free ones.
    home
        Where stores, logs and snapshots live; else `TAPEHOUSE_HOME`, else `~/.tapehouse`.
    foreground
        Stay until Ctrl-C.
    host
        Also run the host of the tape `main`, which answers `tapehouse send`.
    strategy
        What the host's desk trades with.
    json
        One line of JSON.
    """
    from tapehouse.app.bootstrap import home_directory
    from tapehouse.bus import ClusterConfig
    from tapehouse.cli.output import compile_kernels
    from tapehouse.core.errors import UsageError

    if not 0 <= port <= PORT_MAX:
        raise UsageError(f"port {port}", hint=f"0 for free ports, or 1 to {PORT_MAX}: others follow above it")
    place = home_directory(home)
    config = ClusterConfig(
        nodes=nodes,
        profile=profile,
        directory=place / "cluster",
        client_port=port,
        route_port=port and port + 2000,
        monitor_port=port and port + 4000,
        detached=not foreground,
    )
    if host:
        from tapehouse.app.strategies import load_strategy, resolve_strategy

        strategy = resolve_strategy(strategy)
        load_strategy(strategy)  # A wrong name is told before anything starts.
        compile_kernels(quiet=json)
    with _interrupted_once():
        return _run(config, place, strategy if host else None, json=json)


def _run(config: ClusterConfig, place: Path, strategy: str | None, *, json: bool) -> int:
    """Start everything, and in the foreground stay with it; whatever interrupts that, nothing is left behind."""
    from tapehouse.app import host_process
    from tapehouse.app.bootstrap import DEFAULT_TAPE
    from tapehouse.bus import Cluster
    from tapehouse.bus.launcher import Launcher
    from tapehouse.cli.output import diagnostics

    cluster, launcher = Cluster(config), Launcher()
    started = running = keep = False
    try:
        cluster.start()
        started = True
        if strategy is not None:
            if not json:
                diagnostics.print(f"starting the host of {DEFAULT_TAPE} …", highlight=False)
            host_process.start(
                place,
                DEFAULT_TAPE,
                urls=",".join(cluster.urls),
                strategy=strategy,
                launcher=launcher,
                detached=config.detached,
            )
        _show(_status(place), json=json)
        if config.detached:
            keep = True
            return 0
        running = True
        diagnostics.print("running; Ctrl-C stops everything", highlight=False)
        ended = _wait(cluster, place, with_host=strategy is not None)
        print(f"tapehouse: {ended} ended; its log is in {place}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if not running:
            raise
        return 0  # Ctrl-C is how the foreground is left.
    finally:
        if not keep:
            if running and not json:
                diagnostics.print("stopping …", highlight=False)
            if started:
                host_process.stop(place, DEFAULT_TAPE)
            cluster.stop()
            launcher.close(set())


def down(*, home: Path | None = None, json: bool = False) -> int:
    """Stop the embedded cluster and its hosts; what they stored stays.

    Examples:

        tapehouse down

    Parameters
    ----------
    home
        As given to `tapehouse up`.
    json
        One line of JSON.
    """
    from tapehouse.app import host_process
    from tapehouse.app.bootstrap import home_directory
    from tapehouse.app.sidecars import stop_sidecars
    from tapehouse.bus import Cluster, StopReport
    from tapehouse.cli.output import console, print_json
    from tapehouse.core.errors import MissingError

    place = home_directory(home)
    hosts = [tape for tape in host_process.running(place) if host_process.stop(place, tape)]
    drains = stop_sidecars(place)
    try:
        report = Cluster.attach(place / "cluster").stop()
    except MissingError:
        if not hosts:
            raise
        report = StopReport(stopped=(), already_gone=())
    if json:
        print_json({"stopped": list(report.stopped), "already_gone": list(report.already_gone), "hosts": hosts})
        return 0
    for tape in hosts:
        console.print(f"stopped the host of {tape}", highlight=False)
    for tape in drains:
        console.print(f"stopped the sidecar of {tape}; its next host drains what is left", highlight=False)
    for name in report.stopped:
        console.print(f"stopped {name}", highlight=False)
    for name in report.already_gone:
        console.print(f"{name} had already ended", highlight=False)
    return 0


def status(*, home: Path | None = None, nats: str | None = None, json: bool = False) -> int:
    """Brokers, durability profile, streams with their leaders, and hosts; exit 1 where something is unwell.

    Of each tape's hosts it shows which one leads, in which generation of its lease, and how far standbys are behind.

    Examples:

        tapehouse status

        tapehouse status --nats nats://broker:4222 --json

    Parameters
    ----------
    home
        As given to `tapehouse up`.
    nats
        An external broker instead of the embedded cluster.
    json
        One line of JSON.
    """
    from tapehouse.app.bootstrap import home_directory

    found = _status(home_directory(home), nats=nats)
    _show(found, json=json)
    return 0 if found["healthy"] else 1


def _wait(cluster: Cluster, place: Path, *, with_host: bool) -> str:
    """Return what has ended, as soon as something has."""
    from tapehouse.app import host_process
    from tapehouse.app.bootstrap import DEFAULT_TAPE
    from tapehouse.bus.process import is_alive

    while True:
        for node in cluster.state.nodes:
            if not is_alive(node.process):
                return f"broker {node.name}"
        if with_host and host_process.find(place, DEFAULT_TAPE) is None:
            return f"the host of {DEFAULT_TAPE}"
        time.sleep(_POLL_S)


@contextmanager
def _interrupted_once() -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM interrupt and none after it: stopping takes seconds, and they are bounded."""
    interrupted = False

    def interrupt(*_: Any) -> None:
        nonlocal interrupted
        interrupted = True
        for number in _STOPPED_BY:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in _STOPPED_BY}
    try:
        yield
    finally:
        if not interrupted:  # Else the process is about to end, and stays deaf until then.
            for number, handler in before.items():
                signal.signal(number, handler)


def _status(home: Path, *, nats: str | None = None) -> dict[str, Any]:
    import asyncio

    from tapehouse.app import host_process
    from tapehouse.app.bootstrap import open_platform
    from tapehouse.app.hand_over import hosts_of
    from tapehouse.bus import Cluster
    from tapehouse.cli.output import run_async
    from tapehouse.core import SystemClock
    from tapehouse.core.errors import BusUnavailableError

    nodes: list[dict[str, Any]] = []
    healthy = True
    detail = ""
    if nats is None:
        cluster = Cluster.attach(home / "cluster").status()
        healthy = cluster.healthy
        nodes = [
            {"name": n.name, "url": n.url, "pid": n.pid, "healthy": n.healthy, "detail": n.detail}
            for n in cluster.nodes
        ]

    async def ask() -> tuple[str, list[dict[str, Any]], list[dict[str, Any]]]:
        async with open_platform(nats, home=home) as platform:
            streams = [
                {
                    "name": s.name,
                    "first": s.first,
                    "last": s.last,
                    "bytes": s.bytes,
                    "replicas": s.replicas,
                    "leader": s.leader,
                    "lagging": list(s.lagging),
                }
                for s in await platform.admin.list()
            ]
            tapes = await platform.tapes()
            told = await asyncio.gather(*(hosts_of(platform, tape, clock=SystemClock()) for tape in tapes))
            led = [tape for tape in told if tape["lease"] or tape["hosts"]]
            return await platform.bus.durability(), streams, led

    profile = "unknown"
    streams: list[dict[str, Any]] = []
    led: list[dict[str, Any]] = []
    try:
        profile, streams, led = run_async(ask())
    except BusUnavailableError as error:
        if nats is not None:
            raise
        healthy, detail = False, str(error)  # The nodes' own health is told all the same.
    return {
        "healthy": healthy,
        "profile": profile,
        "nodes": nodes,
        "streams": streams,
        "hosts": host_process.running(home) if nats is None else {},
        "leaders": led,
        "detail": detail,
    }


def _host_rows(leaders: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    """Every host of every tape; where no host answers, who had the lease last."""
    rows: list[tuple[object, ...]] = []
    for tape in leaders:
        for host in tape["hosts"]:
            behind = f"{host['behind_cells']:,} cells" if "behind_cells" in host else "-"
            generation = str(host.get("generation", "-"))
            rows.append((tape["tape"], host["holder"], host["role"], generation, host["mode"], behind))
        if not any("generation" in host for host in tape["hosts"]):
            last = tape["lease"] or {"holder": "-", "generation": "-", "released": True}
            role = "led last" if last["released"] else "silent leader"
            rows.append((tape["tape"], last["holder"], role, str(last["generation"]), "-", "-"))
    return rows


def _show(found: dict[str, Any], *, json: bool) -> None:
    from tapehouse.cli.output import console, print_json, print_table

    if json:
        print_json(found)
        return
    console.print(f"profile  {found['profile']}", highlight=False)
    if found["nodes"]:
        rows = [(n["name"], n["url"], str(n["pid"]), "well" if n["healthy"] else n["detail"]) for n in found["nodes"]]
        print_table("Brokers", ("node", "url", "pid", "health"), rows)
    if found["streams"]:
        columns = ("stream", "first", "last", "bytes", "replicas", "leader", "lagging")
        streams = [
            (
                s["name"],
                s["first"],
                s["last"],
                s["bytes"],
                s["replicas"],
                s["leader"] or "-",
                ", ".join(s["lagging"]) or "-",
            )
            for s in found["streams"]
        ]
        print_table("Logs", columns, streams)
    if found["leaders"]:
        print_table("Hosts", ("tape", "host", "role", "generation", "mode", "behind"), _host_rows(found["leaders"]))
    for tape, pid in found["hosts"].items():
        console.print(f"host     {tape}, pid {pid}", highlight=False)
    if found["detail"]:
        console.print(f"unwell   {found['detail']}", highlight=False)
