"""The proof of a tape that is already there: what was decided on it live, against fresh replays."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from tapehouse.app.bootstrap import Platform, open_platform
from tapehouse.app.strategies import load_strategy
from tapehouse.core import DigestChain, MissingError, SystemClock
from tapehouse.core.ids import check_name
from tapehouse.engine import Engine
from tapehouse.engine.machine import DECIDED_KINDS
from tapehouse.log import Host, Log, decode_frame
from tapehouse.market import CELL_BYTES, Cells, empty_cells
from tapehouse.replay import PathResult, Proof, Session, first_difference, verdict

LIVE_LAG_POLLS_MAX = 10  # a desk that runs while it is proved may be a moment behind its tape
LIVE_LAG_PAUSE_S = 0.1


async def prove_tape(
    tape: str,
    *,
    nats: str | None,
    home: Path | None = None,
    strategy: str,
    parameters: str | None = None,
    guard: bool = True,
) -> Proof:
    """Replay a tape twice, to where it ends now, and hold both against the decisions that were made live.

    Raises:
        MissingError: There is no such tape, or it was recorded without a strategy.
    """
    check_name(tape, "tape")
    make = partial(load_strategy, strategy, parameters)
    make()  # A wrong name or parameter is told before anything is read.
    outputs: dict[str, Cells] = {}
    results: list[PathResult] = []
    async with open_platform(nats, home=home) as platform:
        log = await platform.tape(tape)
        events = await platform.events(tape)
        extent = await log.extent()
        for name in ("replay", "replay again"):
            collected: list[Cells] = []
            engine = Engine(make(), guard=guard)
            session = Session(name, log, engine, clock=SystemClock(), through=extent.last, on_outputs=collected.append)
            results.append(PathResult.of(await session.run()))
            outputs[name] = np.concatenate(collected) if collected else engine.take_outputs()
        replayed = results[0]
        live = outputs["live"] = await _decided_live(events, replayed.cells, len(outputs["replay"]))
        if not len(live) and len(outputs["replay"]):
            raise MissingError(
                "it was recorded without a strategy: nothing was decided live that a replay could be held against",
                subject=tape,
                hint="tapehouse record --strategy",
            )
        state, how = await _live_state(platform, tape, log, Engine(make(), guard=guard), extent.last)
    chain = DigestChain(CELL_BYTES)
    decided = live[np.isin(live["kind"], DECIDED_KINDS)]
    chain.update(decided.tobytes())
    recorded = PathResult(
        name="live",
        decision_digest=chain.head().hex(),
        state_digest=state or replayed.state_digest,
        cells=replayed.cells,
        decisions=int((decided["cells"] > 0).sum()),
        seconds=0.0,
        note=f"what EVENTS holds; {how}",
    )
    proof = verdict([recorded, *results], outputs)
    if (
        not proof.equal
        and len(live) < len(outputs["replay"])
        and not first_difference(live, outputs["replay"][: len(live)])
    ):
        behind = int(outputs["replay"]["sequence"][len(live)])
        proof = replace(
            proof,
            difference=f"the live desk is behind: what it decided is the same, and ends before input cell {behind} of "
            f"{replayed.cells}; start it again and it goes on",
        )
    return proof


async def _decided_live(events: Log, cells: int, expected: int) -> Cells:
    """The decision records in EVENTS on the first `cells` cells of the tape, once the desk has come so far.

    Args:
        expected: How many cells a replay decided; the desk is not waited for where it has as many.
    """
    for _ in range(LIVE_LAG_POLLS_MAX):
        extent = await events.extent()
        parts = [decode_frame(message.payload)[1] async for message in events.read(extent.first)]
        found = np.concatenate(parts) if parts else empty_cells(0)
        first_cells = np.flatnonzero(found["cells"] > 0)
        beyond = first_cells[found["sequence"][first_cells] >= cells]
        found = found[: beyond[0]] if len(beyond) else found
        if len(found) >= expected or len(beyond) or not parts:
            break
        await asyncio.sleep(LIVE_LAG_PAUSE_S)
    return found


async def _live_state(platform: Platform, tape: str, log: Log, engine: Engine, last: int) -> tuple[str, str]:
    """The state digest of the desk that ran live, and how it is known: its snapshot, and the tape after that.

    The digest is empty where the desk left no snapshot that can be used.
    """
    host = Host(engine, log, snapshots=await platform.snapshots(tape), snapshot_cells=2**62)
    progress = await host.open()
    if host.ignored_snapshot:
        return "", f"the live desk's snapshot cannot be used, so its state is not compared: {host.ignored_snapshot}"
    if not engine.cells or progress.sequence > last:
        return "", "the live desk left no snapshot, so its state is not compared"
    await host.run(through=last)
    return engine.digests().state.hex(), "state from the live desk's snapshot and what came after it"
