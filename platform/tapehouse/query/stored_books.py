"""The snapshots of one tape's books in SNAPS: their subjects, and reading them back, whole or refused.

A subject is the index: `snap.v1.book.<version of the book>.<tape>.<log id>.<what>.<ordinal>.<sequence>.<time>.<parts>.
<part>`, where *what* is an instrument id, `mark` or `definitions`. What the subject says is only where to look: the
message itself says it again under its checksum, and must say the same.
"""

from __future__ import annotations

from collections.abc import Iterable

from tapehouse.book.canonical import VERSION
from tapehouse.book.stored import Kind, Place, Stored, decode
from tapehouse.core.errors import DecodeError, IntegrityError
from tapehouse.core.ids import LOG_ID_BYTES, check_name
from tapehouse.log import Extent
from tapehouse.log.snaps import Snaps

MARK, DEFINITIONS = "mark", "definitions"
_PREFIX = "snap.v1.book"
_TOKENS = 12


class StoredBooks:
    """One tape's part of a store of snapshots.

    Args:
        tape: The tape's stream, such as `TAPE_main`.
        extent: Of the tape, now: snapshots of other branches are left out.
    """

    def __init__(self, snaps: Snaps, tape: str, extent: Extent) -> None:
        self._snaps = snaps
        self._extent = extent
        self._root = f"{_PREFIX}.{VERSION}.{check_name(tape.removeprefix('TAPE_'), 'tape')}"

    def is_ours(self, place: Place) -> bool:
        """Whether a place is one of this branch of the tape."""
        return place.sequence <= self._extent.last and place.log_id == self._extent.log_id_at(place.sequence)

    async def marks(self) -> list[Place]:
        """Where there are marks from which on the tape can be read, in the tape's order."""
        return [place for place in await self.places(MARK) if place.sequence >= self._extent.first]

    async def places(self, what: str | int) -> list[Place]:
        """Where there are whole snapshots of an instrument, MARK or DEFINITIONS, in the tape's order."""
        subjects = await self._snaps.subjects(f"{self._root}.*.{what}.>")
        return sorted({place for place, _ in _whole(subjects) if self.is_ours(place)})

    async def load(self, what: str | int, place: Place) -> Stored:
        """One snapshot.

        Raises:
            DecodeError, IntegrityError: It is damaged, not all there, or says another place than its subject.
        """
        pattern = f"{self._subject(what, place)}.*.*"
        for _, parts in _whole(await self._snaps.subjects(pattern)):
            messages = [await self._snaps.load(part) for part in parts]
            stored = decode([message for message in messages if message is not None])
            kind = {MARK: Kind.MARK, DEFINITIONS: Kind.DEFINITIONS}.get(str(what), Kind.BOOK)
            number = int(what) if kind is Kind.BOOK else 0
            if (stored.place, stored.kind, stored.instrument) != (place, kind, number):
                raise IntegrityError("a snapshot says another place than its subject", subject=parts[0])
            return stored
        raise IntegrityError("a snapshot is not there, or not all of it", subject=self._subject(what, place))

    async def store(self, what: str | int, place: Place, messages: list[bytes]) -> int:
        """Store what is not there yet; returns how many messages were new."""
        root = self._subject(what, place)
        stored = 0
        for part, message in enumerate(messages):
            stored += await self._snaps.store(f"{root}.{len(messages)}.{part}", message)
        return stored

    def _subject(self, what: str | int, place: Place) -> str:
        return f"{self._root}.{place.log_id.hex()}.{what}.{place.ordinal}.{place.sequence}.{place.time}"


def _whole(subjects: Iterable[str]) -> Iterable[tuple[Place, list[str]]]:
    """Each snapshot of which all parts are there, with their subjects in order; what is no such subject is left out."""
    found: dict[tuple[Place, int], dict[int, str]] = {}
    for subject in subjects:
        read = _read_subject(subject)
        if read is not None:
            place, parts, part = read
            found.setdefault((place, parts), {})[part] = subject
    for (place, parts), there in found.items():
        if len(there) == parts and sorted(there) == list(range(parts)):
            yield place, [there[part] for part in range(parts)]


def _read_subject(subject: str) -> tuple[Place, int, int] | None:
    tokens = subject.split(".")
    if len(tokens) != _TOKENS:
        return None
    try:
        ordinal, sequence, time, parts, part = map(int, tokens[7:])
        log_id = bytes.fromhex(tokens[5])
    except ValueError:
        return None
    if len(log_id) != LOG_ID_BYTES or ordinal < 0 or sequence < 0:
        return None
    return Place(ordinal=ordinal, sequence=sequence, time=time, log_id=log_id), parts, part


def refusal(what: str, place: Place, error: DecodeError | IntegrityError) -> str:
    """Why a snapshot was passed over, in one line."""
    return f"{what} at cell {place.ordinal} of sequence {place.sequence}: {error.message}"
