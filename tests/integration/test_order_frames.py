"""Orders in frames as a user sends them: real brokers, a host in a process of its own that is killed on the way."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from tapehouse.app.bootstrap import open_platform
from tapehouse.app.live import Logs, open_sequencer
from tapehouse.app.proof import read_outputs
from tapehouse.bus import Cluster
from tapehouse.client import AsyncClient, OrderOutcome
from tapehouse.core import SystemClock
from tapehouse.core.metrics import Metrics
from tapehouse.log import decode_frame
from tapehouse.market import Action, Kind, words
from tests.support.bench import SHARE
from tests.support.bulk_orders import answers_in
from tests.support.cli import Shell
from tests.support.clusters import unique

CLIENTS, EACH = 4, 500
PATIENCE_S = 120.0


async def make_tape(urls: str, home: Path, tape: str) -> None:
    """A tape that knows one share, and nobody serves."""
    async with open_platform(urls, home=home) as platform:
        logs = Logs(
            tape=await platform.tape(tape, create=True),
            events=await platform.events(tape, create=True),
            commands=await platform.commands(tape, create=True),
        )
        sequencer, _ = await open_sequencer(logs, clock_source="wall", clock=SystemClock(), metrics=Metrics())
        await sequencer.begin()
        sequencer.define((SHARE,))
        await sequencer.flush()


def orders_of(client: int) -> pl.DataFrame:
    """Orders that are accepted and rest nowhere; every tenth is no whole tick."""
    prices = ["1.005" if at % 10 == 9 else f"{1 + (client * EACH + at) / 100:.2f}" for at in range(EACH)]
    return pl.DataFrame({"price": prices}).with_columns(
        instrument=pl.lit("ALFA"), side=pl.lit("buy"), size=pl.lit(1), time_in_force=pl.lit("ioc"),
        account=pl.lit("strategy"),
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["gated", "ahead"])
async def test_each_order_has_one_effect_though_the_host_is_killed_and_all_are_sent_again(
    mode: str, cluster1: Cluster, tmp_path: Path, ring_directory: Path
) -> None:
    tape, urls = unique("frames"), ",".join(cluster1.urls)
    await make_tape(urls, tmp_path, tape)
    shell = Shell(tmp_path, TAPEHOUSE_SHM=str(ring_directory))
    hosts: list[subprocess.Popen[str]] = []

    def start_host() -> None:
        hosts.append(shell.start("host", "--tape", tape, "--nats", urls, "--mode", mode))

    def kill_host(*_: int) -> None:
        if len(hosts) == 1:
            os.kill(hosts[0].pid, signal.SIGKILL)
            start_host()

    async def send(client: int) -> list[OrderOutcome]:
        name = f"client-{client}"
        return await desk.send_orders(
            orders_of(client), tape=tape, client=name, number=1, timeout=PATIENCE_S, on_progress=kill_host
        )

    async with await AsyncClient.open(urls, home=tmp_path) as desk:
        try:
            await asyncio.to_thread(start_host)
            await desk.send("account.open", {"account": "alice"}, tape=tape, timeout=PATIENCE_S)  # It has begun.
            first = await asyncio.gather(*map(send, range(CLIENTS)))
            assert len(hosts) == 2
            again = await asyncio.gather(*map(send, range(CLIENTS)))
        finally:
            for host in hosts:
                host.send_signal(signal.SIGTERM)
            for host in hosts:
                host.communicate(timeout=PATIENCE_S)
    for before, after in zip(first, again, strict=True):
        assert Counter(one.outcome for one in before) == {"accepted": EACH * 9 // 10, "rejected": EACH // 10}
        assert {one.outcome for one in after} == {"repeated"}
        told = [(one.number, one.order_id, one.reason) for one in before]
        assert told == [(one.number, one.order_id, one.reason) for one in after]
    async with open_platform(urls, home=tmp_path) as platform:
        outputs = await read_outputs(await platform.events(tape))
        taped = [decode_frame(message.payload)[1] async for message in (await platform.tape(tape)).read(1)]
    actions = Counter(answer.action for answer in answers_in(outputs))
    assert actions == {
        "ACCEPTED": CLIENTS * EACH * 9 // 10, "REJECTED": CLIENTS * EACH // 10, "REPEATED": CLIENTS * EACH,
    }  # fmt: skip
    effects = outputs[(outputs["kind"] == Kind.ORDER) & (outputs["cells"] > 0)]
    assert int((effects["action"] == Action.ACCEPTED).sum()) == CLIENTS * EACH * 9 // 10
    assert len(set(effects["order_id"][effects["action"] == Action.ACCEPTED].tolist())) == CLIENTS * EACH * 9 // 10
    asked = [words(cells[(cells["kind"] == Kind.ORDER) & (cells["cells"] == 0)])[:, :2] for cells in taped]
    sent = Counter(tuple(row) for part in asked for row in part.tolist())
    assert len(sent) == CLIENTS * EACH
    assert set(sent.values()) == {2}, "what was sent twice is on the tape twice, and never in part"


async def test_a_file_of_orders(cluster1: Cluster, tmp_path: Path) -> None:
    tape, urls = unique("frames"), ",".join(cluster1.urls)
    await make_tape(urls, tmp_path, tape)
    shell = Shell(tmp_path)
    orders_of(1).head(10).with_columns(account=pl.lit("alice")).write_csv(tmp_path / "orders.csv")
    orders_of(1).head(5).write_parquet(tmp_path / "orders.parquet")
    where = ("--tape", tape, "--nats", urls)
    host = shell.start("host", *where)
    try:
        opening = ("send", "account.open", '{"account":"alice"}', *where, "--timeout", 90)
        await asyncio.to_thread(shell.run, *opening)
        sending = ("send-orders", tmp_path / "orders.csv", *where, "--client", "me", "--number", 1, "--timeout", 90)
        told = (await asyncio.to_thread(shell.run, *sending, "--json", code=1)).json
        assert told == {
            "orders": 10, "accepted": 9, "rejected": 1, "repeated": 0, "first_number": 1,
            "reasons": {"price is not a positive whole number of ticks": 1},
        }  # fmt: skip
        again = await asyncio.to_thread(shell.run, *sending, "--outcomes", tmp_path / "outcomes.csv", code=1)
        assert "10 orders: 9 accepted, 1 rejected, 10 of them seen before" in again.out
        assert pl.read_csv(tmp_path / "outcomes.csv")["outcome"].to_list() == ["repeated"] * 10
        done = await asyncio.to_thread(shell.run, "send-orders", tmp_path / "orders.parquet", *where, "--json")
        assert (done.json["accepted"], done.json["rejected"]) == (5, 0)
        (tmp_path / "bad.csv").write_text("instrument,side,price,size\nALFA,buy,1.00,1\nNONE,buy,1.00,1\n")
        bad = await asyncio.to_thread(shell.run, "send-orders", tmp_path / "bad.csv", *where, code=3)
        assert "row 2" in bad.err
    finally:
        host.send_signal(signal.SIGTERM)
        host.communicate(timeout=PATIENCE_S)
