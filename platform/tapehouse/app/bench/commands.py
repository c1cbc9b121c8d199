"""The desk as its users meet it: commands and frames of orders, sent to a host of its own process until each outcome is
durable, over real brokers.

What is counted is what has its outcome: stored in CMDS, sequenced on TAPE, decided, and read back from EVENTS, each of
them a majority's fsync. Beside it is one append of one publisher to such a stream, in the same run: the floor. Orders
come in pairs that trade with each other, and at the end the account that sold must be short by one for each pair.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from tapehouse.app import host_process
from tapehouse.app.bench.histogram import Spread, new_histogram, record_value
from tapehouse.app.bench.measure import Measure, measure, peer_of
from tapehouse.app.bench.registry import Options
from tapehouse.app.bench.timer import Histogram, Timer, middle
from tapehouse.app.bootstrap import Platform, open_platform
from tapehouse.bus import Cluster, ClusterConfig
from tapehouse.bus.launcher import Launcher
from tapehouse.client.async_client import AsyncClient
from tapehouse.client.listener import Listener
from tapehouse.client.order_rows import order_cells, write_accounts
from tapehouse.client.orders import send_frames
from tapehouse.core.check import check
from tapehouse.desk.state import INTERNAL_VENUE
from tapehouse.log import Log
from tapehouse.market import ORDER_EXTENSION, Cells

TAPE, STRATEGY = "desk", "maker"
SYMBOL, PRICE = "BENCH", "100.00"
SELLER, BUYER = "seller", "buyer"
LIMITS = {"position": 1 << 30, "open_orders": 4_096}
PATIENCE_S = 120.0
COMMAND_BYTES = 400  # about what a command takes
SINGLE_SENDERS = (1, 16, 64)
SINGLE = {1: 60, 16: 480, 64: 1_024}  # commands of a run; an even number of each sender
FRAMES = ((64, 4), (256, 4), (1_024, 1), (1_024, 4))  # orders in one, senders
FRAME_ROUNDS = 12  # frames of each sender in a run
FLOOR_APPENDS = 100
UNITS = ("commands/s", "orders/s")


@dataclass(slots=True)
class Runs:
    """What several runs of one load gave: answered a second, and latencies in ns."""

    rates: list[float] = field(default_factory=list)
    histograms: list[Histogram] = field(default_factory=list)

    @property
    def latencies(self) -> dict[str, float]:
        """The percentiles of a row."""
        return middle([Spread.of(histogram, 1.0) for histogram in self.histograms])


@dataclass(frozen=True, slots=True)
class Load:
    """How orders are sent: so many at a time (0: as commands), by so many senders, each waiting for its outcomes."""

    size: int
    senders: int
    rounds: int  # of each sender

    @property
    def name(self) -> str:
        """As rows show it."""
        who = "1 sender" if self.senders == 1 else f"{self.senders} senders"
        return f"{'commands' if self.size == 0 else f'frames of {self.size:,} orders'}, {who}"

    @property
    def orders(self) -> int:
        """Of a run."""
        return self.senders * self.rounds * max(self.size, 1)


def loads(options: Options) -> list[Load]:
    """Everything that is measured, few of each where it is to be quick."""
    single = [Load(0, many, options.count(SINGLE[many] // many, 4 if many == 1 else 2)) for many in SINGLE_SENDERS]
    return single + [Load(size, many, options.count(FRAME_ROUNDS, 1)) for size, many in FRAMES]


def run(options: Options) -> Iterator[Measure]:
    """The floor, then a row a load."""
    home = options.scratch / "commands"
    config = ClusterConfig(nodes=options.nodes, directory=home / "cluster", client_port=0, route_port=0, monitor_port=0)
    cluster, launcher = Cluster(config), Launcher()
    options.on_step(f"start {options.nodes} brokers")
    cluster.start()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            floor, measured = runner.run(_measured(options, ",".join(cluster.urls), home, launcher))
    finally:
        host_process.stop(home, TAPE)
        launcher.close(set())
        cluster.stop()
    brokers = f"R{min(3, options.nodes)}, fsync (durable profile); brokers, host and clients on the same cores"
    yield measure(
        "floor: an append, 1 publisher", "appends/s", floor.rates, note=f"{COMMAND_BYTES} bytes each; {brokers}",
        **floor.latencies,
    )  # fmt: skip
    bottom = peer_of("an append", floor.rates, "one publisher to one stream, each awaited")
    for load, runs in measured.items():
        told = runs.latencies
        ratio = told["p50"] / floor.latencies["p50"]
        note = (
            f"{load.orders:,} a run, sent until the outcome was read from EVENTS; the median takes {ratio:.1f} "
            f"times an append's; {brokers}; percentiles of each {'frame' if load.size else 'command'}"
        )
        yield measure(load.name, UNITS[load.size > 0], runs.rates, peers=(bottom,), note=note, **told)


async def _measured(options: Options, urls: str, home: Path, launcher: Launcher) -> tuple[Runs, dict[Load, Runs]]:
    floor, measured = Runs(), {load: Runs() for load in loads(options)}
    async with open_platform(urls, home=home) as platform:
        for create in (platform.tape, platform.events, platform.commands):
            await create(TAPE, create=True)
        options.on_step("start the host")
        await asyncio.to_thread(host_process.start, home, TAPE, urls=urls, strategy=STRATEGY, launcher=launcher,
                                detached=False)  # fmt: skip
        async with _desk(platform, options.timer) as desk:
            await desk.prepare()
            for load in measured:  # The first of each pays for connections and kernels.
                await desk.send(Load(load.size, load.senders, 2), Runs())
            for attempt in range(options.repeat):
                options.on_step(f"plain appends, run {attempt + 1} of {options.repeat}")
                await _append_alone(options, platform, attempt, floor)
                for load, runs in measured.items():
                    options.on_step(f"{load.name}, run {attempt + 1} of {options.repeat}")
                    await desk.send(load, runs)
            await desk.require_sold()
    return floor, measured


async def _append_alone(options: Options, platform: Platform, attempt: int, floor: Runs) -> None:
    """One publisher's appends to a stream of its own that is like CMDS."""
    log = await platform.commands(f"floor-{attempt}", create=True)
    clock, histogram = options.timer.clock, new_histogram()
    payload = np.random.default_rng(1).bytes(COMMAND_BYTES)
    count = options.count(FLOOR_APPENDS, 10)
    begun = clock.monotonic_ns()
    for _ in range(count):
        start = clock.monotonic_ns()
        await log.append(payload, expected_last=None, subject=f"cmd.v1.floor-{attempt}.bench")
        record_value(histogram, clock.monotonic_ns() - start)
    floor.rates.append(count * 1e9 / (clock.monotonic_ns() - begun))
    floor.histograms.append(histogram)


@asynccontextmanager
async def _desk(platform: Platform, timer: Timer) -> AsyncIterator[Desk]:
    """A client of the platform's desk, closed at the end."""
    async with AsyncExitStack() as stack:
        client = AsyncClient(platform, clock=timer.clock)
        stack.push_async_callback(client.close)
        commands, listener = await client._desk(TAPE)
        yield Desk(client, commands, listener, timer)


class Desk:
    """Senders on one connection, with one reader of EVENTS."""

    def __init__(self, client: AsyncClient, commands: Log, listener: Listener, timer: Timer) -> None:
        self._client, self._commands, self._listener, self._timer = client, commands, listener, timer
        self._bulk_client = 0
        self._sold = 0

    async def prepare(self) -> None:
        """An instrument that accounts trade with each other, and two accounts that may hold what they like."""
        told: tuple[tuple[str, dict[str, Any]], ...] = (
            ("instrument.register", {"symbol": SYMBOL, "venue": INTERNAL_VENUE}),
            ("account.open", {"account": SELLER}),
            ("account.open", {"account": BUYER}),
            ("risk.set_limits", {"account": SELLER, **LIMITS}),
            ("risk.set_limits", {"account": BUYER, **LIMITS}),
        )
        for kind, body in told:
            outcome = await self._client.send(kind, body, tape=TAPE, timeout=PATIENCE_S)
            check(outcome.accepted, outcome.reason, subject=kind)

    async def send(self, load: Load, runs: Runs) -> None:
        """Send one run of a load: every sender waits for what became of its last before it sends the next."""
        histogram, clock = new_histogram(), self._timer.clock
        frames = [await self._frames(load) for _ in range(load.senders)] if load.size else []
        begun = clock.monotonic_ns()
        if load.size:
            await asyncio.gather(*(self._send_frames(mine, histogram) for mine in frames))
        else:
            await asyncio.gather(*(self._send_commands(load.rounds, histogram) for _ in range(load.senders)))
        runs.rates.append(load.orders * 1e9 / (clock.monotonic_ns() - begun))
        runs.histograms.append(histogram)
        self._sold += load.orders // 2

    async def _send_commands(self, count: int, histogram: Histogram) -> None:
        clock = self._timer.clock
        for at in range(count):
            start = clock.monotonic_ns()
            outcome = await self._client.send("order.submit", _row(at), tape=TAPE, timeout=PATIENCE_S)
            record_value(histogram, clock.monotonic_ns() - start)
            check(outcome.outcome == "accepted", outcome.reason or outcome.outcome, subject="a command")

    async def _send_frames(self, frames: list[Cells], histogram: Histogram) -> None:
        clock = self._timer.clock
        for cells in frames:
            start = clock.monotonic_ns()
            told = await send_frames(self._commands, self._listener, cells, tape=TAPE, timeout=PATIENCE_S)
            record_value(histogram, clock.monotonic_ns() - start)
            check(all(one.outcome == "accepted" for one in told), "an order was refused", subject="a frame")

    async def _frames(self, load: Load) -> list[Cells]:
        """The frames of one sender, a client of its own."""
        names = await self._listener.names()
        rows = [_row(at) for at in range(load.size)]
        self._bulk_client += 1
        cells = order_cells(rows, names, client=self._bulk_client, number=1)
        write_accounts(cells, rows, names)
        frames = [cells.copy() for _ in range(load.rounds)]
        for at, frame in enumerate(frames):
            frame[1::2].view(ORDER_EXTENSION)["number"] += np.uint64(at * load.size)
        return frames

    async def require_sold(self) -> None:
        """Raise where the seller's position is not one for each pair that was sent: lost or doubled orders."""
        body = {"account": SELLER, "instrument": SYMBOL, "size": "1", "price": "0"}
        await self._client.send("position.correct", body, tape=TAPE, timeout=PATIENCE_S)
        held = await self._client.kv(f"positions/{SELLER}/{SYMBOL}", tape=TAPE)
        check(int(held["position"]) == 1 - self._sold, f"{held['position']} for {self._sold} sold", subject=SELLER)


def _row(at: int) -> dict[str, str]:
    """A sell order that rests, then the buy order that takes it."""
    side, account, time = (("sell", SELLER, "gtc"), ("buy", BUYER, "ioc"))[at % 2]
    return {
        "instrument": SYMBOL, "side": side, "price": PRICE, "size": "1", "account": account, "time_in_force": time,
    }  # fmt: skip
