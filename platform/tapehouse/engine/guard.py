"""Keeps a Python strategy from the wall clock and from randomness: what it reads there, no replay can repeat.

While the strategy runs, a profile hook sees every call of a built-in and stops the forbidden ones, however they were
imported. NumPy's generators are compiled in a way that no hook sees: one that the strategy holds is refused where it is
found, and NumPy's global one is looked at before and after each turn. A violation is remembered and ends the turn even
if the strategy catches what the hook raised. No garbage is collected meanwhile: callbacks and finalizers of others,
which may well read a clock, are not the strategy's. What the guard cannot see is in the room's DESIGN.md.
"""

from __future__ import annotations

import _random
import ctypes
import datetime
import gc
import os
import sys
import sysconfig
import time
import uuid
from collections.abc import Mapping
from types import FrameType, TracebackType
from typing import Any

from tapehouse.core.errors import StrategyError

_HINT = "time and chance must come from the tape: use view.now, or --no-guard to see the digests differ"
_CLOCKS = (
    time.time, time.time_ns, time.monotonic, time.monotonic_ns, time.perf_counter, time.perf_counter_ns,
    time.process_time, time.process_time_ns, time.thread_time, time.thread_time_ns, time.clock_gettime,
    time.clock_gettime_ns, time.localtime, time.gmtime, time.ctime, time.asctime, time.strftime, time.sleep,
)  # fmt: skip
_OF_OS = (os.urandom, os.getrandom, os.times)
_FORBIDDEN: dict[Any, str] = {
    **{function: f"time.{function.__name__}" for function in _CLOCKS},
    **{function: f"os.{function.__name__}" for function in _OF_OS},
}
if _uuid1 := getattr(uuid, "_generate_time_safe", None):  # where the platform's library makes them
    _FORBIDDEN[_uuid1] = "uuid.uuid1"
_DATE_METHODS = {"now", "utcnow", "today"}
_STANDARD_LIBRARY = sysconfig.get_path("stdlib")
_MT19937_WORDS = 624 + 1  # its key, and the place in it: every draw moves the place


class NoGuard:
    """No guard at all."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


class Guard:
    """A context in which a strategy's turn runs; leaving it raises StrategyError if the turn met time or chance.

    Raises:
        StrategyError: Already when it is made, where the strategy or its module holds a generator of NumPy's.
    """

    def __init__(self, strategy: Any) -> None:
        self._strategy = strategy
        self._hook = self._see  # one bound method, to be known again
        self._violation: StrategyError | None = None
        self._before: Any = None
        self._collecting = False  # whether garbage was collected before the turn
        self._drawn: object = None
        self._numpy = _NumpyState()
        function = getattr(strategy.on_market, "__func__", strategy.on_market)
        code = getattr(function, "__code__", None)
        self._turn = f"{os.path.basename(code.co_filename)} line {code.co_firstlineno}" if code else ""
        self._refuse_generators(getattr(function, "__globals__", {}))
        self._refuse_generators(getattr(strategy, "__dict__", {}))

    def __enter__(self) -> None:
        self._violation = None
        self._drawn = self._numpy.now()
        self._before = sys.getprofile()
        self._collecting = gc.isenabled()
        gc.disable()
        sys.setprofile(self._hook)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        watching = sys.getprofile() is self._hook
        sys.setprofile(self._before)
        if self._collecting:
            gc.enable()
        if self._violation is None and not watching:
            self._violation = self._broken("it took away the profile hook that watches it", self._turn)
        if self._violation is None and self._numpy.now() != self._drawn:
            self._violation = self._broken("it drew from numpy.random", self._turn)
        if self._violation is not None:
            raise self._violation from (None if error is self._violation else error)
        self._refuse_generators(getattr(self._strategy, "__dict__", {}))

    def _see(self, frame: FrameType, event: str, function: Any) -> None:
        if event != "c_call":
            return
        name = _forbidden(function)
        if name is not None:
            sys.setprofile(self._before)
            self._violation = self._called(frame, name)
            raise self._violation

    def _called(self, frame: FrameType, name: str) -> StrategyError:
        """The violation, told from where the strategy left its own code for the standard library's."""
        caller: FrameType = frame
        while _is_standard(caller) and caller.f_back is not None:
            name = f"{caller.f_globals.get('__name__')}.{caller.f_code.co_qualname}"
            caller = caller.f_back
        return self._broken(
            f"it called {name}", f"{os.path.basename(caller.f_code.co_filename)} line {caller.f_lineno}"
        )

    def _refuse_generators(self, namespace: Mapping[str, Any]) -> None:
        for name, value in namespace.items():
            if type(value).__module__.startswith("numpy.random"):
                raise self._broken(f"it holds a {type(value).__name__} of numpy.random in {name!r}", self._turn)

    def _broken(self, message: str, position: str) -> StrategyError:
        subject = f"strategy {self._strategy.name}"
        return StrategyError(message, subject=subject, position=position, hint=_HINT)


def _forbidden(function: Any) -> str | None:
    """The name of a forbidden built-in, None for any other."""
    owner = getattr(function, "__self__", None)
    if isinstance(owner, _random.Random):
        return f"random.{function.__name__}"
    if isinstance(owner, type) and issubclass(owner, datetime.date) and function.__name__ in _DATE_METHODS:
        return f"{owner.__name__}.{function.__name__}"
    return _FORBIDDEN.get(function)


def _is_standard(frame: FrameType) -> bool:
    path = frame.f_code.co_filename
    return path.startswith(("<frozen ", _STANDARD_LIBRARY)) and "-packages" not in path


class _NumpyState:
    """Where NumPy's global generator stands, read from its memory: that costs no draw and no copy."""

    def __init__(self) -> None:
        self._generator: Any = None
        self._words: Any = None

    def now(self) -> object:
        """Something that differs after any draw; None while nothing imported `numpy.random`."""
        module: Any = sys.modules.get("numpy.random.mtrand")
        if module is None:
            return None
        generator = module._rand._bit_generator
        if generator is not self._generator:
            self._generator, self._words = generator, None
            if type(generator).__name__ == "MT19937":
                address = generator.ctypes.state_address
                self._words = (ctypes.c_uint32 * _MT19937_WORDS).from_address(address)
        if self._words is None:  # `set_bit_generator` gave it one of another kind
            return repr(generator.state)
        return self._words[_MT19937_WORDS - 1], self._words[0], self._words[1]
