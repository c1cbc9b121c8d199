"""A moment of a view that goes on: what is written of it is the state at its sequence, whatever came after."""

from __future__ import annotations

from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core.errors import InvariantError
from tapehouse.kv import layout
from tapehouse.kv.entries import Entry, Op
from tapehouse.kv.moment import Moment
from tapehouse.kv.snapshot import read_snapshot, write_snapshot
from tapehouse.kv.view import View
from tests.support.kv_streams import DiffersError, Pair, run_stream, tiny_view

LOG_ID = bytes(range(16))


class WatchedPair(Pair):
    """A pair of which moments are taken as it is fed, each written when many frames have come after it."""

    def __init__(self, view: View, rng: Random, *, ends: float = 0.05) -> None:
        super().__init__(view)
        self.written = 0
        self.frames_beside = 0
        self._rng = rng
        self._ends = ends
        self._moment: Moment | None = None
        self._expected = b""

    def feed(self, entries: list[Entry], **place: Any) -> None:
        self.frames_beside += self._moment is not None
        super().feed(entries, **place)
        if self._moment is None and self._rng.random() < 0.2:
            room = None if self._rng.random() < 0.5 else _room(self.view, self._rng)
            self._moment = self.view.pin(room)
            self._expected = self.oracle.digest()
        elif self._moment is not None and self._rng.random() < self._ends:
            self.write()

    def write(self) -> None:
        """Write the moment, and hold what is read of it against the oracle as it was."""
        moment, self._moment = self._moment, None
        if moment is None:
            return
        with TemporaryDirectory() as folder:
            write_snapshot(Path(folder) / "view", moment, LOG_ID)
            self.view.unpin()
            view = read_snapshot(Path(folder) / "view", LOG_ID, lambda: tiny_view(budget_bytes=64 << 13))
        self.written += 1
        self._same("a moment", view.digest(self.value_of), self._expected)


def _room(view: View, rng: Random) -> Any:
    return np.full(max(view.rows_bytes + 64 * rng.randrange(-3, 9), 0), 1, np.uint8)


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 2**64 - 1), st.booleans())
def test_a_moment_stays_as_it_was(seed: int, is_tight: bool) -> None:
    """Few keys, written over in place else; or more than the budget holds, so that the cleaner works beside it."""
    rng = Random(seed)
    pair = WatchedPair(tiny_view(seed=seed, budget_bytes=24 << 13), rng)
    if is_tight:
        run_stream(rng, pair, frames=120, keys=400, value_bytes=900, long_values=12)
    else:
        run_stream(rng, pair, frames=60, keys=12, value_bytes=90)
    pair.write()
    pair.compare()
    assert pair.written > 0
    assert pair.frames_beside > 0


def test_beside_a_moment_the_cleaner_goes_on() -> None:
    """What is written beside it is cleaned and evicted; what it holds is not, and is free to be afterwards."""
    rng = Random(5)
    pair = WatchedPair(tiny_view(seed=5, budget_bytes=24 << 13), rng, ends=0)
    run_stream(rng, pair, frames=250, keys=100, value_bytes=2_000, long_values=7)
    beside = pair.view.metrics()
    assert pair.frames_beside > 200
    assert beside.evictions > 0
    assert beside.arena_bytes <= 2 * beside.budget_bytes
    pair.write()
    pair.compare()
    for number in range(100):
        pair.feed([Entry(op=Op.PUT, key=b"more", value=bytes(4_000))], writer=77, number=number + 1, time=10**6)
        pair.write()
    after = pair.view.metrics()
    assert after.arena_bytes + after.table_bytes <= after.budget_bytes + 4 * 8_192


def test_one_moment_at_a_time() -> None:
    view = tiny_view()
    view.pin()
    with pytest.raises(InvariantError, match="already"):
        view.pin()
    view.unpin()
    view.pin()


def test_control_a_view_that_is_not_frozen_changes_its_moment() -> None:
    """Without its mark the same stream writes over what the moment points to, and that is caught."""

    def forget(pair: WatchedPair) -> None:
        feed = pair.feed

        def forgetful(entries: list[Entry], **place: Any) -> None:
            feed(entries, **place)
            pair.view._state[layout.PINNED] = 0
            pair.view._accounts()[:, layout.HELD] = 0

        pair.feed = forgetful  # type: ignore[method-assign]

    caught = 0
    for seed in range(4):
        rng = Random(seed)
        pair = WatchedPair(tiny_view(seed=seed), rng)
        forget(pair)
        try:
            run_stream(rng, pair, frames=120, keys=6, value_bytes=12)
            pair.write()
        except DiffersError as error:
            caught += "a moment" in str(error)
    assert caught
