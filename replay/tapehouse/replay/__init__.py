"""Sessions at any speed, pacing, and the proof that they agree."""

from tapehouse.replay.pacing import Pacer, parse_speed
from tapehouse.replay.prove import PathResult, Proof, first_difference, verdict
from tapehouse.replay.session import Pace, Session, SessionReport

__all__ = [
    "Pace",
    "Pacer",
    "PathResult",
    "Proof",
    "Session",
    "SessionReport",
    "first_difference",
    "parse_speed",
    "verdict",
]
