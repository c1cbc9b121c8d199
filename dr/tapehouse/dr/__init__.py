"""Disaster recovery: object stores, the repository, backup, restore, verification, and reading what was backed up.

`dr.embedded_store` (an S3 server of our own) is imported by name, because it loads the S3 client.
"""

from tapehouse.dr.backup import BackupReport, backup
from tapehouse.dr.layered_log import LayeredLog
from tapehouse.dr.manifest import LogEntry, Manifest, SegmentEntry, SnapshotEntry
from tapehouse.dr.open_store import open_store
from tapehouse.dr.plan import BackupPlan, LogPlan, cut_order, plan_backup
from tapehouse.dr.probe import ProbeReport, probe
from tapehouse.dr.progress import ReportProgress
from tapehouse.dr.refill import Refill
from tapehouse.dr.repository import MachineSnapshot, NoRepositoryError, Repository
from tapehouse.dr.restore import (
    LogToCreate,
    MemoryTarget,
    RestoredLog,
    RestoreReport,
    RestoreTarget,
    restore,
)
from tapehouse.dr.scrub import scrub
from tapehouse.dr.segment_log import SegmentLog
from tapehouse.dr.store import Counting, MemoryStore, ObjectInfo, ObjectMissingError, ObjectStore, Retrying
from tapehouse.dr.verify import Damage, VerifyReport, verify

__all__ = [
    "BackupPlan",
    "BackupReport",
    "Counting",
    "Damage",
    "LayeredLog",
    "LogEntry",
    "LogPlan",
    "LogToCreate",
    "MachineSnapshot",
    "Manifest",
    "MemoryStore",
    "MemoryTarget",
    "NoRepositoryError",
    "ObjectInfo",
    "ObjectMissingError",
    "ObjectStore",
    "ProbeReport",
    "Refill",
    "ReportProgress",
    "Repository",
    "RestoreReport",
    "RestoreTarget",
    "RestoredLog",
    "Retrying",
    "SegmentEntry",
    "SegmentLog",
    "SnapshotEntry",
    "VerifyReport",
    "backup",
    "cut_order",
    "open_store",
    "plan_backup",
    "probe",
    "restore",
    "scrub",
    "verify",
]
