"""The turns of a Python strategy: what it is shown, the guard around it, and its answer checked before it counts.

Whatever a strategy raises or returns that it must not is a StrategyError that names it and the input cell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tapehouse.core.errors import DataError, IntegrityError, StrategyError
from tapehouse.core.units import UNDEFINED
from tapehouse.desk import BUY, SELL
from tapehouse.engine.guard import Guard, NoGuard
from tapehouse.engine.loop import Scratch
from tapehouse.engine.strategy import (
    CANCEL_SIDE,
    INTENT_KIND,
    INTENT_PRICE,
    INTENT_SIDE,
    INTENT_SIZE,
    INTENT_TIME_IN_FORCE,
    INTENTS_MAX,
    NUMBER_CHAIN_DELTA,
    NUMBER_VOLATILITY,
    SUBMIT,
    TIMES_IN_FORCE,
    VIEW_CONFIDENCE,
    VIEW_ORDINAL,
    WAKE,
    CancelSide,
    PythonStrategy,
    Submit,
    View,
    Wake,
)
from tapehouse.market import Confidence

_CONFIDENCES = tuple(Confidence)


class PythonTurns:
    """One Python strategy inside an engine."""

    def __init__(self, strategy: PythonStrategy, *, guard: bool) -> None:
        self._strategy = strategy
        self._subject = f"strategy {strategy.name}"
        self._guard = Guard(strategy) if guard else NoGuard()

    def ask(self, scratch: Scratch) -> tuple[int, int]:
        """Show the strategy the scratch's view and note its intents there; returns the book slot and their count."""
        view, numbers = scratch.seen.tolist(), scratch.numbers
        seen = View(
            now=view[0],
            slot=view[1],
            instrument=view[2],
            bid=_defined(view[3]),
            bid_size=view[4],
            ask=_defined(view[5]),
            ask_size=view[6],
            last_trade=view[7],
            tick=view[8],
            lot=view[9],
            position=view[10],
            cash=view[11],
            own_bid=_defined(view[12]),
            own_bid_left=view[13],
            own_ask=_defined(view[14]),
            own_ask_left=view[15],
            volatility=float(numbers[NUMBER_VOLATILITY]),
            chain_delta=float(numbers[NUMBER_CHAIN_DELTA]),
            confidence=_CONFIDENCES[view[VIEW_CONFIDENCE]],
        )
        position = f"cell {view[VIEW_ORDINAL]}"
        intents = self._guarded(position, self._strategy.on_market, seen)
        self._note(intents, scratch, position)
        return seen.slot, len(intents)

    def state(self) -> bytes:
        """What the strategy remembers."""
        state = self._guarded("state()", self._strategy.state)
        if not isinstance(state, bytes):
            raise StrategyError(f"its state is a {type(state).__name__}, no bytes", subject=self._subject)
        return state

    def restore(self, state: bytes) -> None:
        """Restore the strategy; where it refuses, it gets back the state that it had.

        Raises:
            IntegrityError: It refuses.
        """
        before = self.state()
        try:
            self._guarded("restore()", self._strategy.restore, state)
        except StrategyError as error:
            self._guarded("restore()", self._strategy.restore, before)
            raise IntegrityError(error.message, subject=error.subject, hint="refold the log") from error

    def configure(self, parameters: dict[str, int]) -> None:
        """Give the strategy other parameters; where it refuses, it is as it was.

        Raises:
            DataError: It refuses them, or takes none while it runs.
        """
        configure = getattr(self._strategy, "configure", None)
        if configure is None:
            raise DataError(
                "it takes no parameters while it runs", subject=self._subject, hint="restart it with others"
            )
        before = self.state()
        try:
            with self._guard:
                configure(dict(parameters))
        except StrategyError:
            raise
        except Exception as error:
            self._guarded("restore()", self._strategy.restore, before)
            raise DataError(f"it refuses: {error}", subject=self._subject) from error

    def _guarded(self, position: str, function: Callable[..., Any], *arguments: object) -> Any:
        """Call a method of the strategy; whatever it raises is a StrategyError."""
        try:
            with self._guard:
                return function(*arguments)
        except StrategyError:
            raise
        except (Exception, SystemExit) as error:
            raise StrategyError(
                f"it raised {type(error).__name__}: {error}", subject=self._subject, position=position
            ) from error

    def _note(self, intents: Any, scratch: Scratch, position: str) -> None:
        """Write intents where the loop carries them out, if they are what they must be."""
        if not isinstance(intents, list | tuple):
            raise StrategyError(
                f"it returned a {type(intents).__name__}, no list of intents", subject=self._subject, position=position
            )
        if len(intents) > INTENTS_MAX:
            raise StrategyError(
                f"{len(intents)} intents in one turn",
                subject=self._subject,
                position=position,
                hint=f"{INTENTS_MAX} at most",
            )
        for row, intent in zip(scratch.intents, intents, strict=False):
            problem = _problem(intent)
            if problem:
                raise StrategyError(problem, subject=self._subject, position=position)
            row[:] = 0
            if isinstance(intent, Wake):
                row[INTENT_KIND], row[INTENT_PRICE] = WAKE, UNDEFINED if intent.at is None else intent.at
                continue
            row[INTENT_KIND] = SUBMIT if isinstance(intent, Submit) else CANCEL_SIDE
            row[INTENT_SIDE] = intent.side
            if isinstance(intent, Submit):
                row[INTENT_PRICE], row[INTENT_SIZE] = intent.price, intent.size
                row[INTENT_TIME_IN_FORCE] = intent.time_in_force


def _defined(value: int) -> int | None:
    return None if value == UNDEFINED else value


def _problem(intent: object) -> str:
    """What is wrong with an intent of a Python strategy; empty where nothing is."""
    if isinstance(intent, Wake):
        due = UNDEFINED if intent.at is None else intent.at
        return "" if _is_int64(due) else f"the time of a wake is {due!r}, no 64-bit integer"
    if not isinstance(intent, Submit | CancelSide):
        return f"an intent is a {type(intent).__name__}"
    if not isinstance(intent.side, int) or intent.side not in (BUY, SELL):
        return f"the side of an intent is {intent.side!r}"
    if isinstance(intent, CancelSide):
        return ""
    for value in (intent.price, intent.size):
        if not _is_int64(value):
            return f"the price or size of an order is {value!r}, no 64-bit integer"
    return "" if intent.time_in_force in TIMES_IN_FORCE else f"a time in force is {intent.time_in_force!r}"


def _is_int64(value: object) -> bool:
    return isinstance(value, int) and -(2**63) <= value < 2**63
