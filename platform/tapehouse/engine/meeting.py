"""What an engine decided, held against what EVENTS holds of it.

Both sides come in order, in pieces of any size and at any pace: the engine's decisions as it folds TAPE, the records of
EVENTS as they are read. What both have said is compared cell by cell and let go. What only the engine has said is to be
written by whoever leads; what only EVENTS has said waits for the engine to come there.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from tapehouse.core.errors import IntegrityError
from tapehouse.market import Cells

HELD_CELLS_MAX = 1 << 20  # of either side, for one who can wait


class Meeting:
    """Two ends of the same records: `decided` and not seen in EVENTS, or `known` from EVENTS and not yet decided."""

    def __init__(self, name: str) -> None:
        """`name` is that of EVENTS, for errors."""
        self._name = name
        self._decided: deque[tuple[Cells, int]] = deque()
        self._known: deque[Cells] = deque()
        self.decided_cells = 0
        self.known_cells = 0
        self.met = 0
        self._decided_through = 0  # inputs that the engine has folded
        self._known_through = 0  # inputs for which EVENTS is complete

    def decide(self, outputs: Cells, input_ordinal: int) -> None:
        """Add what was decided on the inputs before an ordinal of TAPE, be it nothing.

        Raises:
            IntegrityError: EVENTS holds another decision.
        """
        self._decided_through = input_ordinal
        if len(outputs):
            self._decided.append((outputs, input_ordinal))
            self.decided_cells += len(outputs)
        self._match()

    def know(self, cells: Cells, input_ordinal: int) -> None:
        """Add what EVENTS holds next.

        Args:
            input_ordinal: EVENTS with these cells is complete for the inputs before this; 0 where that is not known.

        Raises:
            IntegrityError: Another was decided.
        """
        self._known_through = max(self._known_through, input_ordinal)
        if len(cells):
            self._known.append(cells)
            self.known_cells += len(cells)
        self._match()

    def take(self) -> tuple[Cells, int]:
        """The oldest decisions that EVENTS was not seen to hold, and the ordinal that they reach; to be written."""
        outputs, input_ordinal = self._decided.popleft()
        self.decided_cells -= len(outputs)
        return outputs, input_ordinal

    def put_back(self, outputs: Cells, input_ordinal: int) -> None:
        """Undo the last `take`: it is not known whether EVENTS holds them."""
        self._decided.appendleft((outputs, input_ordinal))
        self.decided_cells += len(outputs)

    @property
    def is_full(self) -> bool:
        """Whether one side is so far ahead of the other that it should wait."""
        return max(self.decided_cells, self.known_cells) >= HELD_CELLS_MAX

    def _match(self) -> None:
        while self._decided and self._known:
            outputs, input_ordinal = self._decided[0]
            known = self._known[0]
            common = min(len(outputs), len(known))
            differ = np.flatnonzero(known[:common] != outputs[:common])
            if len(differ):
                at = int(np.flatnonzero(outputs["cells"][: int(differ[0]) + 1])[-1])
                earlier = min(outputs[at], known[at], key=lambda cell: (int(cell["sequence"]), int(cell["count"])))
                raise self._differs("a decision differs from the one that was made before", earlier)
            self.met += common
            self.decided_cells -= common
            self.known_cells -= common
            if common == len(outputs):
                self._decided.popleft()
            else:
                self._decided[0] = outputs[common:], input_ordinal
            if common == len(known):
                self._known.popleft()
            else:
                self._known[0] = known[common:]
        if self._decided and int(self._decided[0][0]["sequence"][0]) < self._known_through:
            raise self._differs("a decision was not made before", self._decided[0][0][0])
        if self._known and int(self._known[0]["sequence"][0]) < self._decided_through:
            raise self._differs("a decision that was made before is not made again", self._known[0][0])

    def _differs(self, what: str, cell: np.void) -> IntegrityError:
        return IntegrityError(
            what,
            subject=self._name,
            position=f"input cell {int(cell['sequence'])}, index {int(cell['count'])}",
            hint="code, strategy or tape changed under a running desk: start a new epoch from a snapshot",
        )
