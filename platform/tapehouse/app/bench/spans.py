"""Spans of time from logs of compiled loops, and what they say of each other: gaps, and slow ticks in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Spans = Ints  # shape (n, 2): counter readings, where each begins and ends

_STAT = Path("/proc/stat")
_STEAL = 8  # of a line of /proc/stat, its name included


def spans_of(log: Ints) -> Spans:
    """The spans that a log has room for."""
    count = min(int(log[0]), (len(log) - 2) // 2)
    return log[2 : 2 + 2 * count].reshape(count, 2)


def united(*parts: Spans) -> Spans:
    """The same time as spans that are in order and do not meet."""
    spans = np.concatenate([part.reshape(-1, 2) for part in parts])
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    if not len(spans):
        return spans
    reach = np.maximum.accumulate(spans[:, 1])
    first = np.flatnonzero(np.concatenate(([True], spans[1:, 0] > reach[:-1])))
    last = np.concatenate((first[1:] - 1, [len(spans) - 1]))
    return np.stack((spans[first, 0], reach[last]), axis=1)


def within(spans: Spans, start: int, end: int) -> int:
    """How much of the time from `start` to `end` lies in spans that do not meet."""
    return int(np.maximum(np.minimum(spans[:, 1], end) - np.maximum(spans[:, 0], start), 0).sum())


def overlapping(spans: Spans, others: Spans, *, after: int = 0) -> float:
    """The share of spans that overlap one of the others, or begin less than `after` behind it; 1 of none at all.

    Args:
        others: In order, and not meeting.
        after: How long the effect of one of the others lasts: a queue must drain.
    """
    if not len(spans):
        return 1.0
    if not len(others):
        return 0.0
    following = np.searchsorted(others[:, 1], spans[:, 0] - after, side="right")
    candidates = others[np.minimum(following, len(others) - 1), 0]
    return float(((following < len(others)) & (candidates < spans[:, 1])).mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """What was lost on one core in one run."""

    gaps: int
    share: float  # of the time
    p50_us: float
    most_us: float

    @classmethod
    def of(cls, spans: Spans, duration: int, ns_per_count: float) -> Lost:
        """From a core's gaps, and the counts that the run lasted."""
        lengths = spans[:, 1] - spans[:, 0]
        if not len(lengths):
            return cls(gaps=0, share=0.0, p50_us=0.0, most_us=0.0)
        scale = ns_per_count / 1e3
        share = float(lengths.sum()) / max(duration, 1)
        middle = float(np.median(lengths)) * scale
        return cls(gaps=len(lengths), share=share, p50_us=middle, most_us=float(lengths.max()) * scale)


def steal_ticks(core: int, stat: Path = _STAT) -> int:
    """What the host has taken from a core since boot, in clock ticks; 0 where the kernel does not say."""
    text = stat.read_text(encoding="ascii") if stat.exists() else ""
    words = next((line.split() for line in text.splitlines() if line.startswith(f"cpu{core} ")), [])
    return int(words[_STEAL]) if len(words) > _STEAL else 0
