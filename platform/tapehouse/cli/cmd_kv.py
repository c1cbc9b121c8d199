"""`tapehouse kv`: projections as keys and values."""

from __future__ import annotations

import json as json_module
from typing import Any


def get(key: str, /, *, tape: str = "main", nats: str | None = None, json: bool = False) -> int:
    """Read a projection: `orders/<id>`, `positions/<account>/<symbol>`, `prices/<symbol>`, `surface/<underlying>`.

    `cash/<account>/<currency>` has balances, `pnl/<account>` profit and loss by currency, open positions valued at the
    middle of the market, else the last trade; and a total where the tape has the exchange rates.

    A prefix that ends with `/` lists what is below it. The host that serves the tape answers; where none does, the logs
    are folded here. A key that is not there ends with exit code 3 and the nearest keys.

    Examples:

        tapehouse kv get positions/strategy/AMZN --tape amzn

        tapehouse kv get pnl/strategy --tape amzn

        tapehouse kv get prices/ --json

    Parameters
    ----------
    key
        The key, or a prefix that ends with `/`.
    tape
        Which tape.
    nats
        The broker; else what the environment or the embedded cluster says.
    json
        One line of JSON.
    """
    from tapehouse.cli.output import console, diagnostics, print_json, print_table, run_async
    from tapehouse.client import AsyncClient
    from tapehouse.client.reading import check_key

    check_key(key)

    async def read() -> Any:
        async with await AsyncClient.open(nats) as client:
            return await client.read(key, tape=tape)

    reading = run_async(read())
    if not reading.served:
        diagnostics.print(f"no host serves tape {tape}: its logs were folded here", highlight=False, style="dim")
    if json:
        print_json(reading.value)
    elif not key.endswith("/"):
        print_table(key, ("field", "value"), [(name, _cell(value)) for name, value in reading.value.items()])
    elif not reading.value:
        console.print(f"nothing below {key}", highlight=False)
    else:
        columns = list(dict.fromkeys(name for value in reading.value.values() for name in value))
        rows = [(found, *(_cell(value.get(name)) for name in columns)) for found, value in reading.value.items()]
        print_table(key, ("key", *columns), rows)
    return 0


def _cell(value: Any) -> str:
    """A field for people: nothing for null, JSON for what is nested."""
    if value is None:
        return ""
    return json_module.dumps(value) if isinstance(value, dict | list) else str(value)
