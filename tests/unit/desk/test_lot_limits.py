"""Limits that are counted in lots: exact, also where limit times lot is beyond 64 bits."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from tapehouse.desk.ledger_state import SIZE_MAX
from tapehouse.desk.risk import ORDER_MAX, is_above_lots

SIZES = st.integers(-SIZE_MAX, SIZE_MAX) | st.integers(-20, 20)
LIMITS = st.integers(0, 2**63 - 1) | st.integers(0, 20)
LOTS = st.integers(1, 2**62) | st.integers(1, 5)


@given(SIZES, LIMITS, LOTS)
@example(1, 2**62, 2)  # the product wraps to less than nothing
@example(1, 2**62, 4)  # and here to nothing
@example(10, 5, 2)
@example(11, 5, 2)
@example(0, 0, 3)
@example(1, 0, 3)
def test_a_size_against_so_many_lots(size: int, lots: int, lot: int) -> None:
    assert bool(is_above_lots(size, lots, lot)) == (size > lots * lot)


def test_what_is_added_up_for_a_position_limit_stays_in_64_bits() -> None:
    working = SIZE_MAX + SIZE_MAX  # A side may have worked up to the limit while the position was at the other end.
    assert SIZE_MAX + working + ORDER_MAX < 2**63
