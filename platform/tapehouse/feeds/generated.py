"""A generated market day: three shares from before the open to after the close, and options on the first.

It needs no data and is always the same: a seed names the day. Orders come, go, are replaced and executed as in a
market-by-order feed; there is an opening, a burst in which prices fall, and a close in which orders are withdrawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from tapehouse.core.errors import UsageError
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.feeds import generated_flow
from tapehouse.feeds.checking import Check
from tapehouse.feeds.formats import SourceOptions
from tapehouse.feeds.option_chain import RECORDS_PER_QUOTE, SeededChain
from tapehouse.feeds.option_quotes import CELLS_PER_QUOTE
from tapehouse.feeds.packing import BATCH_CELLS_MAX
from tapehouse.market import Cells, Instrument, from_words

DAY_NS = 1_767_571_200 * NS_PER_SECOND  # 2026-01-05T00:00:00Z, a Monday
OPEN_NS = DAY_NS + (13 * 3600 + 30 * 60) * NS_PER_SECOND
CELLS_DEFAULT = 600_000
CELLS_MIN = 1_000
CELLS_MAX = 1 << 40
INSTRUMENTS_MAX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A part of the day: until when, after how many cells, and how events mix.

    Args:
        cells: Its end in thousandths of the day's cells.
        seconds: Its end in seconds after 13:30:00Z.
        mix: Weights of adds, cancels, replacements and trades.
        speed: The largest step of the fair price, in sixteenths of a tick.
        drift: Bias of a step's direction, in 1/1024.
    """

    cells: int
    seconds: int
    mix: tuple[int, int, int, int]
    speed: int
    drift: int = 0


PHASES = (
    Phase(cells=20, seconds=60, mix=(92, 4, 4, 0), speed=2),  # before the open
    Phase(cells=150, seconds=900, mix=(46, 33, 9, 12), speed=6),  # the opening
    Phase(cells=430, seconds=10_800, mix=(48, 38, 9, 5), speed=3),  # the morning
    Phase(cells=600, seconds=11_100, mix=(42, 36, 10, 12), speed=8, drift=-4),  # the burst
    Phase(cells=830, seconds=22_500, mix=(48, 38, 9, 5), speed=3),  # the afternoon
    Phase(cells=970, seconds=23_370, mix=(46, 36, 8, 10), speed=5),  # the close
    Phase(cells=1000, seconds=23_400, mix=(6, 88, 0, 6), speed=2),  # orders are withdrawn
)
# Symbol, first price and tick in cents; more instruments than these are numbered.
_SHARES = (("ALFA", 10_000, 1), ("BRAVO", 25_000, 1), ("CHARLIE", 40_000, 5))
_CENT = 10_000_000
_CHECK_BATCH_CELLS = 1_000


class _ShareFlow:
    """The shares alone: what the options are hung upon."""

    def __init__(self, seed: int, cells: int, instruments: int, batch_cells: int) -> None:
        self._seed = seed
        self._cells = cells
        self._batch_cells = batch_cells
        specs = [_share(index) for index in range(instruments)]
        self._prices = [price * _CENT for _, price, _ in specs]
        self._instruments = tuple(
            Instrument(id=index + 1, symbol=symbol, venue="GEN", tick_size=ticks * _CENT)
            for index, (symbol, _, ticks) in enumerate(specs)
        )

    @property
    def name(self) -> str:
        return f"generated-{self._seed}"

    @property
    def instruments(self) -> tuple[Instrument, ...]:
        return self._instruments

    @property
    def cells_estimate(self) -> int | None:
        return self._cells

    def batches(self) -> Iterator[Cells]:
        specs = [(price, item.tick_size) for price, item in zip(self._prices, self._instruments, strict=True)]
        flow = generated_flow.new_flow(self._seed, _plan(self._cells), OPEN_NS, specs)
        while True:
            out = np.empty((BATCH_CELLS_MAX, 8), np.int64)
            used = generated_flow.generate(flow, self._batch_cells, out)
            if used == 0:
                return
            yield from_words(out[:used])


def _share(index: int) -> tuple[str, int, int]:
    symbol, price, ticks = _SHARES[index % len(_SHARES)]
    return (symbol if index < len(_SHARES) else f"{symbol}{index // len(_SHARES) + 1}"), price, ticks


def _plan(cells: int) -> npt.NDArray[np.int64]:
    rows = [
        (cells * phase.cells // 1000, OPEN_NS + phase.seconds * NS_PER_SECOND, *phase.mix, phase.speed, phase.drift)
        for phase in PHASES
    ]
    return np.array(rows, np.int64)


class GeneratedDay:
    """The day that a seed names.

    Args:
        seed: Any integer.
        cells: About how many cells the day has, quotes of options included.
        instruments: How many shares.
        options: Whether there is an option chain on the first.
        batch_cells: About how many cells a batch holds; the day is the same whatever it is.

    Raises:
        UsageError: `cells` or `instruments` is out of bounds.
    """

    def __init__(
        self,
        seed: int = 7,
        cells: int = CELLS_DEFAULT,
        instruments: int = 3,
        *,
        options: bool = True,
        batch_cells: int = BATCH_CELLS_MAX,
    ) -> None:
        if not CELLS_MIN <= cells <= CELLS_MAX:
            raise UsageError(f"a generated day has {CELLS_MIN} to {CELLS_MAX} cells, not {cells}")
        if not 1 <= instruments <= INSTRUMENTS_MAX:
            raise UsageError(f"a generated day has 1 to {INSTRUMENTS_MAX} instruments, not {instruments}")
        self._cells = cells
        share_cells = cells * RECORDS_PER_QUOTE // (RECORDS_PER_QUOTE + CELLS_PER_QUOTE) if options else cells
        batch_cells = min(max(batch_cells, 1), BATCH_CELLS_MAX)
        shares = _ShareFlow(seed, share_cells, instruments, batch_cells)
        self._feed: _ShareFlow | SeededChain = SeededChain(shares, seed) if options else shares

    @property
    def name(self) -> str:
        """`generated-<seed>`."""
        return self._feed.name

    @property
    def instruments(self) -> tuple[Instrument, ...]:
        """The shares, then the options."""
        return self._feed.instruments

    @property
    def cells_estimate(self) -> int | None:
        """What was asked for."""
        return self._cells

    def batches(self) -> Iterator[Cells]:
        """The day from its beginning; each call is a new pass with the same cells."""
        return self._feed.batches()


def open_files(paths: Sequence[Path], options: SourceOptions) -> GeneratedDay:
    """The day of the usual seed and size; there are no files."""
    if paths:
        raise UsageError("a generated day reads no files", hint="leave them out")
    return GeneratedDay()


def check_files(paths: Sequence[Path], options: SourceOptions) -> Check:
    """Two passes in batches of different sizes must give the same cells; their digest is told."""
    open_files(paths, options)
    digests, cells = [], 0
    for size in (BATCH_CELLS_MAX, _CHECK_BATCH_CELLS):
        chain, cells = blake3(), 0
        for batch in GeneratedDay(batch_cells=size).batches():
            chain.update(batch.tobytes())
            cells += len(batch)
        digests.append(chain.hexdigest())
    found = Check(rows=cells, truths={"digest": digests[0]})
    found.compare("digest in small batches", digests[1], digests[0])
    return found
