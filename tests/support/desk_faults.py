"""A desk under faults on real brokers: two hosts that take turns, clients that never stop, and the proof afterwards.

Each client sends a command until it has its outcome: after a time-out the same number again, sometimes a number that
was answered long ago. So what a client was told, what CMDS, TAPE and EVENTS hold, and what a pure fold of the tape
decides can all be held against each other.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tapehouse.app.bootstrap import Platform, open_platform
from tapehouse.app.out import check_out
from tapehouse.app.projector import Projector
from tapehouse.bus import Cluster
from tapehouse.client import AsyncClient
from tapehouse.core import BusUnavailableError
from tapehouse.engine import Engine
from tapehouse.log import SnapshotStore
from tapehouse.market import Cells, Kind, records_of, unpack_payload
from tapehouse.strategies import maker
from tests.conftest import PROJECT
from tests.support.ahead_day import check_outcomes, contiguous_cells
from tests.support.bench import fold
from tests.support.cli import Shell

TIMEOUT_S = 120.0
LEASE_TTL_S = 2.0
ANSWER_S = 4.0  # before a client sends again
RESENT_SHARE = 0.1  # of the commands, sent once more though they were answered
INSTRUMENT = "HOUSE"
TICK = 10
ACCOUNTS = ("amber", "birch", "cedar", "dune")
OPEN_ORDERS = 4_000  # of an account: nobody is kept from trading


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What the logs of a desk were found to hold, with nothing wrong."""

    commands: int
    repeats: int
    decided_cells: int
    fills: int
    lives: int  # of sequencers
    told: int  # outcomes that clients were told


@dataclass(slots=True)
class Told:
    """What a client heard of its commands: the first outcome of each number."""

    client: str
    outcomes: dict[int, dict[str, Any]] = field(default_factory=dict)


class DeskUnderFaults:
    """One tape, its hosts and its clients."""

    def __init__(self, place: Path, cluster: Cluster, tape: str, rng: random.Random, *, fenced: bool = True) -> None:
        """`fenced`: False for hosts that all lead at once."""
        self.tape, self.cluster, self.rng = tape, cluster, rng
        self.urls = ",".join(cluster.urls)
        self._place, self._fenced = place, fenced
        self._machines: dict[int, int] = {}  # of each process: its home is kept for the next one there
        self.shell = Shell(place / "home")
        self.hosts: list[subprocess.Popen[str]] = []
        self.told: list[Told] = []
        self.kills: Counter[str] = Counter()
        self._stopping = asyncio.Event()

    # Hosts.

    def start_host(self, *options: object) -> subprocess.Popen[str]:
        """One more host, on a machine that has none; the first leads, others stand by."""
        taken = {self._machines[host.pid] for host in self.hosts}
        machine = next(number for number in range(1, len(self.hosts) + 2) if number not in taken)
        host = Shell(self._place / f"machine{machine}").start(
            "host", "--tape", self.tape, "--nats", self.urls, "--standby", "--lease-ttl", LEASE_TTL_S, *options,
            module="tapehouse.cli" if self._fenced else "tests.support.unfenced_host", cwd=PROJECT,
        )  # fmt: skip
        self.hosts.append(host)
        self._machines[host.pid] = machine
        return host

    @staticmethod
    async def leads(host: subprocess.Popen[str]) -> None:
        """Return when a host says that it leads."""
        assert host.stdout is not None
        line = ""
        while line != "ready\n":
            line = await asyncio.to_thread(host.stdout.readline)
            assert line in ("standby\n", "ready\n"), (line, host.communicate(timeout=TIMEOUT_S))

    def kill_host(self) -> None:
        """kill -9 of one of them, then another that stands by."""
        self.revive()
        victim = self.rng.choice(self.hosts)
        victim.send_signal(signal.SIGKILL)
        victim.communicate(timeout=TIMEOUT_S)
        self.hosts.remove(victim)
        self.start_host()
        self.kills["host"] += 1

    async def pause_host(self, seconds: float) -> None:
        """SIGSTOP past its lease: when it wakes it must end, or stand by, and write nothing."""
        self.revive()
        victim = self.rng.choice(self.hosts)
        victim.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        victim.send_signal(signal.SIGCONT)
        self.kills["pause"] += 1

    async def kill_broker(self) -> None:
        """kill -9 of a server, mostly of one that leads a log, and its restart."""
        index = self.rng.randrange(len(self.cluster.state.nodes))
        if self.rng.random() < 0.7:
            async with self.platform() as platform:
                stream = self.rng.choice([f"TAPE_{self.tape}", f"EVENTS_{self.tape}", f"CMDS_{self.tape}"])
                leader = await platform.admin.leader(stream)
            names = [node.name for node in self.cluster.state.nodes]
            index = names.index(leader) if leader in names else index
        await asyncio.to_thread(self.cluster.kill_node, index, signal.SIGKILL)
        await asyncio.sleep(self.rng.random())
        await asyncio.to_thread(self.cluster.restart_node, index, wait=False)
        await asyncio.to_thread(self.cluster.wait_ready, 60)
        self.kills["broker"] += 1

    def revive(self) -> None:
        """Start another host for each that ended by itself: a host that was fenced off may end, with words."""
        for host in [host for host in self.hosts if host.poll() is not None]:
            _, errors = host.communicate()
            assert "Traceback" not in errors, errors
            self.hosts.remove(host)
            self.start_host()

    def close(self) -> None:
        """End what still runs."""
        for host in self.hosts:
            if host.poll() is None:
                host.send_signal(signal.SIGCONT)
                host.kill()
                host.communicate(timeout=TIMEOUT_S)

    def platform(self) -> Any:
        """A connection of the test's own."""
        return open_platform(self.urls, home=self.shell.home)

    # Clients.

    async def prepare(self) -> None:
        """The instrument that the accounts trade with each other, and limits that leave them room."""
        await self.leads(self.hosts[0])
        async with await AsyncClient.open(self.urls, home=self.shell.home, client="setup") as client:
            terms = {"symbol": INSTRUMENT, "venue": "internal", "tick_size": "0.01"}
            bodies: list[tuple[str, dict[str, Any]]] = [("instrument.register", terms)]
            bodies += [("risk.set_limits", {"account": name, "open_orders": OPEN_ORDERS}) for name in ACCOUNTS]
            for number, (kind, body) in enumerate(bodies, start=1):
                outcome = await self._send(client, number, kind, body)
                assert "accepted" in (outcome["outcome"], outcome["first"]), (kind, outcome)

    async def trade(self, name: str) -> None:
        """One client's life: commands one after the other, until `finish`."""
        rng = random.Random(self.rng.random())
        told = Told(name)
        self.told.append(told)
        async with await AsyncClient.open(self.urls, home=self.shell.home, client=name) as client:
            number = 0
            working: list[int] = []
            while not self._stopping.is_set():
                number += 1
                kind, body = self._command(rng, working)
                outcome = await self._send(client, number, kind, body)
                told.outcomes[number] = outcome
                if kind == "order.submit" and outcome["outcome"] == "accepted":
                    working.append(outcome["order_id"])
                if rng.random() < RESENT_SHARE:
                    old = rng.randint(max(1, number - 100), number)
                    again = await self._send(client, old, *self._command(rng, working))
                    assert again["outcome"] == "repeated", again
                    first = told.outcomes[old]["first"] or told.outcomes[old]["outcome"]
                    assert again["first"] == first, (again, told.outcomes[old])

    async def answered(self, before: int) -> None:
        """Return when clients were told of more outcomes than `before`."""
        deadline = time.monotonic() + TIMEOUT_S
        while self.outcomes <= before:
            assert time.monotonic() < deadline, [host.poll() for host in self.hosts]
            self.revive()
            await asyncio.sleep(0.05)

    @property
    def outcomes(self) -> int:
        """How many outcomes the clients were told."""
        return sum(len(one.outcomes) for one in self.told)

    def finish(self) -> None:
        """Have every client end after the command that it waits for."""
        self._stopping.set()

    def _command(self, rng: random.Random, working: list[int]) -> tuple[str, dict[str, Any]]:
        """A command of the client's own account; now and then one that concerns many orders."""
        account = rng.choice(ACCOUNTS)
        draw = rng.random()
        if working and draw < 0.15:
            return "order.cancel", {"instrument": INSTRUMENT, "order_id": rng.choice(working), "account": account}
        if working and draw < 0.25:
            return "order.replace", {
                "instrument": INSTRUMENT, "order_id": rng.choice(working), "account": account,
                "price": self._price(rng), "size": str(rng.randint(1, 20)),
            }  # fmt: skip
        if draw < 0.28:
            working.clear()
            return "order.mass_cancel", {"account": account}
        if draw < 0.30:
            return "kill.switch", {"scope": "account", "account": account, "on": rng.random() < 0.3}
        return "order.submit", {
            "instrument": INSTRUMENT, "account": account, "side": rng.choice(["buy", "sell"]),
            "price": self._price(rng), "size": str(rng.randint(1, 30)),
            "time_in_force": rng.choice(["gtc", "gtc", "gtc", "ioc"]),
        }  # fmt: skip

    @staticmethod
    def _price(rng: random.Random) -> str:
        return f"{100 + rng.randint(-TICK, TICK) / 100:.2f}"

    async def _send(self, client: AsyncClient, number: int, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                outcome = await client.send(kind, body, tape=self.tape, timeout=ANSWER_S, number=number)
            except BusUnavailableError:
                if time.monotonic() > deadline:
                    raise
                continue
            told = {"outcome": outcome.outcome, "first": outcome.first, "order_id": outcome.order_id}
            return {**told, "reason": outcome.reason}

    # The proof.

    async def stop(self) -> None:
        """End every host in order."""
        for host in self.hosts:
            host.send_signal(signal.SIGTERM)
        for host in self.hosts:
            _, errors = await asyncio.to_thread(host.communicate, timeout=TIMEOUT_S)
            assert "Traceback" not in errors, errors
        self.hosts.clear()

    async def check(self) -> Checked:
        """Hold everything against what it must be; raises an error that says what is wrong."""
        await self.stop()
        async with self.platform() as platform:
            checked = await check_desk(platform, self.tape, self.told)
            await check_out(self.tape, await platform.events(self.tape), await platform.out())
            refolded = await self._projections(platform, None)
        for machine in sorted(
            set(self._machines.values())
        ):  # What its killed projectors left there is where this one begins.
            async with open_platform(self.urls, home=self._place / f"machine{machine}") as platform:
                found = await self._projections(platform, await platform.snapshots(self.tape))
                assert found == refolded, f"the projections of machine {machine} are not the fold of the logs"
        return checked

    async def _projections(self, platform: Platform, snapshots: SnapshotStore | None) -> dict[str, str]:
        projector = Projector(await platform.tape(self.tape), await platform.events(self.tape), snapshots)
        await projector.open()
        await projector.run()
        return projector.digests()


async def check_desk(platform: Platform, tape: str, told: list[Told]) -> Checked:
    """Commands on the tape once and in order, EVENTS the fold of the tape, one first outcome each, clients told it."""
    taped = await contiguous_cells(await platform.tape(tape))
    decided = await contiguous_cells(await platform.events(tape))
    folded = fold(Engine(maker()), taped, [])
    common = min(len(decided), len(folded))
    differ = np.flatnonzero(decided[:common] != folded[:common])
    assert not len(differ), f"EVENTS differs from the fold of TAPE from cell {differ[0]} on"
    assert len(decided) == len(folded), f"EVENTS has {len(decided)} cells, the fold of TAPE {len(folded)}"
    commands = await check_outcomes(await platform.commands(tape), taped, decided)
    first, repeats = first_outcomes(taped, decided)
    for one in told:
        for number, heard in one.outcomes.items():
            known = first.get((one.client, number))
            assert known is not None, f"{one.client} {number} was told {heard}, which is on no log"
            said = heard["first"] or heard["outcome"]
            assert said == known["outcome"], f"{one.client} {number} was told {heard}, decided was {known}"
    check_conserved(decided)
    return Checked(
        commands=commands,
        repeats=repeats,
        decided_cells=len(decided),
        fills=int(((decided["kind"] == Kind.FILL) & (decided["cells"] > 0)).sum()),
        lives=len(list(records_of(taped, Kind.EPOCH))),
        told=sum(len(one.outcomes) for one in told),
    )


def first_outcomes(taped: Cells, decided: Cells) -> tuple[dict[tuple[str, int], dict[str, Any]], int]:
    """The one outcome of each (client, number) that is no repeat, and how many repeats there are."""
    sent = {start: json.loads(unpack_payload(made)) for start, made in records_of(taped, Kind.COMMAND)}
    first: dict[tuple[str, int], dict[str, Any]] = {}
    repeats = 0
    for _, made in records_of(decided, Kind.EVENT):
        event = json.loads(unpack_payload(made))
        if event["type"] != "command.outcome":
            continue
        command, body = sent[event["body"]["position"]], event["body"]
        key = (command["client"], command["number"])
        if body["outcome"] == "repeated":
            repeats += 1
            assert body["first"] == first[key]["outcome"], (key, body)
        else:
            assert key not in first, f"{key} had two effects: {first[key]} and {body}"
            first[key] = body
    return first, repeats


def check_conserved(decided: Cells) -> None:
    """Both sides of every match: signed sizes of all fills sum to zero, and so does what was paid."""
    heads = decided[(decided["kind"] == Kind.FILL) & (decided["cells"] > 0)]
    signs = np.where(heads["side"] == ord("B"), 1, -1)
    assert int((signs * heads["size"]).sum()) == 0, "positions do not sum to zero"
    assert int((signs * heads["size"] * heads["price"]).sum()) == 0, "cash does not sum to zero"


__all__ = ["Checked", "DeskUnderFaults", "check_desk"]
