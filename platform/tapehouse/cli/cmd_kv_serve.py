"""`tapehouse kv serve`: the replicated KV for clients of Redis's protocol, and of HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

RESP_PORT = 6380


def serve(
    *,
    resp: int | None = None,
    http: int | None = None,
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
    fault_write_delay: str | None = None,
    fault_write_failure: float = 0.0,
    fault_snapshot_delay: str | None = None,
    fault_view_delay: str | None = None,
    fault_seed: int = 0,
    allow_faults: bool = False,
    json: bool = False,
) -> int:
    """Serve the replicated KV to redis-cli, redis-py, redis-benchmark, any other client of RESP, and over HTTP.

    A write is answered once a majority of the brokers has it on disk and this gateway has applied it. Reads are
    linearizable unless --level or a client (`READLEVEL eventual`, `?level=eventual`) chooses another level. Any number
    of gateways may serve the same KV, here or elsewhere. Ctrl-C answers what is under way and leaves.

    Examples:

        tapehouse kv serve

        tapehouse kv serve --resp 6380 --http 11000 --shards 4

        curl -d '{"price:AAPL": "184.52"}' http://localhost:11000/key

        curl 'http://localhost:11000/key/price:AAPL?level=eventual'

        tapehouse kv serve --bind 0.0.0.0 --token-file kv.token --tls-cert kv.pem --tls-key kv.key

        tapehouse kv serve --http 11000 --fault-write-delay 50ms --fault-write-failure 0.1

    Parameters
    ----------
    resp
        The port for Redis's protocol; 0 for any that is free. 6380 where neither is named.
    http
        The port for HTTP; 0 for any that is free. What it answers: /openapi.json, and / for people.
    bind
        The address to listen on; others than this machine's own need a token file.
    shards
        Of a new KV, 1 where nothing is said; a KV that is there keeps what it was made with.
    nats
        The broker; else what the environment or the embedded cluster says.
    home
        Where the embedded cluster and local snapshots of the KV live.
    token_file
        A file with one word that clients must give: `AUTH`, redis-cli -a, or `Authorization: Bearer`.
    tls_cert
        A certificate, PEM: the ports then speak TLS alone.
    tls_key
        Its key, PEM.
    commit
        `group` writes together what waited for the frame before; `each` one message for each write.
    level
        Of reads whose client names none (READLEVEL, ?level=).
    max_connections
        At once, of each port; one more is told so and closed. HTTP takes at most 2,000.
    tape
        Whose desk's projections are read as `positions/`, `orders/`, `prices/`, `surface/`, `cash/` and `pnl/`.
    fault_write_delay
        For drills: each frame waits so long before it is appended, such as 50ms.
    fault_write_failure
        For drills: each write is refused with this probability; nothing is done then.
    fault_snapshot_delay
        For drills: each local snapshot of a view takes so much longer.
    fault_view_delay
        For drills: the view applies each frame so much later, as a replica far away would.
    fault_seed
        Which writes are refused is drawn from it.
    allow_faults
        Who has the token may change these faults while it serves: `POST /faults`.
    json
        What serves, and at the end what it did, as one line of JSON each.
    """
    from tapehouse.app.kv_gateway import LEVELS, ServeOptions, serve_kv_gateway
    from tapehouse.app.kv_warm import warm_kv
    from tapehouse.app.warm import is_warm
    from tapehouse.cli.output import console, diagnostics, print_json, read_duration, run_async, stop_signal
    from tapehouse.kv.faults import Faults

    def span(text: str | None, option: str) -> int:
        return read_duration(text, option) if text is not None else 0

    faults = Faults()
    faults.turn(
        write_delay_ns=span(fault_write_delay, "--fault-write-delay"),
        snapshot_delay_ns=span(fault_snapshot_delay, "--fault-snapshot-delay"),
        view_delay_ns=span(fault_view_delay, "--fault-view-delay"),
        write_failure=fault_write_failure, seed=fault_seed,
    )  # fmt: skip
    options = ServeOptions(
        resp=RESP_PORT if resp is None and http is None else resp, http=http, bind=bind, shards=shards, nats=nats,
        home=home, token_file=token_file, tls_cert=tls_cert, tls_key=tls_key, commit=commit, level=LEVELS[level],
        connections_max=max_connections, tape=tape, faults=faults, allow_faults=allow_faults,
    )  # fmt: skip

    async def run() -> dict[str, object]:
        stop = stop_signal()
        async with serve_kv_gateway(options) as serving:
            table = serving.table()
            drill = ", ".join(f"{name}={value}" for name, value in faults.told().items())
            if drill:
                diagnostics.print(f"WARNING: FAULTS ARE INJECTED: {drill}", style="bold red", highlight=False)
            if json:
                print_json({"ready": True, **table})
            else:
                told = f"ready: {', '.join(serving.where.values())}, {table['shards']} shards, {table['keys']:,} keys"
                told += f", faults on: {drill}" if drill else ""
                console.print(told, highlight=False, soft_wrap=True)
            await stop.wait()
        return serving.done()

    if not is_warm() and not json:
        diagnostics.print("compiling the kernels where they are not yet …", highlight=False)
    run_async(warm_kv())  # Before connections wait for it.
    done = run_async(run())
    if json:
        print_json(done)
    else:
        console.print(f"stopped after {done['requests']:,} requests on {done['connections']:,} connections")
    return 0
