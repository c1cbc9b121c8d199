"""Named byte sections in one canonical blob: how snapshots of several parts are put together."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from tapehouse.core.errors import IntegrityError

_COUNT = struct.Struct("<I")
_HEAD = struct.Struct("<HQ")


def pack_sections(sections: Mapping[str, bytes]) -> bytes:
    """Sections sorted by name, each as name length (u16), size (u64), name, bytes; their count (u32) first."""
    parts = [_COUNT.pack(len(sections))]
    for name, data in sorted(sections.items()):
        encoded = name.encode()
        parts += [_HEAD.pack(len(encoded), len(data)), encoded, data]
    return b"".join(parts)


def unpack_sections(blob: bytes) -> dict[str, bytes]:
    """The sections that `pack_sections` packed.

    Raises:
        IntegrityError: The blob ends early or has bytes left over.
    """
    sections: dict[str, bytes] = {}
    try:
        (count,) = _COUNT.unpack_from(blob)
        at = _COUNT.size
        for _ in range(count):
            name_bytes, size = _HEAD.unpack_from(blob, at)
            at += _HEAD.size
            name = blob[at : at + name_bytes].decode()
            at += name_bytes
            if at + size > len(blob):
                raise IntegrityError(f"section {name!r} ends early", hint="the snapshot is damaged: refold the log")
            sections[name] = blob[at : at + size]
            at += size
    except (struct.error, UnicodeDecodeError) as error:
        raise IntegrityError("a snapshot's sections are damaged", hint="refold the log") from error
    if at != len(blob):
        raise IntegrityError("a snapshot has bytes left over", hint="refold the log")
    return sections
