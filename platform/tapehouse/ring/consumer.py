"""The reading side of a ring, for Python; compiled loops take its `address` to `ring.kernels` instead."""

from __future__ import annotations

from pathlib import Path

from tapehouse.core import UsageError
from tapehouse.market import CELLS_MAX, Cells
from tapehouse.ring.attachment import Attachment
from tapehouse.ring.kernels import drained, readable_up_to, release_whole, wait_readable
from tapehouse.ring.layout import CACHED_HEAD, DROPPED_RECORDS, HEAD, TAIL
from tapehouse.ring.lock import Role

WAIT_SPINS = 4_000
NAP_US = 50
NAPS_MAX = 200


class RingConsumer(Attachment):
    """The one reader of a ring. Re-attached after a crash, it begins with the first cell that was not released."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, Role.CONSUMER)
        self._write(CACHED_HEAD, self._read(HEAD))
        self._view = self.view()

    @property
    def lag(self) -> int:
        """Cells published and not released."""
        return self._read(HEAD) - self._read(TAIL)

    @property
    def dropped(self) -> int:
        """Records that the producer dropped since the ring was made."""
        return self._read(DROPPED_RECORDS)

    @property
    def closed(self) -> bool:
        """Whether the producer has closed the ring and everything is drained."""
        return bool(drained(self._open_address()))

    def producer_alive(self) -> bool:
        """Whether a process is attached as producer."""
        return self._peer_alive(Role.PRODUCER)

    def readable(self, cells_max: int | None = None) -> Cells:
        """The whole records that are there, at most `cells_max` cells, without a copy; none gives length 0.

        The cells stay as they are until they are released; after that the producer writes there. Do not write to them.

        Raises:
            UsageError: `cells_max` is less than the longest record may have.
        """
        if cells_max is None:
            cells_max = self.cells
        elif cells_max < min(CELLS_MAX, self.cells):
            raise UsageError(f"at most {cells_max} cells may hold no whole record", hint=f"ask for {CELLS_MAX} or more")
        count = int(readable_up_to(self._open_address(), cells_max))
        start = self._read(TAIL) & (self.cells - 1)
        return self._view[start : start + count]

    def release(self, cells: int) -> None:
        """Give the first `cells` of what is readable back to the producer: whole records.

        Raises:
            UsageError: More than there is, or the cut is inside a record.
        """
        if not release_whole(self._open_address(), cells):
            raise UsageError(
                f"{cells} cells cannot be released",
                subject=str(self.path),
                position=f"tail {self.tail}, head {self.head}",
                hint="release whole records, and no more than were readable",
            )

    def wait(self, *, spins: int = WAIT_SPINS, naps: int = NAPS_MAX) -> bool:
        """Whether something is readable, after a bounded wait: first spinning, then napping 50 us at a time."""
        return bool(wait_readable(self._open_address(), spins, naps, NAP_US))

    def close(self) -> None:
        """Give the role back; views that were handed out stay readable, but the producer may write there."""
        super().close()
