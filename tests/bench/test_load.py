"""Many clients at once against a desk on three durable brokers: every command is answered once, in one order.

`make load-test` runs it; the figures are printed with the machine, and no time is asserted.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from pathlib import Path

import pytest

from tapehouse.app.bootstrap import open_platform
from tapehouse.app.machine import describe
from tapehouse.app.proof import read_outputs
from tapehouse.app.serving import HostEvents, HostOptions, serve_tape
from tapehouse.bus import Cluster
from tapehouse.client.async_client import AsyncClient
from tapehouse.log import read_envelope
from tapehouse.market import Kind, records_of, unpack_payload
from tests.support.clusters import unique

CLIENTS = int(os.environ.get("LOAD_CLIENTS", "16"))
COMMANDS = int(os.environ.get("LOAD_COMMANDS", "60"))  # of each client
REPEATED_EVERY = 7  # each so-manieth command is sent a second time with the same number
ACCOUNTS = 8


@pytest.mark.load
@pytest.mark.timeout(900)
async def test_every_command_of_many_clients_has_one_outcome(cluster3: Cluster, tmp_path: Path) -> None:
    tape = unique("load")
    urls = ",".join(cluster3.urls)
    ready = asyncio.Event()
    host = asyncio.create_task(serve_tape(tape, HostOptions(nats=urls, home=tmp_path), HostEvents(on_ready=ready.set)))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({host, waiting}, return_when=asyncio.FIRST_COMPLETED)
    assert ready.is_set(), host.exception()
    latencies: list[float] = []
    answers: dict[str, str] = {}

    async def work(index: int) -> None:
        async with await AsyncClient.open(urls, home=tmp_path) as client:
            for number in range(1, COMMANDS + 1):
                body = {"account": f"account-{(index + number) % ACCOUNTS}", "on": number % 2 == 0}
                for attempt in range(2 if number % REPEATED_EVERY == 0 else 1):
                    start = time.perf_counter()
                    outcome = await client.send("account.kill", body, tape=tape, timeout=60, number=number)
                    latencies.append(time.perf_counter() - start)
                    assert outcome.outcome == ("repeated" if attempt else "accepted")
                    assert outcome.command_id not in answers
                    answers[outcome.command_id] = outcome.outcome

    start = time.perf_counter()
    await asyncio.gather(*(work(index) for index in range(CLIENTS)))
    seconds = time.perf_counter() - start
    async with open_platform(urls, home=tmp_path) as platform:
        outputs = await read_outputs(await platform.events(tape))
    host.cancel()
    await asyncio.gather(host, return_exceptions=True)
    causes = [
        envelope.causation
        for envelope in (read_envelope(unpack_payload(record)) for _, record in records_of(outputs, Kind.EVENT))
        if envelope.type == "command.outcome"
    ]
    assert sorted(causes) == sorted(answers), "each command is answered in EVENTS exactly once"
    ordered = sorted(latencies)
    print(
        f"\n{describe()}\n{CLIENTS} clients, {len(answers)} commands in {seconds:.1f} s: "
        f"{len(answers) / seconds:.0f} a second; send to outcome p50 {statistics.median(ordered) * 1e3:.1f} ms, "
        f"p99 {ordered[int(len(ordered) * 0.99)] * 1e3:.1f} ms (R3, fsync, brokers and clients on the same cores)"
    )
