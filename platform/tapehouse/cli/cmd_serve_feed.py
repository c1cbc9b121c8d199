"""`tapehouse feeds serve`: a recording served as the venue's own protocol, with faults."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping, Sequence

    from tapehouse.feeds.faults import FaultPlan, Happened


def serve(
    format: str,
    *source: Path,
    host: str = "127.0.0.1",
    port: int = 0,
    speed: str = "max",
    drop: str = "",
    dup: str = "",
    reorder: str = "",
    disconnect: str = "",
    corrupt_checksum: str = "",
    seed: int = 7,
    udp: list[str] | None = None,
    interface: str = "",
    session: str = "TAPEHOUSE1",
    once: bool = False,
    json: bool = False,
) -> int:
    """Serve a recording as a live feed: the venue's own websocket and REST API, or MoldUDP64 over UDP for ITCH.

    The recording is played once: it begins when somebody has subscribed and pauses while nobody has; snapshots are of
    the moment in which they are asked for. ITCH begins at once; its UDP port PORT answers requests for lost messages.
    Then it waits for Ctrl-C, and tells which faults befell which message.

    Examples:

        tapehouse feeds serve binance spot.gz --port 8080 --speed 10x --drop 0.001 --disconnect 0.0001

        tapehouse feeds serve okx OKX.ws.1.0 --corrupt-checksum @20,90

        tapehouse feeds serve itch day.itch.gz --udp 127.0.0.1:26477 --udp 127.0.0.1:26478 --drop 0.01

    Parameters
    ----------
    format
        `binance`, `bitget`, `bybit`, `deribit`, `okx`, or `itch`.
    source
        The capture, or the files of one recording; for `itch` one file of length-prefixed messages.
    host
        Address to listen on.
    port
        0 for any that is free.
    speed
        `1x`, `10x`, any factor of the recording's own pace, or `max`.
    drop
        How likely a message is lost, 0 to 1; or `@17,30`: these messages, by number from 0.
    dup
        Likewise: it comes twice.
    reorder
        Likewise: it comes behind the next one.
    disconnect
        Likewise: the connection ends instead of it.
    corrupt_checksum
        Likewise: a digit of a level is another one, or a byte, so that it is unreadable.
    seed
        Of the faults; each connection or line has others.
    udp
        Where ITCH packets go, `HOST:PORT`, once for each line; multicast groups also.
    interface
        Address of the network interface for multicast.
    session
        MoldUDP64's session, 1 to 10 characters.
    once
        Leave when the recording was played.
    json
        What was done as one line of JSON at the end.
    """
    from tapehouse.cli.output import print_json, run_async, stop_signal
    from tapehouse.core.errors import UsageError
    from tapehouse.feeds.served_venues import served_names
    from tapehouse.replay.pacing import parse_speed

    if format != "itch" and format not in served_names():
        raise UsageError(f"{format} cannot be served", hint=f"one of itch, {', '.join(served_names())}")
    if not source:
        raise UsageError("there is nothing to serve", subject=format, hint="name a recording")
    wanted = {"drop": drop, "dup": dup, "reorder": reorder, "disconnect": disconnect}
    plan = read_plan({**wanted, "corrupt-checksum": corrupt_checksum}, seed)
    factor = parse_speed(speed)

    async def run() -> Played:
        stop = stop_signal()
        if format == "itch":
            return await _serve_itch(source, host, port, factor, plan, udp or [], interface, session, stop, once)
        return await _serve_venue(format, source, host, port, factor, plan, stop, once)

    messages, faults = run_async(run())
    told = [{"connection": number, "fault": item.fault.value, "message": item.message} for number, item in faults]
    if json:
        print_json({"format": format, "played": messages, "faults": told})
    else:
        print(f"{messages:,} messages played, {len(told):,} faults")
    return 0


def read_plan(texts: Mapping[str, str], seed: int) -> FaultPlan:
    """Faults by name, each a rate or `@` and message numbers; empty where there are none of that kind.

    Raises:
        UsageError: One is neither.
    """
    from tapehouse.core.errors import UsageError
    from tapehouse.feeds.faults import Fault, FaultPlan

    rates: dict[Fault, float] = {}
    at: dict[Fault, frozenset[int]] = {}
    for name, text in texts.items():
        try:
            if text.startswith("@"):
                at[Fault(name)] = frozenset(int(number) for number in text[1:].split(","))
            elif text:
                rates[Fault(name)] = float(text)
        except ValueError as error:
            raise UsageError(f"{text!r} is no rate", subject=f"--{name}", hint="such as 0.001, or @17,30") from error
    return FaultPlan(seed=seed, rates=rates, at=at)


Played = tuple[int, "list[tuple[int, Happened]]"]


async def _serve_venue(
    format: str,
    source: Sequence[Path],
    host: str,
    port: int,
    factor: float | None,
    plan: FaultPlan,
    stop: asyncio.Event,
    once: bool,
) -> Played:
    import asyncio

    from tapehouse.core import SystemClock
    from tapehouse.feeds.capture import read_captures
    from tapehouse.feeds.live.server import FeedServer
    from tapehouse.feeds.served_venues import served_venue

    server = FeedServer(
        served_venue(format), lambda: read_captures(source), clock=SystemClock(), speed=factor, plan=plan
    )
    bound = await server.start(host, port)
    print(f"http://{host}:{bound} ws://{host}:{bound}")
    print("ready", flush=True)
    try:
        await _until(asyncio.create_task(server.play()), stop, once=once)
    finally:
        await server.close()
    return server.played, server.faults


async def _serve_itch(
    source: Sequence[Path],
    host: str,
    port: int,
    factor: float | None,
    plan: FaultPlan,
    udp: Sequence[str],
    interface: str,
    session: str,
    stop: asyncio.Event,
    once: bool,
) -> Played:
    import asyncio

    from tapehouse.core import SystemClock
    from tapehouse.core.errors import UsageError
    from tapehouse.feeds.faults import Fault
    from tapehouse.feeds.itch_messages import itch_messages
    from tapehouse.feeds.live.addresses import parse_address
    from tapehouse.feeds.live.mold_server import MoldServer
    from tapehouse.feeds.mold import SESSION_BYTES

    if len(source) != 1 or not udp:
        raise UsageError("ITCH is served from one file, to one or more --udp HOST:PORT")
    if Fault.DISCONNECT in plan.rates or Fault.DISCONNECT in plan.at:
        raise UsageError("UDP has no connection that could end", subject="--disconnect")
    name = session.encode("ascii", "replace")
    if not 0 < len(name) <= SESSION_BYTES:
        raise UsageError(f"{session!r} is no session", hint=f"1 to {SESSION_BYTES} characters")
    server = MoldServer(
        [parse_address(text, "--udp") for text in udp],
        session=name.ljust(SESSION_BYTES),
        clock=SystemClock(),
        speed=factor,
        plan=plan,
        interface=interface,
    )

    async def play() -> None:
        await server.play(itch_messages(source[0]))
        if not once:
            await server.idle()

    bound = await server.start(host, port)
    print(f"retransmission {host}:{bound}")
    print("ready", flush=True)
    try:
        await _until(asyncio.create_task(play()), stop, once=once)
    finally:
        server.close()
    return server.played, server.faults


async def _until(work: asyncio.Task[None], stop: asyncio.Event, *, once: bool) -> None:
    """Do the work, then wait for `stop` unless `once`; its error is raised."""
    import asyncio

    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
            if not once:
                print("played", flush=True)
                await stopped
    finally:
        for task in (work, stopped):
            task.cancel()
        await asyncio.gather(work, stopped, return_exceptions=True)
