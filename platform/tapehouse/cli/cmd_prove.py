"""`tapehouse prove`: digests of several paths side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal


def prove(
    *,
    tape: str | None = None,
    nats: str | None = None,
    home: Path | None = None,
    seed: int = 7,
    cells: int = 600_000,
    strategy: str = "maker",
    parameters: str | None = None,
    guard: bool = True,
    nodes: Literal[1, 3, 5] = 3,
    profile: Literal["durable", "fast"] = "durable",
    speed: str = "10x",
    paced_seconds: float = 10.0,
    store: str | None = None,
    json: bool = False,
) -> int:
    """Prove that every path leads to the same decisions and the same state; exit 1 where one does not.

    Without --tape it runs the generated day on embedded brokers of its own. With --tape it holds what a recorded
    tape's EVENTS say against two fresh replays of it.

    Examples:

        tapehouse prove --json

        tapehouse prove --tape amzn --strategy maker

    Parameters
    ----------
    tape
        A recorded tape; without it the generated day.
    nats
        Where that tape's broker is; else what the environment or the embedded cluster says.
    home
        Of the embedded cluster, as given to `tapehouse up`.
    seed
        Names the generated day.
    cells
        Its size.
    strategy
        As it ran live: `maker`, `watcher`, `FILE.py:NAME` or `MODULE:NAME`.
    parameters
        As they were live: a JSON object.
    guard
        Stop a Python strategy that reads the clock or randomness.
    nodes
        Embedded brokers of the generated day: 1, 3 or 5.
    profile
        Theirs: `durable` syncs every acknowledged write; `fast` may lose minutes at a power loss.
    speed
        Of the paced replay.
    paced_seconds
        Tape time for which the paced replay holds its speed before it goes on at full speed.
    store
        `s3://…` or `file:///…`; an embedded S3 server where it is left out.
    json
        One line: `{"paths": [{"name", "decision_digest", "state_digest", …}], "equal": true}`.
    """
    from tapehouse.cli.day import DayChoice, run_sync, show, show_paths
    from tapehouse.cli.output import compile_kernels, console, read_seconds, run_async
    from tapehouse.replay import parse_speed

    factor = parse_speed(speed)
    read_seconds(paced_seconds, "--paced-seconds")
    if tape is not None:
        from tapehouse.app.strategies import load_strategy
        from tapehouse.app.tape_proof import prove_tape
        from tapehouse.core.ids import check_name

        check_name(tape, "tape")
        load_strategy(strategy, parameters)  # What is wrong is told before anything takes its time.
        compile_kernels(quiet=json)
        proof = run_async(prove_tape(tape, nats=nats, home=home, strategy=strategy, parameters=parameters, guard=guard))
    else:
        choice = DayChoice(
            lobster=None,
            dbn=None,
            seed=seed,
            cells=cells,
            strategy=strategy,
            parameters=parameters,
            guard=guard,
            nodes=nodes,
            profile=profile,
            speed=factor if factor is not None else 1e6,
            paced_seconds=paced_seconds,
            store=store,
        )
        day = run_sync(choice, lines=not json)
        proof = day.proof
        if not json:
            show(day)
    if json:
        print(proof.to_json())
    else:
        if tape is not None:
            show_paths(f"Tape {tape}", proof)
        console.print("PROVED" if proof.equal else f"DIFFERENT: {proof.difference}", highlight=False, soft_wrap=True)
    if not proof.equal and json:
        print(f"tapehouse: {proof.difference}", file=sys.stderr)
    return 0 if proof.equal else 1
