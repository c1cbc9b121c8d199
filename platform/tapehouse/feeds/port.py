"""What every source of market data looks like to the sequencer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from tapehouse.market import Cells, Instrument


class Feed(Protocol):
    """A finite source of market records, decoded; it does no I/O of its own but reading its file.

    Instrument ids are the feed's own, from 1 up; the sequencer allots the tape's and rewrites them.
    """

    @property
    def name(self) -> str:
        """A short name, good as a tape's name."""
        ...

    @property
    def instruments(self) -> tuple[Instrument, ...]:
        """Everything that `batches` refers to."""
        ...

    @property
    def cells_estimate(self) -> int | None:
        """About how many cells will come, for a progress bar; None where nobody knows."""
        ...

    def batches(self) -> Iterator[Cells]:
        """Whole records in the order in which they happened; `ts_recv` never decreases. At most 65,536 cells each.

        Raises:
            DecodeError: The source is bad, with its file and line; what was yielded before stands.
        """
        ...
