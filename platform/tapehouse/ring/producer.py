"""The writing side of a ring, for Python; compiled loops take its `address` to `ring.kernels` instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tapehouse.core import DataError, TransientError, UsageError
from tapehouse.market import CELL, Cells, words
from tapehouse.ring.attachment import Attachment
from tapehouse.ring.fastcall import Gate
from tapehouse.ring.kernels import (
    append_bulk,
    append_bulk_or_drop,
    first_broken,
    longest_record,
    record_at,
    room,
    settle,
    tell_gap,
    wait_for_room,
)
from tapehouse.ring.layout import CLOSED, CONSUMER_PID, DROPPED_CELLS, DROPPED_RECORDS, Policy
from tapehouse.ring.lock import Role

# A full ring that blocks: spin, then nap, and between rounds of naps look whether the consumer lives.
BLOCK_SPINS = 4_000
NAP_US = 50
NAPS_A_ROUND = 40
BLOCK_TIMEOUT_NS = 10_000_000_000
_ROUND_NS = NAPS_A_ROUND * NAP_US * 1_000


class RingFullError(TransientError):
    """The consumer is behind; `written` cells of the call are in the ring, always whole records."""

    def __init__(self, message: str, *, subject: str, written: int, hint: str) -> None:
        position = f"after {written} cells" if written else "nothing was written"
        super().__init__(message, subject=subject, position=position, hint=hint)
        self.written = written


class RingProducer(Attachment):
    """The one writer of a ring. Re-attached after a crash, it goes on where its predecessor published last."""

    append_one: Callable[[int, int, int, int, int, int, int, int], bool]
    """Append a record of one cell: ts_event, ts_recv, sequence, order_id, price, size, and the cell's last two words.

    Those two hold bytes 48 to 55 (instrument, source, kind, and cells, which must be 1) and 56 to 63. Signed as in the
    cell: ts_event, ts_recv, price and size; the others are unsigned. False says that the ring is full, whatever the
    policy; with DROP the record is then counted. Machine code: some 50 ns a call.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, Role.PRODUCER)
        settle(self._address)
        self._write(CLOSED, 0)
        self._gate = Gate(self._mapping)
        self.append_one = self._gate.append_one

    @property
    def dropped(self) -> int:
        """Records dropped since the ring was made."""
        return self._read(DROPPED_RECORDS)

    @property
    def dropped_cells(self) -> int:
        """Cells of those records."""
        return self._read(DROPPED_CELLS)

    @property
    def room(self) -> int:
        """Free cells."""
        return int(room(self._open_address()))

    def consumer_alive(self) -> bool:
        """Whether a process is attached as consumer."""
        return self._peer_alive(Role.CONSUMER)

    def append(self, cells: Cells, *, timeout_ns: int = BLOCK_TIMEOUT_NS) -> None:
        """Append whole records, by the ring's policy.

        BLOCK waits for room and writes as it comes; FAIL writes all or nothing; DROP drops records, and counts them.

        Args:
            cells: Shape (n,), dtype CELL, whole records.
            timeout_ns: With BLOCK, how long to nap in all while nothing can be written.

        Raises:
            RingFullError: Nobody drains it; says who should, and how many cells were written.
            DataError: The cells are no whole records.
            UsageError: A record, or with FAIL the batch, is longer than the ring.
        """
        ring = self._open_address()
        rows = self._checked(cells)
        if self.policy is Policy.DROP:
            append_bulk_or_drop(ring, rows, 0, len(rows))
            return
        if self.policy is Policy.FAIL and room(ring) < len(rows):
            raise self._full(0)
        written = int(append_bulk(ring, rows, 0, len(rows)))
        while written < len(rows):
            self._wait(int(record_at(rows, written)), written, timeout_ns)
            written += int(append_bulk(ring, rows, written, len(rows)))

    def _checked(self, cells: Cells) -> Cells:
        if cells.dtype != CELL or cells.ndim != 1:
            raise DataError(f"{cells.dtype} of shape {cells.shape} are no cells", hint="dtype CELL, shape (n,)")
        rows = words(cells)
        broken = int(first_broken(rows))
        if broken >= 0:
            raise DataError("the cells are no whole records", subject=str(self.path), position=f"cell {broken}")
        longest = len(rows) if self.policy is Policy.FAIL else int(longest_record(rows))
        most = self.cells - 1 if self.policy is Policy.DROP else self.cells
        if longest > most:
            raise UsageError(
                f"{longest} cells never fit at once",
                subject=str(self.path),
                hint=f"{most} is the most; use a larger ring",
            )
        return rows

    def _wait(self, wanted: int, written: int, timeout_ns: int) -> None:
        """Return when so many cells fit, or raise."""
        spins = BLOCK_SPINS
        for _ in range(-(-timeout_ns // _ROUND_NS)):
            if wait_for_room(self._open_address(), wanted, spins, NAPS_A_ROUND, NAP_US):
                return
            if self._read(CONSUMER_PID) and not self.consumer_alive():
                break
            spins = 0
        raise self._full(written)

    def _full(self, written: int) -> RingFullError:
        pid = self._read(CONSUMER_PID)
        if not pid:
            message, hint = "the ring is full and has no consumer", "attach one"
        elif self.consumer_alive():
            message, hint = f"the ring is full: its consumer, process {pid}, is behind", "retry, or see what it does"
        else:
            message, hint = f"the ring is full: its consumer, process {pid}, died", "start it again, then retry"
        return RingFullError(message, subject=str(self.path), written=written, hint=hint)

    def close(self) -> None:
        """Tell of dropped records if there is room, mark the ring as closed by its producer, give the role back."""
        if self._address:
            tell_gap(self._address)
            self._write(CLOSED, 1)
            self._gate.close()
        super().close()
