"""What a process does from its start to its first decided day, as JSON: what it compiled, what it loaded, and how long.

`python -m tests.support.start [encode]`: a whole small day through the desk, or with `encode` one small kernel alone.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from typing import Any

START = time.perf_counter()

import numba.core.event as events  # noqa: E402  (the clock runs from here)
from numba.core.dispatcher import Dispatcher  # noqa: E402


class Compilations(events.Listener):  # type: ignore[misc]
    """The names of all functions that Numba compiled."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def on_start(self, event: Any) -> None:
        self.names.append(event.data["dispatcher"].py_func.__qualname__)

    def on_end(self, event: Any) -> None:
        """Nothing: the start was counted."""


def decide_a_day() -> tuple[float, float, float]:
    """When everything was imported, after the first day, and after a second."""
    import asyncio

    from tests.support.golden_day import digests_of, generated

    imported = time.perf_counter()
    asyncio.run(digests_of(generated()))
    first = time.perf_counter()
    asyncio.run(digests_of(generated()))
    return imported, first, time.perf_counter()


def encode_a_cell() -> tuple[float, float, float]:
    """The same of one kernel."""
    import numpy as np

    from tapehouse.log import columns

    imported = time.perf_counter()
    columns.encode(np.zeros((3, 8), np.int64))
    first = time.perf_counter()
    columns.encode(np.zeros((3, 8), np.int64))
    return imported, first, time.perf_counter()


def main() -> None:
    compilations = Compilations()
    with events.install_listener("numba:compile", compilations):
        imported, first, second = (encode_a_cell if "encode" in sys.argv else decide_a_day)()
    dispatchers = [thing for thing in gc.get_objects() if isinstance(thing, Dispatcher)]
    found = {
        "compiled": sorted(compilations.names),
        "loaded": sum(sum(dispatcher.stats.cache_hits.values()) for dispatcher in dispatchers),
        "missed": sum(sum(dispatcher.stats.cache_misses.values()) for dispatcher in dispatchers),
        "import_seconds": imported - START,
        "first_seconds": first - imported,
        "second_seconds": second - first,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
