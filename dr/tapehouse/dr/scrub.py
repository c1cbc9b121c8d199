"""Hold a log against the repository by its digest: is every message still what was backed up?

This finds what no checksum of the broker does: files that were corrupted in silence, on one replica or after a crash.
The log alone is read; of the repository only the manifest's heads are needed, and one segment where the range ends
inside it. After a restore the same check says that what was stored is what was meant.
"""

from __future__ import annotations

from tapehouse.core.errors import GapError, IntegrityError
from tapehouse.dr.manifest import LogEntry
from tapehouse.dr.repository import Repository
from tapehouse.log.log_digest import GENESIS, LogDigest, digest_messages
from tapehouse.log.port import Log


async def scrub(repository: Repository, entry: LogEntry, log: Log, *, first: int, through: int) -> bytes:
    """Check messages `first` to `through` of a log against the repository; return the log digest after them.

    Args:
        first: The first sequence of a segment of `entry`, or `through` + 1 for an empty range.

    Raises:
        IntegrityError: A message differs; `position` names the smallest range known to hold it.
        GapError: A message is missing.
    """
    digest = LogDigest(next_sequence=first, head=head_before(entry, first))
    heads = {segment.last: segment for segment in entry.segments if segment.first >= first and segment.last <= through}
    checked = first - 1
    async for message in log.read(first, through=through):
        digest.update(message)
        segment = heads.get(message.sequence)
        if segment is not None:
            if digest.head.hex() != segment.head_after:
                raise _differs(log.name, segment.first, segment.last)
            checked = segment.last
    if digest.next_sequence != through + 1:
        raise GapError(f"message {digest.next_sequence} is missing", subject=log.name)
    if checked < through and await head_at(repository, entry, through) != digest.head:
        raise _differs(log.name, checked + 1, through)
    return digest.head


def head_before(entry: LogEntry, first: int) -> bytes:
    """The log digest before the segment that begins at `first` (or before the log's end, for an empty range)."""
    for segment in entry.segments:
        if segment.last == first - 1:
            return bytes.fromhex(segment.head_after)
    if first != entry.first:
        raise GapError(f"no segment begins at {first}", subject=entry.name)
    return GENESIS


async def head_at(repository: Repository, entry: LogEntry, sequence: int) -> bytes:
    """The log digest after any message of the backup; reads one segment where it lies inside one."""
    if sequence == entry.first - 1:
        return GENESIS
    for segment in entry.segments:
        if segment.last == sequence:
            return bytes.fromhex(segment.head_after)
        if segment.first <= sequence < segment.last:
            whole = await repository.segment(entry, segment)
            return digest_messages(
                whole.messages[: sequence - segment.first + 1],
                next_sequence=segment.first,
                head=whole.header.head_before,
            )
    raise GapError(f"message {sequence} is not in the backup", subject=entry.name)


def _differs(name: str, first: int, last: int) -> IntegrityError:
    return IntegrityError(
        "the log's messages are not those of the backup",
        subject=name,
        position=f"sequences {first} to {last}",
        hint="the stored files changed: restore the log, or wipe the damaged replica and let it be refilled",
    )
