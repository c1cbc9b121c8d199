"""Frames, segments, envelopes; the `Log` port; machines and their hosts."""

from tapehouse.log.envelope import Envelope, Registry, deterministic_id, read_envelope, validate
from tapehouse.log.frame import Codec, FrameFlag, FrameHeader, decode_frame, encode_frame, may_hold, read_header
from tapehouse.log.host import Host, MemorySnapshots, Progress, Snapshot, SnapshotStore, open_frame
from tapehouse.log.machine import Machine
from tapehouse.log.memory import MemoryLog
from tapehouse.log.patient import PatientLog
from tapehouse.log.port import Branch, Extent, Log, Message
from tapehouse.log.shared import SharedLog
from tapehouse.log.shared_frames import decode_message
from tapehouse.log.writer import FrameWriter, Tail, read_tail

__all__ = [
    "Branch",
    "Codec",
    "Envelope",
    "Extent",
    "FrameFlag",
    "FrameHeader",
    "FrameWriter",
    "Host",
    "Log",
    "Machine",
    "MemoryLog",
    "MemorySnapshots",
    "Message",
    "PatientLog",
    "Progress",
    "Registry",
    "SharedLog",
    "Snapshot",
    "SnapshotStore",
    "Tail",
    "decode_frame",
    "decode_message",
    "deterministic_id",
    "encode_frame",
    "may_hold",
    "open_frame",
    "read_envelope",
    "read_header",
    "read_tail",
    "validate",
]
