"""Branches of a log: which identity a sequence was written under."""

from __future__ import annotations

import pytest

from tapehouse.log import Branch, Extent

FIRST, SECOND, LIVING = (bytes([number]) * 16 for number in (1, 2, 3))


@pytest.mark.parametrize(
    ("sequence", "expected"), [(1, FIRST), (10, FIRST), (11, SECOND), (20, SECOND), (21, LIVING), (10**9, LIVING)]
)
def test_every_sequence_belongs_to_one_branch(sequence: int, expected: bytes) -> None:
    branches = (Branch(log_id=FIRST, through=10), Branch(log_id=SECOND, through=20), Branch(log_id=LIVING))
    extent = Extent(first=5, last=30, branches=branches)
    assert extent.log_id_at(sequence) == expected
    assert extent.log_id == LIVING


def test_a_log_with_one_branch_has_one_identity() -> None:
    extent = Extent(first=1, last=0, branches=(Branch(log_id=FIRST),))
    assert extent.log_id == extent.log_id_at(1) == FIRST
