"""The proof of a tape that is already there: what its EVENTS say, against fresh replays."""

from __future__ import annotations

import numpy as np
from tapehouse.app.bootstrap import open_platform
from tapehouse.app.proof import read_outputs
from tapehouse.app.strategies import load_strategy
from tapehouse.core import DigestChain, SystemClock
from tapehouse.engine import Engine
from tapehouse.engine.machine import DECIDED_KINDS
from tapehouse.market import CELL_BYTES, Cells
from tapehouse.replay import PathResult, Proof, Session, verdict


async def prove_tape(
    tape: str, *, nats: str | None, strategy: str, parameters: str | None = None, guard: bool = True
) -> Proof:
    """Replay a tape twice and hold both against the decisions that were made live.

    Raises:
        MissingError: There is no such tape, or it was recorded without a strategy.
    """
    outputs: dict[str, Cells] = {}
    results: list[PathResult] = []
    async with open_platform(nats) as platform:
        log = await platform.tape(tape)
        live = await read_outputs(await platform.events(tape))
        for name in ("replay", "replay again"):
            collected: list[Cells] = []
            engine = Engine(load_strategy(strategy, parameters), guard=guard)
            report = await Session(name, log, engine, clock=SystemClock(), on_outputs=collected.append).run()
            outputs[name] = np.concatenate(collected) if collected else live[:0]
            results.append(PathResult.of(report))
    chain = DigestChain(CELL_BYTES)
    decided = live[np.isin(live["kind"], DECIDED_KINDS)]
    chain.update(decided.tobytes())
    outputs["live"] = live
    first = results[0]
    recorded = PathResult(
        name="live",
        decision_digest=chain.head().hex(),
        state_digest=first.state_digest,
        cells=first.cells,
        decisions=int((decided["cells"] > 0).sum()),
        seconds=0.0,
        note="what EVENTS holds; its state is the fold of these decisions",
    )
    return verdict([recorded, *results], outputs)
