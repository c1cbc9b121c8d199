"""A producer of generated cells for a journal, in a process that may be killed: each cell is a function of its index.

Run as a program it attaches to the ring, goes on from its head, and appends at a rate until SIGTERM, then closes it.
"""

from __future__ import annotations

import argparse
import signal
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from tapehouse.market import Cells, Kind, empty_cells
from tapehouse.ring import Ring, RingFullError

LENGTHS = (1, 3, 1, 1, 2, 7, 1, 4, 1, 1, 9, 1)  # of the records, again and again
PERIOD = sum(LENGTHS)
BLOCKS_PER_TICK_MAX = 4096


def _pattern() -> tuple[np.ndarray, np.ndarray]:
    """For each cell of a period: its record's length where it is the first, else 0; and its record's first cell."""
    lengths = np.zeros(PERIOD, np.uint8)
    firsts = np.zeros(PERIOD, np.int64)
    at = 0
    for length in LENGTHS:
        lengths[at] = length
        firsts[at : at + length] = at
        at += length
    return lengths, firsts


_RECORD_CELLS, _RECORD_FIRST = _pattern()


def generate(first: int, n: int) -> Cells:
    """Cells `first` to `first + n`; any cut between records gives whole records."""
    index = np.arange(first, first + n, dtype=np.int64)
    place = index % PERIOD
    record = index - place + _RECORD_FIRST[place]
    mixed = (index.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) ^ np.uint64(0x5851F42D4C957F2D)
    cells = empty_cells(n)
    cells["ts_event"] = 1_700_000_000_000_000_000 + index * 1000
    cells["ts_recv"] = cells["ts_event"] + 500
    cells["sequence"] = index
    cells["order_id"] = mixed
    cells["price"] = (mixed >> np.uint64(44)).astype(np.int64)
    cells["size"] = index * 3 - 7
    cells["instrument"] = 1 + record % 5
    cells["source"] = 1
    cells["kind"] = Kind.RAW
    cells["cells"] = _RECORD_CELLS[place]
    cells["count"] = record % 1000
    return cells


def main() -> None:
    """Append until told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("ring")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--rate", type=int, default=20_000, help="cells a second")
    options = parser.parse_args()
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    with Ring.produce(options.ring, directory=options.directory) as producer:
        print("ready", flush=True)
        start, begun = producer.head, time.monotonic()
        while not stopping:
            due = start + int((time.monotonic() - begun) * options.rate)
            due -= due % PERIOD
            head = producer.head
            if due > head:
                due = min(due, head - head % PERIOD + BLOCKS_PER_TICK_MAX * PERIOD)
                with suppress(RingFullError):  # Its consumer is dead for the moment: the head says how far this got.
                    producer.append(generate(head, due - head))
            time.sleep(0.002)


if __name__ == "__main__":
    main()
