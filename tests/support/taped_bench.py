"""An engine fed by hand whose tape and decisions are kept, and can be had as logs."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapehouse.engine import Strategy
from tapehouse.log import FrameWriter, MemoryLog
from tapehouse.market import Cells, Instrument
from tests.support.bench import LOG_ID, SHARE, EngineBench


class TapedBench(EngineBench):
    """An engine bench with a memory: each call of `feed` becomes a frame of TAPE, and one of EVENTS."""

    def __init__(
        self, strategy: Strategy | None = None, *, guard: bool = True, share: Instrument | None = SHARE
    ) -> None:
        self.frames: list[tuple[Cells, Cells]] = []
        super().__init__(strategy, guard=guard, share=share)

    def feed(self, *records: Cells) -> Cells:
        outputs = super().feed(*records)
        self.frames.append((np.concatenate(records), outputs))
        return outputs

    async def logs(self, *, frames: int | None = None, log_id: bytes = LOG_ID) -> dict[str, Any]:
        """TAPE and EVENTS of the first so many frames."""
        tape, events = MemoryLog("TAPE_day", log_id=log_id), MemoryLog("EVENTS_day", log_id=log_id[::-1])
        writers = await FrameWriter.open(tape, writer=1), await FrameWriter.open(events, writer=2)
        ordinal = 0
        for cells, outputs in self.frames[:frames]:
            ordinal += len(cells)
            await writers[0].append(cells)
            if len(outputs):
                await writers[1].append(outputs, input_ordinal=ordinal)
        return {"tape": tape, "events": events}
