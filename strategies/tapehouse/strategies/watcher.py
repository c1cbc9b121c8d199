"""The smallest strategy in plain Python: buys one lot when the bid side is much larger, sells when the ask side is.

It is here to be copied: a name, `on_market`, and its memory as bytes.
"""

from __future__ import annotations

from tapehouse.engine import Intent, Submit, View
from tapehouse.engine.strategy import BUY, IOC, SELL

_WORD = 8


class Watcher:
    """Acts on the imbalance of the best sizes, at most once in `interval_ms` of engine time."""

    name = "watcher"

    def __init__(self, *, interval_ms: int = 5_000, ratio: int = 4, position_max: int = 10) -> None:
        self._interval_ns = interval_ms * 1_000_000
        self._ratio = ratio
        self._position_max = position_max
        self._last = 0

    def on_market(self, view: View) -> list[Intent]:
        if view.bid is None or view.ask is None or view.now - self._last < self._interval_ns:
            return []
        if view.bid_size > self._ratio * view.ask_size and view.position < self._position_max * view.lot:
            self._last = view.now
            return [Submit(side=BUY, price=view.ask, size=view.lot, time_in_force=IOC)]
        if view.ask_size > self._ratio * view.bid_size and view.position > -self._position_max * view.lot:
            self._last = view.now
            return [Submit(side=SELL, price=view.bid, size=view.lot, time_in_force=IOC)]
        return []

    def state(self) -> bytes:
        return self._last.to_bytes(_WORD, "little", signed=True)

    def restore(self, state: bytes) -> None:
        self._last = int.from_bytes(state, "little", signed=True)


def watcher(*, interval_ms: int = 5_000, ratio: int = 4, position_max: int = 10) -> Watcher:
    """The watcher with its parameters."""
    return Watcher(interval_ms=interval_ms, ratio=ratio, position_max=position_max)
