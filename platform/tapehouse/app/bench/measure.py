"""What a benchmark says: rows of figures, each with its goal and its peer, and the report that is kept as JSON.

A row is the median of repeated runs with their spread. A latency has percentiles beside it; a peer was measured on the
same input in the same run. What could not be measured is a row too, with the reason.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

FORMAT = 1
INTERRUPTED = "interrupted"
DIGITS = 4  # of a figure in a file: more would be noise
_PER_SECOND = "/s"
PERCENTILES = ("p50", "p99", "p999")


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a figure of a row is to reach.

    Args:
        figure: A field of the row (`median`, `p50`, `p99`, `p999`, `throughput`), or `ratio` to the best peer.
        at_most: The bound from above; exactly one of the bounds is given.
        at_least: The bound from below.
    """

    figure: str = "median"
    at_most: float | None = None
    at_least: float | None = None

    def __post_init__(self) -> None:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError("a goal has one bound")

    def reached(self, row: Measure) -> bool | None:
        """Whether the row reaches it; None where the figure was not measured."""
        value: float | None = getattr(row, self.figure)
        if value is None:
            return None
        if self.at_most is not None:
            return value <= self.at_most
        return value >= (self.at_least or 0.0)

    def __str__(self) -> str:
        name = "" if self.figure == "median" else {"p999": "p99.9"}.get(self.figure, self.figure) + " "
        sign, bound = ("<=", self.at_most) if self.at_most is not None else (">=", self.at_least)
        unit = {"ratio": "x", "throughput": " M/s"}.get(self.figure, "")
        return f"{name}{sign} {bound:g}{unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The same work by somebody else, in the row's unit; `median` is None where the peer is not installed."""

    name: str
    median: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One row.

    Args:
        name: What was measured, short.
        data: On which data, empty where it makes no difference.
        unit: Of the figures; a rate ends in `/s`, everything else is better when it is smaller.
        median, low, high: Of the runs; None where it could not be measured.
        runs: How many there were.
        p50, p99, p999: Of single operations, in ns, by the fenced timer; its own cost is subtracted.
        throughput: Operations a second that the median means, in millions.
        note: How it was measured, or why it was not.
    """

    name: str
    unit: str
    data: str = ""
    median: float | None = None
    low: float | None = None
    high: float | None = None
    runs: int = 0
    p50: float | None = None
    p99: float | None = None
    p999: float | None = None
    throughput: float | None = None
    goals: tuple[Goal, ...] = ()
    peers: tuple[Peer, ...] = ()
    note: str = ""

    def ratio_to(self, peer: Peer) -> float | None:
        """How many times better than a peer; None without both figures."""
        if self.median is None or peer.median is None or self.median <= 0 or peer.median <= 0:
            return None
        better = self.median / peer.median
        return better if self.unit.endswith(_PER_SECOND) else 1 / better

    @property
    def ratio(self) -> float | None:
        """How many times better than the best of the peers; None without any."""
        return min((ratio for ratio in map(self.ratio_to, self.peers) if ratio is not None), default=None)

    @property
    def reached(self) -> bool | None:
        """Whether every goal is reached; None without a goal, or where a figure is lacking and none is missed."""
        verdicts = [goal.reached(self) for goal in self.goals]
        if False in verdicts:
            return False
        return None if None in verdicts or not verdicts else True


def measure(name: str, unit: str, values: Sequence[float], **fields: Any) -> Measure:
    """A row from its runs.

    Raises:
        ValueError: There are no runs, or one is not finite.
    """
    if not values or not all(map(math.isfinite, values)):
        raise ValueError(f"{name}: {values!r} are no measurements")
    median = statistics.median(values)
    throughput = 1e3 / median if unit == "ns" and median > 0 else None
    row = Measure(name=name, unit=unit, median=median, low=min(values), high=max(values), runs=len(values))
    return replace(row, **{"throughput": throughput, **fields})


def not_measured(name: str, unit: str, why: str, **fields: Any) -> Measure:
    """A row without figures, and why."""
    return Measure(name=name, unit=unit, note=why, **fields)


def peer_of(name: str, values: Sequence[float], note: str = "") -> Peer:
    """A peer's figures from its runs."""
    return Peer(name=name, median=statistics.median(values), low=min(values), high=max(values), note=note)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One benchmark's rows and how they came about.

    Args:
        date: When it began, UTC, ISO 8601.
        machine: What it ran on, and how busy that was.
        complete: False where it was interrupted or failed.
        failure: What went wrong, empty where nothing did.
    """

    benchmark: str
    command: str
    date: str
    machine: dict[str, Any]
    rows: tuple[Measure, ...]
    complete: bool = True
    failure: str = ""

    @property
    def interrupted(self) -> bool:
        """Whether the user ended it."""
        return self.failure == INTERRUPTED

    def as_json(self) -> dict[str, Any]:
        """The report in plain values, figures rounded to what they are worth."""
        return {
            "format": FORMAT,
            "benchmark": self.benchmark,
            "command": self.command,
            "complete": self.complete,
            "failure": self.failure,
            "date": self.date,
            "machine": _rounded(self.machine),
            "rows": [_row(row) for row in self.rows],
        }

    def write(self, directory: Path) -> Path:
        """Keep it as `<benchmark>.json`, whole or not at all."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{self.benchmark}.json"
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(self.as_json(), indent=2, sort_keys=True) + "\n", encoding="utf-8")
        part.replace(path)
        return path


def _row(row: Measure) -> dict[str, Any]:
    """A row without the fields that it does not use."""
    plain = asdict(row)
    plain["goals"] = [{"figure": goal.figure, "text": str(goal), "reached": goal.reached(row)} for goal in row.goals]
    plain["reached"] = row.reached
    plain["peers"] = [_without_nothing(asdict(peer) | {"ratio": row.ratio_to(peer)}) for peer in row.peers]
    kept = _without_nothing(plain)
    kept["median"] = plain["median"]
    return {key: _rounded(value) for key, value in kept.items()}


def _without_nothing(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value not in (None, "", [], ())}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


COLUMNS = ("what", "data", "median", "unit", "spread", "p50 / p99 / p99.9, ns", "goal", "peer, how many times better")


def table(rows: Iterable[Measure]) -> list[tuple[str, ...]]:
    """Rows as people read them, under COLUMNS; how each was measured is in the report."""
    return [
        (
            row.name,
            row.data,
            "-" if row.median is None else figure(row.median),
            row.unit,
            f"{figure(row.low)} to {figure(row.high)}" if row.low is not None and row.high is not None else "",
            " / ".join(figure(value) for value in (row.p50, row.p99, row.p999) if value is not None),
            _goal_text(row),
            row.note if row.median is None else ", ".join(_peer_text(row, peer) for peer in row.peers),
        )
        for row in rows
    ]


def figure(value: float) -> str:
    """A figure with about three digits, and none of them lost before the point."""
    if value == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:,.{min(max(digits, 0), 6)}f}"


def _goal_text(row: Measure) -> str:
    words = {True: "reached", False: "missed", None: "not measured"}
    return ", ".join(f"{goal} {words[goal.reached(row)]}" for goal in row.goals)


def _peer_text(row: Measure, peer: Peer) -> str:
    if peer.median is None:
        return f"{peer.name}: {peer.note}"
    ratio = row.ratio_to(peer)
    times = "" if ratio is None else f", {figure(ratio)}x"
    return f"{peer.name} {figure(peer.median)}{times}"
