"""The picture of the tick-to-order benchmark: latencies of every rate, beside the gaps of the same loops."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tapehouse.app.bench.histogram import BUCKETS, bucket_bounds, merged
from tapehouse.app.bench.spans import Spans

STEPS_A_DECADE = 20
FROM_NS, TO_NS = 100.0, 1e8
INKS = ("#3366aa", "#0b7a75", "#c8553d")
INK, MUTED = "#1b2733", "#7a8794"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One data set at one rate: latencies in counts, a histogram a run; gaps of the feed's and the engine's core."""

    data: str
    rate: int
    latencies: Sequence[npt.NDArray[np.int64]]
    gaps: Sequence[tuple[Spans, Spans]]
    seconds: float


def drawable() -> bool:
    """Whether matplotlib is there."""
    return find_spec("matplotlib") is not None


def edges() -> Floats:
    """Bounds of the bars, in ns, equally wide on a logarithmic scale."""
    decades = np.log10(TO_NS / FROM_NS)
    return np.asarray(FROM_NS * 10 ** np.linspace(0, decades, int(decades * STEPS_A_DECADE) + 1))


def binned(histogram: npt.NDArray[np.int64], ns_per_count: float, bounds: Floats) -> Floats:
    """A histogram's counts in wider bars; what lies beyond them counts in the first and the last."""
    middles = np.array([sum(bucket_bounds(bucket)) / 2 for bucket in range(BUCKETS)]) * ns_per_count
    at = np.clip(np.searchsorted(bounds, middles, side="right") - 1, 0, len(bounds) - 2)
    return np.bincount(at, weights=histogram[:BUCKETS], minlength=len(bounds) - 1).astype(np.float64)


def draw(panels: Sequence[Panel], path: Path, *, ns_per_count: float) -> None:
    """Write the PNG, whole or not at all: a row a data set, latencies on the left, gaps on the right."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(panel.data for panel in panels))
    figure = Figure(figsize=(13, 1.2 + 3.4 * len(names)), dpi=110, layout="constrained", facecolor="white")
    grid = figure.subplots(len(names), 2, squeeze=False, sharex=True)
    bounds = edges()
    for row, name in enumerate(names):
        latency, gap = grid[row]
        for panel, ink in zip((panel for panel in panels if panel.data == name), INKS, strict=False):
            counts = binned(merged(panel.latencies), ns_per_count, bounds)
            label = f"{panel.rate:,} ticks/s: {_percentiles(panel, ns_per_count)}"
            latency.stairs(counts / counts.sum(), bounds / 1e3, color=ink, linewidth=1.3, label=label)
            for core, style in ((0, "-"), (1, ":")):
                spans = np.concatenate([pair[core] for pair in panel.gaps])
                lengths = (spans[:, 1] - spans[:, 0]) * ns_per_count
                each_second = np.histogram(lengths, bounds)[0] / panel.seconds
                lost = lengths.sum() / panel.seconds / 1e9
                label = f"{panel.rate:,}/s, {('feed', 'engine')[core]}'s core: {lost:.2%} of time lost"
                gap.stairs(each_second, bounds / 1e3, color=ink, linewidth=1.1, linestyle=style, label=label)
        latency.axvline(1.0, color=MUTED, linewidth=0.7, linestyle="--")
        latency.set_ylabel(f"{name}\nshare of answered ticks")
        gap.set_ylabel("gaps a second")
        latency.set_title("tick to order, from when the tick was due", loc="left", fontsize=10, color=INK)
        gap.set_title("gaps above 1 us of the same two loops in the same runs", loc="left", fontsize=10, color=INK)
    for axes in grid.flat:
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(FROM_NS / 1e3, TO_NS / 1e3)
        axes.legend(loc="upper right", frameon=False, fontsize=7.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.15)
    for axes in grid[-1]:
        axes.set_xlabel("microseconds")
    figure.suptitle("Tick to order between two processes, beside what the machine took", color=INK, x=0.01, ha="left")
    image = io.BytesIO()
    figure.savefig(image, format="png")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_bytes(image.getvalue())
    draft.replace(path)


def _percentiles(panel: Panel, ns_per_count: float) -> str:
    from tapehouse.app.bench.histogram import percentile

    total = merged(panel.latencies)
    shown = [percentile(total, fraction) * ns_per_count / 1e3 for fraction in (0.5, 0.9, 0.99)]
    return "p50 {:.2f}, p90 {:.2f}, p99 {:.1f} us".format(*shown)
