"""What `demo` and `prove` share: which feed, which store, a scratch directory, and how a day's proof is shown."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tapehouse.app.proof import DayProof, DayProver, ProofOptions
from tapehouse.app.strategies import load_strategy
from tapehouse.cli.output import Bar, console, diagnostics, print_table
from tapehouse.core import SystemClock, UsageError
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.dr import ObjectStore, open_store
from tapehouse.feeds import Feed, GeneratedDay, SeededChain, open_feed
from tapehouse.replay import Proof

DIGITS = 12  # of a digest, for people


@dataclass(frozen=True, slots=True, kw_only=True)
class DayChoice:
    """What the user asked for."""

    lobster: list[Path] | None
    dbn: Path | None
    seed: int
    cells: int
    strategy: str
    parameters: str | None
    guard: bool
    nodes: int
    profile: str
    speed: float
    paced_seconds: float
    store: str | None


def choose_feed(choice: DayChoice) -> Feed:
    """The recorded file with a seeded option chain on its own mid, or the generated day."""
    if choice.lobster and choice.dbn:
        raise UsageError("--lobster and --dbn exclude each other", hint="one source makes one tape")
    if choice.lobster:
        return SeededChain(open_feed("lobster", choice.lobster), seed=choice.seed)
    if choice.dbn:
        return SeededChain(open_feed("dbn", [choice.dbn]), seed=choice.seed)
    return GeneratedDay(seed=choice.seed, cells=choice.cells)


class BarReporter:
    """Progress bars on a terminal; with `lines`, one line a finished step as well."""

    def __init__(self, *, lines: bool) -> None:
        self._lines = lines
        self._clock = SystemClock()

    @contextmanager
    def step(self, label: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
        """Show one step."""
        start = self._clock.monotonic_ns()
        reached = 0
        with Bar(label, total, unit=unit or "steps", quiet=not self._lines) as bar:

            def advance(completed: int) -> None:
                nonlocal reached
                reached = completed
                bar.at(completed)

            yield advance
        if self._lines:
            seconds = (self._clock.monotonic_ns() - start) / 1e9
            amount = f"{reached:>12,} {unit}" if reached else ""
            diagnostics.print(f"  {label:<34}{seconds:>8.2f} s {amount}", highlight=False)


@asynccontextmanager
async def chosen_store(url: str | None, directory: Path) -> AsyncIterator[Callable[[], Awaitable[ObjectStore]]]:
    """The user's store, or an embedded S3 server for as long as this lasts; it starts while other work goes on."""
    if url is not None:
        chosen = open_store(url)

        async def given() -> ObjectStore:
            return chosen

        yield given
        return
    from tapehouse.dr.embedded_store import EmbeddedStore, find_weed

    find_weed()  # What is missing is told before anything starts.
    server = EmbeddedStore(directory / "objects")
    starting = asyncio.create_task(server.start())

    async def embedded() -> ObjectStore:
        return (await starting).store("tapehouse")

    try:
        yield embedded
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await server.stop()


async def prove_choice(choice: DayChoice, *, lines: bool, plot: Path | None = None) -> DayProof:
    """Run the proof of a day in a scratch directory that is gone afterwards."""
    feed = choose_feed(choice)
    make = partial(load_strategy, choice.strategy, choice.parameters)
    make()  # A wrong name or parameter is told before anything starts.
    with tempfile.TemporaryDirectory(prefix="tapehouse-") as scratch:
        directory = Path(scratch)
        async with chosen_store(choice.store, directory) as store:
            options = ProofOptions(
                feed=feed,
                strategy=make,
                directory=directory,
                store=store,
                clock=SystemClock(),
                guard=choice.guard,
                nodes=choice.nodes,
                profile=choice.profile,
                speed=choice.speed,
                paced_ns=int(choice.paced_seconds * NS_PER_SECOND),
            )
            prover = DayProver(options, BarReporter(lines=lines))
            return await prover.run(plot)


def show_paths(title: str, proof: Proof) -> None:
    """Each path with where it arrived, and below how it went there."""
    rows = [
        (
            path.name,
            path.decision_digest[:DIGITS],
            path.state_digest[:DIGITS],
            path.cells,
            path.decisions,
            round(path.cells / path.seconds) if path.seconds else "",
        )
        for path in proof.paths
    ]
    print_table(title, ("path", "decision digest", "state digest", "cells", "decisions", "cells/s"), rows)
    for path in proof.paths:
        if path.note:
            console.print(f"{path.name:<14}{path.note}", highlight=False, markup=False, soft_wrap=True)
    console.print()


def show(day: DayProof) -> None:
    """The table of paths and the numbers of the recovery, for people."""
    show_paths("Paths to the same state", day.proof)
    record, backup, restore = day.record, day.backup, day.restore
    size = "" if record.bytes is None else f"{record.bytes / record.cells:.1f} bytes a cell, "
    console.print(
        f"tape      {record.cells:,} cells, {size}{record.commands} commands\n"
        f"backup    {backup.segments_new} segments, {backup.bytes_sent / 1e6:.1f} MB sent, {backup.requests} requests\n"
        f"RPO       {day.rpo_cells} cells lost\n"
        f"RTO       {day.rto_seconds:.2f} s from an empty cluster to the desk up "
        f"({sum(log.appended for log in restore.logs):,} messages restored, sequences asserted)",
        highlight=False,
        soft_wrap=True,
    )


def run_sync(choice: DayChoice, *, lines: bool, plot: Path | None = None) -> DayProof:
    """`prove_choice` for a command that is not asynchronous itself."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(prove_choice(choice, lines=lines, plot=plot))
