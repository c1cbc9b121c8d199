"""`tapehouse kv load`: a load on gateways of the KV, timed and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

GENERATOR_BUSY_PERCENT = 85.0  # of a core; more and the gateway waits for us


def load(
    *,
    connect: str = "127.0.0.1:6380",
    threads: int = 16,
    requests: int = 50_000,
    read_ratio: float = 0.7,
    hotspot: float = 0.2,
    hot_keys: int | None = None,
    level: Literal["eventual", "session", "linearizable"] = "linearizable",
    keys: int = 10_000,
    value_bytes: int = 128,
    pipeline: int = 1,
    rate: float | None = None,
    warm_up: int | None = None,
    seed: int = 1,
    prefix: str = "load/",
    keep: bool = False,
    token_file: Path | None = None,
    tls: bool = False,
    tls_ca: Path | None = None,
    output: Path | None = None,
    json: bool = False,
) -> int:
    """Put a load on running gateways (`tapehouse kv serve`): rates, percentiles, and whether what was read can be true.

    Each key gets a first value, then come the warm-up, which is not counted, and the load; at the end the keys are
    removed. Every value says who wrote it and carries a checksum. A read that gives what was never written, or what its
    level forbids (at `linearizable` anything older than what was acknowledged before it began, at `session` anything
    older than what its connection wrote or read), is a violation: it is named, and the exit code is 1. Errors are
    counted by kind and are none. Ctrl-C ends it with what was measured so far.

    Examples:

        tapehouse kv load

        tapehouse kv load --threads 16 --requests 50000 --read-ratio 0.7 --hotspot 0.2 --output bench.json

        tapehouse kv load --connect 10.0.0.1:6380,10.0.0.2:6380 --level session --rate 5000

    Parameters
    ----------
    connect
        The gateway, host:port; of several, with commas between, connections take turns.
    threads
        Connections.
    requests
        How many are measured, of all connections together.
    read_ratio
        The share of reads.
    hotspot
        The share of requests that go to the hot keys.
    hot_keys
        How many keys are hot; by default one in a hundred.
    level
        Of all reads.
    keys
        How many there are.
    value_bytes
        Of each value, 40 at least.
    pipeline
        Requests of one connection that are under way at once.
    rate
        Requests a second of all connections, on a schedule that waits for no answer; latencies then count from when a
        request was due. By default each connection asks as soon as it is answered.
    warm_up
        Requests that are not counted; by default a tenth.
    seed
        The same seed asks the same requests in the same order on each connection.
    prefix
        What the keys begin with; two loads at once need two.
    keep
        Do not remove the keys.
    token_file
        A file with the word that the gateways want to know.
    tls
        The gateways speak TLS.
    tls_ca
        TLS, and this certificate is trusted (PEM), instead of those that the machine trusts.
    output
        A file for the whole report as JSON, histograms included.
    json
        The report without the histograms as one line of JSON.
    """
    import json as json_module

    from tapehouse.app.kv_gateway import read_token
    from tapehouse.app.kv_load.campaign import run_load
    from tapehouse.app.kv_load.link import Doors, client_tls, read_addresses
    from tapehouse.app.kv_load.plan import Load
    from tapehouse.app.kv_load.report import COLUMNS, LoadReport
    from tapehouse.cli.output import Bar, console, diagnostics, print_json, print_table, run_async, stop_signal
    from tapehouse.core.clock import SystemClock
    from tapehouse.core.errors import EXIT_CHECK_FAILED, MissingError

    asked = Load(
        connections=threads, requests=requests, warm_up=requests // 10 if warm_up is None else warm_up,
        read_ratio=read_ratio, hotspot=hotspot, hot_keys=max(1, keys // 100) if hot_keys is None else hot_keys,
        keys=keys, value_bytes=value_bytes, pipeline=pipeline, rate=rate, seed=seed, level=level,
        prefix=prefix.encode(),
    )  # fmt: skip
    asked.check()
    doors = Doors(addresses=read_addresses(connect), token=read_token(token_file), tls=client_tls(tls, tls_ca))

    def write(report: LoadReport) -> None:
        if output is None:
            return
        try:
            output.write_text(json_module.dumps(report.as_json(), default=str) + "\n")
        except OSError as error:
            raise MissingError(error.strerror or str(error), subject=str(output), hint="see --output") from error

    async def run() -> LoadReport:
        total = asked.keys + asked.warm_up + asked.requests
        before = {"first values": 0, "warm-up": asked.keys, "load": asked.keys + asked.warm_up}
        with Bar("load", total, unit="requests", quiet=json) as bar:
            return await run_load(
                asked, doors, clock=SystemClock(), stop=stop_signal(), keep=keep,
                progress=lambda phase, done, _: bar.at(before[phase] + done),
            )  # fmt: skip

    report = run_async(run())
    write(report)
    told = report.as_json()
    if json:
        for operation in told["operations"].values():
            del operation["histogram_us"]
        print_json(told)
    else:
        title = f"{report.phase.done:,} requests in {report.seconds:.2f} s, reads {level}; ms"
        print_table(title, COLUMNS, report.rows())
        for name, count in told["errors"].items():
            console.print(f"failed with {name}: {count:,}", highlight=False)
        busy = report.surroundings["during"]["generator_percent"]
        if busy > GENERATOR_BUSY_PERCENT:
            told_busy = f"this generator had {busy:.0f} % of a core: it may have been what was measured"
            diagnostics.print(told_busy, highlight=False, style="yellow")
        verdict = report.verdict
        console.print(f"{verdict.reads:,} reads checked, {verdict.violations:,} violations", highlight=False)
        for one in told["check"]["examples"]:
            line = f"{one['kind']}: {one['key']} on connection {one['connection']}: {one['told']}"
            diagnostics.print(line, highlight=False, markup=False, style="red")
        if report.interrupted:
            diagnostics.print("interrupted: this is what was measured so far", highlight=False)
    return 0 if report.is_sound else EXIT_CHECK_FAILED
