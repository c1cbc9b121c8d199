"""The PITCH sample: its published volumes, and every cell against the slow decoder."""

from __future__ import annotations

import gzip
from datetime import date
from pathlib import Path

import numpy as np

from tapehouse.feeds import check_source
from tapehouse.feeds.new_york import midnight_ns
from tapehouse.feeds.pitch import PitchFeed
from tests.support import itch, pitch

DAY = date(2009, 3, 2)


def test_the_sample(market_data: Path) -> None:
    path = market_data / "cboe_pitch" / "pitch_example_data.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    slow = pitch.SlowDecoder(midnight_ns(DAY), sided=True)
    cells = np.concatenate(list(PitchFeed(path, day=DAY).batches()))
    assert itch.rows_of(cells) == slow.decode(lines)
    assert len(cells) == 10_361 + 9_592 + 3 * 20 + 27
    check = check_source("pitch", [path])
    assert (check.rows, check.mismatches, check.truths["volumes_answered"]) == (20_000, 0, 10)
    assert check.truths["unknown_orders"] == slow.unknown_orders == 0
    counts = {"type_A": 10_361, "type_X": 9_592, "type_E": 20, "type_P": 27}
    assert {name: check.truths[name] for name in counts} == counts
    assert check.truths["orders_remaining"] == len(slow.orders)
