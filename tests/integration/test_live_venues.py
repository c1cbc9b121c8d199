"""Venues served from real captures and recorded over real sockets: each fault is told, and nothing else changes."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest

from tapehouse.core import SystemClock
from tapehouse.feeds import open_feed
from tapehouse.feeds.capture import Message, capture_line, read_capture
from tapehouse.feeds.faults import Fault, FaultPlan
from tapehouse.feeds.live.recorder import LiveCounts, LiveRecorder
from tapehouse.feeds.live.server import FeedServer
from tapehouse.feeds.live.venues import open_session
from tapehouse.feeds.served_book import ServedBook
from tapehouse.feeds.served_venues import served_venue
from tapehouse.market import Action, Cells, Flag, Kind, empty_cells
from tapehouse.market.gap import RECOVERED_FROM, Cause, Confidence
from tests.support.live_feeds import Market, gaps_of, instruments_of

TIMEOUT_S = 30.0
POLL_S = 0.05
STALE_NS = 30 * 10**9
RING = "live"
DERIBIT_SYMBOLS = (
    "BTC-24JUN22-15000-C",
    "BTC-24SEP21-34000-P",
    "BTC-24SEP21-8000-P",
    "BTC-25MAR22-30000-C",
    "BTC-30JUL21-24000-P",
    "BTC-31DEC21-300000-C",
    "BTC-31DEC21-34000-P",
    "ETH-23JUL21-2300-C",
    "ETH-27AUG21-4000-P",
    "ETH-30JUL21-2800-C",
)


@dataclass(frozen=True)
class Venue:
    """An excerpt of a capture, how to record it, and what a lost or moved change of a book is noticed by."""

    name: str
    file: str
    lines: int
    path: str
    symbols: tuple[str, ...]
    noticed: Cause
    corrupted: Cause
    market: str | None = None
    rest: bool = False


VENUES = {
    "binance": Venue(
        name="binance",
        file="binance_hftbacktest/spot_btcusdt_20240808.gz",
        lines=2_000,
        path="/stream",
        symbols=("BTCUSDT",),
        noticed=Cause.SEQUENCE,
        corrupted=Cause.MALFORMED,
        rest=True,
    ),
    "coinm": Venue(
        name="binance",
        file="binance_hftbacktest/cm_btcusd_perp_20240808.gz",
        lines=1_200,
        path="/stream",
        symbols=("BTCUSD_PERP",),
        noticed=Cause.SEQUENCE,
        corrupted=Cause.MALFORMED,
        market="coinm",
        rest=True,
    ),
    "okx": Venue(
        name="okx",
        file="cryptofeed/OKX.ws.1.0",
        lines=10_000,
        path="/ws/v5/public",
        symbols=("BTC-USD-220527", "UNI-USD-SWAP", "BTC-USDT"),
        noticed=Cause.CHECKSUM,
        corrupted=Cause.CHECKSUM,
    ),
    "bitget": Venue(
        name="bitget",
        file="cryptofeed/BITGET.ws.2.0",
        lines=10_000,
        path="/mix/v1/stream",
        symbols=("DASHUSDT", "UNIUSDT"),
        noticed=Cause.CHECKSUM,
        corrupted=Cause.CHECKSUM,
    ),
    "bybit": Venue(
        name="bybit",
        file="small_crypto_fx/bybit__xrpusdt-ob500.data.zip",
        lines=200,
        path="/v5/public/spot",
        symbols=("XRPUSDT",),
        noticed=Cause.SEQUENCE,
        corrupted=Cause.MALFORMED,
    ),
    "deribit": Venue(
        name="deribit",
        file="cryptofeed/DERIBIT.ws.1.0",
        lines=10_000,
        path="/ws/api/v2",
        symbols=DERIBIT_SYMBOLS,
        noticed=Cause.SEQUENCE,
        corrupted=Cause.MALFORMED,
    ),
}


@dataclass
class Run:
    """What one recording gave."""

    counts: LiveCounts
    cells: Cells
    happened: list[Fault]
    capture: list[Message] = field(default_factory=list)


def excerpt(market_data: Path, venue: Venue, directory: Path) -> Path:
    """The first lines of the capture, in its own layout."""
    source = market_data / venue.file
    path = directory / source.stem
    with ExitStack() as stack:
        file: Any = stack.enter_context(open(source, "rb"))
        if source.suffix == ".gz":
            file = stack.enter_context(gzip.open(file))
        elif source.suffix == ".zip":
            archive = stack.enter_context(ZipFile(file))
            file = stack.enter_context(archive.open(archive.namelist()[0]))
        path.write_bytes(b"".join(islice(file, venue.lines)))
    return path


def in_the_middle(venue: Venue, source: Path) -> int:
    """The number of a change of a book whose next one, of any book, is of the same book.

    Where only checksums can tell, it is one that the next one's checksum tells: a loss deep in the book is not noticed.
    """
    venue_side, played = served_venue(venue.name), []
    for message in read_capture(source):
        item = venue_side.play(message)
        if item is not None:
            played.append(item)
    numbered = [at for at, item in enumerate(played) if item.numbered]
    for chosen, following in pairwise(numbered[len(numbered) // 2 :]):
        if played[chosen].channel != played[following].channel:
            continue
        if venue.noticed is not Cause.CHECKSUM:
            return chosen
        book, told = ServedBook(), 0
        for item in [*played[:chosen], played[following]]:
            if item.channel == played[chosen].channel:
                part = json.loads(item.body)["data"][0]
                book.apply(part.get("bids", ()), part.get("asks", ()))
                told = part["checksum"]
        if book.checksum() != told:
            return chosen
    raise AssertionError("the excerpt has no such change")


@asynccontextmanager
async def serving(venue: Venue, source: Path, plan: FaultPlan) -> AsyncIterator[tuple[FeedServer, str]]:
    """A server that plays the excerpt as fast as it is read, and its address."""
    server = FeedServer(served_venue(venue.name), lambda: read_capture(source), clock=SystemClock(), plan=plan)
    port = await server.start()
    playing = asyncio.create_task(server.play())
    try:
        yield server, f"127.0.0.1:{port}"
    finally:
        playing.cancel()
        result = (await asyncio.gather(playing, return_exceptions=True))[0]
        await server.close()
        assert result is None or isinstance(result, asyncio.CancelledError), result


async def record(
    venue: Venue, source: Path, plan: FaultPlan, whole: Callable[[Cells], bool], *, hold_before: int | None = None
) -> Run:
    """Record until everything was played and what came is whole.

    Args:
        hold_before: A message that is not played before every book is known to the recorder.
    """
    session, endpoint = open_session(venue.name, venue.symbols, market=venue.market, stale_ns=STALE_NS)
    stop, parts, capture = asyncio.Event(), list[Cells](), list[Message]()
    known, books, kept = asyncio.Event(), set[int](), list[int]()  # how many parts there were when it was stopped
    async with serving(venue, source, plan) as (server, address):
        server.hold_before = hold_before

        async def sink(cells: Cells) -> None:
            parts.append(cells)
            books.update(books_told(cells))
            if len(books) == len(venue.symbols):
                known.set()

        async def watch() -> None:
            """Stop when everything was played and what came is whole; looked at only where nothing new came."""
            if hold_before is not None:
                await server.held.wait()
                await known.wait()
                server.release()
            await server.finished.wait()
            seen = -1
            while not stop.is_set():
                if len(parts) == seen and whole(np.concatenate(parts)):
                    kept.append(seen)
                    stop.set()
                seen = len(parts)
                await asyncio.sleep(POLL_S)

        recorder = LiveRecorder(
            session,
            replace(endpoint, websocket=f"ws://{address}{venue.path}", rest=f"http://{address}" if venue.rest else ""),
            clock=SystemClock(),
            jitter=lambda: 0.0,
            sink=sink,
            capture=capture.append,
        )
        watching = asyncio.create_task(watch())
        try:
            async with asyncio.timeout(TIMEOUT_S):
                counts = await recorder.run(stop)
        except TimeoutError:
            cells = np.concatenate(parts) if parts else empty_cells(0)
            raise AssertionError(f"not whole: {gaps_of(cells)} {server.faults} {recorder.counts}") from None
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    end = np.concatenate(parts[kept[0] :])
    assert set(end["kind"].tolist()) == {Kind.GAP}, "the books of a recorder that has stopped are suspect"
    assert set(end["action"].tolist()) == {Cause.DISCONNECTED}
    return Run(counts, np.concatenate(parts[: kept[0]]), [item.fault for _, item in server.faults], capture)


def books_told(cells: Cells) -> set[int]:
    """Instruments whose books begin to be told whole in these cells."""
    return set(cells["instrument"][(cells["action"] == Action.CLEAR) & (cells["flags"] & Flag.SNAPSHOT > 0)].tolist())


@pytest.fixture(params=VENUES)
def venue(request: pytest.FixtureRequest) -> Venue:
    return VENUES[request.param]


@pytest.fixture
def source(venue: Venue, market_data: Path, tmp_path: Path) -> Path:
    return excerpt(market_data, venue, tmp_path)


@pytest.fixture
def truth(venue: Venue, source: Path) -> Market:
    """What the capture itself says, by its feed."""
    feed = open_feed(venue.name, [source])
    cells = np.concatenate([*(item.definition(ts_recv=0) for item in feed.instruments), *feed.batches()])
    assert not gaps_of(cells)
    return Market(cells)


async def test_an_undisturbed_recording_is_the_capture(
    venue: Venue, source: Path, truth: Market, tmp_path: Path
) -> None:
    run = await record(venue, source, FaultPlan(), lambda cells: Market(cells) == truth)
    assert Market(run.cells) == truth
    assert gaps_of(run.cells) == []
    assert (run.counts.malformed, run.counts.failures) == (0, 0)
    written = tmp_path / "again"
    written.write_bytes(b"".join(map(capture_line, run.capture)))
    again = open_feed(venue.name, [written])
    cells = np.concatenate([*(item.definition(ts_recv=0) for item in again.instruments), *again.batches()])
    assert Market(cells) == truth, "the capture that a recorder wrote is as good as the one that it was served"


@pytest.mark.parametrize("fault", Fault)
async def test_each_fault_is_told_and_nothing_else_changes(
    venue: Venue, source: Path, truth: Market, fault: Fault
) -> None:
    at = in_the_middle(venue, source)
    plan = FaultPlan(at={fault: frozenset((at,))})

    def whole(cells: Cells) -> bool:
        last = {gap[5]: gap[1] for gap in gaps_of(cells) if gap[5] in books_told(cells)}
        return set(last.values()) <= {Confidence.GOOD} and Market(cells) == truth

    run = await record(venue, source, plan, whole, hold_before=at)
    assert run.happened == [fault]
    instruments_of(run.cells)
    gaps = gaps_of(run.cells)
    if fault is Fault.DUP:
        assert gaps == []
        return
    expected = {Fault.DISCONNECT: Cause.DISCONNECTED, Fault.CORRUPT_CHECKSUM: venue.corrupted}.get(fault, venue.noticed)
    assert gaps, "the fault was told"
    assert {Cause(gap[0]) for gap in gaps if gap[0] < RECOVERED_FROM} == {expected}
    for instrument in {gap[5] for gap in gaps}:
        told = [(gap[0], gap[1]) for gap in gaps if gap[5] == instrument]
        assert told[0] == (expected, Confidence.SUSPECT)
        if instrument in books_told(run.cells):
            assert told[-1] == (Cause.SNAPSHOT, Confidence.GOOD)
        else:  # a quote is suspect until there is a next one
            assert told[1:] in ([], [(Cause.RESUMED, Confidence.GOOD)])
