"""What a strategy is: one function, compiled or in Python, called where the top of a book moved.

It sees a `View` (what the desk knows now), its own parameters and memory, and answers with intents. Time, prices and
randomness reach it only that way, so the same tape gives the same decisions. A compiled strategy is a function of the
signature STRATEGY_SIGNATURE, declared with `strategy_kernel`; a Python one is an object with `on_market`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from numba import cfunc, float64, int64

from tapehouse.core.errors import UsageError
from tapehouse.core.kernel import cached_with
from tapehouse.desk import BUY, GTC, IOC, POST_ONLY, SELL
from tapehouse.market import Confidence

# Entries of `view` (int64). Prices and sizes in the instrument's units, UNDEFINED where there is none.
(
    VIEW_NOW,
    VIEW_SLOT,
    VIEW_INSTRUMENT,
    VIEW_BID,
    VIEW_BID_SIZE,
    VIEW_ASK,
    VIEW_ASK_SIZE,
    VIEW_LAST_TRADE,
    VIEW_TICK,
    VIEW_LOT,
    VIEW_POSITION,
    VIEW_CASH,
    VIEW_OWN_BID,
    VIEW_OWN_BID_LEFT,
    VIEW_OWN_ASK,
    VIEW_OWN_ASK_LEFT,
    VIEW_ORDINAL,
    VIEW_CONFIDENCE,  # what the book is worth, a `Confidence`: 0 good, 1 suspect, 2 rebuilding
) = range(18)
VIEW_ENTRIES = 18

# Entries of `numbers` (float64), from the pricing engine.
NUMBER_VOLATILITY, NUMBER_CHAIN_DELTA = range(2)
NUMBERS = 2

# Columns of `intents` (int64).
INTENT_KIND, INTENT_SIDE, INTENT_PRICE, INTENT_SIZE, INTENT_TIME_IN_FORCE = range(5)
INTENT_COLUMNS = 5
SUBMIT, CANCEL_SIDE, WAKE = 1, 2, 3  # a WAKE has its time in INTENT_PRICE: UTC ns, UNDEFINED for no more
TIMES_IN_FORCE = (GTC, IOC, POST_ONLY)
INTENTS_MAX = 16  # of one call
MEMORY_WORDS = 1024
PARAMETERS_MAX = 64

STRATEGY_SIGNATURE = int64(int64[::1], float64[::1], int64[::1], int64[::1], int64[:, ::1])


def strategy_kernel(function: Callable[..., Any]) -> Any:
    """Compile a strategy's function `(view, numbers, parameters, memory, intents) -> count of intents`.

    It becomes a first-class function of one fixed type, so the engine's loop is compiled and cached once for all
    strategies and calls this one through a pointer (about 3 ns).
    """
    options: dict[str, Any] = {"cache": True, "_nrt": False, "error_model": "numpy"}
    with cached_with(function):
        return cfunc(STRATEGY_SIGNATURE, **options)(function)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a Python strategy sees; prices and sizes are integers in the instrument's units, None where undefined."""

    now: int
    slot: int
    instrument: int
    bid: int | None
    bid_size: int
    ask: int | None
    ask_size: int
    last_trade: int
    tick: int
    lot: int
    position: int
    cash: int
    own_bid: int | None
    own_bid_left: int
    own_ask: int | None
    own_ask_left: int
    volatility: float
    chain_delta: float
    confidence: Confidence = Confidence.GOOD


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """Send one limit order."""

    side: int
    price: int
    size: int
    time_in_force: int = GTC


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelSide:
    """Cancel all of this strategy's orders on one side of the instrument."""

    side: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wake:
    """Be called again for this instrument at the first input at or after a time, though nothing moves; once.

    An instrument has one such time: a later wake replaces it, None takes it back.
    """

    at: int | None


Intent = Submit | CancelSide | Wake


class PythonStrategy(Protocol):
    """A strategy in plain Python: easy to write, some hundred times slower than a compiled one."""

    name: str

    def on_market(self, view: View) -> list[Intent]:
        """Called where the top of a book moved; at most INTENTS_MAX intents."""
        ...

    def state(self) -> bytes:
        """Everything it remembers, canonical: part of snapshots and of the state digest."""
        ...

    def restore(self, state: bytes) -> None:
        """Become what `state` returned."""
        ...

    # One that takes parameters while it runs has also `configure(self, parameters: dict[str, int]) -> None`, which
    # raises ValueError for what it does not take; what it was given is in its `state`.


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledStrategy:
    """A compiled strategy: its function, and its parameters by name."""

    name: str
    on_market: Any  # what strategy_kernel returned
    parameters: dict[str, int] = field(default_factory=dict)

    def parameter_array(self) -> npt.NDArray[np.int64]:
        """The parameters in their declared order.

        Raises:
            UsageError: One is no 64-bit integer, or there are more than PARAMETERS_MAX.
        """
        if len(self.parameters) > PARAMETERS_MAX:
            raise UsageError(f"{len(self.parameters)} parameters", subject=self.name, hint=f"{PARAMETERS_MAX} at most")
        for name, value in self.parameters.items():
            if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
                raise UsageError(f"parameter {name} is {value!r}, no 64-bit integer", subject=self.name)
        array = np.zeros(PARAMETERS_MAX, np.int64)
        array[: len(self.parameters)] = list(self.parameters.values())
        return array


Strategy = CompiledStrategy | PythonStrategy

__all__ = [
    "BUY",
    "GTC",
    "IOC",
    "POST_ONLY",
    "SELL",
    "CancelSide",
    "CompiledStrategy",
    "Confidence",
    "Intent",
    "PythonStrategy",
    "Strategy",
    "Submit",
    "View",
    "Wake",
    "strategy_kernel",
]
