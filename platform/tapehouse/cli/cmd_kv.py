"""`tapehouse kv get` and `build`: keys of the replicated KV, projections among them, now and at any moment."""

from __future__ import annotations

import json as json_module
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tapehouse.core.errors import UsageError
from tapehouse.core.units import format_time_ns

if TYPE_CHECKING:
    from tapehouse.app.past import StateAt

LevelName = Literal["eventual", "linearizable"]
TURNED_MAX = 4  # values that are shown side by side, where a row each would not fit


def get(
    key: str,
    /,
    *,
    tape: str = "main",
    at: str | None = None,
    at_ordinal: int | None = None,
    level: LevelName | None = None,
    nats: str | None = None,
    json: bool = False,
) -> int:
    """Read a key of the replicated KV, or of a projection, which its prefix says.

    `orders/<id>`, `positions/<account>/<symbol>`, `prices/<symbol>` and `surface/<underlying>` are projections;

    `cash/<account>/<currency>` has balances, `pnl/<account>` profit and loss by currency, open positions valued at the
    middle of the market, else the last trade; and a total where the tape has the exchange rates.

    Of a projection a prefix that ends with `/` lists what is below it (of other keys `kv scan` does). The host that
    serves the tape answers; where none does, the logs are folded here. A key that is not there ends with exit code 3.

    With `--at` or `--at-ordinal` it is read as it was then: from the nearest snapshot before and the log behind it,
    which is what a replay from the beginning gives. `tapehouse kv build` writes the snapshots where no host did.

    Examples:

        tapehouse kv get limits/AMZN

        tapehouse kv get positions/strategy/AMZN --tape amzn

        tapehouse kv get pnl/strategy --tape amzn

        tapehouse kv get prices/ --json

        tapehouse kv get positions/ --tape amzn --at 2012-06-21T15:00:00Z

    Parameters
    ----------
    key
        The key, or a projection's prefix that ends with `/`.
    tape
        Which tape, of a projection.
    at
        Engine time, ISO 8601 with a zone or integer ns: after the last record at or before it, and what was decided on
        the records up to there.
    at_ordinal
        Instead of a time: after the record of the tape that holds this cell, and all that was decided on it.
    level
        Of a key that is no projection's: `linearizable` (the default), or `eventual`.
    nats
        The broker; else what the environment or the embedded cluster says.
    json
        One line of JSON; of a key that is no projection's `key`, `value` (`value_base64` where it is no text),
        `revision` and `expires`.
    """
    from tapehouse.cli.cmd_kv_keys import get_stored
    from tapehouse.cli.output import console, diagnostics, print_json, print_table, run_async
    from tapehouse.client import AsyncClient
    from tapehouse.client.reading import PREFIXES, Reading

    if not key.startswith(PREFIXES):
        if at is not None or at_ordinal is not None:
            raise UsageError("only projections are read at a moment", subject=key, hint="see tapehouse kv history")
        return get_stored(key, level=level or "linearizable", nats=nats, json=json)
    if level == "linearizable":
        raise UsageError("a projection is read as far as its host is", subject="--level", hint="gateways have levels")

    async def read() -> Reading:
        async with await AsyncClient.open(nats) as client:
            return await client.read(key, at=at, at_ordinal=at_ordinal, tape=tape)

    reading: Reading = run_async(read())
    if reading.state is not None:
        diagnostics.print(_found(reading.state), highlight=False, style="dim")
        for refused in reading.state.refused:
            diagnostics.print(f"passed over: {refused}", highlight=False, style="yellow")
    elif not reading.served:
        diagnostics.print(f"no host serves tape {tape}: its logs were folded here", highlight=False, style="dim")
    if json:
        print_json(reading.value)
    elif not key.endswith("/"):
        print_table(key, ("field", "value"), [(name, _cell(value)) for name, value in reading.value.items()])
    elif not reading.value:
        console.print(f"nothing below {key}", highlight=False)
    else:
        fields = list(dict.fromkeys(name for value in reading.value.values() for name in value))
        rows = [(found, *(_cell(value.get(name)) for name in fields)) for found, value in reading.value.items()]
        table: list[tuple[str, ...]] = [("key", *fields), *rows]
        if len(rows) <= TURNED_MAX and _width(table) > console.width:
            table = list(zip(*table, strict=True))
        print_table(key, table[0], table[1:])
    return 0


def _width(table: Iterable[Sequence[str]]) -> int:
    """How many characters a table takes across."""
    return sum(max(map(len, column)) + 3 for column in zip(*table, strict=True))


def build(
    *,
    tape: str = "main",
    cells: int | None = None,
    json: bool = False,
    nats: str | None = None,
    home: Path | None = None,
) -> int:
    """Write the snapshots of a tape's projections into SNAPS, as far as they are not there yet.

    A host writes them while it serves a tape. Where they are taken follows from the logs, so a second run, or a run
    after one that was killed, stores only what is missing.

    Examples:

        tapehouse kv build --tape amzn

        tapehouse kv build --tape esh4 --cells 20000

    Parameters
    ----------
    tape
        Which tape.
    cells
        A snapshot is taken after the frame in which a log's ordinals pass a multiple of this; by default 1,000,000 of
        the tape and 250,000 of the desk's events.
    json
        One line of JSON.
    nats
        The broker; else what the environment or the embedded cluster says.
    home
        Where the embedded cluster lives, as given to `tapehouse up`.
    """
    from tapehouse.app.state_keeper import build_states
    from tapehouse.cli.output import print_json, print_table, run_async

    built = run_async(build_states(tape, cells_every=cells, nats=nats, home=home))
    kept = {source: asdict(one) for source, one in built.items()}
    if json:
        print_json({"name": tape, **kept})
        return 0
    for source, fields in kept.items():
        print_table(f"{tape}: {source}", ("", ""), [(k.replace("_", " "), _cell(v)) for k, v in fields.items()])
    return 0


def _found(state: StateAt) -> str:
    """How a value of the past was found, in one line."""
    told = []
    for name, at in state.positions.items():
        when = "its beginning" if at.ts_ns is None else f"cell {at.next_ordinal - 1:,} ({format_time_ns(at.ts_ns)})"
        told.append(f"{name} through {when}")
    for name, begun in state.snapshots.items():
        start = "an empty state" if begun is None else f"the snapshot at cell {begun:,}"
        told.append(f"{name} from {start}, {state.cells_folded[name]:,} cells folded")
    if state.complete is False:
        told.append("the desk may not have decided on all of it yet")
    return "; ".join(told)


def _cell(value: Any) -> str:
    """A field for people: nothing for null, JSON for what is nested."""
    if value is None:
        return ""
    return json_module.dumps(value) if isinstance(value, dict | list) else str(value)
