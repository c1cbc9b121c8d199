"""Writes the states of projections into SNAPS while it follows their log: after each frame that passes a border.

Borders lie at multiples of so many cells of the log, and a frame is stored once, so where states are taken follows from
the log alone: any number of keepers may follow it, and one that was killed anywhere stores what is missing. By count
alone, because what a reader has to fold behind a state costs by the cell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tapehouse.app.bootstrap import open_platform
from tapehouse.app.placed import Placed
from tapehouse.app.projections import Projection, Source, make_projections
from tapehouse.core.errors import MissingError, UsageError
from tapehouse.core.ids import check_name
from tapehouse.log import Extent, Log, Message, open_frame
from tapehouse.log.machine_snaps import StateTooLargeError
from tapehouse.log.snaps import Snaps

CELLS_EVERY: dict[Source, int] = {"tape": 1_000_000, "events": 250_000}


@dataclass(slots=True, kw_only=True)
class KeptStates:
    """What a keeper did since it was opened.

    Attributes:
        begun_at: Of each machine, the ordinal from which on it folded.
        borders: Frames at whose end states were taken.
        messages: Stored; what was there already is not counted.
        bytes: Of these messages.
        too_large: Of each machine, how many states were too large to be kept: readers fold from the one before.
        refused: Stored states that could not be used to begin from, and why.
    """

    begun_at: dict[str, int] = field(default_factory=dict)
    cells: int = 0
    borders: int = 0
    messages: int = 0
    bytes: int = 0
    too_large: dict[str, int] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)


class StateKeeper:
    """Follows one log.

    Args:
        tape: The name of the tape whose desk it is, as subjects have it.
        cells_every: Cells of the log between two borders; None for CELLS_EVERY.
        machines: The projections, empty; None for all that fold this log.
    """

    def __init__(
        self,
        log: Log,
        snaps: Snaps,
        *,
        tape: str,
        source: Source,
        cells_every: int | None = None,
        machines: Sequence[Projection] | None = None,
    ) -> None:
        every = CELLS_EVERY[source] if cells_every is None else cells_every
        if every < 1:
            raise UsageError(f"states every {every} cells", hint="one at least")
        self._log = log
        self._snaps = snaps
        self._tape = tape
        self._every = every
        made = make_projections()[source] if machines is None else machines
        self._placed = [Placed(machine=machine, source=source) for machine in made]
        self._extent: Extent | None = None
        self.kept = KeptStates()

    async def open(self) -> KeptStates:
        """Begin every machine at its newest state that can be read, else at the log's beginning."""
        self._extent = extent = await self._log.extent()
        for placed in self._placed:
            await placed.begin(self._snaps, self._tape, extent)
            self.kept.begun_at[placed.machine.name] = placed.next_ordinal
            self.kept.refused += placed.refused
        return self.kept

    async def run(self, *, follow: bool = False) -> KeptStates:
        """Fold what is there; with `follow`, go on with what comes until cancelled.

        Raises:
            GapError, DecodeError, IntegrityError: The log is damaged; the sequence is named.
            BusUnavailableError: SNAPS took nothing for longer than an election.
        """
        if self._extent is None:
            await self.open()
        first = min(placed.sequence for placed in self._placed) + 1
        async for message in self._log.read(first, follow=follow):
            await self._take(message)
            await asyncio.sleep(0)
        return self.kept

    async def _take(self, message: Message) -> None:
        assert self._extent is not None
        behind = [placed for placed in self._placed if placed.sequence < message.sequence]
        header, cells = open_frame(self._log.name, message, self._extent, behind[0].progress)
        for placed in behind:
            placed.fold(header, cells, message.sequence, len(cells))
        self.kept.cells += len(cells)
        if header.first_ordinal // self._every != header.next_ordinal // self._every:
            self.kept.borders += 1
            for placed in behind:
                await self._store(placed, self._extent)

    async def _store(self, placed: Placed, extent: Extent) -> None:
        try:
            messages, size = await placed.states(self._snaps, self._tape, extent).store(
                placed.place, placed.machine.snapshot()
            )
        except StateTooLargeError:
            name = placed.machine.name
            self.kept.too_large[name] = self.kept.too_large.get(name, 0) + 1
            return
        self.kept.messages += messages
        self.kept.bytes += size


async def build_states(
    tape: str,
    *,
    cells_every: int | None = None,
    nats: str | None = None,
    home: Path | None = None,
) -> dict[Source, KeptStates]:
    """Write the states of a tape's projections that are not there yet, to the ends of its logs.

    Raises:
        MissingError: There is no such tape.
        GapError, DecodeError, IntegrityError: A log is damaged; the sequence is named.
    """
    async with open_platform(nats, home=home) as platform:
        logs: dict[Source, Log] = {"tape": await platform.tape(check_name(tape, "tape"))}
        with suppress(MissingError):  # Recorded without a desk: there are prices, and nothing was decided.
            logs["events"] = await platform.events(tape)
        snaps = await platform.make_snaps()
        return {
            source: await StateKeeper(log, snaps, tape=tape, source=source, cells_every=cells_every).run()
            for source, log in logs.items()
        }
