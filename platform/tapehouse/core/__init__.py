"""Units, clock port, errors, ids, digest chain, invariants, metrics: what every room stands on."""

from tapehouse.core.check import check
from tapehouse.core.clock import Clock, SystemClock, VirtualClock
from tapehouse.core.digest import DigestChain, combine, short
from tapehouse.core.errors import (
    AmbiguousAppendError,
    BusUnavailableError,
    BusyError,
    ConflictError,
    DataError,
    DecodeError,
    GapError,
    IntegrityError,
    InvariantError,
    MissingError,
    StoreThrottledError,
    StrategyError,
    TapehouseError,
    TransientError,
    UsageError,
)
from tapehouse.core.metrics import Metrics
from tapehouse.core.units import UNDEFINED, format_time_ns, from_fixed, parse_time_ns, to_fixed

__all__ = [
    "UNDEFINED",
    "AmbiguousAppendError",
    "BusUnavailableError",
    "BusyError",
    "Clock",
    "ConflictError",
    "DataError",
    "DecodeError",
    "DigestChain",
    "GapError",
    "IntegrityError",
    "InvariantError",
    "Metrics",
    "MissingError",
    "StoreThrottledError",
    "StrategyError",
    "SystemClock",
    "TapehouseError",
    "TransientError",
    "UsageError",
    "VirtualClock",
    "check",
    "combine",
    "format_time_ns",
    "from_fixed",
    "parse_time_ns",
    "short",
    "to_fixed",
]
