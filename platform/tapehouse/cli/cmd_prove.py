"""`tapehouse prove`: digests of several paths side by side."""

from __future__ import annotations

import sys


def prove(
    *,
    tape: str | None = None,
    nats: str | None = None,
    seed: int = 7,
    cells: int = 600_000,
    strategy: str = "maker",
    parameters: str | None = None,
    guard: bool = True,
    nodes: int = 3,
    profile: str = "durable",
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
    seed, cells
        Of the generated day.
    strategy, parameters
        As it ran live.
    guard
        Stop a Python strategy that reads the clock or randomness.
    nodes, profile
        Of the embedded brokers.
    speed, paced_seconds
        Of the paced replay, and for how much tape time it holds it.
    store
        `s3://…` or `file:///…`; an embedded S3 server where it is left out.
    json
        One line: `{"paths": [{"name", "decision_digest", "state_digest", …}], "equal": true}`.
    """
    from tapehouse.replay import parse_speed

    factor = parse_speed(speed)
    if tape is not None:
        from tapehouse.app.tape_proof import prove_tape
        from tapehouse.cli.output import run_async

        proof = run_async(prove_tape(tape, nats=nats, strategy=strategy, parameters=parameters, guard=guard))
    else:
        from tapehouse.cli.day import DayChoice, run_sync, show

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
            for path in proof.paths:
                print(f"{path.name:<14} {path.decision_digest[:16]} {path.state_digest[:16]} {path.decisions:>9,}")
        print("PROVED" if proof.equal else f"DIFFERENT: {proof.difference}")
    if not proof.equal and json:
        print(f"tapehouse: {proof.difference}", file=sys.stderr)
    return 0 if proof.equal else 1
