"""The journal: the ring between the one process that orders inputs and the sidecar that makes them durable in TAPE.

A ring is a journal by its application words, which this file names. The first line of them is written once, when the
journal is made: which log it continues, under which writer and epoch, and which ordinal its first cell has. From there
on the ordinal of a cell is `BASE_ORDINAL` plus its ring index. The other lines belong to one side each, so that no
line is written by both: the sidecar tells what is durable, the producer what it has taken.

The words survive the processes. A sidecar that starts anew learns from them whose frames it goes on with, a sequencer
that starts anew what of its inputs is in the journal already.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tapehouse.core.errors import ConflictError, DataError, MissingError
from tapehouse.core.kernel import Int, kernel
from tapehouse.ring import RING_CELLS, Policy, Ring, RingProducer
from tapehouse.ring.layout import APPLICATION

# Written once, before the journal is one.
PURPOSE = 0  # a `Purpose`; last of all, so that whoever sees it sees the rest
LOG_ID = 1  # two words
WRITER = 3
EPOCH = 4
BASE_ORDINAL = 5  # in TAPE, of the cell at ring index 0
COMMANDS_THROUGH = 6  # the sequence of CMDS that TAPE has consumed before that cell

# The sidecar's.
COMMITTED = 8  # ring index through which TAPE has acknowledged
COMMITTED_SEQUENCE = 9  # TAPE's sequence of the frame that ends there
FENCED = 10  # 1: another writer has taken TAPE over, and the producer must stop
SPILLED = 11  # cells in the spill that TAPE has not acknowledged
LAG_CELLS_MAX = 12  # the most cells that ever waited for TAPE
LAG_NS_MAX = 13  # the longest that a cell ever waited, as the sidecar saw it

# The producer's: one burst of a feed that is about to be published, so that a successor knows whether it was.
TAKEN_SOURCE = 16
TAKEN_CELLS = 17  # the feed ring's index after the burst
TAKEN_HEAD = 18  # the journal's head once the burst is published

# The sidecar's: CMDS sequence consumed by the cells below a ring index, in two places so that one is always whole.
MARKS = ((24, 25), (26, 27))  # index, sequence

NO_JOURNAL, JOURNAL, LOGGED = 0, 1, 2  # of PURPOSE: a ring that was never drained; one of TAPE; one of a directory
_NEVER = -1
_LOG_ID = struct.Struct("<qq")


class ReadableWords(Protocol):
    """Either end of a ring, or an observer of it, as far as its application words go."""

    def word(self, number: int, /) -> int: ...


class Words(ReadableWords, Protocol):
    """Either end of a ring."""

    def set_word(self, number: int, value: int, /) -> None: ...


@kernel(inline=True)
def word_address(ring: Int, word: Int) -> Int:
    """Where an application word of a mapped ring stands, for kernels."""
    return ring + APPLICATION + word * 8


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalIdentity:
    """Whose frames a journal's cells become, and where they go on."""

    log_id: bytes
    writer: int
    epoch: int
    base_ordinal: int
    commands_through: int = 0


class JournalView:
    """A ring's words as a journal's facts."""

    def __init__(self, words: ReadableWords) -> None:
        self._read = words.word

    @property
    def purpose(self) -> int:
        """NO_JOURNAL, JOURNAL or LOGGED."""
        return self._read(PURPOSE)

    def identity(self) -> JournalIdentity:
        """Whose frames its cells become.

        Raises:
            DataError: The ring is no journal.
        """
        if self.purpose == NO_JOURNAL:
            raise DataError("this ring is no journal", hint="a sequencer in `ahead` mode makes one")
        return JournalIdentity(
            log_id=_LOG_ID.pack(self._read(LOG_ID), self._read(LOG_ID + 1)),
            writer=self._read(WRITER),
            epoch=self._read(EPOCH),
            base_ordinal=self._read(BASE_ORDINAL),
            commands_through=self._read(COMMANDS_THROUGH),
        )

    @property
    def committed(self) -> int:
        """The ring index through which TAPE has acknowledged: what was decided on more must not be published yet."""
        return self._read(COMMITTED)

    @property
    def committed_sequence(self) -> int:
        """TAPE's sequence of the frame that ends at `committed`, or of a later one; 0 before the first."""
        return self._read(COMMITTED_SEQUENCE)

    @property
    def is_fenced(self) -> bool:
        """Whether another writer has taken TAPE over: the producer must stop."""
        return self._read(FENCED) != 0

    @property
    def spilled(self) -> int:
        """Cells that lie in the spill and not in TAPE yet."""
        return self._read(SPILLED)

    @property
    def lag_cells_max(self) -> int:
        """The most cells that ever waited for TAPE."""
        return self._read(LAG_CELLS_MAX)

    @property
    def lag_ns_max(self) -> int:
        """The longest that a cell ever waited for TAPE, as the sidecar saw it."""
        return self._read(LAG_NS_MAX)

    def commands_at(self, index: int) -> int:
        """The CMDS sequence consumed by all cells below a ring index, which must be the base or the ring's tail.

        Raises:
            DataError: Nobody noted it.
        """
        for at, value in MARKS:
            if self._read(at) == index:
                return self._read(value)
        if index == 0:
            return self._read(COMMANDS_THROUGH)
        raise DataError(
            "the journal does not say which commands it holds", position=f"ring index {index}", hint="it is damaged"
        )


class Journal(JournalView):
    """The same, with what the two sides write; each writes only its own."""

    def __init__(self, words: Words) -> None:
        super().__init__(words)
        self._write = words.set_word

    def begin(self, identity: JournalIdentity, purpose: int = JOURNAL) -> None:
        """Make the ring a journal, from its present state on; once, before anybody drains it."""
        write = self._write
        write(PURPOSE, NO_JOURNAL)
        low, high = _LOG_ID.unpack(identity.log_id)
        write(LOG_ID, low)
        write(LOG_ID + 1, high)
        write(WRITER, identity.writer)
        write(EPOCH, identity.epoch)
        write(BASE_ORDINAL, identity.base_ordinal)
        write(COMMANDS_THROUGH, identity.commands_through)
        for word in (COMMITTED, COMMITTED_SEQUENCE, FENCED, SPILLED, LAG_CELLS_MAX, LAG_NS_MAX):
            write(word, 0)
        for index, _ in MARKS:
            write(index, _NEVER)
        write(PURPOSE, purpose)

    def commit(self, index: int, sequence: int) -> None:
        """Tell the producer what TAPE has: the sequence first, so that whoever sees the index finds it covered."""
        self._write(COMMITTED_SEQUENCE, sequence)
        self._write(COMMITTED, index)

    def fence_off(self) -> None:
        """Tell the producer that it has to stop."""
        self._write(FENCED, 1)

    def note_spilled(self, cells: int) -> None:
        """Tell how many cells only the spill holds."""
        self._write(SPILLED, cells)

    def note_lag(self, cells: int, duration_ns: int) -> None:
        """Raise the high-watermarks."""
        if cells > self.lag_cells_max:
            self._write(LAG_CELLS_MAX, cells)
        if duration_ns > self.lag_ns_max:
            self._write(LAG_NS_MAX, duration_ns)

    def mark_commands(self, index: int, sequence: int, *, tail: int) -> None:
        """Note it for a ring index that is about to be the tail; what is noted for the present one stays."""
        at, value = next((mark for mark in MARKS if self._read(mark[0]) != tail), MARKS[0])
        self._write(at, _NEVER)
        self._write(value, sequence)
        self._write(at, index)


def _require_finished(name: str, directory: Path | None) -> None:
    """Refuse to take the place of a journal whose cells are not all in TAPE, a spill included."""
    try:
        observer = Ring.observe(name, directory=directory)
    except MissingError:
        return
    with observer:
        view = JournalView(observer)
        if view.purpose != JOURNAL:
            return
        left = observer.head - view.committed
        if left and not view.is_fenced:
            raise ConflictError(
                f"the journal of an earlier life has {left} cells that are not on its tape ({view.spilled} in a spill)",
                subject=str(observer.path),
                hint="finish it: tapehouse drain",
            )


def create_journal(
    name: str,
    *,
    log_id: bytes,
    writer: int,
    epoch: int,
    base_ordinal: int,
    commands_through: int,
    cells: int = RING_CELLS,
    directory: Path | None = None,
) -> RingProducer:
    """Make a journal that continues TAPE and become its producer.

    Args:
        base_ordinal: TAPE's next ordinal.
        commands_through: The sequence of CMDS that TAPE has consumed.

    Raises:
        ConflictError: There is a journal of that name that is alive, or not all on its tape: drain it first.
    """
    _require_finished(name, directory)
    Ring.create(name, cells=cells, policy=Policy.BLOCK, directory=directory)
    producer = Ring.produce(name, directory=directory)
    Journal(producer).begin(
        JournalIdentity(
            log_id=log_id,
            writer=writer,
            epoch=epoch,
            base_ordinal=base_ordinal,
            commands_through=commands_through,
        )
    )
    return producer
