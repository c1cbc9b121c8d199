"""The streams of tapehouse as data: what each is called, takes, and promises; and what counts as drift from that.

Pure: specifications in, configurations out. `streams.StreamAdmin` holds them against a broker.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tapehouse.core import IntegrityError, UsageError
from tapehouse.core.ids import check_name
from tapehouse.log import Branch

METADATA_LOG_ID = "tapehouse.log_id"
METADATA_BRANCHES = "tapehouse.branches"
METADATA_WRITERS = "tapehouse.writers"
REPLICAS_MAX = 5
LEASES_BUCKET = "leases"
# What a log must never have: each would lose, reorder, hide or rewrite messages.
_FORBIDDEN = (
    "sealed",
    "no_ack",
    "mirror",
    "sources",
    "subject_transform",
    "discard_new_per_subject",
    "allow_rollup_hdrs",
    "allow_msg_ttl",
    "allow_msg_counter",
    "allow_msg_schedules",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpec:
    """One log.

    Attributes:
        single_writer: Every append carries a fence; else anyone appends, and JetStream's order is the order.
        replicas: Copies; None for 3 in a cluster and 1 on a single server.
        max_bytes: Refuse appends beyond it, -1 for the disk's own limit; nothing is ever dropped to make room.
    """

    name: str
    subjects: tuple[str, ...]
    single_writer: bool
    description: str
    replicas: int | None = None
    max_bytes: int = -1

    def __post_init__(self) -> None:
        if self.replicas is not None and self.replicas not in (1, 3, REPLICAS_MAX):
            raise UsageError(f"{self.replicas} replicas", subject=self.name, hint="use 1, 3 or 5")


def tape_spec(name: str, *, replicas: int | None = None) -> StreamSpec:
    """The sequenced input of one shard; its writer is the sequencer."""
    return StreamSpec(
        name=f"TAPE_{check_name(name, 'tape')}",
        subjects=(f"tape.v1.{name}",),
        single_writer=True,
        description="everything a strategy or the desk may react to, in one order",
        replicas=replicas,
    )


def events_spec(name: str, *, replicas: int | None = None) -> StreamSpec:
    """What a desk decided; its writer is the engine."""
    return StreamSpec(
        name=f"EVENTS_{check_name(name, 'desk')}",
        subjects=(f"evt.v1.{name}",),
        single_writer=True,
        description="what was decided, with the input position reached",
        replicas=replicas,
    )


def cmds_spec(name: str, *, replicas: int | None = None) -> StreamSpec:
    """The inbox of a desk; subjects are `cmd.v1.<desk>.<aggregate>.<verb>`."""
    return StreamSpec(
        name=f"CMDS_{check_name(name, 'desk')}",
        subjects=(f"cmd.v1.{name}.>",),
        single_writer=False,
        description="commands, one a message, acknowledged when durable",
        replicas=replicas,
    )


def kv_spec(shard: int, *, replicas: int | None = None) -> StreamSpec:
    """One shard of the KV; its writers are the gateways."""
    return StreamSpec(
        name=f"KV_{shard}",
        subjects=(f"kv.v1.{shard}",),
        single_writer=False,
        description="puts, deletes, batches and barriers as entries",
        replicas=replicas,
    )


def snaps_spec(*, replicas: int | None = None) -> StreamSpec:
    """Small snapshots of machines; subjects are `snap.v1.<machine>`."""
    return StreamSpec(
        name="SNAPS",
        subjects=("snap.v1.>",),
        single_writer=False,
        description="small snapshots of machines",
        replicas=replicas,
    )


def out_spec(*, replicas: int | None = None) -> StreamSpec:
    """Events as JSON for other languages; subjects are `out.v1.<desk>.<type>`."""
    return StreamSpec(
        name="OUT",
        subjects=("out.v1.>",),
        single_writer=False,
        description="events as JSON, derived, at least once",
        replicas=replicas,
    )


def parked_spec(*, replicas: int | None = None) -> StreamSpec:
    """What could not be applied, and why; subjects are `parked.v1.<machine>`."""
    return StreamSpec(
        name="PARKED",
        subjects=("parked.v1.>",),
        single_writer=False,
        description="inputs that could not be applied",
        replicas=replicas,
    )


def stream_config(
    spec: StreamSpec, *, replicas: int, branches: tuple[Branch, ...], first_seq: int | None = None
) -> dict[str, Any]:
    """The configuration that JetStream is given for a log."""
    config: dict[str, Any] = {
        "name": spec.name,
        "description": spec.description,
        "subjects": list(spec.subjects),
        "retention": "limits",
        "discard": "new",
        "storage": "file",
        "compression": "none",
        "num_replicas": replicas,
        "max_consumers": -1,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_msg_size": -1,
        "max_bytes": spec.max_bytes,
        "max_age": 0,
        "allow_direct": True,
        "deny_delete": True,
        "deny_purge": False,
        "metadata": {
            METADATA_LOG_ID: branches[-1].log_id.hex(),
            METADATA_BRANCHES: _dump_branches(branches),
            METADATA_WRITERS: "one" if spec.single_writer else "many",
        },
    }
    if first_seq is not None:
        config["first_seq"] = first_seq
    return config


def drift(expected: dict[str, Any], actual: dict[str, Any]) -> list[str]:
    """Each way in which a stream is not configured as it should be, in words; empty where it is."""
    found = []
    for key, wanted in expected.items():
        if key == "metadata":
            continue
        has = actual.get(key, _absent(wanted))
        if key == "subjects":
            wanted, has = sorted(wanted), sorted(has or [])
        if has != wanted:
            found.append(f"{key} is {has!r}, not {wanted!r}")
    found += [f"{key} is {actual[key]!r}" for key in _FORBIDDEN if actual.get(key)]
    if actual.get("persist_mode") not in (None, "", "default"):
        found.append(f"persist_mode is {actual['persist_mode']!r}, which acknowledges before the disk has it")
    labels = actual.get("metadata") or {}
    for key, wanted in expected["metadata"].items():
        if labels.get(key) != wanted:
            found.append(f"{key} is {labels.get(key)!r}, not {wanted!r}")
    return found


def read_branches(name: str, config: dict[str, Any]) -> tuple[Branch, ...]:
    """The branches of a log, from its stream's metadata.

    Raises:
        UsageError: The stream is none of tapehouse's.
        IntegrityError: Its metadata is damaged.
    """
    metadata = config.get("metadata") or {}
    if METADATA_LOG_ID not in metadata:
        raise UsageError("a stream that tapehouse did not make", subject=name, hint="choose another name")
    try:
        branches = tuple(
            Branch(log_id=bytes.fromhex(entry["log_id"]), through=entry["through"])
            for entry in json.loads(metadata[METADATA_BRANCHES])
        )
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError("the stream's list of branches is damaged", subject=name) from error
    if not branches or branches[-1].log_id.hex() != metadata[METADATA_LOG_ID]:
        raise IntegrityError("the stream's log id is not that of its living branch", subject=name)
    return branches


def _dump_branches(branches: tuple[Branch, ...]) -> str:
    return json.dumps([{"log_id": branch.log_id.hex(), "through": branch.through} for branch in branches])


def _absent(wanted: Any) -> Any:
    """What a key that the server leaves out stands for."""
    if isinstance(wanted, bool):
        return False
    return 0 if isinstance(wanted, int) else None
