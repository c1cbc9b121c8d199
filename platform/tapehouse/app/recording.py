"""A feed recorded onto a tape of a platform, by names as users give them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tapehouse.app.ahead import record_ahead
from tapehouse.app.ahead_desk import AheadOptions
from tapehouse.app.bootstrap import open_platform
from tapehouse.app.journals import finish_leftover
from tapehouse.app.live import Logs, RecordReport, record
from tapehouse.app.sidecars import SidecarProcess
from tapehouse.app.strategies import load_strategy
from tapehouse.core import DataError, SystemClock, UsageError
from tapehouse.core.ids import check_name, slug
from tapehouse.feeds.port import Feed
from tapehouse.market import Cells, Instrument

Mode = Literal["gated", "ahead"]


class ReadableFeed:
    """What can be read of a feed: where it turns out to be bad it ends, and `fault` says why.

    So a recording of it is whole up to the fault, its last frame and the decisions on it included.
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self.fault: DataError | None = None

    @property
    def name(self) -> str:
        """The feed's own."""
        return self._feed.name

    @property
    def instruments(self) -> tuple[Instrument, ...]:
        """The feed's own."""
        return self._feed.instruments

    @property
    def cells_estimate(self) -> int | None:
        """The feed's own."""
        return self._feed.cells_estimate

    def batches(self) -> Iterator[Cells]:
        """The feed's batches before the fault."""
        self.fault = None
        try:
            yield from self._feed.batches()
        except DataError as error:
            self.fault = error

    def require_some(self) -> None:
        """Read the beginning; raises DataError where there is none to be read."""
        if not any(len(cells) for cells in self.batches()):
            raise self.fault or DataError("there is nothing in it", subject=self.name, hint="is it the right file?")


async def record_source(
    feed: Feed,
    *,
    tape: str | None,
    strategy: str | None,
    parameters: str | None = None,
    guard: bool = True,
    mode: Mode = "gated",
    options: AheadOptions | None = None,
    nats: str | None = None,
    home: Path | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[str, RecordReport]:
    """Record a feed; returns the tape's name and what was done.

    Raises:
        UsageError: `ahead` mode without a strategy: nobody would decide ahead of anything.
        DataError: The feed is bad, and what came before the fault is on the tape, decided upon and ready to be
            replayed; or it is bad from the beginning, or the tape holds another feed, and nothing was written.
        ConflictError: Another sequencer took the tape over.
    """
    name = check_name(slug(feed.name) if tape is None else tape, "tape")
    loaded = load_strategy(strategy, parameters) if strategy else None
    if mode == "ahead" and loaded is None:
        raise UsageError("`ahead` mode needs a strategy", hint="--mode gated records without one")
    readable = ReadableFeed(feed)
    readable.require_some()  # So that a file that is no such file leaves no tape behind.
    async with open_platform(nats, home=home) as platform:
        logs = Logs(
            tape=await platform.tape(name, create=True),
            events=await platform.events(name, create=True),
            commands=await platform.commands(name, create=True),
        )
        rings = options.rings if options else None
        sidecar = SidecarProcess(name, nats=nats, home=platform.home, rings=rings)
        ahead = partial(
            record_ahead, name, sidecar=sidecar, options=options,
            timings=platform.timings(name, await logs.tape.extent()),
        )  # fmt: skip
        if mode == "gated":
            await finish_leftover(name, logs.tape, sidecar, SystemClock(), directory=rings)
        run: Callable[..., Any] = partial(
            record if mode == "gated" else ahead,
            readable,
            logs,
            clock=SystemClock(),
            guard=guard,
            snapshots=await platform.snapshots(name),
            on_progress=on_progress,
        )
        report = await run(strategy=loaded)
    if readable.fault is not None:
        raise _with_tape(readable.fault, name, report)
    return name, report


def _with_tape(fault: DataError, tape: str, report: RecordReport) -> DataError:
    """The fault, with where the part before it is."""
    kept = f"the {report.feed_cells:,} cells before it are on tape {tape}"
    hint = f"{fault.hint}; {kept}" if fault.hint else kept
    return type(fault)(fault.message, subject=fault.subject, position=fault.position, hint=hint)
