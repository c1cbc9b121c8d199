"""The proof: several paths to the same state, side by side, and the first place where two of them part."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from tapehouse.market import Cells
from tapehouse.replay.session import SessionReport


@dataclass(frozen=True, slots=True, kw_only=True)
class PathResult:
    """One path: how it arrived, and at what."""

    name: str
    decision_digest: str
    state_digest: str
    cells: int
    decisions: int
    seconds: float
    note: str = ""

    @classmethod
    def of(cls, report: SessionReport, *, note: str = "") -> PathResult:
        """The result of a replay session."""
        digests = report.digests
        return cls(
            name=report.name,
            decision_digest=digests.decision.hex(),
            state_digest=digests.state.hex(),
            cells=digests.cells,
            decisions=digests.decisions,
            seconds=report.seconds,
            note=note,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Paths that must agree, and where they first do not."""

    paths: tuple[PathResult, ...]
    difference: str = ""

    @property
    def equal(self) -> bool:
        """True where every path has the same digests over the same number of cells and decisions."""
        keys = {(path.decision_digest, path.state_digest, path.cells, path.decisions) for path in self.paths}
        return len(self.paths) > 0 and len(keys) == 1

    def to_json(self) -> str:
        """One line for scripts."""
        names = ("name", "decision_digest", "state_digest", "cells", "decisions", "seconds")
        rows = [{name: getattr(path, name) for name in names} for path in self.paths]
        for row in rows:
            row["seconds"] = round(row["seconds"], 6)
        return json.dumps({"paths": rows, "equal": self.equal})


def first_difference(left: Cells, right: Cells) -> str:
    """Where two runs' decision records first differ; empty where they do not."""
    common = min(len(left), len(right))
    differ = np.flatnonzero(left[:common] != right[:common])
    if len(differ):
        at = int(differ[0])
        cell = left[at]
        return f"output cell {at}: input cell {int(cell['sequence'])}, index {int(cell['count'])}"
    if len(left) != len(right):
        longer = left if len(left) > len(right) else right
        cell = longer[common]
        return f"output cell {common}, at input cell {int(cell['sequence'])}: only one run has it"
    return ""


def verdict(results: list[PathResult], outputs: dict[str, Cells]) -> Proof:
    """Judge the paths; the first one is what the others are held against.

    Args:
        outputs: The decision records of the paths, by name, where they are known: they tell where two runs part.
    """
    proof = Proof(paths=tuple(results))
    if not results:
        return Proof(paths=(), difference="there is nothing to compare")
    differences = (_difference(results[0], other, outputs) for other in results[1:])
    return Proof(paths=proof.paths, difference=next(filter(None, differences), ""))


def _difference(first: PathResult, other: PathResult, outputs: dict[str, Cells]) -> str:
    """How a path differs from the first one; empty where it does not."""
    names = f"{first.name} and {other.name}"
    if (other.decision_digest, other.decisions) != (first.decision_digest, first.decisions):
        where = ""
        if first.name in outputs and other.name in outputs:
            where = first_difference(outputs[first.name], outputs[other.name])
        if where:
            return f"{names} part at {where}"
        if other.cells == first.cells:
            return f"{names} decided differently: {first.decisions} and {other.decisions} decisions"
    if other.cells != first.cells:
        return f"{first.name} has {first.cells} cells, {other.name} {other.cells}"
    if other.state_digest != first.state_digest:
        return f"{names} decided alike but their states differ at cell {first.cells}"
    return ""
