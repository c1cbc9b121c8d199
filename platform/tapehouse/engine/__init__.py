"""The sequencer, the compiled loop, the engine machine, its gated mode, and what a strategy is."""

from tapehouse.engine.gated import GatedEngine
from tapehouse.engine.machine import Digests, Engine
from tapehouse.engine.sequencer import (
    ClockSource,
    Sequencer,
    TapeFold,
    TapeState,
    catch_up,
    listen,
    new_cells,
    read_tape,
    record,
)
from tapehouse.engine.strategy import (
    BUY,
    GTC,
    IOC,
    POST_ONLY,
    SELL,
    CancelSide,
    CompiledStrategy,
    Intent,
    PythonStrategy,
    Strategy,
    Submit,
    View,
    strategy_kernel,
)
from tapehouse.engine.take_over import take_tape

__all__ = [
    "BUY",
    "GTC",
    "IOC",
    "POST_ONLY",
    "SELL",
    "CancelSide",
    "ClockSource",
    "CompiledStrategy",
    "Digests",
    "Engine",
    "GatedEngine",
    "Intent",
    "PythonStrategy",
    "Sequencer",
    "Strategy",
    "Submit",
    "TapeFold",
    "TapeState",
    "View",
    "catch_up",
    "listen",
    "new_cells",
    "read_tape",
    "record",
    "strategy_kernel",
    "take_tape",
]
