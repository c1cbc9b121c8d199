"""A tape whose hosts come, lead, follow, hand over, die and fall asleep, while a client sends commands all along."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tapehouse.app.bootstrap import Platform, open_platform
from tapehouse.app.live import record
from tapehouse.app.logs import Logs
from tapehouse.app.roll_call import call_roll
from tapehouse.core import AmbiguousAppendError, BusUnavailableError, SystemClock
from tapehouse.engine import Engine
from tapehouse.feeds import GeneratedDay
from tapehouse.log import decode_frame
from tapehouse.market import Cells, Kind, records_of
from tapehouse.strategies import maker
from tests.conftest import PROJECT
from tests.support.ahead_day import check_outcomes, contiguous_cells
from tests.support.bench import command_bytes, events_in, fold
from tests.support.cli import Shell

DAY_CELLS = 2_000
SEED = 7
INTERVAL_MS = 20
PARAMETERS = json.dumps({"interval_ms": INTERVAL_MS})
LEASE_TTL_S = 1.5
WAIT_S = 60.0
COMMAND_PAUSE_S = 0.03


class Hosted:
    """One process of `tapehouse host`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[str] = []

    async def says(self, beginning: str) -> str:
        """The next line that begins so."""
        assert self.process.stdout is not None
        while True:
            async with asyncio.timeout(WAIT_S):
                line = await asyncio.to_thread(self.process.stdout.readline)
            assert line, (self.said, self.process.communicate(timeout=WAIT_S))
            self.said.append(line.strip())
            if line.startswith(beginning):
                return line.strip()

    def send(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    async def ended(self, code: int) -> str:
        """Wait for its end; what it said on standard error."""
        out, errors = await asyncio.to_thread(self.process.communicate, timeout=WAIT_S)
        assert self.process.returncode == code, (self.process.returncode, out, errors)
        assert "Traceback" not in errors, errors
        return errors.strip()


class StandbyDay:
    """A recorded morning that hosts go on with."""

    def __init__(
        self, place: Path, urls: list[str], tape: str, *, mode: str = "gated", apart: bool = False,
        elsewhere: bool = False,
    ) -> None:  # fmt: skip
        """`apart`: each host is on a machine of its own, as far as rings and snapshots go; `elsewhere`: as far as
        others can see whether it lives.
        """
        self.tape, self.urls, self.mode = tape, ",".join(urls), mode
        self._elsewhere = elsewhere
        self.shell = Shell(place / "home")
        self._place, self._apart = place, apart
        self.hosts: list[Hosted] = []
        self.take_overs: list[tuple[str, dict[str, Any]]] = []
        self._sent = 0

    def platform(self) -> Any:
        """A connection of the test's own."""
        return open_platform(self.urls, home=self.shell.home)

    async def record(self) -> None:
        """Put the morning on the tape, so that there is something to trade."""
        async with self.platform() as platform:
            logs = Logs(
                tape=await platform.tape(self.tape, create=True), events=await platform.events(self.tape, create=True)
            )
            await platform.commands(self.tape, create=True)
            feed = GeneratedDay(seed=SEED, cells=DAY_CELLS)
            await record(feed, logs, strategy=maker(interval_ms=INTERVAL_MS), clock=SystemClock())

    def host(self, *options: object) -> Hosted:
        """Start a host."""
        shell = self.shell
        if self._apart:
            machine = self._place / f"machine{len(self.hosts)}"
            (machine / "shm").mkdir(parents=True)
            shell = Shell(machine / "home", TAPEHOUSE_SHM=str(machine / "shm"))
        arguments = ("--tape", self.tape, "--nats", self.urls, "--parameters", PARAMETERS, "--mode", self.mode)
        started = ("host", *arguments, "--lease-ttl", LEASE_TTL_S, *options)
        if self._elsewhere:
            machine = f"machine{len(self.hosts)}"
            hosted = Hosted(shell.start(machine, *started, module="tests.support.elsewhere", cwd=PROJECT))
        else:
            hosted = Hosted(shell.start(*started))
        self.hosts.append(hosted)
        return hosted

    async def standby(self) -> Hosted:
        """A host that follows; returned once it is warm."""
        hosted = self.host("--standby")
        await hosted.says("standby")
        return hosted

    async def hand_over(self) -> dict[str, Any]:
        """`tapehouse handover`."""
        done = await asyncio.to_thread(self.shell.json, "handover", "--tape", self.tape, "--nats", self.urls)
        self.take_overs.append(("planned", done["take_over"]))
        return dict(done)

    async def led_by(self, hosted: Hosted, what: str) -> dict[str, Any]:
        """Wait until a host leads; its take-over as the roll call tells it."""
        await hosted.says("leads")
        async with self.platform() as platform:
            [leader] = [host for host in await call_roll(platform.bus, self.tape) if host["role"] == "leader"]
        assert leader["holder"].endswith(f":{hosted.process.pid}")
        self.take_overs.append((what, leader["take_over"]))
        return dict(leader["take_over"])

    async def leads(self, what: str, generation: int) -> tuple[Hosted, dict[str, Any]]:
        """Wait until any host leads under a generation; the host, and its take-over as the roll call tells it."""
        async with self.platform() as platform, asyncio.timeout(WAIT_S):
            while True:
                for told in await call_roll(platform.bus, self.tape):
                    if told["role"] == "leader" and told["generation"] == generation:
                        [hosted] = [one for one in self.hosts if told["holder"].endswith(f":{one.process.pid}")]
                        if (what, told["take_over"]) not in self.take_overs:
                            self.take_overs.append((what, told["take_over"]))
                        return hosted, dict(told["take_over"])

    @asynccontextmanager
    async def commands(self) -> AsyncIterator[None]:
        """Meanwhile, send commands one after the other; at the end each of them has been answered."""
        async with self.platform() as platform:
            flow = asyncio.create_task(self._send(platform))
            try:
                yield
            finally:
                flow.cancel()
                await asyncio.gather(flow, return_exceptions=True)
            await self._answered(platform)

    async def _send(self, platform: Platform) -> None:
        log = await platform.commands(self.tape)
        rng = random.Random(SEED)
        while True:
            self._sent += 1
            order = {
                "instrument": "ALFA", "side": rng.choice(["buy", "sell"]), "price": f"{rng.randrange(80, 120)}.00",
                "size": str(rng.randrange(1, 50)), "account": "alice",
            }  # fmt: skip
            payload = command_bytes(self._sent, "order.submit", order)
            while True:  # One that may be there is sent again under its number.
                try:
                    await log.append(payload, expected_last=None, subject=f"cmd.v1.{self.tape}.order.submit")
                    break
                except (AmbiguousAppendError, BusUnavailableError):
                    await asyncio.sleep(COMMAND_PAUSE_S)
            await asyncio.sleep(COMMAND_PAUSE_S)

    async def _answered(self, platform: Platform) -> None:
        """Return when the tape's last command has its outcome."""
        last = (await (await platform.commands(self.tape)).extent()).last
        events = await platform.events(self.tape)
        found = 0
        async with asyncio.timeout(WAIT_S):
            async for message in events.read(1, follow=True):
                found += len(outcomes(decode_frame(message.payload)[1]))
                if found >= last:
                    return

    async def check(self) -> tuple[int, int]:
        """Nothing is lost, doubled or decided otherwise; the number of commands, and of epochs."""
        async with self.platform() as platform:
            taped = await contiguous_cells(await platform.tape(self.tape))
            decided = await contiguous_cells(await platform.events(self.tape))
            check_decided(taped, decided)
            commands = await check_outcomes(await platform.commands(self.tape), taped, decided)
        return commands, len(list(records_of(taped, Kind.EPOCH)))

    def close(self) -> None:
        """End what still runs."""
        for hosted in self.hosts:
            if hosted.process.poll() is None:
                hosted.send(signal.SIGCONT)
                hosted.process.kill()
                hosted.process.communicate(timeout=WAIT_S)


def outcomes(decided: Cells) -> list[dict[str, Any]]:
    """Every command's outcome in EVENTS."""
    return [event for event in events_in(decided) if event["type"] == "command.outcome"]


def check_decided(taped: Cells, decided: Cells) -> None:
    """EVENTS is what an undisturbed fold of TAPE decides; raises AssertionError with the first difference."""
    folded = fold(Engine(maker(interval_ms=INTERVAL_MS)), taped, [])
    common = min(len(decided), len(folded))
    differ = np.flatnonzero(decided[:common] != folded[:common])
    assert not len(differ), f"EVENTS differs from the fold of TAPE from cell {differ[0]} on"
    assert len(decided) == len(folded), f"EVENTS has {len(decided)} cells, the fold of TAPE {len(folded)}"
