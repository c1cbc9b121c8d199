"""A tape replayed by the names that users give, with what the strategy made of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tapehouse.app.bootstrap import open_platform
from tapehouse.app.plot import collect, draw
from tapehouse.app.strategies import load_strategy
from tapehouse.core import MissingError, SystemClock, from_fixed
from tapehouse.core.ids import check_name
from tapehouse.core.pools import PoolWatch
from tapehouse.desk.state import CASH, FEES, FILLS, LAST_TRADE, MONEY_EXPONENT, MULTIPLIER, POSITION, REALISED, VOLUME
from tapehouse.dr import Repository, SegmentLog, open_store
from tapehouse.engine import Engine
from tapehouse.engine.pools import pools_of
from tapehouse.log import Log
from tapehouse.market import Cells
from tapehouse.replay import Pace, Session, SessionReport


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayResult:
    """A session's report, and one row for each instrument that was traded; amounts are exact decimals as text."""

    report: SessionReport
    positions: list[dict[str, Any]]
    pools: list[dict[str, str | int | float]]  # of `PoolWatch.rows`, observed after each frame


@asynccontextmanager
async def tape_source(
    tape: str, *, nats: str | None, store: str | None, home: Path | None = None
) -> AsyncIterator[Log]:
    """The tape from the broker, or from the newest backup in a store.

    Raises:
        MissingError: There is no such tape or backup.
    """
    check_name(tape, "tape")
    if store is None:
        async with open_platform(nats, home=home) as platform:
            yield await platform.tape(tape)
        return
    opened = open_store(store)
    try:
        repository = await Repository.open(opened)
        manifest = await repository.latest()
        if manifest is None:
            raise MissingError("no backup was ever finished", subject=store, hint="tapehouse dr backup")
        known = [log.name.removeprefix("TAPE_") for log in manifest.logs if log.name.startswith("TAPE_")]
        if tape not in known:
            raise MissingError(
                f"there is no such tape in backup {manifest.number}", subject=tape, hint=f"there are {', '.join(known)}"
            )
        yield SegmentLog.of(repository, manifest, f"TAPE_{tape}")
    finally:
        await opened.close()


async def replay_tape(
    tape: str,
    *,
    pace: Pace,
    strategy: str,
    parameters: str | None = None,
    guard: bool = True,
    exclude_gaps: bool = False,
    store: str | None = None,
    plot: Path | None = None,
    nats: str | None = None,
    home: Path | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> ReplayResult:
    """Replay a whole tape.

    Args:
        exclude_gaps: Do not call the strategy for an instrument while its book is not good.

    Raises:
        MissingError: There is no such tape or backup.
        StrategyError: The strategy broke its contract.
    """
    engine = Engine(load_strategy(strategy, parameters), guard=guard, exclude_gaps=exclude_gaps)
    outputs: list[Cells] = []
    watch = PoolWatch()

    def progress(completed: int) -> None:
        watch.observe(pools_of(engine))
        if on_progress:
            on_progress(completed)

    async with tape_source(tape, nats=nats, store=store, home=home) as log:
        session = Session(
            "replay",
            log,
            engine,
            clock=SystemClock(),
            pace=pace,
            on_progress=progress,
            on_outputs=outputs.append if plot is not None else None,
        )
        report = await session.run()
        if plot is not None:
            traded = [instrument for instrument in engine.instruments.values() if engine.route(instrument.id) >= 0]
            if not traded:
                raise MissingError("there is nothing to draw: it holds no instrument with a book", subject=tape)
            first = traded[0]
            lines = await collect(log, first, np.concatenate(outputs))
            draw(lines, plot, title=f"{tape}: {strategy} on {first.symbol}")
    return ReplayResult(report=report, positions=positions_of(engine), pools=watch.rows())


def positions_of(engine: Engine) -> list[dict[str, Any]]:
    """One row for each instrument with a book: the strategy's account at the end."""
    rows = []
    for instrument in engine.instruments.values():
        slot = engine.route(instrument.id)
        if slot < 0:
            continue
        money = engine.desk.accounts[0, slot]
        terms = engine.desk.instruments[slot]
        unit = instrument.currency_exponent
        mark = int(money[POSITION]) * int(terms[MULTIPLIER]) * int(terms[LAST_TRADE])
        mark *= 10 ** max(0, int(terms[MONEY_EXPONENT]))
        mark //= 10 ** max(0, -int(terms[MONEY_EXPONENT]))
        rows.append(
            {
                "symbol": instrument.symbol,
                "position": str(from_fixed(int(money[POSITION]), instrument.size_exponent)),
                "fills": int(money[FILLS]),
                "volume": str(from_fixed(int(money[VOLUME]), instrument.size_exponent)),
                "fees": str(from_fixed(int(money[FEES]), unit).normalize()),
                "realised": str(from_fixed(int(money[REALISED]), unit).normalize()),
                "profit": str(from_fixed(int(money[CASH]) + mark, unit).normalize()),
            }
        )
    return rows
