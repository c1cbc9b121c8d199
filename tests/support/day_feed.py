"""A feed handler in a process that may be killed: a generated day into a ring, each cell a function of its place.

Run as a program it declares the day's instruments, goes on from a given cell of the day, and appends at a rate until
SIGTERM or the day's end; then it closes the ring.
"""

from __future__ import annotations

import argparse
import signal
import time
from contextlib import suppress

import numpy as np

from tapehouse.feeds import GeneratedDay
from tapehouse.market import CELLS_MAX, Cells, Instrument, whole_records
from tapehouse.ring import Ring, RingFullError

TICK_S = 0.005
PIECE_CELLS = 4096


def definitions(day: GeneratedDay) -> Cells:
    """What a feed says of its instruments before it begins; what options derive from comes first."""
    declared: list[Instrument] = sorted(day.instruments, key=lambda item: item.underlying != 0)
    return np.concatenate([item.definition(ts_recv=1) for item in declared])


def day_cells(seed: int, cells: int) -> Cells:
    """The whole day."""
    return np.concatenate(list(GeneratedDay(seed=seed, cells=cells).batches()))


def _whole(cells: Cells, limit: int) -> int:
    return whole_records(cells, limit) if limit > 0 and len(cells) else 0


def main() -> None:
    """Append until told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("ring")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--cells", type=int, default=1_500_000)
    parser.add_argument("--rate", type=int, default=5_000, help="cells a second")
    parser.add_argument("--skip", type=int, default=0, help="cells of the day that an earlier life has published")
    options = parser.parse_args()
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    cells = day_cells(options.seed, options.cells)
    told = definitions(GeneratedDay(seed=options.seed, cells=options.cells))
    with Ring.produce(options.ring) as ring:
        print("ready", flush=True)
        ring.append(told)
        base, begun = ring.head - options.skip, time.monotonic()
        while not stopping:
            at = ring.head - base  # Also where the ring was full: it holds what it holds.
            due = min(options.skip + int((time.monotonic() - begun) * options.rate), len(cells)) - at
            piece = cells[at : at + _whole(cells[at : at + PIECE_CELLS + CELLS_MAX], min(due, PIECE_CELLS))]
            if len(piece):
                with suppress(RingFullError):  # Its desk is dead for the moment.
                    ring.append(piece, timeout_ns=100_000_000)
            time.sleep(TICK_S)


if __name__ == "__main__":
    main()
