"""Keeps a Python strategy from the wall clock and from randomness: what it reads there, no replay can repeat.

While the strategy runs, a profile hook sees every call into a built-in and stops the forbidden ones, however the
strategy imported them. Names that Python itself resolves in C without a call (a `numpy` generator's methods) are
caught where they draw their seed. What the guard cannot see is in the room's DESIGN.md.
"""

from __future__ import annotations

import _random
import datetime
import os
import random
import secrets
import sys
import time
import uuid
from types import FrameType, TracebackType
from typing import Any

from tapehouse.core.errors import StrategyError

_CLOCKS = (
    time.time, time.time_ns, time.monotonic, time.monotonic_ns, time.perf_counter, time.perf_counter_ns,
    time.process_time, time.process_time_ns, time.thread_time, time.thread_time_ns, time.clock_gettime,
    time.clock_gettime_ns, time.localtime, time.gmtime, time.sleep, os.times,
)  # fmt: skip
_CHANCE = (os.urandom, os.getrandom, secrets.token_bytes, uuid.uuid1, uuid.uuid4)
_DATE_METHODS = {"now", "utcnow", "today"}


def _forbidden(function: Any) -> str | None:
    """The name of a forbidden function, None for any other."""
    if any(function is entry for entry in _CLOCKS):
        return f"time.{function.__name__}"
    if any(function is entry for entry in _CHANCE):
        return str(function.__name__)
    owner = getattr(function, "__self__", None)
    name = getattr(function, "__name__", "")
    if isinstance(owner, type) and issubclass(owner, datetime.date) and name in _DATE_METHODS:
        return f"{owner.__name__}.{name}"
    if isinstance(owner, _random.Random) or owner is random:
        return f"random.{name}"
    module = getattr(function, "__module__", None) or ""
    if module.startswith("numpy.random"):
        return f"numpy.random.{name}"
    return None


class NoGuard:
    """No guard at all."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


class Guard:
    """A context in which a strategy's turn runs; raises StrategyError naming strategy, function and line."""

    def __init__(self, strategy: str) -> None:
        self._strategy = strategy
        self._before: Any = None

    def __enter__(self) -> None:
        self._before = sys.getprofile()
        sys.setprofile(self._hook)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        sys.setprofile(self._before)

    def _hook(self, frame: FrameType, event: str, function: Any) -> None:
        if event != "c_call":
            return
        name = _forbidden(function)
        if name is not None:
            sys.setprofile(self._before)
            raise StrategyError(
                f"it called {name}",
                subject=f"strategy {self._strategy}",
                position=f"{os.path.basename(frame.f_code.co_filename)} line {frame.f_lineno}",
                hint="time and chance must come from the tape: use view.now, or --no-guard to see the digests differ",
            )
