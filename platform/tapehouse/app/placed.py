"""A projection with its place in a log: begun at a state in SNAPS, then folded frame by frame, or part of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tapehouse.app.projections import Projection, Source
from tapehouse.core.errors import DecodeError, IntegrityError
from tapehouse.log import Extent, FrameHeader, Progress
from tapehouse.log.machine_snaps import MachineSnaps, StatePlace
from tapehouse.log.snaps import Snaps
from tapehouse.market import Cells

REFUSED_MAX = 1000  # states that are tried before the log is folded from its beginning
_NOWHERE = -(2**63)


@dataclass(slots=True, kw_only=True)
class Placed:
    """One machine on one log.

    Attributes:
        sequence: The last frame of which something is folded.
        next_ordinal: Of the first cell that is not.
        log_id: Of the branch that the frame belongs to.
        time: Engine time, UTC ns: the largest `ts_recv` that was folded.
        reached: The last cell of TAPE that counts in the state, -1 for none.
        begun: The state in SNAPS that it began from; None for an empty machine.
        refused: States that were passed over, and why.
    """

    machine: Projection
    source: Source
    sequence: int = 0
    next_ordinal: int = 0
    log_id: bytes = b""
    time: int = _NOWHERE
    reached: int = -1
    begun: StatePlace | None = None
    cells_folded: int = 0
    refused: list[str] = field(default_factory=list)

    def states(self, snaps: Snaps, tape: str, extent: Extent) -> MachineSnaps:
        """Its states in SNAPS."""
        return MachineSnaps(snaps, tape, self.machine.name, self.machine.version, extent)

    async def begin(
        self, snaps: Snaps | None, tape: str, extent: Extent, *, may: Callable[[StatePlace], bool] = lambda _: True
    ) -> None:
        """Become the newest state that may be used and of which nothing is damaged, else the log's beginning."""
        self.sequence, self.log_id = extent.first - 1, extent.log_id_at(extent.first)
        if snaps is None:
            return
        states = self.states(snaps, tape, extent)
        usable = [place for place in await states.places() if may(place)]
        for place in reversed(usable[-REFUSED_MAX:]):
            try:
                self.machine.restore((await states.load(place)).state)
            except (DecodeError, IntegrityError) as error:
                where = f"cell {place.ordinal}, sequence {place.sequence}"
                self.refused.append(f"{self.machine.name} at {where}: {error.message}")
                continue
            self.begun, self.sequence, self.log_id = place, place.sequence, place.log_id
            self.next_ordinal, self.time, self.reached = place.ordinal, place.time, place.reached
            return

    def fold(self, header: FrameHeader, cells: Cells, sequence: int, end: int) -> None:
        """Fold the first `end` cells of the frame after the last; above 0, and whole records.

        Raises:
            IntegrityError: The machine's place is another one than the log's.
        """
        if header.first_ordinal != self.next_ordinal:
            raise IntegrityError(
                f"a state of {self.machine.name} is at cell {self.next_ordinal}, the next frame at "
                f"{header.first_ordinal}",
                position=f"sequence {sequence}",
                hint="the states in SNAPS are of another log with the same id",
            )
        part = cells[:end]
        self.machine.apply(header if end == len(cells) else replace(header, count=end), part)
        first = part["cells"] > 0
        self.sequence, self.log_id, self.next_ordinal = sequence, header.log_id, header.first_ordinal + end
        self.time = max(self.time, int(part["ts_recv"][first].max()))
        self.reached = self.next_ordinal - 1 if self.source == "tape" else int(part["sequence"][first][-1])
        self.cells_folded += end

    @property
    def progress(self) -> Progress:
        """As readers of the log check it."""
        return Progress(log_id=self.log_id, sequence=self.sequence, next_ordinal=self.next_ordinal)

    @property
    def place(self) -> StatePlace:
        """Where a state would be taken now; right after a whole frame."""
        return StatePlace(
            ordinal=self.next_ordinal, sequence=self.sequence, time=self.time, reached=self.reached, log_id=self.log_id
        )
