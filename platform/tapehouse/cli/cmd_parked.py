"""`tapehouse parked`: inputs that a desk could not understand or apply, and what to do with them."""

from __future__ import annotations

import dataclasses
import json as json_module
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from tapehouse.client import AsyncClient, Outcome

EXIT_NOT_ACCEPTED = 1
HEX_ROW = 32  # bytes of a line
_LISTED = ("position", "ts", "input", "state", "type", "version", "client", "number", "sequence", "kind", "symbol",
           "bytes", "hash", "reason", "settled")  # fmt: skip


def list_parked(*, tape: str = "main", all: bool = False, nats: str | None = None, json: bool = False) -> int:
    """What is parked: commands that could not be read, and records of the tape that the desk skipped.

    A command can be replayed while its state is `parked`. It is `fallen out` when the desk had to make room: then its
    bytes are still on the tape, and can be sent anew. A record of the tape is `skipped` and stays so.

    Examples:

        tapehouse parked list --tape amzn

        tapehouse parked list --all --json

    Parameters
    ----------
    tape
        Which tape.
    all
        Those that were replayed or dropped, too.
    nats
        The broker; else what the environment or the embedded cluster says.
    json
        One line of JSON: a list of objects.
    """
    from tapehouse.cli.cmd_sql import json_value
    from tapehouse.cli.output import console, print_json, print_table, run_async
    from tapehouse.client import AsyncClient

    async def ask() -> list[dict[str, Any]]:
        async with await AsyncClient.open(nats) as client:
            return await _rows(client, tape)

    rows = run_async(ask())
    shown = rows if all else [row for row in rows if row["state"] not in ("replayed", "dropped")]
    if json:
        print_json([{name: json_value(value) for name, value in row.items()} for row in shown])
        return 0
    cells = [
        (
            str(row["position"]),
            str(json_value(row["ts"])),
            row["type"] or (f"kind {row['kind']}" if row["input"] == "record" else "no envelope"),
            f"{row['client']} {row['number']}" if row["client"] else "",
            row["bytes"],
            row["state"] if row["settled"] is None else f"{row['state']} at {row['settled']}",
            row["reason"],
        )
        for row in shown
    ]
    print_table("", ("position", "time", "what", "client", "bytes", "state", "reason"), cells)
    counts = [f"{sum(row['state'] == state for row in rows):,} {state}" for state in _states(rows)]
    console.print(", ".join(counts) or "nothing was ever parked", highlight=False, style="dim")
    return 0


def show(position: int, /, *, tape: str = "main", nats: str | None = None, json: bool = False) -> int:
    """The bytes of one parked input: as JSON where they are JSON, else in hex.

    Examples:

        tapehouse parked show 4711 --tape amzn

    Parameters
    ----------
    position
        Where it was parked, as `tapehouse parked list` says.
    tape
        Which tape.
    nats
        The broker; else what the environment or the embedded cluster says.
    json
        One line of JSON, the bytes as hex beside it.
    """
    from tapehouse.cli.cmd_sql import json_value
    from tapehouse.cli.output import print_json, run_async
    from tapehouse.client import AsyncClient

    async def ask() -> tuple[dict[str, Any], bytes]:
        async with await AsyncClient.open(nats) as client:
            row = _known(await _rows(client, tape), position, tape)
            return row, await client.input_bytes(position, tape=tape)

    row, data = run_async(ask())
    try:
        value = json_module.loads(data)
    except ValueError:
        value = None
    if json:
        told = {name: json_value(cell) for name, cell in row.items()}
        print_json({**told, "value": value, "hex": data.hex()})
    elif value is not None:
        print(json_module.dumps(value, indent=2, ensure_ascii=False))
    else:
        for at in range(0, len(data), HEX_ROW):
            print(f"{at:05x}  {data[at : at + HEX_ROW].hex(' ', 4)}")
    return 0


def replay(
    *positions: int,
    tape: str = "main",
    all: Annotated[bool, Parameter(name="--all", negative="")] = False,
    client: str | None = None,
    timeout: float = 10.0,
    nats: str | None = None,
    json: bool = False,
) -> int:
    """Have the desk decide parked commands again, with its code of today; exit 1 where one cannot be read yet.

    Each is decided as the command that it is, under its own client and number, in the order of their positions. What
    came of it is in the outcome: `accepted: decided again, rejected: price is beyond the band`.

    Examples:

        tapehouse parked replay 4711 --tape amzn

        tapehouse parked replay --all

    Parameters
    ----------
    positions
        Where they were parked.
    tape
        Which tape.
    all
        Every command that is parked.
    client
        Who asks; a fresh name by default.
    timeout
        Seconds to wait for each outcome.
    nats
        The broker; else what the environment or the embedded cluster says.
    json
        One line of JSON: a list of outcomes.
    """
    return _each("replay", positions, tape=tape, all=all, client=client, timeout=timeout, nats=nats, json=json)


def drop(
    *positions: int,
    tape: str = "main",
    all: Annotated[bool, Parameter(name="--all", negative="")] = False,
    client: str | None = None,
    timeout: float = 10.0,
    nats: str | None = None,
    json: bool = False,
) -> int:
    """Have the desk forget parked commands; their bytes stay on the tape.

    Examples:

        tapehouse parked drop 4711 4720 --tape amzn

    Parameters
    ----------
    positions
        Where they were parked.
    tape
        Which tape.
    all
        Every command that is parked.
    client
        Who asks; a fresh name by default.
    timeout
        Seconds to wait for each outcome.
    nats
        The broker; else what the environment or the embedded cluster says.
    json
        One line of JSON: a list of outcomes.
    """
    return _each("drop", positions, tape=tape, all=all, client=client, timeout=timeout, nats=nats, json=json)


def _each(
    verb: Literal["replay", "drop"],
    positions: tuple[int, ...],
    *,
    tape: str,
    all: bool,
    client: str | None,
    timeout: float,
    nats: str | None,
    json: bool,
) -> int:
    from tapehouse.cli.output import console, print_json, run_async
    from tapehouse.client import AsyncClient
    from tapehouse.core.errors import UsageError

    if all == bool(positions):
        raise UsageError("positions or --all, one of them", subject=f"parked {verb}", hint="see tapehouse parked list")

    async def ask() -> dict[int, Outcome]:
        async with await AsyncClient.open(nats, client=client) as desk:
            chosen = positions
            if all:
                chosen = tuple(row["position"] for row in await _rows(desk, tape) if row["state"] == "parked")
            return {
                position: await desk.send(f"parked.{verb}", {"position": position}, tape=tape, timeout=timeout)
                for position in chosen
            }

    outcomes = run_async(ask())
    if json:
        print_json([{"parked": position, **dataclasses.asdict(each)} for position, each in outcomes.items()])
    else:
        for position, each in outcomes.items():
            reason = f": {each.reason}" if each.reason else ""
            console.print(f"{position}: {each.outcome}{reason}, at ordinal {each.position}", highlight=False)
        if not outcomes:
            console.print("nothing is parked", highlight=False)
    return 0 if all_accepted(outcomes) else EXIT_NOT_ACCEPTED


def all_accepted(outcomes: dict[int, Outcome]) -> bool:
    """Whether the desk did what was asked, each time."""
    return all(each.accepted for each in outcomes.values())


async def _rows(client: AsyncClient, tape: str) -> list[dict[str, Any]]:
    table = await client.sql(f"SELECT {', '.join(_LISTED)} FROM parked ORDER BY position", tape=tape)
    return table.to_dicts()


def _known(rows: list[dict[str, Any]], position: int, tape: str) -> dict[str, Any]:
    from tapehouse.core.errors import MissingError

    for row in rows:
        if row["position"] == position:
            return row
    near = ", ".join(str(row["position"]) for row in rows[-5:]) or "nothing"
    raise MissingError(f"nothing was parked at {position}", subject=tape, hint=f"last ones: {near}")


def _states(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["state"] for row in rows))
