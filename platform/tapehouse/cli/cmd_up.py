"""`tapehouse up`, `down`, `status`: the embedded cluster and the desk's host."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any, Literal


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
    from tapehouse.app import host_process
    from tapehouse.app.bootstrap import DEFAULT_TAPE, home_directory
    from tapehouse.bus import Cluster, ClusterConfig
    from tapehouse.cli.output import diagnostics

    place = home or home_directory()
    config = ClusterConfig(
        nodes=nodes,
        profile=profile,
        directory=place / "cluster",
        client_port=port,
        route_port=port + 2000,
        monitor_port=port + 4000,
        detached=not foreground,
    )
    cluster = Cluster(config)
    signal.signal(signal.SIGTERM, _interrupt)
    started = False
    try:
        cluster.start()
        started = True
        if host:
            diagnostics.print(f"starting the host of {DEFAULT_TAPE} …", highlight=False)
            host_process.start(place, DEFAULT_TAPE, urls=",".join(cluster.urls), strategy=strategy)
        _show(_status(place), json=json)
        if foreground:
            diagnostics.print("running; Ctrl-C stops everything", highlight=False)
            ended = cluster.wait()
            diagnostics.print(f"{ended} ended; see {place / 'cluster'}", highlight=False)
            return 1
    except BaseException:
        if started:
            host_process.stop(place, DEFAULT_TAPE)
            cluster.stop()
        raise
    finally:
        if foreground and started:
            host_process.stop(place, DEFAULT_TAPE)
            cluster.stop()
    return 0


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
    from tapehouse.bus import Cluster
    from tapehouse.cli.output import console, print_json

    place = home or home_directory()
    hosts = [tape for tape in host_process.running(place) if host_process.stop(place, tape)]
    report = Cluster.attach(place / "cluster").stop()
    if json:
        print_json({"stopped": list(report.stopped), "already_gone": list(report.already_gone), "hosts": hosts})
        return 0
    for tape in hosts:
        console.print(f"stopped the host of {tape}", highlight=False)
    for name in report.stopped:
        console.print(f"stopped {name}", highlight=False)
    for name in report.already_gone:
        console.print(f"{name} had already ended", highlight=False)
    return 0


def status(*, home: Path | None = None, nats: str | None = None, json: bool = False) -> int:
    """Brokers, durability profile, streams with their leaders, and hosts; exit 1 where something is unwell.

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

    found = _status(home or home_directory(), nats=nats)
    _show(found, json=json)
    return 0 if found["healthy"] else 1


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _status(home: Path, *, nats: str | None = None) -> dict[str, Any]:
    from tapehouse.app import host_process
    from tapehouse.app.bootstrap import open_platform
    from tapehouse.bus import Cluster
    from tapehouse.cli.output import run_async

    nodes: list[dict[str, Any]] = []
    healthy = True
    if nats is None:
        cluster = Cluster.attach(home / "cluster").status()
        healthy = cluster.healthy
        nodes = [
            {"name": n.name, "url": n.url, "pid": n.pid, "healthy": n.healthy, "detail": n.detail}
            for n in cluster.nodes
        ]

    async def ask() -> tuple[str, list[dict[str, Any]]]:
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
            return await platform.bus.durability(), streams

    profile, streams = run_async(ask())
    return {
        "healthy": healthy,
        "profile": profile,
        "nodes": nodes,
        "streams": streams,
        "hosts": host_process.running(home),
    }


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
    for tape, pid in found["hosts"].items():
        console.print(f"host     {tape}, pid {pid}", highlight=False)
