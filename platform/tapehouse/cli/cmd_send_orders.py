"""`tapehouse send-orders`: send a file of orders in frames and wait for what became of each."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from tapehouse.client import OrderOutcome

EXIT_REJECTED = 1
SHOWN_MAX = 10  # rejected orders that a person is shown one by one


def send_orders(
    file: Path,
    /,
    *,
    tape: str = "main",
    client: str | None = None,
    number: int | None = None,
    timeout: float = 30.0,
    outcomes: Annotated[Path | None, Parameter(name="--outcomes")] = None,
    nats: str | None = None,
    json: bool = False,
) -> int:
    """Send a file of orders to a desk and wait for what became of each; exit 1 where any was rejected.

    The file is CSV with a header line, or .parquet. A row is an order, a replace or a cancel:

        instrument,side,price,size,account,type,time_in_force
        AMZN,buy,220.10,100,manual,limit,gtc
        AMZN,sell,220.40,50,manual,limit,ioc

    `instrument`, `side`, `price` and `size` are needed; `account` is manual, `type` limit (market, stop, stop_limit),
    `time_in_force` gtc (ioc, fok, day, gtd) where they are left out. `action` may be submit, replace or cancel, with
    the `order_id` that it is about. Others: `post_only`, `reduce_only`, `stop`, `display`, `expiry`. An account that
    is not open yet is opened. All rows are checked before the first is sent.

    Sent again with the same client and number, every order of the last 8,192 has one effect: those that the desk has
    seen are answered `repeated`, the others are decided on.

    Examples:

        tapehouse send-orders orders.csv --tape amzn

        tapehouse send-orders orders.parquet --tape amzn --client rebalance --number 1 --outcomes outcomes.parquet

    Parameters
    ----------
    file
        The orders.
    tape
        Which desk: that of this tape.
    client
        Who sends them; a fresh name by default.
    number
        The first order's number of this client, the others follow; unused ones by default.
    timeout
        Seconds that each frame of up to 1,024 orders may take.
    outcomes
        Write what became of each order to this file: .csv or .parquet.
    nats
        The broker; else what the environment or the embedded cluster says.
    json
        One line of JSON.
    """
    from tapehouse.cli.output import Bar, run_async
    from tapehouse.client import AsyncClient
    from tapehouse.client.order_rows import read_orders
    from tapehouse.core.errors import UsageError

    if number is not None and client is None:
        raise UsageError("--number says nothing without --client", hint="a number is one client's")
    if number is not None and number < 1:
        raise UsageError(f"--number {number}", hint="numbers begin at 1")
    if outcomes is not None and outcomes.suffix not in (".csv", ".parquet"):
        raise UsageError(f"--outcomes {outcomes}", hint="a file that ends with .csv or .parquet")
    orders = read_orders(file)

    async def run() -> list[OrderOutcome]:
        with Bar("orders", len(orders), unit="orders", quiet=json) as bar:
            async with await AsyncClient.open(nats, client=client) as desk:
                return await desk.send_orders(
                    orders, tape=tape, number=number, timeout=timeout, on_progress=lambda done, _rejected: bar.at(done)
                )

    told = run_async(run())
    if outcomes is not None:
        _write(outcomes, told)
    summary = _summary(told)
    _tell(summary, told, json=json)
    return EXIT_REJECTED if summary["rejected"] else 0


def _summary(told: list[OrderOutcome]) -> dict[str, Any]:
    rejected = Counter(outcome.reason for outcome in told if not outcome.accepted)
    return {
        "orders": len(told),
        "accepted": sum(outcome.accepted for outcome in told),
        "rejected": rejected.total(),
        "repeated": sum(outcome.outcome == "repeated" for outcome in told),
        "reasons": dict(rejected.most_common()),
        "first_number": told[0].number if told else None,
    }


def _write(path: Path, told: list[OrderOutcome]) -> None:
    import polars as pl

    schema = {"number": pl.Int64, "outcome": pl.String, "reason": pl.String, "order_id": pl.Int64, "position": pl.Int64}
    frame = pl.DataFrame([dataclasses.asdict(outcome) for outcome in told], schema=schema)
    if path.suffix == ".csv":
        frame.write_csv(path)
    else:
        frame.write_parquet(path)


def _tell(summary: dict[str, Any], told: list[OrderOutcome], *, json: bool) -> None:
    from tapehouse.cli.output import console, print_json, print_table

    if json:
        print_json(summary)
        return
    repeated = f", {summary['repeated']:,} of them seen before" if summary["repeated"] else ""
    console.print(
        f"{summary['orders']:,} orders: {summary['accepted']:,} accepted, {summary['rejected']:,} rejected{repeated}",
        highlight=False,
    )
    if summary["rejected"]:
        print_table(
            "", ("rejected because", "orders"), [(reason, count) for reason, count in summary["reasons"].items()]
        )
        rows = [(at + 1, one.reason) for at, one in enumerate(told) if not one.accepted]
        print_table("", ("row", "reason"), rows[:SHOWN_MAX])
