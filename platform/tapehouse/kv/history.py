"""What a key held, from its shard's log: the machine is run again over the entries of the key's slot alone."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from tapehouse.core.errors import GapError, UsageError
from tapehouse.kv.entries import Entry, Op, batch_count, open_entry_frame, read_entries
from tapehouse.kv.reference import KEYED, ReferenceView, Stored
from tapehouse.kv.slots import slot_of
from tapehouse.log.port import Extent, Log

HISTORY_FRAMES_MAX = 1_000_000  # that are read for one answer
HISTORY_VERSIONS_MAX = 10_000
_NOTHING = Entry(op=Op.BARRIER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """What a key was set to.

    Attributes:
        value: None where it was deleted.
        revision: 0 where it was deleted.
        expiry: UTC ns, 0 for none.
        time: The machine's, UTC ns, when it was set.
        sequence: Of the frame that did it.
    """

    value: bytes | None
    revision: int
    expiry: int
    time: int
    sequence: int


class _Remembering(ReferenceView):
    """The machine, which takes note of what one key is set to."""

    def __init__(self, key: bytes) -> None:
        super().__init__()
        self._key, self._slot = key, slot_of(key)
        self._steps: list[Stored | None] = []

    def _set(self, key: bytes, row: Stored | None) -> None:
        if slot_of(key) != self._slot:  # Copied with it; counted, and of no use here.
            return
        super()._set(key, row)
        if key == self._key:
            self._steps.append(row)

    def take_steps(self) -> list[Stored | None]:
        """What the key was set to since the last call; what expired as it was set was there and is gone."""
        steps, self._steps = self._steps, []
        if steps and steps[-1] is not None and self.get(self._key) is None:
            steps.append(None)
        return steps


async def read_history(
    log: Log, extent: Extent, key: bytes, *, through: int, limit: int = 100, frames_max: int = HISTORY_FRAMES_MAX
) -> list[Version]:
    """The last `limit` versions of a key, oldest first, as of the frame `through`.

    Raises:
        GapError: The log's beginning was trimmed: conditions cannot be judged without it.
        UsageError: The log has more frames than `frames_max`, or the limit is none.
    """
    if not 0 < limit <= HISTORY_VERSIONS_MAX:
        raise UsageError(f"{limit} versions", hint=f"1 to {HISTORY_VERSIONS_MAX}")
    if extent.first != 1:
        raise GapError(
            f"the log begins at sequence {extent.first}", subject=log.name,
            hint="what was trimmed is in the segments of a backup",
        )  # fmt: skip
    if through > frames_max:
        raise UsageError(f"{through} frames", subject=log.name, hint=f"a history reads {frames_max} at most")
    found: deque[Version] = deque(maxlen=limit)
    machine, slot = _Remembering(key), slot_of(key)
    async for message in log.read(1, through=through):
        header, body = open_entry_frame(message.payload)
        if header.log_id != extent.log_id_at(message.sequence):
            continue
        entries = of_slot(read_entries(bytes(body), header.count), slot)
        machine.apply(
            entries, writer=header.writer, number=header.first_ordinal, time=header.first_time,
            sequence=message.sequence,
        )  # fmt: skip
        found += [_version(row, machine.now, message.sequence) for row in machine.take_steps()]
    return list(found)


def of_slot(entries: list[Entry], slot: int) -> list[Entry]:
    """A frame's entries where those of other slots do nothing; each stays at its place, and a batch stays whole.

    What moves slots stays: whether a move is applied hangs on all of its rows.
    """
    kept: list[Entry] = []
    while len(kept) < len(entries):
        entry = entries[len(kept)]
        together = 1 + (batch_count(entry) if entry.op is Op.BATCH else 0)
        group = entries[len(kept) : len(kept) + together]
        is_ours = entry.op >= Op.OWN or any(each.op in KEYED and slot_of(each.key) == slot for each in group)
        kept += group if is_ours else [_NOTHING] * len(group)
    return kept


def _version(row: Stored | None, time: int, sequence: int) -> Version:
    if row is None:
        return Version(value=None, revision=0, expiry=0, time=time, sequence=sequence)
    return Version(value=row.value, revision=row.revision, expiry=row.expiry, time=time, sequence=sequence)
