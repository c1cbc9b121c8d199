"""The only importer of `nats`: the embedded cluster, the connection, logs in JetStream, leases, services."""

from tapehouse.bus.bucket import Bucket, BucketEntry
from tapehouse.bus.cluster import Cluster, ClusterConfig, NodeEndedError, StopReport
from tapehouse.bus.connection import Bus, connect
from tapehouse.bus.jetstream import JetStreamLog
from tapehouse.bus.lease import Lease, LeaseStore, MemoryLeaseStore
from tapehouse.bus.lease_bucket import LeaseBucket
from tapehouse.bus.service import ServiceHost, request, serve
from tapehouse.bus.state import default_directory
from tapehouse.bus.status import ClusterStatus, NodeStatus
from tapehouse.bus.streams import StreamAdmin, StreamStatus
from tapehouse.bus.topology import (
    StreamSpec,
    cmds_spec,
    events_spec,
    kv_spec,
    out_spec,
    parked_spec,
    snaps_spec,
    tape_spec,
)

__all__ = [
    "Bucket",
    "BucketEntry",
    "Bus",
    "Cluster",
    "ClusterConfig",
    "ClusterStatus",
    "JetStreamLog",
    "Lease",
    "LeaseBucket",
    "LeaseStore",
    "MemoryLeaseStore",
    "NodeEndedError",
    "NodeStatus",
    "ServiceHost",
    "StopReport",
    "StreamAdmin",
    "StreamSpec",
    "StreamStatus",
    "cmds_spec",
    "connect",
    "default_directory",
    "events_spec",
    "kv_spec",
    "out_spec",
    "parked_spec",
    "request",
    "serve",
    "snaps_spec",
    "tape_spec",
]
