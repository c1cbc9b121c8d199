"""A prefetch changes nothing but time, whatever the row."""

from __future__ import annotations

import numpy as np

from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.core.prefetch import prefetch


@kernel()
def _sum_fetched(values: Array, ahead: Int) -> Int:
    total = 0
    for row in range(values.shape[0]):
        prefetch(values, (row + ahead) % values.shape[0])
        total += values[row, 0] * values[row, 1]
    return total


def test_what_is_read_is_what_was_there() -> None:
    values = np.arange(2_000, dtype=np.int64).reshape(-1, 2)
    wanted = values.copy()
    for ahead in (0, 1, 16, 999):
        assert _sum_fetched(values, ahead) == int((wanted[:, 0] * wanted[:, 1]).sum())
        assert np.array_equal(values, wanted)
