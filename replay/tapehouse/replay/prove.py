"""The proof: several paths to the same state, side by side, and the first place where two of them part."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from tapehouse.market import Cells
from tapehouse.replay.session import SessionReport

DECISION_BYTES = 64


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
    """Judge the paths; the first one is what the others are held against."""
    proof = Proof(paths=tuple(results))
    if proof.equal:
        return proof
    first = results[0]
    for other in results[1:]:
        if other.decision_digest != first.decision_digest and first.name in outputs and other.name in outputs:
            where = first_difference(outputs[first.name], outputs[other.name])
            if where:
                return Proof(paths=proof.paths, difference=f"{first.name} and {other.name} part at {where}")
        if other.cells != first.cells:
            return Proof(
                paths=proof.paths, difference=f"{first.name} has {first.cells} cells, {other.name} {other.cells}"
            )
        if other.state_digest != first.state_digest:
            return Proof(
                paths=proof.paths,
                difference=f"{first.name} and {other.name} decided alike but their states differ at cell {first.cells}",
            )
    return Proof(paths=proof.paths, difference="the digests differ")
