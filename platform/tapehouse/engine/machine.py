"""The engine: a machine that turns the cells of TAPE into decisions.

The compiled loop does the common work; this file does what the loop hands back: definitions, commands, epochs and the
turns of a Python strategy. Outputs are decision records in the order in which they were decided; `take_outputs` hands
them over. The decision digest chains every ORDER, FILL and EVENT cell; the state digest covers books, desk, pricing,
strategy and clients.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from blake3 import blake3

from tapehouse.book import clear as clear_book
from tapehouse.book import define as define_book
from tapehouse.book import make_books, restore_books, snapshot_books
from tapehouse.core.check import check
from tapehouse.core.digest import DigestChain, combine
from tapehouse.core.errors import DataError, DecodeError, IntegrityError, InvariantError, StrategyError, UsageError
from tapehouse.core.sections import pack_sections, unpack_sections
from tapehouse.core.units import UNDEFINED
from tapehouse.desk import POWERS, define_instrument, make_desk, revise_instrument, stored
from tapehouse.desk import state as desk_state
from tapehouse.desk.bulk import ACCOUNTS, restore_bulk, snapshot_bulk
from tapehouse.desk.conservation import verify_conservation
from tapehouse.desk.state import (
    COUNTERS,
    INDEX,
    INSTRUMENT_ID,
    INSTRUMENTS_MAX,
    NOW,
    ORDINAL,
    OUT_ROWS,
    OVERFLOWS,
    SYMBOL_IDS_MAX,
)
from tapehouse.engine import loop
from tapehouse.engine.commands import CommandDesk
from tapehouse.engine.python_turns import PythonTurns
from tapehouse.engine.registration import OPTIONS_MAX
from tapehouse.engine.strategy import INTENTS_MAX, MEMORY_WORDS, CompiledStrategy, Strategy
from tapehouse.engine.strategy_control import StrategyControl
from tapehouse.log.frame import FrameHeader
from tapehouse.market import CELL_BYTES, Cells, Instrument, Kind, from_words, read_definition, words
from tapehouse.pricing import define_option, make_chain
from tapehouse.pricing import restore as restore_chain
from tapehouse.pricing import snapshot as snapshot_chain

OUTPUT_ROWS = 65_536
ORDERS_IN_BOOKS = 1 << 18
DECIDED_KINDS = (int(Kind.ORDER), int(Kind.FILL), int(Kind.EVENT))
_IS_DECIDED = np.isin(np.arange(256), DECIDED_KINDS)
# What a restore replaces, and puts back where it fails.
_STATE = (
    *("instruments", "cells", "outputs", "halted"),
    *("_routes", "_books", "_chain", "_desk", "_commands", "_decisions", "_memory", "_outputs", "control"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Digests:
    """What two runs must share."""

    decision: bytes
    state: bytes
    decisions: int
    cells: int


class Engine:
    """One strategy on one tape; a `Machine` over TAPE frames."""

    name = "engine"
    version = 5

    def __init__(self, strategy: Strategy, *, guard: bool = True, exclude_gaps: bool = False) -> None:
        """An engine at the beginning of a tape.

        Args:
            guard: Stop a Python strategy that reads the clock or randomness.
            exclude_gaps: Do not call the strategy for an instrument while its book is not GOOD. Records still change
                the book and fill its orders, which are left alone.
        """
        self.strategy = strategy
        self.exclude_gaps = exclude_gaps
        self._compiled = strategy if isinstance(strategy, CompiledStrategy) else None
        self._turns = None if isinstance(strategy, CompiledStrategy) else PythonTurns(strategy, guard=guard)
        self.control = StrategyControl(strategy, self._turns)
        self._memory = np.zeros(MEMORY_WORDS, np.int64)
        self._scratch = loop.make_scratch()
        self._out = np.zeros((OUTPUT_ROWS, 8), np.int64)
        self._outputs: list[Cells] = []
        self._sink: Callable[[Cells], None] = self.keep
        self.instruments: dict[int, Instrument] = {}
        self._books = make_books(INSTRUMENTS_MAX, orders=ORDERS_IN_BOOKS)
        self._desk = make_desk()
        self._chain = make_chain(INSTRUMENTS_MAX, OPTIONS_MAX)
        self._routes = loop.make_routes()
        self._decisions = DigestChain(CELL_BYTES)
        self._commands = CommandDesk(self)
        self.cells = 0
        self.outputs = 0  # cells decided so far: the ordinal that the next output will have
        self.halted = False  # inside a frame, by an error: its state is none that a log leads to

    # What the command desk and reports may look at.

    @property
    def desk(self) -> desk_state.Desk:
        """The desk's arrays."""
        return self._desk

    @property
    def books(self) -> Any:
        """The books' arrays."""
        return self._books

    @property
    def chain(self) -> Any:
        """The pricing engine's arrays."""
        return self._chain

    @property
    def now(self) -> int:
        """Engine time, UTC ns: the running maximum of `ts_recv`."""
        return int(self._desk.counters[NOW])

    @property
    def out(self) -> Any:
        """The output rows being written."""
        return self._out

    @property
    def ladder(self) -> Any:
        """Scratch of the matching kernels."""
        return self._scratch.ladder

    def wake_all(self) -> None:
        """Have the strategy called at the next input for every instrument of which it has been shown something."""
        for slot in np.flatnonzero((self._routes.tops != UNDEFINED).any(axis=1)).tolist():
            loop.set_wake(self._routes.wakes, slot, self.now + 1)

    def slot_of(self, symbol: str) -> int:
        """The book slot of a symbol; raises DataError where no instrument with a book has it."""
        for instrument in self.instruments.values():
            if instrument.symbol == symbol and self._routes.slots[instrument.id] >= 0:
                return int(self._routes.slots[instrument.id])
        known = sorted(i.symbol for i in self.instruments.values() if self._routes.slots[i.id] >= 0)
        raise DataError(f"unknown instrument {symbol!r}", hint=f"known: {', '.join(known[:10]) or 'none yet'}")

    def instrument_at(self, slot: int) -> Instrument:
        """The instrument of a book slot."""
        return self.instruments[int(self._desk.instruments[slot, INSTRUMENT_ID])]

    def route(self, instrument_id: int) -> int:
        """The book slot of an instrument id, -1 where it has no book."""
        return int(self._routes.slots[instrument_id])

    # The fold.

    def apply(self, header: FrameHeader, cells: Cells) -> None:
        """Fold whole records of TAPE; `header.first_ordinal` is the ordinal of `cells[0]`.

        Raises:
            DecodeError: A record is cut short, of an unknown kind, or of an instrument that nothing defined.
            DataError: A definition contradicts an earlier one, or an amount of money does not fit.
            StrategyError: The strategy broke its contract. After any of these the engine has `halted`.
        """
        check(not self.halted, "an engine that halted cannot go on", subject=self.name)
        self.halted = True
        array = words(cells)
        row, turn = 0, 0
        while row < len(array) or turn:
            row, why = loop.run(array, row, len(array), header.first_ordinal, turn, *self.arguments)
            if why == loop.DONE:
                break
            row, turn = self.resolve(why, cells, int(row), header.first_ordinal)
        self.collect()
        self.cells += len(cells)
        self.verify()
        self.halted = False

    def verify(self) -> None:
        """Raise InvariantError where the desk's positions or cash do not add up over all accounts."""
        desk = self._desk
        slots = int(np.count_nonzero(desk.instruments[:, INSTRUMENT_ID]))
        verify_conservation(desk.accounts, desk.legs, desk.booking, desk.instruments, slots)

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What `loop.run` takes besides the rows: the whole state, the strategy and the outputs."""
        function = self._compiled.on_market if self._compiled else loop.idle
        calls = loop.IN_PYTHON if self._turns is not None else 0
        calls |= loop.NOT_IN_GAPS if self.exclude_gaps else 0
        calls |= 0 if self.control.is_running else loop.NOT_AT_ALL
        state = (self._desk, self._books, self._chain, self._routes, self._scratch)
        return (*state, function, self.control.parameters, self._memory, calls, self._out, POWERS)

    def resolve(self, why: int, cells: Cells, row: int, first_ordinal: int) -> tuple[int, int]:
        """Do in Python what the loop stopped for at a row; returns the row and the turn to enter it with again.

        Raises:
            DecodeError, DataError, StrategyError: As `apply`.
        """
        if why in (loop.OUTPUT_FULL, loop.WAKES_FULL):
            self.collect()
            return row, loop.ANEW if why == loop.OUTPUT_FULL else loop.WOKEN
        if why == loop.SLOW_RECORD:
            self.collect()  # a slow record may produce more than the loop's margin
            length = int(cells["cells"][row])
            self._slow(cells[row : row + length], first_ordinal + row)
            return row + length, loop.ANEW
        if why in (loop.STRATEGY_TURN, loop.WAKE_TURN):
            self._take_turn()
            return row, loop.APPLIED if why == loop.STRATEGY_TURN else loop.WOKEN
        if why in (loop.UNKNOWN_KIND, loop.UNDEFINED_INSTRUMENT) and self._commands.parked.parking.policy == "park":
            return self._skip(why, cells, row, first_ordinal), 0
        self._halt(why, first_ordinal + row, cells[row])
        raise InvariantError(f"the loop stopped for reason {why}", subject=self.name)

    def _skip(self, why: int, cells: Cells, row: int, first_ordinal: int) -> int:
        """Park a record that cannot be applied; returns the next row. One whose length is broken halts."""
        record = cells[row : row + int(cells["cells"][row])]
        if record["cells"][1:].any():
            self._halt(loop.BAD_RECORD, first_ordinal + row, cells[row])
        self.collect()
        try:
            self._halt(why, first_ordinal + row, cells[row])
        except DecodeError as error:
            self._commands.parked.park_input(record, first_ordinal + row, error.message)
        return row + len(record)

    def _halt(self, why: int, ordinal: int, cell: Any) -> None:
        position = f"cell {ordinal}"
        if why == loop.UNKNOWN_KIND:
            raise DecodeError(
                f"record kind {int(cell['kind'])} is unknown",
                subject="TAPE",
                position=position,
                hint="upgrade tapehouse",
            )
        if why == loop.UNDEFINED_INSTRUMENT:
            raise DecodeError(
                f"instrument {int(cell['instrument'])} is used before its definition", subject="TAPE", position=position
            )
        if why == loop.BAD_INTENTS:
            raise StrategyError(
                "it returned an impossible number of intents",
                subject=f"strategy {self.strategy.name}",
                position=position,
                hint=f"0 to {INTENTS_MAX}",
            )
        if why == loop.MONEY_OVERFLOW:
            raise _overflow(position)
        raise DecodeError("a record is cut short", subject="TAPE", position=position)

    # Slow records.

    def _slow(self, record: Cells, ordinal: int) -> None:
        kind = int(record["kind"][0])
        if kind == Kind.DEFINITION:
            try:
                self._define(read_definition(record))
            except DataError as error:
                error.position = error.position or f"cell {ordinal}"
                raise
            self.write(record, decided=False)
        elif kind == Kind.COMMAND:
            self._commands.handle(record)
            self._routes.bulk.counts[ACCOUNTS] = self._commands.accounts
            if self._desk.counters[OVERFLOWS]:
                raise _overflow(f"cell {ordinal}")

    def _define(self, instrument: Instrument) -> None:
        known = self.instruments.get(instrument.id)
        if known is not None:
            if known != instrument:
                self._revise(known, instrument)
            return
        if not 0 < instrument.id < SYMBOL_IDS_MAX:
            raise DataError(f"instrument id {instrument.id} is beyond {SYMBOL_IDS_MAX - 1}", subject=instrument.symbol)
        routes = self._routes
        if instrument.asset_class == "option":
            option = int((routes.options >= 0).sum())
            if option >= OPTIONS_MAX:
                raise DataError(f"a tape holds {OPTIONS_MAX} options at most", subject=instrument.symbol)
            underlying = self.instruments.get(instrument.underlying)
            if underlying is None or routes.slots[underlying.id] < 0:
                raise DataError("an option comes before its underlying", subject=instrument.symbol)
            slot = int(routes.slots[underlying.id])
            define_option(
                self._chain,
                option,
                underlying=slot,
                strike=float(instrument.price(instrument.strike)),
                expiry_ns=instrument.expiry_ns,
                right=instrument.right,
                price_unit=float(f"1e{instrument.price_exponent}"),
                inverse=instrument.currency != underlying.currency,
            )
            routes.options[instrument.id] = option
            routes.underlyings[instrument.id] = slot
        else:
            slot = int((routes.slots >= 0).sum())
            define_instrument(self._desk, slot, instrument)
            self._define_book(slot, instrument)
            routes.slots[instrument.id] = slot
            routes.units[slot] = float(f"1e{instrument.price_exponent}")
        self.instruments[instrument.id] = instrument

    def _revise(self, known: Instrument, instrument: Instrument) -> None:
        """A new revision of an instrument's terms; a book of another tick begins empty."""
        instrument.require_revision_of(known)
        slot = int(self._routes.slots[instrument.id])
        if slot >= 0:
            revise_instrument(self._desk, slot, instrument)
            if instrument.tick_size != known.tick_size:
                clear_book(self._books, slot)
                self._define_book(slot, instrument)
        self.instruments[instrument.id] = instrument

    def _define_book(self, slot: int, instrument: Instrument) -> None:
        try:
            define_book(self._books, slot, instrument.tick_size)
        except UsageError as error:
            raise DataError(error.message, subject=instrument.symbol, hint=error.hint) from error

    # Outputs.

    def write(self, record: Cells, *, decided: bool = True) -> None:
        """Add a record that Python made to the outputs, stamped with the present input and index."""
        counters = self._desk.counters
        record = record.copy()
        record["sequence"][0] = counters[ORDINAL]
        record["count"] = counters[INDEX]
        counters[INDEX] += 1
        if decided:
            counters[desk_state.DECISIONS] += 1
        row = int(counters[OUT_ROWS])
        if row + len(record) > OUTPUT_ROWS:
            self.collect()
            row = 0
        self._out[row : row + len(record)] = words(record)
        counters[OUT_ROWS] = row + len(record)

    def collect(self) -> None:
        """Move what the loop put out to where outputs wait to be taken."""
        rows = int(self._desk.counters[OUT_ROWS])
        if rows:
            self._desk.counters[OUT_ROWS] = 0
            self._sink(from_words(self._out[:rows].copy()))

    def keep(self, cells: Cells) -> None:
        """Count decided cells, chain them, and hold them until they are taken."""
        self._outputs.append(cells)
        self.note(cells)

    def note(self, cells: Cells) -> None:
        """Count decided cells and chain them; in the order in which they were decided."""
        self.outputs += len(cells)
        decided = _IS_DECIDED[cells["kind"]]
        rows = words(cells)  # NumPy copies records field by field, ten times slower
        self._decisions.update((rows if decided.all() else rows[decided]).data)

    @contextmanager
    def sending_to(self, sink: Callable[[Cells], None]) -> Iterator[None]:
        """Meanwhile, have `collect` hand outputs to `sink`, which sees that they are `note`d."""
        before, self._sink = self._sink, sink
        try:
            yield
        finally:
            self._sink = before

    def take_outputs(self) -> Cells:
        """All decision records since the last call, in order."""
        outputs = self._outputs or [from_words(self._out[:0].copy())]
        self._outputs = []
        return outputs[0] if len(outputs) == 1 else from_words(np.concatenate([words(cells) for cells in outputs]))

    def _take_turn(self) -> None:
        """Have the Python strategy decide, and carry out what it wants."""
        if self._turns is None:
            raise InvariantError("a turn of a strategy that is not there", subject=self.name)
        slot, count = self._turns.ask(self._scratch)
        loop.act(self._desk, self._books, self._routes, self._scratch, self._out, POWERS, slot, count)

    # State.

    def _sections(self) -> dict[str, bytes]:
        routes = self._routes
        definitions = [instrument.definition(ts_recv=0).tobytes().hex() for instrument in self.instruments.values()]
        seen = (routes.tops, routes.quotes, routes.priced, routes.numbers)
        fed = np.flatnonzero(routes.sources)
        sections = {
            "books": snapshot_books(self._books),
            "bulk": snapshot_bulk(self._routes.bulk),
            "chain": snapshot_chain(self._chain),
            "clients": self._commands.snapshot(),
            "decisions": self._decisions.state(),
            "desk": stored.snapshot(self._desk),
            "instruments": json.dumps(definitions).encode(),
            "memory": self._memory.tobytes(),
            "python": self._turns.state() if self._turns else b"",
            "seen": b"".join(array.tobytes() for array in seen),
            "sources": json.dumps({int(slot): int(routes.sources[slot]) for slot in fed}).encode(),
        }
        due = {int(slot): int(routes.wakes[slot]) for slot in np.flatnonzero(routes.wakes[:-1] != UNDEFINED)}
        if due:
            sections["wakes"] = json.dumps(due).encode()
        if self.control.is_changed:
            sections["control"] = self.control.state()
        return sections

    def snapshot(self) -> bytes:
        """The whole state; canonical."""
        check(not self._outputs, "outputs must be taken before a snapshot", subject=self.name)
        check(not self.halted, "an engine that halted has no state to keep", subject=self.name)
        head = {
            "cells": self.cells,
            "outputs": self.outputs,
            "strategy": self.strategy.name,
            "parameters": self.control.base.tolist(),
            "exclude_gaps": self.exclude_gaps,
        }
        return pack_sections({**self._sections(), "head": json.dumps(head).encode()})

    def restore(self, snapshot: bytes) -> None:
        """Become what `snapshot` returned.

        Raises:
            IntegrityError: It is damaged, or of another strategy, other parameters or another way with gaps; nothing
                has changed.
        """
        before = {name: getattr(self, name) for name in _STATE}
        try:
            sections = unpack_sections(snapshot)
            head = json.loads(sections["head"])
            if head["strategy"] != self.strategy.name or head["parameters"] != self.control.base.tolist():
                raise IntegrityError("the snapshot is of another strategy or other parameters")
            if head.setdefault("exclude_gaps", None) is None:  # As snapshots were before books had a confidence.
                sections["sources"] = b"{}"
            if bool(head["exclude_gaps"]) != self.exclude_gaps:
                raise IntegrityError("the snapshot is of a session that treats gaps otherwise")
            self._load(sections)
            self.cells, self.outputs = int(head["cells"]), int(head["outputs"])
            self._outputs, self.halted = [], False
            if self._turns is not None:
                self._turns.restore(sections["python"])
        except BaseException as error:
            for name, value in before.items():
                setattr(self, name, value)
            if isinstance(error, KeyError | ValueError | TypeError | DataError):
                message = f"the snapshot cannot be read: {type(error).__name__} {error}"
                raise IntegrityError(message, subject=self.name, hint="refold the log") from error
            raise

    def _load(self, sections: dict[str, bytes]) -> None:
        """Replace every part of the state but the strategy's own."""
        self._routes = loop.make_routes()
        self._books = make_books(INSTRUMENTS_MAX, orders=ORDERS_IN_BOOKS)
        self._chain = make_chain(INSTRUMENTS_MAX, OPTIONS_MAX)
        self._desk = make_desk()
        self.instruments = {}
        for text in json.loads(sections["instruments"]):
            self._define(read_definition(from_words(np.frombuffer(bytes.fromhex(text), np.int64))))
        restore_books(self._books, sections["books"])
        restore_chain(self._chain, sections["chain"])
        self._desk = stored.restore(sections["desk"])
        self._commands = CommandDesk(self)
        self._commands.restore(sections["clients"])
        self._routes = self._routes._replace(bulk=restore_bulk(sections["bulk"]))
        self._routes.bulk.counts[ACCOUNTS] = self._commands.accounts
        self._decisions = DigestChain.from_state(sections["decisions"])
        self._memory = np.frombuffer(sections["memory"], np.int64).reshape(MEMORY_WORDS).copy()
        at = 0
        for array in (self._routes.tops, self._routes.quotes, self._routes.priced, self._routes.numbers):
            array[...] = np.frombuffer(sections["seen"][at : at + array.nbytes], array.dtype).reshape(array.shape)
            at += array.nbytes
        for slot, source in json.loads(sections["sources"]).items():
            self._routes.sources[int(slot)] = source
        for slot, due in json.loads(sections.get("wakes", b"{}")).items():
            loop.set_wake(self._routes.wakes, int(slot), int(due))
        self.control = StrategyControl(self.strategy, self._turns)
        if "control" in sections:
            self.control.load(sections["control"])
        if at != len(sections["seen"]):
            raise IntegrityError("a snapshot has bytes left over", subject=self.name, hint="refold the log")

    def digest(self) -> bytes:
        """The state digest: BLAKE3 over the digests of books, desk, pricing, strategy and clients."""
        parts = self._sections()
        del parts["decisions"]
        return combine((name, blake3(data).digest()) for name, data in parts.items())

    def digests(self) -> Digests:
        """Both digests and what they count."""
        return Digests(
            decision=self._decisions.head(),
            state=self.digest(),
            decisions=int(self._desk.counters[desk_state.DECISIONS]),
            cells=self.cells,
        )


def _overflow(position: str) -> DataError:
    return DataError(
        "an amount of money does not fit 64 bits",
        subject="TAPE",
        position=position,
        hint="a price on the tape is beyond sense, or the currency's unit is too small",
    )


__all__ = ["COUNTERS", "Digests", "Engine"]
