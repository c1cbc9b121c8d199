"""What a load measured, as rows for people and as JSON for programs: docs/kv-tools.md describes its fields."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tapehouse.app.bench.histogram import BUCKETS, COUNT, LEAST, MOST, SUM, bucket_bounds, merged, percentile
from tapehouse.app.kv_load.check import Verdict
from tapehouse.app.kv_load.plan import Load
from tapehouse.app.kv_load.run import Latencies, Phase
from tapehouse.core.units import NS_PER_SECOND

VERSION = 1
NS_PER_US = 1_000
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999, "p99_99": 0.9999}
COLUMNS = ("", "requests", "a second", "mean", *(name.replace("_", ".") for name in PERCENTILES), "most")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """One run.

    Attributes:
        server: What the gateway says of itself, by INFO.
        surroundings: The machine, and how busy others kept it.
        interrupted: It was stopped before its end.
    """

    load: Load
    connect: tuple[str, ...]
    server: dict[str, str]
    surroundings: dict[str, Any]
    phase: Phase
    verdict: Verdict
    warm_up_requests: int
    interrupted: bool

    @property
    def is_sound(self) -> bool:
        """Whether no read was found out in anything."""
        return self.verdict.violations == 0

    @property
    def seconds(self) -> float:
        """How long was measured."""
        return (self.phase.ended - self.phase.began) / NS_PER_SECOND

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        phase, verdict = self.phase, self.verdict
        options = asdict(self.load) | {"prefix": self.load.prefix.decode("latin-1"), "connect": list(self.connect)}
        return {
            "version": VERSION, "options": options, "server": self.server, "machine": self.surroundings,
            "interrupted": self.interrupted, "seconds": self.seconds, "requests": phase.done,
            "requests_per_second": _rate(phase.done, self.seconds), "warm_up_requests": self.warm_up_requests,
            "operations": {
                name: _operation(latencies, self.seconds)
                for name, latencies in (("read", phase.reads), ("write", phase.writes))
            },
            "errors": dict(sorted(phase.errors.items())), "reconnects": phase.reconnects,
            "check": {
                "level": self.load.level, "reads": verdict.reads, "absent": verdict.absent,
                "violations": verdict.violations,
                "by_kind": {what.value: count for what, count in verdict.counts.items()},
                "examples": [
                    {
                        "kind": one.what.value, "key": self.load.key(one.key).decode("latin-1"),
                        "connection": one.connection, "told": one.told,
                    }
                    for one in verdict.examples
                ],
            },
        }  # fmt: skip

    def rows(self) -> list[tuple[str, ...]]:
        """A row for reads, writes and both, of COLUMNS; latencies in ms, from when a request was due."""
        reads, writes = self.phase.reads.due, self.phase.writes.due
        named = (("reads", reads), ("writes", writes), ("all", merged((reads, writes))))
        return [
            (
                name, f"{words[COUNT]:,}", f"{_rate(int(words[COUNT]), self.seconds):,.0f}",
                _ms(int(words[SUM]) / int(words[COUNT])),
                *(_ms(percentile(words, fraction)) for fraction in PERCENTILES.values()), _ms(int(words[MOST])),
            )
            for name, words in named
            if words[COUNT]
        ]  # fmt: skip


def _operation(latencies: Latencies, seconds: float) -> dict[str, Any]:
    count = int(latencies.due[COUNT])
    return {
        "requests": count, "per_second": _rate(count, seconds), "latency_us": _summary(latencies.due),
        "from_sending_us": _summary(latencies.sent), "histogram_us": _buckets(latencies.due),
    }  # fmt: skip


def _summary(words: Any) -> dict[str, float] | None:
    """Least, mean, percentiles and most, us; None where nothing was measured."""
    if not words[COUNT]:
        return None
    told = {name: percentile(words, fraction) / NS_PER_US for name, fraction in PERCENTILES.items()}
    mean = int(words[SUM]) / int(words[COUNT]) / NS_PER_US
    return {"least": int(words[LEAST]) / NS_PER_US, "mean": mean, **told, "most": int(words[MOST]) / NS_PER_US}


def _buckets(words: Any) -> list[tuple[float, int]]:
    """The upper end of each bucket that is not empty, us, and how many are in it."""
    used = np.flatnonzero(words[:BUCKETS]).tolist()
    return [(bucket_bounds(bucket)[1] / NS_PER_US, int(words[bucket])) for bucket in used]


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


def _ms(ns: float) -> str:
    return f"{ns / 1e6:,.3f}"
