"""A whole desk in one process, over logs in memory: clients, sequencer and engine, killed at any call of a log.

Each life reads its logs, takes over and goes on; a kill is an exception at one of the calls, before or after it took
effect, and nothing of the life runs afterwards. What an append had sent may still arrive in the next life, where its
fence allows it. `check` holds what is left in the logs against the oracle.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from tapehouse.core import VirtualClock
from tapehouse.core.errors import AmbiguousAppendError, ConflictError, DataError, TapehouseError
from tapehouse.desk.order_frames import decode_orders, is_order_frame, refusal
from tapehouse.engine import Engine, GatedEngine, Sequencer, catch_up, take_tape
from tapehouse.log import (
    Extent,
    FrameHeader,
    MemoryLog,
    MemorySnapshots,
    Message,
    Progress,
    decode_frame,
    open_frame,
)
from tapehouse.market import Action, Cells, Flag, Kind, record_starts, unpack_payload
from tests.support.bench import idler
from tests.support.desk_oracle import DESK_SOURCE, PARAMETERS, SlowDesk
from tests.support.desk_slow import Told
from tests.support.desk_streams import INSTRUMENTS, Traffic, join, market_records
from tests.support.desk_told import decisions_in, state_of

FATES = ("before", "after", "late")  # of an append at which a life ends
STEPS_MAX = 5_000  # of one world: a bound against a life that never gets anywhere
NEVER = 1 << 60


class KilledError(Exception):
    """kill -9."""


class Life:
    """Counts the calls of all logs, and ends at one of them; afterwards every call is the end."""

    def __init__(self, last: int = NEVER, fate: str = "before") -> None:
        self.calls, self.last, self.fate = 0, last, fate
        self.dead = False

    def call(self) -> bool:
        """Take note of a call; whether it is the one at which the life ends."""
        if self.dead:
            raise KilledError
        self.calls += 1
        self.dead = self.calls >= self.last
        return self.dead


class MortalLog(MemoryLog):
    """A log in memory whose callers may die at any call, and whose appends may stay without an acknowledgement."""

    def __init__(self, name: str, rng: random.Random, *, ambiguous: float = 0.05, fenced: bool = True) -> None:
        super().__init__(name, log_id=name.encode().ljust(16, b".")[:16])
        self._rng, self._ambiguous, self._fenced = rng, ambiguous, fenced
        self.life = Life()
        self._late: tuple[bytes, int | None] | None = None
        self.arrived = 0  # appends of lives that were over

    async def append(
        self,
        payload: bytes,
        *,
        expected_last: int | None,
        subject: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> int:
        await asyncio.sleep(0)
        ends = self.life.call()
        if ends and self.life.fate == "late":
            self._late = payload, expected_last
        if ends and self.life.fate != "after":
            raise KilledError
        await self._arrive()
        if not self._fenced:  # It takes what comes, and says what the writer wants to hear.
            await super().append(payload, expected_last=None)
            return (expected_last or 0) + 1
        if not ends and self._rng.random() < self._ambiguous:
            self.fail_next_append(stored=self._rng.random() < 0.5)
        sequence = await super().append(payload, expected_last=expected_last, subject=subject, headers=headers)
        if ends:
            raise KilledError
        await asyncio.sleep(0)
        return sequence

    async def _arrive(self) -> None:
        late, self._late = self._late, None
        if late is not None:
            with suppress(ConflictError, AmbiguousAppendError):
                await super().append(late[0], expected_last=late[1])
                self.arrived += 1

    async def extent(self) -> Extent:
        self._called()
        if self._rng.random() < 0.3:
            await self._arrive()
        return await super().extent()

    async def last(self) -> Message | None:
        self._called()
        return await super().last()

    async def read(self, first: int, *, through: int | None = None, follow: bool = False) -> AsyncIterator[Message]:
        async for message in super().read(first, through=through, follow=follow):
            self._called()
            yield message

    def _called(self) -> None:
        if self.life.call():
            raise KilledError


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a world is made of; the same plan is the same world.

    Attributes:
        stream: Seed of what clients and venue say.
        luck: Seed of splits, faults and snapshots.
        kills: For each life but the last, at which call of a log it ends.
        frames: How many of a hundred messages are frames of orders.
        snapshots: Whether engines begin from one, or from nothing.
        fenced, rivals: For negative controls: whether logs have fences, and how many engines run at once.
    """

    stream: int
    luck: int = 0
    commands: int = 60
    records: int = 90
    frames: int = 25
    kills: tuple[int, ...] = ()
    snapshots: bool = True
    fenced: bool = True
    rivals: int = 1


class World:
    """One desk until its stream is consumed."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rng = random.Random(plan.luck)
        self.traffic = Traffic(plan.stream, frames=plan.frames)
        self.market = market_records(plan.stream, plan.records)
        self.commands = MemoryLog("CMDS_world")
        self.tape = MortalLog("TAPE_world", self.rng)
        self.events = MortalLog("EVENTS_world", self.rng, fenced=plan.fenced)
        self.snapshots = MemorySnapshots()
        self.heard = 0  # of EVENTS, by clients
        self.lives = 0
        self.recovered = 0
        self.engine: Engine | None = None

    async def run(self) -> None:
        """Live until everything is consumed and decided."""
        lives = [*self.plan.kills, NEVER]
        while lives:
            last = lives.pop(0)
            self.lives += 1
            life = self.tape.life = self.events.life = Life(last, self.rng.choice(FATES))
            arrived = self.tape.arrived + self.events.arrived
            try:
                if await self._live(stops=last < NEVER):
                    return
            except KilledError:
                assert life.dead
            except ConflictError:  # What a dead life had sent came behind the look of this one: its host starts anew.
                assert self.tape.arrived + self.events.arrived > arrived, "a fence closed on a writer that is alone"
                lives.insert(0, last)
        raise AssertionError("the last life was killed")

    async def _live(self, *, stops: bool) -> bool:
        """One life; False where it was stopped in good order, with a snapshot, before everything was consumed."""
        state, writer = await take_tape(
            self.tape, writer=self.rng.randrange(1, 99), frame_cells=self.rng.randrange(8, 60)
        )
        writer._pause = _no_pause
        sequencer = Sequencer(self.tape, writer, state, clock_source="history", clock=VirtualClock(), code="world")
        state.now = max(state.now, int(self.market[0]["ts_recv"][0]))
        await sequencer.begin(feed="world")
        engines = [self._make_engine() for _ in range(self.plan.rivals)]
        tasks = []
        try:
            for engine in engines:
                await engine.open()
                engine.writer._pause = _no_pause
                tasks.append(asyncio.create_task(engine.run(follow=True)))
            for _ in range(STEPS_MAX):
                if not await self._step(sequencer):
                    break
                for task in tasks:
                    if task.done():
                        task.result()
                for _ in range(self.rng.choice([0, 0, 1, 5])):
                    await asyncio.sleep(0)
                if stops and self.rng.random() < 0.02:
                    if self.rng.random() < 0.5:  # While it runs, too.
                        await engines[0].save()
                    await _end(tasks)
                    await engines[0].save()
                    return False
            waiting = [asyncio.create_task(engine.until(writer.last_sequence)) for engine in engines]
            await asyncio.wait([*tasks, *waiting], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0)
            for task in tasks:
                if task.done():
                    task.result()
            await asyncio.gather(*waiting)
        finally:
            self.recovered += sum(engine.recovered for engine in engines)
            await _end(tasks)
        self.engine = engines[0].engine
        return True

    def _make_engine(self) -> GatedEngine:
        snapshots = self.snapshots if self.plan.snapshots else None
        return GatedEngine(
            Engine(idler(**PARAMETERS)), self.tape, self.events, writer=self.rng.randrange(1, 99), snapshots=snapshots,
            snapshot_cells=self.rng.choice([30, 300, NEVER]),
        )  # fmt: skip

    async def _step(self, sequencer: Sequencer) -> bool:
        """Something happens; False where nothing is left to happen."""
        rng, state = self.rng, sequencer.state
        sent = len(self.traffic.sent)
        waiting = self.market[state.feed_cells :]
        left = sent < self.plan.commands
        if not waiting and not left and state.commands_through == sent and not sequencer.pending_cells:
            return False
        what = rng.choice(["send", "send", "admit", "feed", "feed", "tick"])
        if what == "send" and left:
            await self._listen()
            self.traffic.instruments, self.traffic.now = dict(state.instruments), sequencer.now
            for _ in range(rng.randrange(1, 5)):
                if len(self.traffic.sent) < self.plan.commands:
                    await self.commands.append(self.traffic.next(), expected_last=None)
        elif what == "feed" and waiting:
            late = state.feed_cells >= len(self.market) // 2
            table = sequencer.define(INSTRUMENTS if late else INSTRUMENTS[:2])
            room = len(waiting) if late else len(self.market) // 2 - state.feed_cells
            await sequencer.feed(join(waiting[: min(room, rng.randrange(1, 12))]), table)
            if rng.random() < 0.7:
                await sequencer.flush()
        elif what == "tick":
            await sequencer.tick()
        else:
            await catch_up(sequencer, self.commands)
        return True

    async def _listen(self) -> None:
        """Clients hear of decisions that are durable."""
        for message in self.events._messages[self.heard :]:
            for told in decisions_in(_cells(message)):
                if told["kind"] == "order" and told["action"] == Action.ACCEPTED:
                    self.traffic.orders.append((told["order_id"], told["account"], told["instrument"]))
                if told.get("type") == "account.opened":
                    self.traffic.accounts[told["body"]["number"]] = told["body"]["account"]
                if told.get("type") == "command.parked":
                    self.traffic.inputs.append(told["input"])
        self.heard = len(self.events._messages)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _no_pause(seconds: float) -> None:
    await asyncio.sleep(0)


def _cells(message: Message) -> Cells:
    return decode_frame(message.payload)[1]


async def cells_of(log: MemoryLog) -> Cells:
    """All cells of a log, every frame checked to follow the one before."""
    log = log if not isinstance(log, MortalLog) else _immortal(log)
    extent = await log.extent()
    progress, parts = Progress(log_id=extent.log_id, sequence=0, next_ordinal=0), []
    async for message in log.read(1):
        header, cells = open_frame(log.name, message, extent, progress)
        progress = Progress(log_id=header.log_id, sequence=message.sequence, next_ordinal=header.next_ordinal)
        parts.append(cells)
    return join(parts)


def _immortal(log: MortalLog) -> MortalLog:
    log.life = Life()
    return log


def expected_inputs(inbox: list[bytes]) -> list[Told]:
    """What the messages of CMDS must be on the tape, each once and in order."""
    expected: list[Told] = []
    for sequence, payload in enumerate(inbox, 1):
        if is_order_frame(payload):
            try:
                orders = decode_orders(payload)
            except DataError as error:
                payload = refusal(str(error))
            else:
                last = len(orders) - 2
                expected += [_order_input(sequence, orders[at : at + 2], at == last) for at in range(0, len(orders), 2)]
                continue
        if len(payload) > 12_192:
            payload = b'{"refused": "%d bytes"}' % len(payload)
        expected.append({"sequence": sequence, "payload": payload})
    return expected


def inputs_on(tape: Cells) -> list[Told]:
    """The messages of CMDS as a tape has them."""
    found: list[Told] = []
    for at in record_starts(tape).tolist():
        record = tape[at : at + int(tape["cells"][at])].copy()
        sequence = int(record["sequence"][0])
        if record["kind"][0] == Kind.COMMAND:
            found.append({"sequence": sequence, "payload": unpack_payload(record)})
        elif record["kind"][0] == Kind.ORDER and record["source"][0] == DESK_SOURCE:
            is_last = bool(record["flags"][0] & np.uint8(Flag.LAST))
            for name in ("sequence", "ts_event", "ts_recv"):
                record[name][0] = 0
            record["source"] = 0
            record["flags"] &= np.uint8(127)
            found.append(_order_input(sequence, record, is_last))
    return found


def _order_input(sequence: int, record: Cells, is_last: bool) -> Told:
    return {"sequence": sequence, "order": record.tobytes(), "is_last": is_last}


async def check(world: World, **bounds: int) -> SlowDesk:
    """Hold the logs and the last engine against the oracle; returns the oracle.

    Raises:
        AssertionError: Something was lost, doubled, or decided otherwise; or
        TapehouseError: the frames of a log do not follow each other.
    """
    tape = await cells_of(world.tape)
    inbox = [message.payload async for message in world.commands.read(1)]
    oracle = SlowDesk(**bounds)
    places, orders = [], []
    for at in record_starts(tape).tolist():
        record = tape[at : at + int(tape["cells"][at])]
        oracle.fold(at, record)
        if record["kind"][0] == Kind.COMMAND:
            places.append(at)
        elif record["kind"][0] == Kind.ORDER:
            orders.append(at)
    assert inputs_on(tape) == expected_inputs(inbox), "every command has its place on the tape, once, in order"
    decided = decisions_in(await cells_of(world.events))
    for found, expected in zip(decided, oracle.decisions, strict=False):
        assert found == expected, f"{found} instead of {expected}"
    assert len(decided) == len(oracle.decisions), f"{len(decided)} decisions instead of {len(oracle.decisions)}"
    outcomes = [told["input"] for told in decided if told.get("type") == "command.outcome"]
    answered = [told["input"] for told in decided if "answer" in told]
    assert answered == orders, "every order of a frame has one answer"
    if not any(told.get("type") == "command.unparked" for told in decided):
        assert outcomes == places, "every command has one outcome"
    if world.engine is not None:
        assert state_of(world.engine) == oracle.state(), f"{state_of(world.engine)} instead of {oracle.state()}"
        calm = Engine(idler(**PARAMETERS))  # An undisturbed run over the same tape, in one piece.
        header = FrameHeader(log_id=bytes(16), writer=1, epoch=1, first_ordinal=0)
        calm.apply(header, tape)
        assert calm.digests() == world.engine.digests(), "the state is not that of an undisturbed run"
    return oracle


__all__ = ["KilledError", "Plan", "TapehouseError", "World", "check"]
