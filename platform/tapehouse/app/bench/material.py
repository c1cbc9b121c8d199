"""What is measured on: a generated day, and real recordings where this machine has them.

Recordings are looked for below `TAPEHOUSE_DATA`, else beside the checkout; their licences forbid shipping them. A
recording that is not there is a `Material` that says so, and its rows say it again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from tapehouse.app.live import Logs, record
from tapehouse.core.clock import Clock
from tapehouse.feeds import GeneratedDay, open_feed
from tapehouse.feeds.port import Feed
from tapehouse.log import MemoryLog, decode_frame
from tapehouse.market import Cells

DATA_VARIABLE = "TAPEHOUSE_DATA"
# name: format and the places of its files.
RECORDINGS = {
    "AMZN": ("lobster", "lobster/LOBSTER_SampleFile_AMZN_2012-06-21_5.zip"),
    "ESH4": ("dbn", "databento/nautilus/esh4-glbx-mdp3-20231225.mbo.dbn.zst"),
}
GENERATED = "generated"
SEED = 7


@dataclass(frozen=True, eq=False)
class Material:
    """One data set.

    Args:
        name: As rows show it.
        feed: None where the recording is not on this machine.
        missing: Why, then.
        path: The recording's file; None for the generated day.
    """

    name: str
    feed: Feed | None
    clock: Clock = field(repr=False)
    missing: str = ""
    path: Path | None = None

    @property
    def there(self) -> Feed:
        """The feed of data that is not missing."""
        assert self.feed is not None, self.missing
        return self.feed

    @cached_property
    def feed_cells(self) -> Cells:
        """Every cell that the feed gives, with the feed's own instrument ids."""
        return np.concatenate(list(self.there.batches()))

    @cached_property
    def tape(self) -> MemoryLog:
        """The feed as the sequencer puts it on a tape: definitions and epoch before it, ids allotted, in frames."""
        tape = MemoryLog("TAPE_bench")
        logs = Logs(tape=tape, events=MemoryLog("EVENTS_bench"))
        asyncio.run(record(self.there, logs, strategy=None, clock=self.clock))
        return tape

    @cached_property
    def tape_cells(self) -> Cells:
        """The cells of that tape."""
        tape = self.tape

        async def read() -> Cells:
            return np.concatenate([decode_frame(message.payload)[1] async for message in tape.read(1)])

        return asyncio.run(read())


def data_directory() -> Path:
    """Where recordings are looked for."""
    here = Path(__file__).resolve()
    beside = here.parents[5] / "shared" / "data" if len(here.parents) > 5 else Path("shared/data")
    return Path(os.environ.get(DATA_VARIABLE) or beside)


def gather(
    clock: Clock,
    *,
    cells: int,
    directory: Path | None = None,
    own: Mapping[str, tuple[str, Sequence[Path]]] | None = None,
) -> list[Material]:
    """Everything there is to measure on, generated first.

    Args:
        cells: Of the generated day.
        directory: Where the recordings are looked for.
        own: Recordings instead of those: format and files by name.

    Raises:
        MissingError, DecodeError, UsageError: As the feeds of `own` do.
    """
    found = [Material(GENERATED, GeneratedDay(SEED, cells=cells), clock)]
    if own:
        for name, (format_name, paths) in own.items():
            found.append(Material(name, open_feed(format_name, paths), clock, path=paths[0]))
        return found
    directory = directory or data_directory()
    for name, (format_name, place) in RECORDINGS.items():
        path = directory / place
        if path.exists():
            found.append(Material(name, open_feed(format_name, [path]), clock, path=path))
        else:
            found.append(Material(name, None, clock, missing=f"not in {DATA_VARIABLE} ({directory})"))
    return found
