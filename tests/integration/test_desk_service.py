"""A desk for any language: plain requests to a real host, which is killed, and a reader of OUT in another process."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from tapehouse.app.desk_service import CommandIndex, DeskService, desk_service_name, serve_desk
from tapehouse.app.out import check_out
from tapehouse.bus import Cluster, StreamAdmin, cmds_spec, connect, events_spec, out_spec, request
from tapehouse.client.outcomes import Outcomes
from tapehouse.core import SystemClock
from tapehouse.core.errors import BusyError
from tests.conftest import PROJECT
from tests.support.cli import Shell, environment
from tests.support.clusters import unique

TIMEOUT_S = 60.0
ORDERS = 60


class Host:
    """`tapehouse host` of one tape, and requests to it as any program makes them."""

    def __init__(self, shell: Shell, url: str, tape: str, client: Client) -> None:
        self._shell, self._url, self._tape, self._client = shell, url, tape, client
        self._process: subprocess.Popen[str] | None = None

    async def start(self, *options: str) -> None:
        self._process = self._shell.start("host", "--tape", self._tape, "--nats", self._url, *options)
        assert self._process.stdout is not None
        line = await asyncio.to_thread(self._process.stdout.readline)
        assert line == "ready\n", self._process.communicate(timeout=TIMEOUT_S)

    def end(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.communicate(timeout=TIMEOUT_S)
            self._process = None

    async def ask(self, endpoint: str, told: dict[str, Any]) -> dict[str, Any]:
        """The answer; of a refusal its error, with the code that the service gave."""
        subject = f"tapehouse.desk.{self._tape}.{endpoint}"
        message = await self._client.request(subject, json.dumps(told).encode(), timeout=TIMEOUT_S)
        code = (message.headers or {}).get("Nats-Service-Error-Code")
        answer: dict[str, Any] = json.loads(message.data)
        return {"code": code, **answer} if code else answer


def start_reader(url: str, tape: str) -> subprocess.Popen[str]:
    """A program of somebody else that reads OUT."""
    command = [sys.executable, "-m", "tests.support.out_reader", url, tape]
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, env=environment())


def order(number: int) -> dict[str, Any]:
    """An order that rests, since its price is far away."""
    body = {"instrument": "ALFA", "side": "buy", "price": "50.00", "size": 1, "account": f"a{number % 3}"}
    return {"type": "order.submit", "client": "script", "number": number, "body": body}


async def test_a_desk_for_any_language(tmp_path: Path, ring_directory: Path, cluster1: Cluster) -> None:
    shell, tape, url = Shell(tmp_path, TAPEHOUSE_SHM=str(ring_directory)), unique("desk"), cluster1.urls[0]
    await asyncio.to_thread(
        shell.inside.json,
        "record",
        "generated",
        "--cells",
        20_000,
        "--strategy",
        "maker",
        "--tape",
        tape,
        "--nats",
        url,
    )
    client = await nats.connect(url)
    host = Host(shell, url, tape, client)
    reader = start_reader(url, tape)
    try:
        await host.start()
        first = await host.ask("send", order(0))
        assert (first["outcome"], first["number"]) == ("accepted", 0)
        wrong = await host.ask("send", {"type": "order.submit", "body": {**order(1)["body"], "price": "dear"}})
        assert (wrong["code"], wrong["error"], wrong["message"].partition(":")[0]) == ("400", "DataError", "price")
        sending = [asyncio.create_task(host.ask("send", order(number))) for number in range(1, ORDERS)]
        await asyncio.wait(sending, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.to_thread(host.end, signal.SIGKILL)  # Some are answered, some are stored, some were never read.
        for task in sending:
            task.cancel()
        answered = await asyncio.gather(*sending, return_exceptions=True)

        await host.start()
        again = await asyncio.gather(*(host.ask("send", order(number)) for number in range(ORDERS)))
        effects = [each["order_id"] for each in again]
        assert len(set(effects)) == ORDERS, "each order is there once"
        assert all("accepted" in (each["outcome"], each.get("first")) for each in again)
        assert again[0]["order_id"] == first["order_id"]
        for before, after in zip(answered, again[1:], strict=True):
            if isinstance(before, dict) and before.get("outcome") == "accepted":
                assert (after["outcome"], after["order_id"]) == ("repeated", before["order_id"])
        assert (await host.ask("outcome", {"client": "script", "number": 0}))["position"] == first["position"]
        told = await host.ask("info", {})
        assert (told["mode"], told["queue"]["waiting"]) == ("gated", 0)

        await asyncio.to_thread(host.end)
        await host.start("--mode", "ahead")
        ahead = await host.ask("send", order(ORDERS))
        assert ahead["outcome"] == "accepted"
        await _caught_up(url, tape)
        await asyncio.to_thread(host.end)
        await _compare(url, tape, shell, reader, {each["command_id"] for each in [first, ahead, *again]})
    finally:
        host.end(signal.SIGKILL)
        reader.kill()
        reader.communicate(timeout=TIMEOUT_S)
        await client.close()


async def _caught_up(url: str, tape: str) -> None:
    """Return when OUT has all that EVENTS tells: a host that is stopped leaves the rest to the next one."""
    async with await connect(url) as bus:
        admin = StreamAdmin(bus)
        log, out = await admin.ensure(events_spec(tape)), await admin.ensure(out_spec())
        deadline = time.monotonic() + TIMEOUT_S
        while (found := await check_out(tape, log, out)).behind:
            assert time.monotonic() < deadline, found


async def _compare(url: str, tape: str, shell: Shell, reader: subprocess.Popen[str], commands: set[str]) -> None:
    """What the reader in another process has is what EVENTS says, each event once; the commands that led to it too."""
    async with await connect(url) as bus:
        admin = StreamAdmin(bus)
        log = await admin.ensure(events_spec(tape))
        found = await check_out(tape, log, await admin.ensure(out_spec()))
    assert found.behind == 0
    assert reader.stdout is not None
    lines = [json.loads(await asyncio.to_thread(reader.stdout.readline)) for _ in range(found.events)]
    assert len({line["id"] for line in lines}) == found.events
    assert all(line["subject"] == f"out.v1.{tape}.{line['type']}" for line in lines)
    positions = [(line["position"]["input"], line["position"]["index"]) for line in lines]
    assert positions == sorted(positions)
    outcomes = {line["causation"] for line in lines if line["type"] == "command.outcome"}
    assert commands <= outcomes
    accepted = [line for line in lines if line["type"] == "order.accepted" and line["body"]["account"] != "strategy"]
    assert len(accepted) == ORDERS + 1
    assert {line["causation"] for line in accepted} <= outcomes, "an order names the command that led to it"
    shown = await asyncio.to_thread(
        shell.inside.run, "out", "--tape", tape, "--nats", url, "--json", "--type", "order.accepted"
    )
    assert [json.loads(line)["id"] for line in shown.out.splitlines()] == [
        line["id"] for line in lines if line["type"] == "order.accepted"
    ]
    assert (await asyncio.to_thread(shell.inside.json, "out", "--tape", tape, "--nats", url, "--check"))["behind"] == 0


async def test_busy_reaches_the_asker_at_once_as_503(cluster1: Cluster) -> None:
    tape = unique("busy")
    kill = json.dumps({"type": "account.kill", "body": {"account": "manual"}}).encode()

    async def status() -> dict[str, Any]:
        return {}

    async with await connect(cluster1.urls) as bus, await connect(cluster1.urls) as asker:
        admin = StreamAdmin(bus)
        commands, events = await admin.ensure(cmds_spec(tape)), await admin.ensure(events_spec(tape))
        outcomes, index = Outcomes(events, waiting_max=1), CommandIndex(commands)
        service = DeskService(
            tape, commands, outcomes, index, clock=SystemClock(), status=status, consumed=lambda: 0, wait_s=TIMEOUT_S
        )
        async with await serve_desk(bus, service):
            subject = f"{desk_service_name(tape)}.send"
            waiting = asyncio.create_task(request(asker, subject, kill, timeout_s=TIMEOUT_S))
            arrived = asyncio.ensure_future(anext(commands.read(1, follow=True)))
            await asyncio.wait({waiting, arrived}, return_when=asyncio.FIRST_COMPLETED)
            assert arrived.done(), await waiting  # Why nothing came.
            with pytest.raises(BusyError, match="1 commands wait"):
                await request(asker, subject, kill)
            raw = await asker.request(subject, kill, timeout_s=TIMEOUT_S)
            assert (raw.headers or {})["Nats-Service-Error-Code"] == "503"
            assert (await commands.extent()).last == 1
            outcomes.close()
            assert json.loads(await waiting)["outcome"] == "stored"
