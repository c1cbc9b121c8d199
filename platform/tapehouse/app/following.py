"""A desk that does not lead: its engine and what the next sequencer must know, kept at the end of both logs.

Whoever takes a tape over has been a follower first, be it for the time of its start alone.
"""

from __future__ import annotations

from tapehouse.app.code import code_hash
from tapehouse.app.logs import Logs
from tapehouse.core.clock import Clock
from tapehouse.core.errors import ConflictError
from tapehouse.core.ids import new_writer_id
from tapehouse.core.metrics import Metrics
from tapehouse.engine import Engine, GatedEngine, Sequencer, Strategy, TapeFold, TapeState
from tapehouse.engine.gated import TAKE_OVER_ATTEMPTS_MAX
from tapehouse.log import FrameWriter, SnapshotStore, read_tail


class Follower:
    """Folds TAPE twice, for the engine and for the sequencer, reading it once; writes nothing until it takes over."""

    def __init__(
        self,
        logs: Logs,
        *,
        strategy: Strategy,
        snapshots: SnapshotStore | None = None,
        guard: bool = True,
        chain_feed: bool = False,
    ) -> None:
        self._logs = logs
        self._code = code_hash()  # Now: it takes longer than all that a take-over does.
        self.fold = TapeFold(logs.tape, chain_feed=chain_feed)
        self.gated = GatedEngine(
            Engine(strategy, guard=guard), logs.tape, logs.events, writer=new_writer_id(), snapshots=snapshots
        )
        self.gated.beside = self.fold.take

    async def open(self) -> None:
        """Read the tape to its end, and restore the engine.

        Raises:
            IntegrityError: EVENTS does not fit the snapshot.
        """
        await self.fold.catch_up()
        await self.gated.restore()

    async def run(self) -> None:
        """Follow both logs until cancelled.

        Raises:
            IntegrityError: The leader's decision differs from the one that is made here.
        """
        await self.gated.follow()

    @property
    def is_warm(self) -> bool:
        """Whether the engine has come to where the tape ended when it was read."""
        return self.gated.sequence >= self.fold.sequence

    async def lead_gated(
        self, *, clock: Clock, metrics: Metrics, leader: dict[str, object] | None = None
    ) -> tuple[Sequencer, FrameWriter]:
        """Take TAPE over with an EPOCH record, and complete EVENTS up to it.

        The leader before may have an append under way: it comes before our EPOCH and is folded too, or is refused.

        Raises:
            ConflictError: Another writer goes on writing.
        """
        tape = self._logs.tape
        for attempt in range(TAKE_OVER_ATTEMPTS_MAX):
            state = await self.fold.catch_up()
            writer = await FrameWriter.open(tape, writer=new_writer_id())
            if writer.last_sequence != self.fold.sequence:
                continue  # It grew between the two.
            sequencer = Sequencer(
                tape, writer, state, clock_source="history" if state.clock == "history" else "wall", clock=clock,
                code=self._code, metrics=metrics,
            )  # fmt: skip
            try:
                await sequencer.begin(feed=state.feed, leader=leader)
            except ConflictError:
                if attempt + 1 == TAKE_OVER_ATTEMPTS_MAX:
                    raise
                continue
            self.gated.beside = None  # From here on the sequencer knows by itself.
            await self.gated.take_over(writer.last_sequence, epoch=writer.epoch)
            return sequencer, writer
        raise _written(tape.name)

    async def complete(self) -> TapeState:
        """Complete EVENTS through the end of TAPE, which nobody may be writing; for a take-over in `ahead` mode.

        Raises:
            ConflictError: Somebody writes it.
        """
        for _ in range(TAKE_OVER_ATTEMPTS_MAX):
            state = await self.fold.catch_up()
            await self.gated.take_over(self.fold.sequence)
            if (await read_tail(self._logs.tape)).sequence == self.gated.sequence == self.fold.sequence:
                self.gated.beside = None
                return state
        raise _written(self._logs.tape.name)


def _written(tape: str) -> ConflictError:
    return ConflictError("somebody writes it", subject=tape, hint="stop the other host or recorder first")
