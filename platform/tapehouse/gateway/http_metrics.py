"""What a gateway counts, as Prometheus's text and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tapehouse.core.metrics import Histogram
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.kv.measures import ShardMeasures

PREFIX = "tapehouse_kv_"
Kind = Literal["counter", "gauge", "histogram"]
# field of ShardMeasures: kind, name, help.
_SHARD: dict[str, tuple[Kind, str, str]] = {
    "keys": ("gauge", "keys", "Keys of a shard's view, expired ones among them until they are swept."),
    "evicted_keys": ("gauge", "evicted_keys", "Keys whose value is not in memory."),
    "bytes": ("gauge", "memory_bytes", "Memory that rows, keys and values take."),
    "budget_bytes": ("gauge", "memory_budget_bytes", "Memory that a view may take."),
    "hits": ("counter", "read_hits_total", "Reads of a value in memory."),
    "misses": ("counter", "read_misses_total", "Reads of a value that was evicted and read from the log."),
    "absent": ("counter", "read_absent_total", "Reads of a key that is not there."),
    "evictions": ("counter", "evictions_total", "Values that were taken out of memory."),
    "read_again": ("counter", "frames_read_again_total", "Frames read from the log for evicted values."),
    "frames": ("counter", "view_frames_total", "Frames that a view has applied, whoever wrote them."),
    "entries": ("counter", "view_entries_total", "Entries that a view has applied."),
    "repeated_frames": ("counter", "view_repeated_frames_total", "Frames that had come before."),
    "refused_frames": ("counter", "view_refused_frames_total", "Frames out of turn, or of a branch given up."),
    "queued_entries": ("gauge", "queued_entries", "Entries that wait for their frame."),
    "applied": ("gauge", "position", "The last sequence of the log that was applied."),
    "behind": ("gauge", "lag_frames", "Frames of the log that are not applied yet."),
    "behind_ns": ("gauge", "staleness_seconds", "How long ago the view is known to have held all of the log."),
    "snapshot_sequence": ("gauge", "snapshot_position", "The sequence of the local snapshot, 0 for none."),
}
_HISTOGRAMS = {
    "kv_frame_seconds": "From a frame's taking to its application by this gateway's view.",
    "kv_frame_entries": "Entries of a frame that this gateway wrote.",
    "kv_frame_bytes": "Bytes of a frame that this gateway wrote.",
}


@dataclass(slots=True)
class Family:
    """One metric: its samples by their labels, or histograms by theirs."""

    name: str
    kind: Kind
    help: str
    samples: list[tuple[dict[str, str], float]] = field(default_factory=list)
    histograms: list[tuple[dict[str, str], Histogram]] = field(default_factory=list)


def shard_families(shards: Iterable[ShardMeasures]) -> list[Family]:
    """What each shard holds and did, and the part of its reads that found their value in memory."""
    families = {name: Family(PREFIX + told, kind, about) for name, (kind, told, about) in _SHARD.items()}
    rates = Family(PREFIX + "read_hit_ratio", "gauge", "Reads of values that were in memory, of all that found one.")
    for shard in shards:
        labels = {"shard": str(shard.shard)}
        for name, value in asdict(shard).items():
            if name in families and value is not None:
                families[name].samples.append((labels, value / NS_PER_SECOND if name == "behind_ns" else value))
        found = shard.hits + shard.misses
        rates.samples.append((labels, shard.hits / found if found else 1.0))
    return [*families.values(), rates]


def counted_families(values: Mapping[str, float], histograms: Mapping[str, Histogram]) -> list[Family]:
    """What the KV's writers, readers and snapshots counted."""
    families = []
    for name, value in values.items():
        kind: Kind = "counter" if name.endswith("_total") else "gauge"
        families.append(Family(f"tapehouse_{name}", kind, name.replace("_", " ").capitalize() + ".", [({}, value)]))
    for name, histogram in histograms.items():
        about = _HISTOGRAMS.get(name, name.replace("_", " ").capitalize() + ".")
        families.append(Family(f"tapehouse_{name}", "histogram", about, histograms=[({}, histogram)]))
    return families


def one(name: str, kind: Kind, about: str, samples: Iterable[tuple[dict[str, str], float]]) -> Family:
    """A metric of this gateway's connections and requests."""
    return Family(PREFIX + name, kind, about, list(samples))


def prometheus(families: Iterable[Family]) -> bytes:
    """The text that Prometheus reads, version 0.0.4."""
    lines: list[str] = []
    for family in families:
        if not family.samples and not family.histograms:
            continue
        lines += [f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}"]
        lines += [f"{family.name}{_labels(labels)} {_number(value)}" for labels, value in family.samples]
        for labels, histogram in family.histograms:
            below = 0
            for bound, count in zip(histogram.bounds, histogram.counts, strict=False):
                below += count
                lines.append(f"{family.name}_bucket{_labels(labels | {'le': _number(bound)})} {below}")
            lines.append(f"{family.name}_bucket{_labels(labels | {'le': '+Inf'})} {histogram.count}")
            lines.append(f"{family.name}_sum{_labels(labels)} {_number(histogram.sum)}")
            lines.append(f"{family.name}_count{_labels(labels)} {histogram.count}")
    return "".join(line + "\n" for line in lines).encode()


def as_json(families: Iterable[Family]) -> dict[str, Any]:
    """By metric its samples with their labels; of a histogram count, sum, and how many were at most each bound."""
    found: dict[str, Any] = {}
    for family in families:
        rows: list[dict[str, Any]] = [labels | {"value": value} for labels, value in family.samples]
        for labels, histogram in family.histograms:
            buckets, below = {}, 0
            for bound, count in zip(histogram.bounds, histogram.counts, strict=False):
                below += count
                buckets[_number(bound)] = below
            rows.append({**labels, "count": histogram.count, "sum": histogram.sum, "at_most": buckets})
        if rows:
            found[family.name] = rows
    return found


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def _labels(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
