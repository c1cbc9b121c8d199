"""What one shard of a KV holds and did, as numbers: for status pages and for Prometheus."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from tapehouse.core.metrics import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardMeasures:
    """One shard as one gateway has it, since it was opened.

    Attributes:
        keys: Expired ones among them until they are swept.
        bytes: Of memory that rows, keys and values take.
        hits, misses, absent: Reads of a value in memory, of one that was evicted, of a key that is not there.
        read_again: Frames that were read from the log for evicted values.
        frames, entries: That the view has applied, whoever wrote them.
        repeated_frames: That had come before.
        refused_frames: That were out of turn, or of a branch that was given up.
        queued_entries: That wait for their frame.
        applied: The last sequence of the log that was applied.
        behind: Frames of the log that are not applied yet; None where the broker did not say.
        behind_ns: How long ago the view is known to have held all of the log; None where nothing is known.
        snapshot_sequence: Of the local snapshot, 0 for none.
    """

    shard: int
    keys: int
    evicted_keys: int
    bytes: int
    budget_bytes: int
    hits: int
    misses: int
    absent: int
    evictions: int
    read_again: int
    frames: int
    entries: int
    repeated_frames: int
    refused_frames: int
    queued_entries: int
    applied: int
    behind: int | None
    behind_ns: int | None
    snapshot_sequence: int

    def publish(self, metrics: Metrics) -> None:
        """Set gauges `kv_shard_<shard>_<name>`; what is not known is left as it was."""
        for name, value in asdict(self).items():
            if name != "shard" and value is not None:
                metrics.set(f"kv_shard_{self.shard}_{name}", value)
