"""Time inside compiled code: the CPU's own counter, a few nanoseconds a reading, for measurements alone.

Readings never reach a decision: they are written beside the cells. `cycles` is the cheapest reading and may be moved
about by the CPU; `fenced_cycles` waits until everything before it is done, and nothing after it starts early. A count
becomes nanoseconds through a `CycleScale`, which is measured against a clock.

On a machine without the x86 counter both read CLOCK_MONOTONIC in nanoseconds, some 20 ns a reading.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

import numba.core.cgutils
import numba.extending
from llvmlite import ir
from numba import types

from tapehouse.core.clock import Clock
from tapehouse.core.kernel import Int, kernel

HAS_COUNTER = platform.machine() in ("x86_64", "AMD64")
CALIBRATION_NS = 100_000_000
PAIRS = 5  # readings of both clocks, of which the closest two count
_CLOCK_MONOTONIC = 1
intrinsic: Any = numba.extending.intrinsic  # these two have no types
cgutils: Any = numba.core.cgutils
_WORD = ir.IntType(64)
_VOID = ir.FunctionType(ir.VoidType(), [])


def _counter(builder: Any) -> Any:
    """Emit one reading of the time-stamp counter."""
    return builder.call(
        cgutils.get_or_insert_function(builder.module, ir.FunctionType(_WORD, []), "llvm.readcyclecounter"), []
    )


def _monotonic(builder: Any) -> Any:
    """Emit a reading of CLOCK_MONOTONIC, in ns."""
    call = ir.FunctionType(ir.IntType(32), [ir.IntType(32), _WORD.as_pointer()])
    read = cgutils.get_or_insert_function(builder.module, call, "clock_gettime")
    place = cgutils.alloca_once(builder, ir.ArrayType(_WORD, 2))
    builder.call(read, [ir.Constant(ir.IntType(32), _CLOCK_MONOTONIC), builder.bitcast(place, _WORD.as_pointer())])
    seconds, rest = (builder.load(builder.gep(place, [_WORD(0), _WORD(at)])) for at in range(2))
    return builder.add(builder.mul(seconds, _WORD(1_000_000_000)), rest)


def _fence(builder: Any) -> None:
    builder.call(cgutils.get_or_insert_function(builder.module, _VOID, "llvm.x86.sse2.lfence"), [])


@intrinsic
def _read(typing_context: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _counter(builder) if HAS_COUNTER else _monotonic(builder)

    return types.int64(), emit


@intrinsic
def _read_fenced(typing_context: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if not HAS_COUNTER:
            return _monotonic(builder)
        _fence(builder)
        reading = _counter(builder)
        _fence(builder)
        return reading

    return types.int64(), emit


@kernel(inline=True)
def cycles() -> Int:
    """The counter now, unfenced."""
    return _read()


@kernel(inline=True)
def fenced_cycles() -> Int:
    """The counter now, between two load fences."""
    return _read_fenced()


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleScale:
    """How counts become nanoseconds of the monotonic clock: one point of both and the rate between them."""

    count: int
    monotonic_ns: int
    ns_per_count: float

    def duration_ns(self, counts: int) -> float:
        """How long so many counts are."""
        return counts * self.ns_per_count

    def at_ns(self, count: int) -> int:
        """The monotonic time of a reading."""
        return self.monotonic_ns + round((count - self.count) * self.ns_per_count)


def _moment(clock: Clock) -> tuple[int, int]:
    """One moment by the counter and by the clock: the closest of a few pairs, as the process may be interrupted."""
    pairs = []
    for _ in range(PAIRS):
        before = cycles()
        now_ns = clock.monotonic_ns()
        after = cycles()
        pairs.append((after - before, (before + after) // 2, now_ns))
    _, count, now_ns = min(pairs)
    return count, now_ns


def calibrate(clock: Clock, *, during_ns: int = CALIBRATION_NS) -> CycleScale:
    """Measure the counter against a clock's monotonic time, by spinning for `during_ns` of it."""
    first, first_ns = _moment(clock)
    while clock.monotonic_ns() - first_ns < during_ns:
        pass
    count, now_ns = _moment(clock)
    return CycleScale(count=count, monotonic_ns=now_ns, ns_per_count=(now_ns - first_ns) / max(1, count - first))


__all__ = ["HAS_COUNTER", "CycleScale", "calibrate", "cycles", "fenced_cycles"]
