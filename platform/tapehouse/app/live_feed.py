"""Live feeds into a ring: a venue's websocket, or ITCH over MoldUDP64. A desk in `ahead` mode takes it from there.

The recorders of `feeds.live` bring cells; here they meet the ring, the raw capture and the signal to stop.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from tapehouse.app.pushing import append
from tapehouse.core.clock import Clock
from tapehouse.core.errors import DecodeError, UsageError
from tapehouse.feeds.arbitration import Event, Gap, Reset, Run
from tapehouse.feeds.capture import Message, capture_line
from tapehouse.feeds.itch_decoder import ItchDecoder
from tapehouse.feeds.live.addresses import Address
from tapehouse.feeds.live.mold_recorder import MoldRecorder
from tapehouse.feeds.live.recorder import LiveCounts, LiveRecorder
from tapehouse.feeds.new_york import day_of, midnight_ns
from tapehouse.feeds.session import Endpoint, VenueSession
from tapehouse.market import Cells
from tapehouse.market.gap import Cause, Confidence, gap_record
from tapehouse.ring import Policy, Ring, RingProducer

CAPTURE_LEVEL = 1  # of gzip: a quick one, because the recorder waits for it


@dataclass(frozen=True, slots=True, kw_only=True)
class RingOptions:
    """The ring that a feed goes into; made where it is not there yet."""

    name: str
    cells: int | None = None
    policy: Policy | None = None
    directory: Path | None = None

    def produce(self) -> RingProducer:
        """Attach as its producer; raises as `Ring.produce` does."""
        return Ring.produce(self.name, cells=self.cells, policy=self.policy, directory=self.directory)


async def record_venue(
    session: VenueSession,
    endpoint: Endpoint,
    ring: RingOptions,
    stop: asyncio.Event,
    *,
    clock: Clock,
    jitter: Callable[[], float],
    capture: Path | None = None,
    on_ready: Callable[[], None] | None = None,
    on_counts: Callable[[LiveCounts], None] | None = None,
) -> LiveCounts:
    """Record one venue until `stop` is set.

    Args:
        capture: A new gzip file of everything that came and was sent, as `feeds check` reads it.
        on_ready: Called when the ring is there.
        on_counts: Called after each batch.

    Raises:
        UsageError: The capture exists.
        ConflictError, RingFullError: Of the ring.
        MissingError: The venue has no such URL.
    """
    with ExitStack() as stack:
        producer = stack.enter_context(ring.produce())
        write = None if capture is None else _capture_writer(capture, stack)

        async def sink(cells: Cells) -> None:
            await append(producer, cells, clock)
            if on_counts:
                on_counts(recorder.counts)

        if on_ready:
            on_ready()
        recorder = LiveRecorder(session, endpoint, clock=clock, jitter=jitter, sink=sink, capture=write)
        return await recorder.run(stop)


def _capture_writer(path: Path, stack: ExitStack) -> Callable[[Message], None]:
    if path.exists():
        raise UsageError("the capture is there already", subject=str(path), hint="name a new file")
    file = stack.enter_context(gzip.GzipFile(path, "xb", compresslevel=CAPTURE_LEVEL))

    def write(message: Message) -> None:
        file.write(capture_line(message))

    return write


@dataclass(slots=True, kw_only=True)
class MoldReport:
    """What a recording of MoldUDP64 did."""

    messages: int = 0
    cells: int = 0
    gaps: int = 0
    lost: int = 0
    lost_ranges: list[tuple[int, int]]
    requests: int = 0
    repaired: int = 0
    malformed: int = 0
    undecoded: int = 0
    overruns: int = 0
    ended: bool = False
    lines: list[dict[str, int]]


class MoldFeed:
    """Messages in order, gaps and resets into cells.

    Args:
        day: The trading day; None for the day of the clock in New York.
    """

    def __init__(self, *, clock: Clock, day: date | None = None) -> None:
        self.messages = self.undecoded = self.gaps = 0
        self._clock, self._day = clock, day
        self._decoder = ItchDecoder()
        self._defined = 0

    def cells(self, event: Event) -> list[Cells]:
        """What one event becomes, definitions first."""
        now = self._decoder.hold_time(self._clock.time_ns())
        if isinstance(event, Reset):
            self.gaps += 1
            reset = gap_record(Cause.RESET, Confidence.GOOD, ts_recv=now)
            return [reset, self._decoder.forget_orders(now)]
        if isinstance(event, Gap):
            self.gaps += 1
            return [
                gap_record(
                    event.cause,
                    Confidence.SUSPECT if self.undecoded else event.confidence,
                    ts_recv=now,
                    sequence=event.sequence,
                    following=event.following,
                    missing=event.missing,
                )
            ]
        self.messages += len(event.messages)
        midnight = midnight_ns(self._day or day_of(now))
        out = self._decode(event, midnight, now)
        fresh = self._decoder.instruments[self._defined :]
        self._defined += len(fresh)
        return [*(instrument.definition(ts_recv=now) for instrument in fresh), *out]

    def _decode(self, run: Run, midnight: int, now: int) -> list[Cells]:
        framed = b"".join(len(message).to_bytes(2, "big") + message for message in run.messages)
        try:
            return [self._decoder.decode(framed, midnight, now, run.sequence)]
        except DecodeError:
            if len(run.messages) > 1:  # The good ones of them are taken one by one.
                singles = (Run(number, (message,)) for number, message in enumerate(run.messages, run.sequence))
                return [part for single in singles for part in self._decode(single, midnight, now)]
        self.undecoded += 1
        self.gaps += 1
        return [
            gap_record(
                Cause.MALFORMED,
                Confidence.SUSPECT,
                ts_recv=now,
                sequence=run.sequence - 1,
                following=run.sequence + 1,
                missing=1,
            )
        ]


async def record_mold(
    lines: Sequence[Address],
    retransmission: Address | None,
    ring: RingOptions,
    stop: asyncio.Event,
    *,
    clock: Clock,
    interface: str = "0.0.0.0",
    day: date | None = None,
    on_ready: Callable[[], None] | None = None,
    on_cells: Callable[[int], None] | None = None,
) -> MoldReport:
    """Record ITCH over MoldUDP64 until its session ends or `stop` is set.

    Raises:
        MissingError: An address cannot be had.
        ConflictError, RingFullError: Of the ring.
    """
    recorder = MoldRecorder(lines, retransmission, clock=clock, interface=interface)
    feed = MoldFeed(clock=clock, day=day)
    total = 0
    with ring.produce() as producer:

        async def handed(events: list[Event]) -> None:
            nonlocal total
            for event in events:
                for cells in feed.cells(event):
                    if len(cells):
                        await append(producer, cells, clock)
                        total += len(cells)
            if on_cells:
                on_cells(total)

        await recorder.run(handed, stop, on_ready=on_ready)
    receiver = recorder.receiver
    return MoldReport(
        messages=feed.messages,
        cells=total,
        gaps=feed.gaps,
        lost=receiver.arbiter.lost.messages,
        lost_ranges=receiver.arbiter.lost.ranges,
        requests=receiver.requests,
        repaired=receiver.arbiter.repaired,
        malformed=receiver.malformed,
        undecoded=feed.undecoded,
        overruns=recorder.overruns,
        ended=receiver.ended,
        lines=[asdict(line) for line in receiver.arbiter.lines],
    )
