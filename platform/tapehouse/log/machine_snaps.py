"""States of machines along a log in SNAPS: where they are, their bytes, and reading them back, whole or refused.

A state is a snapshot of a machine (docs/formats/snapshot.md) at the end of a frame of its log. It is compressed, cut
into parts that messages hold, and each part is stored once under a subject that says everything that is needed to find
it: docs/formats/machine-snapshot.md. The message says the same again under its checksum.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import xxhash
import zstandard

from tapehouse.core.errors import DataError, DecodeError, IntegrityError
from tapehouse.core.ids import LOG_ID_BYTES, check_name
from tapehouse.log.host import Progress, Snapshot
from tapehouse.log.port import Extent
from tapehouse.log.snaps import Snaps

MAGIC = b"THMS"
FORMAT = 1
PART_BYTES = 512 * 1024  # of a state as it is stored, in one message
PARTS_MAX = 16
PLAIN_BYTES_MAX = 64 * 1024 * 1024  # what a decoder will ever allocate for one state
NAME_BYTES = 16
_HEADER = struct.Struct("<4sHBB16sqQQQQ")
HEADER_BYTES = _HEADER.size
_CHECKSUM_AT = HEADER_BYTES - 8
_ZSTD_LEVEL = 1
_HINT = "it is damaged: the one before it is used, or the log from its start"
_PREFIX = "snap.v1"
_TOKENS = 12


class StateTooLargeError(DataError):
    """A state that is longer than PARTS_MAX messages, or than PLAIN_BYTES_MAX: it is not kept."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class StatePlace:
    """The end of a frame.

    Args:
        ordinal: Of the first cell after it.
        sequence: Of the frame.
        time: Engine time, UTC ns: the largest `ts_recv` up to here.
        reached: The last cell of TAPE that counts in the state. In TAPE that is `ordinal` - 1, in EVENTS the input
            ordinal of the last record.
        log_id: Of the branch that the frame belongs to.
    """

    ordinal: int
    sequence: int
    time: int
    reached: int
    log_id: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredState:
    """One state as it is kept."""

    machine: str
    time: int
    reached: int
    snapshot: Snapshot

    @property
    def place(self) -> StatePlace:
        """Where it was taken."""
        progress = self.snapshot.progress
        return StatePlace(
            ordinal=progress.next_ordinal, sequence=progress.sequence, time=self.time, reached=self.reached,
            log_id=progress.log_id,
        )  # fmt: skip


def encode_state(stored: StoredState) -> list[bytes]:
    """The messages that hold a state.

    Raises:
        StateTooLargeError: There would be too many, or the state is longer than a reader takes.
    """
    name = stored.machine.encode()
    if not 0 < len(name) <= NAME_BYTES:
        raise DataError(f"a machine's name has 1 to {NAME_BYTES} bytes", subject=stored.machine)
    plain = stored.snapshot.encode()
    packed = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_content_size=True).compress(plain)
    parts = [packed[at : at + PART_BYTES] for at in range(0, len(packed), PART_BYTES)]
    if len(parts) > PARTS_MAX or len(plain) > PLAIN_BYTES_MAX:
        raise StateTooLargeError(
            f"a state of {len(plain)} bytes, {len(packed)} compressed", subject=stored.machine,
            hint=f"at most {PLAIN_BYTES_MAX} and {PARTS_MAX * PART_BYTES} are kept",
        )  # fmt: skip
    messages = []
    for number, part in enumerate(parts):
        head = _HEADER.pack(
            MAGIC, FORMAT, len(parts), number, name, stored.time, stored.reached, len(plain), len(packed), 0
        )[:_CHECKSUM_AT]
        messages.append(head + xxhash.xxh3_64_intdigest(head + part).to_bytes(8, "little") + part)
    return messages


def decode_state(messages: Sequence[bytes]) -> StoredState:
    """The state that these messages hold, all of them in their order.

    Raises:
        DecodeError, IntegrityError: They are torn, damaged, of an unknown version, or not the parts of one state.
    """
    if not messages or len(messages) > PARTS_MAX:
        raise DecodeError(f"a state of {len(messages)} parts", hint=_HINT)
    fields = [_read_header(message, number, len(messages)) for number, message in enumerate(messages)]
    name, time, reached, plain_bytes, packed_bytes = fields[0][4:9]
    if any(one[4:9] != fields[0][4:9] for one in fields):
        raise DecodeError("a part belongs to another state", hint=_HINT)
    packed = b"".join(message[HEADER_BYTES:] for message in messages)
    if len(packed) != packed_bytes or plain_bytes > PLAIN_BYTES_MAX:
        raise DecodeError(f"a state of {len(packed)} stored bytes, not {packed_bytes}", hint=_HINT)
    try:
        if zstandard.frame_content_size(packed) != plain_bytes:
            raise DecodeError("a state claims another length than its header", hint=_HINT)
        plain = zstandard.ZstdDecompressor().decompress(packed, max_output_size=plain_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise DecodeError(f"a state does not decompress: {error}", hint=_HINT) from error
    try:
        machine = name.rstrip(b"\0").decode()
    except UnicodeDecodeError as error:
        raise DecodeError("a state's name is no text", hint=_HINT) from error
    return StoredState(machine=machine, time=time, reached=reached, snapshot=Snapshot.decode(plain))


def _read_header(message: bytes, number: int, parts: int) -> tuple[Any, ...]:
    """The fields of one part's header, its checksum verified over all of it."""
    if len(message) < HEADER_BYTES:
        raise DecodeError(f"a state of {len(message)} bytes is shorter than its header", position="byte 0")
    fields = _HEADER.unpack_from(message)
    if fields[0] != MAGIC:
        raise DecodeError(f"no state of a machine: magic {fields[0]!r} instead of {MAGIC!r}", position="byte 0")
    if fields[1] != FORMAT:
        raise DecodeError(f"version {fields[1]} is unknown", position="byte 4", hint="a newer tapehouse wrote it")
    sealed = xxhash.xxh3_64(message[:_CHECKSUM_AT])
    sealed.update(memoryview(message)[HEADER_BYTES:])
    if sealed.intdigest() != fields[9]:
        raise DecodeError("a state's checksum disagrees", position=f"byte {_CHECKSUM_AT}", hint=_HINT)
    if fields[2:4] != (parts, number):
        raise DecodeError(f"part {fields[3]} of {fields[2]}, not {number} of {parts}", position="byte 6", hint=_HINT)
    return fields


class MachineSnaps:
    """The states of one machine along one log.

    Args:
        tape: The name of the tape whose desk the machine belongs to.
        extent: Of the log, now: states of other branches are left out.
    """

    def __init__(self, snaps: Snaps, tape: str, machine: str, version: int, extent: Extent) -> None:
        self._snaps = snaps
        self._machine = check_name(machine, "machine")
        self._version = version
        self._extent = extent
        self._root = f"{_PREFIX}.{machine}.{version}.{check_name(tape, 'tape')}"

    async def places(self) -> list[StatePlace]:
        """Where there are whole states from which on the log can be read, in its order."""
        return sorted(
            {place for place, _ in _whole(await self._snaps.subjects(f"{self._root}.>")) if self._fits(place)}
        )

    def _fits(self, place: StatePlace) -> bool:
        first, last = self._extent.first, self._extent.last
        return first - 1 <= place.sequence <= last and place.log_id == self._extent.log_id_at(place.sequence)

    async def load(self, place: StatePlace) -> Snapshot:
        """One state.

        Raises:
            DecodeError, IntegrityError: It is damaged, not all there, or says something else than its subject.
        """
        for _, parts in _whole(await self._snaps.subjects(f"{self._subject(place)}.*.*")):
            messages = [await self._snaps.load(part) for part in parts]
            stored = decode_state([message for message in messages if message is not None])
            version = stored.snapshot.machine_version
            if (stored.machine, version, stored.place) != (self._machine, self._version, place):
                raise IntegrityError("a state says something else than its subject", subject=parts[0])
            return stored.snapshot
        raise IntegrityError("a state is not there, or not all of it", subject=self._subject(place))

    async def store(self, place: StatePlace, state: bytes) -> tuple[int, int]:
        """Store a state as far as it is not there yet; returns how many messages and bytes were new.

        Raises:
            StateTooLargeError: It is too large to be kept; nothing was stored.
        """
        progress = Progress(log_id=place.log_id, sequence=place.sequence, next_ordinal=place.ordinal)
        snapshot = Snapshot(progress=progress, machine_version=self._version, state=state)
        messages = encode_state(
            StoredState(machine=self._machine, time=place.time, reached=place.reached, snapshot=snapshot)
        )
        root = self._subject(place)
        fresh, size = 0, 0
        for part, message in enumerate(messages):
            if await self._snaps.store(f"{root}.{len(messages)}.{part}", message):
                fresh, size = fresh + 1, size + len(message)
        return fresh, size

    def _subject(self, place: StatePlace) -> str:
        where = f"{place.ordinal}.{place.sequence}.{place.time}.{place.reached}"
        return f"{self._root}.{place.log_id.hex()}.{where}"


def _whole(subjects: Iterable[str]) -> Iterable[tuple[StatePlace, list[str]]]:
    """Each state of which all parts are there, with their subjects in order; what is no such subject is left out."""
    found: dict[tuple[StatePlace, int], dict[int, str]] = {}
    for subject in subjects:
        read = _read_subject(subject)
        if read is not None:
            place, parts, part = read
            found.setdefault((place, parts), {})[part] = subject
    for (place, parts), there in found.items():
        if sorted(there) == list(range(parts)):
            yield place, [there[part] for part in range(parts)]


def _read_subject(subject: str) -> tuple[StatePlace, int, int] | None:
    tokens = subject.split(".")
    if len(tokens) != _TOKENS:
        return None
    try:
        ordinal, sequence, time, reached, parts, part = map(int, tokens[6:])
        log_id = bytes.fromhex(tokens[5])
    except ValueError:
        return None
    if len(log_id) != LOG_ID_BYTES or min(ordinal, sequence, reached) < 0 or not 0 < parts <= PARTS_MAX:
        return None
    return StatePlace(ordinal=ordinal, sequence=sequence, time=time, reached=reached, log_id=log_id), parts, part
