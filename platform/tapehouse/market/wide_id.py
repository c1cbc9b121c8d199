"""Ids wider than 64 bits: numbered on the tape, and defined there before use.

Some venues name orders by UUIDs. A cell has 64 bits for an order, so such an id gets a *number*: the first eight bytes
of its BLAKE3, or the next free number where a living id of the same feed has that already. A WIDE_ID record gives the
original before the number is used first. Machines skip these records, and readers get the venue's own id back from
them; a feed that starts again gives an id its old number without having to remember it.
"""

from __future__ import annotations

import uuid

from blake3 import blake3

from tapehouse.core.errors import DataError, DecodeError
from tapehouse.market.cell import OWNED_BYTES, Cells, Flag, Kind
from tapehouse.market.records import pack_payload, unpack_payload

WIDE_BYTES_MAX = OWNED_BYTES  # of an id, so that its record has two cells
LIVING_MAX = 1 << 22  # ids of one feed at a time


class WideIds:
    """The numbers of one feed's living ids."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._ids: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def find(self, wide: bytes) -> int | None:
        """The number of an id that lives; None for any other."""
        return self._numbers.get(wide)

    def number(self, wide: bytes, *, ts_recv: int, instrument: int = 0, source: int = 0) -> tuple[int, Cells | None]:
        """The number of an id, and the record that must precede its first use; None where it lives already.

        Raises:
            DataError: The id is empty or longer than 48 bytes, or LIVING_MAX ids live.
        """
        known = self._numbers.get(wide)
        if known is not None:
            return known, None
        if not 0 < len(wide) <= WIDE_BYTES_MAX:
            raise DataError(f"an id of {len(wide)} bytes", hint=f"1 to {WIDE_BYTES_MAX} bytes can be held")
        if len(self._numbers) >= LIVING_MAX:
            raise DataError(f"{LIVING_MAX} ids live at once", hint="release an id when its order ends")
        number = int.from_bytes(blake3(wide).digest(8), "little") or 1
        while number in self._ids:  # At most LIVING_MAX steps: so many ids live at most.
            number = number % (2**64 - 1) + 1
        self._numbers[wide], self._ids[number] = number, wide
        record = pack_payload(
            Kind.WIDE_ID, wide, ts_event=ts_recv, ts_recv=ts_recv, order_id=number, instrument=instrument,
            source=source, flags=Flag.SYNTHETIC,
        )  # fmt: skip
        return number, record

    def release(self, wide: bytes) -> int | None:
        """Forget an id whose order has ended; its number, None where it did not live."""
        number = self._numbers.pop(wide, None)
        if number is not None:
            del self._ids[number]
        return number


def read_wide_id(record: Cells) -> tuple[int, bytes]:
    """The number and the id that a WIDE_ID record holds.

    Raises:
        DecodeError: The record is of another kind, or is damaged.
    """
    if int(record["kind"][0]) != Kind.WIDE_ID:
        raise DecodeError(f"a record of kind {int(record['kind'][0])} defines no wide id")
    return int(record["order_id"][0]), unpack_payload(record)


def uuid_bytes(text: str) -> bytes:
    """A UUID in any of its spellings as 16 bytes; raises DecodeError for anything else."""
    try:
        return uuid.UUID(text).bytes
    except ValueError as error:
        raise DecodeError(f"{text[:48]!r} is no UUID") from error
