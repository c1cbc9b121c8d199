"""`tapehouse kv serve`: the replicated KV for clients of Redis's protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def serve(
    *,
    resp: int = 6380,
    bind: str = "127.0.0.1",
    shards: int | None = None,
    nats: str | None = None,
    home: Path | None = None,
    token_file: Path | None = None,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    commit: Literal["group", "each"] = "group",
    level: Literal["linearizable", "session", "eventual"] = "linearizable",
    max_connections: int = 10_000,
    tape: str = "main",
    json: bool = False,
) -> int:
    """Serve the replicated KV to redis-cli, redis-py, redis-benchmark and any other client of RESP.

    A write is answered once a majority of the brokers has it on disk and this gateway has applied it. Reads are
    linearizable unless --level or a client (`READLEVEL eventual`) chooses another level. Any number of gateways may
    serve the same KV, here or elsewhere. Ctrl-C answers what is under way and leaves.

    Examples:

        tapehouse kv serve

        tapehouse kv serve --resp 6380 --shards 4

        tapehouse kv serve --bind 0.0.0.0 --token-file kv.token --tls-cert kv.pem --tls-key kv.key

    Parameters
    ----------
    resp
        The port; 0 for any that is free.
    bind
        The address to listen on; others than this machine's own need a token file.
    shards
        Of a new KV, 1 where nothing is said; a KV that is there keeps what it was made with.
    nats
        The broker; else what the environment or the embedded cluster says.
    home
        Where the embedded cluster and local snapshots of the KV live.
    token_file
        A file with one word that clients must give: `AUTH`, or redis-cli -a.
    tls_cert
        A certificate, PEM: the port then speaks TLS alone.
    tls_key
        Its key, PEM.
    commit
        `group` writes together what waited for the frame before; `each` one message for each write.
    level
        Of a connection's reads, until it says READLEVEL.
    max_connections
        At once; one more is told so and closed.
    tape
        Whose desk's projections are read as `positions/`, `orders/`, `prices/`, `surface/`, `cash/` and `pnl/`.
    json
        What serves, and at the end what it did, as one line of JSON each.
    """
    from tapehouse.app.kv_gateway import LEVELS, ServeOptions, serve_kv_gateway, warm_kv
    from tapehouse.app.warm import is_warm
    from tapehouse.cli.output import console, diagnostics, print_json, run_async, stop_signal

    options = ServeOptions(
        port=resp, bind=bind, shards=shards, nats=nats, home=home, token_file=token_file, tls_cert=tls_cert,
        tls_key=tls_key, commit=commit, level=LEVELS[level], connections_max=max_connections, tape=tape,
    )  # fmt: skip

    async def run() -> dict[str, object]:
        stop = stop_signal()
        async with serve_kv_gateway(options) as serving:
            table = serving.table()
            if json:
                print_json({"ready": True, **table})
            else:
                told = f"ready: {table['resp']}, {table['shards']} shards, {table['keys']:,} keys"
                console.print(told, highlight=False, soft_wrap=True)
            await stop.wait()
        traffic = serving.traffic
        return {
            "stopped": True, "connections": traffic.accepted, "refused": traffic.refused, "cut": dict(traffic.cut),
            "requests": serving.server.requests,
        }  # fmt: skip

    if not is_warm() and not json:
        diagnostics.print("compiling the kernels where they are not yet …", highlight=False)
    run_async(warm_kv())  # Before connections wait for it.
    done = run_async(run())
    if json:
        print_json(done)
    else:
        console.print(f"stopped after {done['requests']:,} requests on {done['connections']:,} connections")
    return 0
