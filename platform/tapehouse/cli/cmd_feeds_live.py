"""`tapehouse feeds live`: a venue's own feed into a ring."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    import datetime

    from tapehouse.app.live_feed import MoldReport, RingOptions
    from tapehouse.feeds.live.recorder import LiveCounts

DURATION_NS_MAX = 10**9 * 86_400


def live(
    venue: str,
    *symbols: str,
    ring: str,
    url: str | None = None,
    rest: str | None = None,
    capture: Path | None = None,
    stale_after: str = "30s",
    instruments: Path | None = None,
    market: str | None = None,
    mold: str | None = None,
    mold_b: str | None = None,
    retransmit: str | None = None,
    interface: str = "0.0.0.0",
    date: str | None = None,
    cells: int | None = None,
    drop: bool = False,
    json: bool = False,
) -> int:
    """Record a venue live into a shared-memory ring until Ctrl-C, or until an ITCH session ends.

    It subscribes, keeps the connection alive, takes snapshots, and comes back after a loss; whatever is missing becomes
    a gap record. A desk in `ahead` mode takes the ring from there: tapehouse host --mode ahead --feed RING.

    Examples:

        tapehouse feeds live binance BTCUSDT ETHUSDT --ring binance --capture today.gz

        tapehouse feeds live okx BTC-USDT --ring okx --stale-after 10s

        tapehouse feeds live itch --mold 233.54.12.1:26477 --retransmit 10.0.0.7:1801 --ring itch

    Parameters
    ----------
    venue
        `binance` and the other venues of `tapehouse feeds list`, or `itch`.
    symbols
        As the venue spells them.
    ring
        Its name; it is made where it is not there yet.
    url
        Of the websocket, where it is not the venue's own; without a path it gets the venue's.
    rest
        Of the REST API, likewise; else it is where the websocket is.
    capture
        A new gzip file of everything that came and was sent; `feeds check` reads it.
    stale_after
        Silence that makes the books suspect.
    instruments
        TOML that defines instruments: exponents, ticks, lots.
    market
        Of a venue that has several: `spot`, `usdm`, `coinm`; of Coinbase `level2` or `full`.
    mold
        Where MoldUDP64 packets come, `HOST:PORT`: an address of this machine or a multicast group.
    mold_b
        The feed's second line, likewise.
    retransmit
        The retransmission server.
    interface
        Address of the network interface on which groups are joined.
    date
        Trading day of ITCH's times, if it is not today in New York.
    cells
        Capacity of a ring that is made here, a power of two.
    drop
        Where the desk is behind: drop records and leave a gap record that counts them, instead of waiting.
    json
        What was recorded as one line of JSON at the end.
    """
    from dataclasses import asdict

    from tapehouse.app.live_feed import RingOptions
    from tapehouse.cli.output import compile_kernels, print_json, run_async, stop_signal
    from tapehouse.cli.source_options import read_day
    from tapehouse.core.errors import UsageError
    from tapehouse.ring import Policy

    into = RingOptions(name=ring, cells=cells, policy=Policy.DROP if drop else None)
    day = read_day(date)
    if venue == "itch" and mold is None:
        raise UsageError("nobody says where the packets come", subject="itch", hint="give --mold HOST:PORT")
    if venue == "itch" and symbols:
        raise UsageError("ITCH brings every symbol", hint="leave the symbols out")
    compile_kernels(quiet=json)

    async def run() -> LiveCounts | MoldReport:
        stop = stop_signal()
        if venue == "itch":
            lines = [line for line in (mold, mold_b) if line is not None]
            return await _record_itch(lines, retransmit, interface, into, stop, day)
        return await _record_venue(venue, symbols, market, url, rest, capture, stale_after, instruments, into, stop)

    report = asdict(run_async(run()))
    if json:
        print_json({"venue": venue, **report})
    else:
        print(", ".join(f"{name} {value:,}" for name, value in report.items() if isinstance(value, int)))
    return 0


async def _record_itch(
    lines: list[str],
    retransmit: str | None,
    interface: str,
    ring: RingOptions,
    stop: asyncio.Event,
    day: datetime.date | None,
) -> MoldReport:
    from tapehouse.app.live_feed import record_mold
    from tapehouse.cli.output import Bar
    from tapehouse.core import SystemClock
    from tapehouse.feeds.live.addresses import parse_address

    with Bar("itch", None) as bar:
        return await record_mold(
            [parse_address(line, "--mold") for line in lines],
            None if retransmit is None else parse_address(retransmit, "--retransmit"),
            ring,
            stop,
            clock=SystemClock(),
            interface=interface,
            day=day,
            on_ready=_say_ready,
            on_cells=bar.at,
        )


async def _record_venue(
    venue: str,
    symbols: tuple[str, ...],
    market: str | None,
    url: str | None,
    rest: str | None,
    capture: Path | None,
    stale_after: str,
    instruments: Path | None,
    ring: RingOptions,
    stop: asyncio.Event,
) -> LiveCounts:
    import random

    from tapehouse.app.live_feed import record_venue
    from tapehouse.cli.output import Bar
    from tapehouse.core import SystemClock
    from tapehouse.feeds.live.venues import open_session, redirected

    session, endpoint = open_session(
        venue, symbols, market=market, stale_ns=read_duration(stale_after, "--stale-after"), instruments=instruments
    )
    endpoint = redirected(endpoint, url, rest)
    with Bar(venue, None) as bar:
        return await record_venue(
            session,
            endpoint,
            ring,
            stop,
            clock=SystemClock(),
            jitter=random.random,
            capture=capture,
            on_ready=_say_ready,
            on_counts=lambda counts: bar.at(counts.cells),
        )


def read_duration(text: str, option: str) -> int:
    """`30s`, `500ms` or seconds alone, in ns; raises UsageError where it is none or not positive."""
    from tapehouse.core.errors import UsageError

    unit = 10**6 if text.endswith("ms") else 10**9
    try:
        found = int(float(text.removesuffix("ms").removesuffix("s")) * unit)
    except (ValueError, OverflowError):
        found = 0
    if not 0 < found <= DURATION_NS_MAX:
        raise UsageError(f"{text!r} is no duration", subject=option, hint="such as 30s or 500ms")
    return found


def _say_ready() -> None:
    print("ready", flush=True)
