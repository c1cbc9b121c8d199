"""A query session: DuckDB in memory over tables that are built from the logs when a query mentions them.

A session is one view of the logs: a table is built once, from what was there then, or as of the moment that the
session was opened for. One DuckDB thread is the default, because with more of them sums of doubles come out differently
from run to run.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb
import polars as pl

from tapehouse.core.errors import DataError, MissingError, UsageError
from tapehouse.desk.names import Names
from tapehouse.log import Log
from tapehouse.market import Kind
from tapehouse.query.bbo import BboBuilder
from tapehouse.query.builders import (
    Builder,
    CommandsBuilder,
    EventsBuilder,
    FillsBuilder,
    QuotesBuilder,
    TapeBuilder,
    TradesBuilder,
)
from tapehouse.query.columns import Dictionary
from tapehouse.query.definitions import InstrumentsBuilder, WideIdsBuilder
from tapehouse.query.gaps import GapsBuilder
from tapehouse.query.lineage import build_lineage
from tapehouse.query.parked import ParkedBuilder
from tapehouse.query.read import read_frames
from tapehouse.query.stages import read_stages
from tapehouse.query.table import Table
from tapehouse.query.views import BalancesBuilder, OrdersBuilder, PositionsBuilder, PricesBuilder, SurfaceBuilder

TAPE, EVENTS = "tape", "events"
INTERRUPT_PAUSE_S = 0.05
_READING = ("select", "with", "from", "values")  # DuckDB knows the tables of statements that begin so
_WORD = re.compile(r"[a-z_]+")
# Nothing is fetched, and no Python variable is taken for a table.
_CONFIGURATION = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TableKind:
    """A table that queries can mention."""

    source: str  # of which log
    make: Callable[[Dictionary, Names], Builder]
    description: str


TABLES: dict[str, TableKind] = {
    "balances": TableKind(
        source=EVENTS, make=BalancesBuilder, description="cash of every account by currency, from fills and bookings"
    ),
    "bbo": TableKind(
        source=TAPE, make=lambda known, _: BboBuilder(known), description="each change of a best bid or ask"
    ),
    "commands": TableKind(
        source=TAPE, make=lambda known, _: CommandsBuilder(known), description="commands as they were sequenced"
    ),
    "events": TableKind(
        source=EVENTS, make=EventsBuilder, description="every decision: orders, fills, and events as JSON"
    ),
    "fills": TableKind(source=EVENTS, make=FillsBuilder, description="our fills, with position and cash after each"),
    "gaps": TableKind(
        source=TAPE, make=lambda known, _: GapsBuilder(known), description="spans of missing market data"
    ),
    "instruments": TableKind(
        source=TAPE,
        make=lambda *_: InstrumentsBuilder(),
        description="what the tape defines, each revision of its terms",
    ),
    "option_quotes": TableKind(
        source=TAPE, make=lambda known, _: QuotesBuilder(known, Kind.OPTION_QUOTE), description="option quotes"
    ),
    "orders": TableKind(source=EVENTS, make=OrdersBuilder, description="what has become of every order"),
    "parked": TableKind(
        source=EVENTS, make=ParkedBuilder, description="inputs that the desk could not understand or apply"
    ),
    "positions": TableKind(source=EVENTS, make=PositionsBuilder, description="what every account holds and earned"),
    "prices": TableKind(
        source=TAPE, make=lambda known, _: PricesBuilder(known), description="last trade, best bid and ask"
    ),
    "quotes": TableKind(
        source=TAPE, make=lambda known, _: QuotesBuilder(known, Kind.QUOTE), description="quotes as a venue sent them"
    ),
    "surface": TableKind(
        source=TAPE, make=lambda known, _: SurfaceBuilder(known), description="options: volatility, value, Greeks"
    ),
    "tape": TableKind(source=TAPE, make=lambda known, _: TapeBuilder(known), description="every record of the tape"),
    "trades": TableKind(source=TAPE, make=lambda known, _: TradesBuilder(known), description="trades that printed"),
    "wide_ids": TableKind(
        source=TAPE, make=lambda *_: WideIdsBuilder(), description="the venue's own ids for the numbers of its orders"
    ),
}


STAGES = "stages"
STAGES_DESCRIPTION = "how long each burst of inputs took to the journal, through the engine and out (`ahead` mode)"
LINEAGE = "lineage"  # of both logs
LINEAGE_DESCRIPTION = "each order and fill with the input that led to it, and the one that its order was decided on"
NAMES = frozenset((*TABLES, LINEAGE, STAGES))


class QuerySession:
    """SQL over the logs of one desk.

    Args:
        tape, events: The logs; a table of a log that is not there raises MissingError.
        timings: Where a desk in `ahead` mode keeps its stage timings.
        as_of: Engine time, UTC ns: the tables hold what was there at that moment; None for now.
        threads: Of DuckDB.
    """

    def __init__(
        self,
        *,
        tape: Log | None = None,
        events: Log | None = None,
        timings: Path | None = None,
        as_of: int | None = None,
        threads: int = 1,
    ) -> None:
        self._timings = timings
        self._logs = {TAPE: tape, EVENTS: events}
        self._as_of = as_of
        self._built: set[str] = set()
        self._connection = duckdb.connect(":memory:", config={**_CONFIGURATION, "threads": str(threads)})
        self._connection.execute("SET TimeZone = 'UTC'")
        described = {name: kind.description for name, kind in TABLES.items()}
        described |= {LINEAGE: LINEAGE_DESCRIPTION, STAGES: STAGES_DESCRIPTION}
        listed = {"name": list(described), "description": list(described.values())}
        self._create("tables", pl.DataFrame(listed))

    async def sql(self, query: str) -> Table:
        """Answer one query; rows without ORDER BY come in the log's order as far as the query keeps it.

        Raises:
            UsageError: The query is none, or mentions what is not there.
            DataError: It failed on the data; or a log is damaged.
            MissingError: It mentions a table of a log that this session does not have.
        """
        await self.build(self._mentioned(query))
        task = asyncio.create_task(asyncio.to_thread(self._run, query))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            while not task.done():  # An interrupt that comes before the query has begun is lost.
                self._connection.interrupt()
                await asyncio.wait({task}, timeout=INTERRUPT_PAUSE_S)
            raise

    async def table(self, name: str) -> Table:
        """One whole table, without SQL; raises UsageError for a name of none."""
        if name not in NAMES:
            raise UsageError(f"no table {name!r}", hint=f"there are {', '.join(sorted(NAMES))}")
        return await self.sql(f"SELECT * FROM {name}")

    @property
    def built(self) -> frozenset[str]:
        """The tables that are there by now."""
        return frozenset(self._built)

    async def build(self, names: set[str]) -> None:
        """Build these tables, those of one log in one pass over it, as far as they are not there yet."""
        if STAGES in names - self._built:
            self._create(STAGES, await asyncio.to_thread(read_stages, self._timings))
            self._built.add(STAGES)
        if LINEAGE in names - self._built:
            tape, events = self._log(TAPE, LINEAGE), self._log(EVENTS, LINEAGE)
            self._create(LINEAGE, await build_lineage(tape, events, as_of=self._as_of))
            self._built.add(LINEAGE)
        for source in self._logs:
            left = names - self._built - {LINEAGE, STAGES}
            wanted = {name: TABLES[name] for name in left if TABLES[name].source == source}
            if not wanted:
                continue
            log = self._log(source, min(wanted))
            dictionary, known = Dictionary(), Names()
            builders = {name: kind.make(dictionary, known) for name, kind in wanted.items()}
            async for header, cells in read_frames(log, as_of=self._as_of):
                dictionary.learn(header, cells)
                if source == EVENTS:
                    known.learn(cells)
                for builder in builders.values():
                    builder.take(header, cells)
            for name, builder in builders.items():
                self._create(name, builder.table())
                self._built.add(name)

    def close(self) -> None:
        """Let go of the tables."""
        self._connection.close()

    def __enter__(self) -> QuerySession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _log(self, source: str, table: str) -> Log:
        log = self._logs[source]
        if log is None:
            raise MissingError(f"no {source.upper()} log here for table {table}", hint="name a tape that is there")
        return log

    def _create(self, name: str, frame: pl.DataFrame) -> None:
        # A table of DuckDB's own, because the name of a registered frame would have to be spelled as it is here.
        self._connection.register("incoming", frame)
        self._connection.sql(f"CREATE TABLE {name} AS SELECT * FROM incoming")
        self._connection.unregister("incoming")

    def _mentioned(self, query: str) -> set[str]:
        """Which tables a query refers to; where DuckDB cannot say (as of DESCRIBE), those whose names occur in it."""
        words = _WORD.findall(query.lower())
        try:
            found = {name.lower() for name in self._connection.get_table_names(query)}
        except duckdb.Error:  # It looks for columns too, in tables that are not there yet.
            return set(words) & NAMES
        if not found and words and words[0] not in _READING:
            found = set(words)
        return found & NAMES

    def _run(self, query: str) -> Table:
        try:
            relation = self._connection.sql(query)
            if relation is None:
                raise UsageError("an empty query", hint='try "SELECT * FROM tables"')
            return Table(relation.pl())
        except duckdb.Error as error:
            raise _told(error) from None


def _told(error: duckdb.Error) -> UsageError | DataError:
    """One line of DuckDB's message, as an error of whoever must act."""
    text = str(error)
    line = text.splitlines()[0] if text else type(error).__name__
    if isinstance(error, duckdb.CatalogException):
        return UsageError(line, subject="sql", hint=f"tables: {', '.join(sorted(NAMES))}")
    if isinstance(error, duckdb.ProgrammingError | duckdb.InvalidInputException):
        near = next((part.strip() for part in text.splitlines()[1:] if part.startswith(("Candidate", "Did you"))), "")
        return UsageError(line, subject="sql", hint=near[:200])
    return DataError(line, subject="sql")
