"""A venue's book as its own text: what a feed server answers snapshots from, at any moment of what it plays."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from zlib import crc32

from tapehouse.core.errors import DecodeError

CHECKSUM_LEVELS = 25
LEVELS_MAX = 50_000  # a side
Row = list[str]  # price, size, and what else the venue says of a level


class ServedBook:
    """Levels by price, each as the row of strings in which the venue last told it."""

    def __init__(self) -> None:
        self.known = False  # a snapshot was played
        self._sides: tuple[dict[Decimal, Row], dict[Decimal, Row]] = ({}, {})

    def clear(self) -> None:
        """Forget every level; the next ones are a whole book."""
        self._sides = ({}, {})
        self.known = True

    def apply(self, bids: Iterable[Row], asks: Iterable[Row]) -> None:
        """Take changed levels; a size of zero takes its level away.

        Raises:
            DecodeError: A row is no price and size, or the book has too many levels.
        """
        for side, rows in zip(self._sides, (bids, asks), strict=True):
            for row in rows:
                try:
                    price, size = Decimal(row[0]), Decimal(row[1])
                except (InvalidOperation, IndexError, TypeError, ValueError) as error:
                    raise DecodeError(f"no level: {str(row)[:80]}") from error
                if size:
                    side[price] = row
                else:
                    side.pop(price, None)
            if len(side) > LEVELS_MAX:
                raise DecodeError(f"a book of more than {LEVELS_MAX} levels a side")

    def rows(self, levels: int | None = None) -> tuple[list[Row], list[Row]]:
        """Bids and asks, best first, at most so many a side."""
        bids, asks = self._sides
        return (
            [bids[price] for price in sorted(bids, reverse=True)[:levels]],
            [asks[price] for price in sorted(asks)[:levels]],
        )

    def checksum(self) -> int:
        """Signed CRC32 of the best 25 levels of both sides, `price:size` of bid and ask in turn."""
        bids, asks = self.rows(CHECKSUM_LEVELS)
        parts = []
        for at in range(CHECKSUM_LEVELS):
            for rows in (bids, asks):
                if at < len(rows):
                    parts.append(f"{rows[at][0]}:{rows[at][1]}")
        found = crc32(":".join(parts).encode())
        return found - 2**32 if found >= 2**31 else found
