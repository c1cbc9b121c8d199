"""`tapehouse book`: an order book at any moment of a tape; `books build`: the snapshots that make it quick."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

DEPTH_MAX = 1 << 16


def book(
    symbol: str,
    /,
    *,
    tape: str = "main",
    at: str | None = None,
    at_ordinal: int | None = None,
    depth: int = 10,
    orders: bool = False,
    json: bool = False,
    nats: str | None = None,
    home: Path | None = None,
) -> int:
    """Show an instrument's order book as it was after the last record with an engine time at or before a moment.

    It is folded from the nearest snapshot before the moment and the tape after that; both are shown. Where there are no
    snapshots, the whole tape is folded: `tapehouse books build` writes them.

    Examples:

        tapehouse book AMZN --tape amzn

        tapehouse book AMZN --tape amzn --at 2012-06-21T15:00:00Z --depth 5

        tapehouse book ESH4 --tape esh4 --at-ordinal 1000000 --orders --json

    Parameters
    ----------
    symbol
        The venue's spelling; SYMBOL@ID where several instruments have it.
    tape
        Which tape.
    at
        Engine time: ISO 8601 with a zone, or integer ns; the end of the tape by default.
    at_ordinal
        Instead of a time: after the record that holds this cell.
    depth
        Levels of each side.
    orders
        The known orders of each level too, oldest first.
    json
        One line of JSON.
    nats
        The broker; else what the environment or the embedded cluster says.
    home
        Where the embedded cluster lives, as given to `tapehouse up`.
    """
    from tapehouse.app.books import book_of
    from tapehouse.cli.output import compile_kernels, console, diagnostics, print_json, print_table, run_async
    from tapehouse.core import parse_time_ns
    from tapehouse.core.errors import UsageError
    from tapehouse.query.books import Moment

    if not 0 < depth <= DEPTH_MAX:
        raise UsageError(f"a depth of {depth}", hint=f"1 to {DEPTH_MAX}")
    moment = Moment(time=None if at is None else parse_time_ns(at), ordinal=at_ordinal)
    compile_kernels(quiet=json)
    found = run_async(book_of(symbol, tape=tape, moment=moment, nats=nats, home=home))
    said: dict[str, Any] = found.describe()
    sides = found.levels(depth, orders=orders)
    if json:
        print_json({**said, **sides})
        return 0
    for refused in said["refused"]:
        diagnostics.print(f"passed over: {refused}", highlight=False, style="yellow")
    print_table(
        f"{said['symbol']}, {said['state']}, {said['confidence']}, {said['ts']}",
        ("bid orders", "bid size", "bid", "ask", "ask size", "ask orders"),
        _ladder(sides["bids"], sides["asks"]),
    )
    if orders:
        rows = [
            (name, level["price"], str(order["order_id"]), order["size"])
            for name in ("bids", "asks")
            for level in sides[name]
            for order in level["queue"]
        ]
        print_table("known orders, oldest first", ("side", "price", "order", "size"), rows)
    position, snapshot = said["position"], said["snapshot"]
    begun = "an empty book" if snapshot is None else f"the snapshot at cell {snapshot['ordinal']:,} ({snapshot['ts']})"
    console.print(
        f"after cell {position['next_ordinal'] - 1:,}, sequence {position['sequence']:,}; from {begun}, "
        f"{said['cells_folded']:,} cells folded from cell {said['folded_from']:,} on",
        highlight=False,
        style="dim",
    )
    return 0


def build(
    *,
    tape: str = "main",
    cells: int = 100_000,
    seconds: float = 60.0,
    json: bool = False,
    nats: str | None = None,
    home: Path | None = None,
) -> int:
    """Write the snapshots of a tape's books into SNAPS, as far as they are not there yet.

    A host writes them while it serves a tape. Where they are taken follows from the tape, so a second run, or a run
    after one that was killed, stores only what is missing.

    Examples:

        tapehouse books build --tape amzn

        tapehouse books build --tape esh4 --cells 20000 --seconds 10

    Parameters
    ----------
    tape
        Which tape.
    cells
        Snapshots are taken where the tape's ordinals pass a multiple of this,
    seconds
        and where its engine time does.
    json
        One line of JSON.
    nats
        The broker; else what the environment or the embedded cluster says.
    home
        Where the embedded cluster lives, as given to `tapehouse up`.
    """
    from tapehouse.app.books import build_books
    from tapehouse.cli.output import compile_kernels, print_json, print_table, run_async

    compile_kernels(quiet=json)
    kept = asdict(run_async(build_books(tape, cells_every=cells, seconds_every=seconds, nats=nats, home=home)))
    if json:
        print_json({"tape": tape, **kept})
    else:
        print_table(tape, ("", ""), [(name.replace("_", " "), str(value)) for name, value in kept.items()])
    return 0


def _ladder(bids: list[dict[str, Any]], asks: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    """Both sides beside each other, best first."""
    rows = []
    for at in range(max(len(bids), len(asks))):
        bid = (bids[at]["orders"], bids[at]["size"], bids[at]["price"]) if at < len(bids) else ("", "", "")
        ask = (asks[at]["price"], asks[at]["size"], asks[at]["orders"]) if at < len(asks) else ("", "", "")
        rows.append((*bid, *ask))
    return rows
