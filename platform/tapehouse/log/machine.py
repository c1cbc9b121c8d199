"""The deterministic state machine that everything stateful is made of."""

from __future__ import annotations

from typing import Protocol

from tapehouse.log.frame import FrameHeader
from tapehouse.market.cell import Cells


class Machine(Protocol):
    """A pure fold of one log.

    The same cells in the same order give the same state, however they are split into calls; no clock, no randomness.
    """

    @property
    def name(self) -> str:
        """Names its snapshots; lower case, stable for ever."""
        ...

    @property
    def version(self) -> int:
        """Of the snapshot's format; a snapshot of another version is ignored and the log refolded."""
        ...

    def apply(self, header: FrameHeader, cells: Cells) -> None:
        """Fold the cells of one frame, or of a part of one.

        Args:
            header: `first_ordinal` is the ordinal of `cells[0]`.
            cells: Whole records.
        """
        ...

    def snapshot(self) -> bytes:
        """The whole state, canonical: equal states give equal bytes, on any machine."""
        ...

    def restore(self, snapshot: bytes) -> None:
        """Become the state that `snapshot` returned.

        Raises:
            IntegrityError: These bytes are no snapshot of this machine, and it is as it was before.
        """
        ...

    def digest(self) -> bytes:
        """32 bytes that two equal states share, and no two different ones."""
        ...
