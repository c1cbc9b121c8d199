"""The picture of a book: each level in the cell of its price and time, and no picture of nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tapehouse.app.plot_book import PRICES_MAX, BookLines, draw_book, heat
from tapehouse.core import UNDEFINED, MissingError

SECOND = 10**9
ROWS = 3
LADDERS = np.zeros((ROWS, 2, 2, 3), np.int64)
LADDERS[:, :, :, 0] = UNDEFINED
LADDERS[:, 0, 0] = (100, 7, 1)
LADDERS[:, 1, 0] = (110, 3, 1)
LADDERS[2, 0, 1] = (95, 40, 2)
LINES = BookLines(
    symbol="AAPL",
    currency="USD",
    times=10**18 + SECOND * np.arange(ROWS),
    ladders=LADDERS,
    mids=np.array([1.05, 1.05, np.nan]),
    spreads=np.array([0.1, 0.1, np.nan]),
    price_unit=0.01,
    size_unit=1.0,
    tick=5,
)


def test_each_level_has_its_cell() -> None:
    image, times, prices = heat(LINES)
    assert image.shape == (len(prices) - 1, len(times) - 1) == (len(prices) - 1, ROWS)
    found = {}
    for row, column in zip(*np.nonzero(~np.isnan(image)), strict=True):
        middle = round((prices[row] + prices[row + 1]) / 2 / LINES.price_unit / LINES.tick) * LINES.tick
        found[middle, int(column)] = image[row, column]
    expected = {(100, at): 7.0 for at in range(ROWS)} | {(110, at): 3.0 for at in range(ROWS)} | {(95, 2): 40.0}
    assert found == expected


def test_a_book_of_many_prices_is_drawn_in_few_cells() -> None:
    wide = LADDERS.copy()
    wide[:, 1, 0, 0] = 5 * 10**6
    image, _, _ = heat(replace(LINES, ladders=wide))
    assert len(image) <= PRICES_MAX + 1
    assert np.nansum(image) > 0


def test_the_picture_is_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw_book(LINES, tmp_path / "a.png", title="a book")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_an_empty_book_is_no_picture() -> None:
    with pytest.raises(MissingError, match="never had a level"):
        heat(replace(LINES, ladders=np.full_like(LADDERS, UNDEFINED)))
