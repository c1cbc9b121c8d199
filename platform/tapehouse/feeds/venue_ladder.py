"""One instrument's book inside a venue's session: enough to say what is best, and what the venue's checksum is of."""

from __future__ import annotations

from bisect import bisect_left, insort
from zlib import crc32

from tapehouse.feeds.venue_numbers import PRICE, PRICE_BEGIN, PRICE_END, SIZE, SIZE_BEGIN, SIZE_END, WORD, Rows
from tapehouse.market import Action

CHECKSUM_LEVELS = 25
_DEPTH_MAX = 255  # one byte of a cell
_ADD, _CANCEL, _MODIFY = int(Action.ADD), int(Action.CANCEL), int(Action.MODIFY)
_NEW, _CHANGE, _DELETE = ord("n"), ord("c"), ord("d")


class Ladder:
    """One side.

    Attributes:
        keys: Sorted best first: prices of asks, negated ones of bids.
        sizes: By key.
        texts: By key, price and size as the venue wrote them, where that was asked for.
    """

    def __init__(self, sign: int) -> None:
        self._sign = sign
        self.keys: list[int] = []
        self.sizes: dict[int, int] = {}
        self.texts: dict[int, bytes] = {}

    @property
    def best(self) -> int | None:
        """The best price, where there is one."""
        return self._sign * self.keys[0] if self.keys else None

    def clear(self) -> None:
        """Forget all levels."""
        self.keys.clear()
        self.sizes.clear()
        self.texts.clear()

    def change(self, rows: Rows, text: bytes, *, named: bool) -> tuple[list[int], bool]:
        """Set the levels of one message.

        Args:
            text: What the rows point into; empty where no checksum will be asked for.
            named: Whether what the venue calls a change must be one.

        Returns:
            For each row, action and depth (0 the best, 255 that or deeper) as a cell's bytes 56 and 59 have them in a
            word; and whether every named change was possible.
        """
        tails: list[int] = []
        possible = True
        sign, keys, sizes = self._sign, self.keys, self.sizes
        for row in rows.tolist():
            key, size = sign * row[PRICE], row[SIZE]
            known = key in sizes
            word = row[WORD]
            if named and (known == (word == _NEW) or (size == 0) != (word == _DELETE)):
                possible = False
            if size:
                action = _MODIFY
                if not known:
                    insort(keys, key)
                    action = _ADD
                at = bisect_left(keys, key)
                sizes[key] = size
                if text:
                    self.texts[key] = b"%b:%b" % (
                        text[row[PRICE_BEGIN] : row[PRICE_END]],
                        text[row[SIZE_BEGIN] : row[SIZE_END]],
                    )
            else:
                action = _CANCEL
                at = bisect_left(keys, key)
                if known:
                    del keys[at], sizes[key]
                    self.texts.pop(key, None)
            tails.append(action | min(at, _DEPTH_MAX) << 24)
        return tails, possible


class VenueBook:
    """Both sides."""

    def __init__(self) -> None:
        self.bids = Ladder(-1)
        self.asks = Ladder(1)

    def clear(self) -> None:
        """Forget all levels."""
        self.bids.clear()
        self.asks.clear()

    @property
    def levels(self) -> int:
        """Of the longer side."""
        return max(len(self.bids.keys), len(self.asks.keys))

    @property
    def crossed(self) -> bool:
        """Whether the best bid is at or above the best ask."""
        bid, ask = self.bids.best, self.asks.best
        return bid is not None and ask is not None and bid >= ask

    def checksum(self) -> int:
        """The signed CRC-32 of the best 25 levels, `bid:size:ask:size:...`, each as the venue wrote it.

        Source: the public API documentation of OKX and Bitget.
        """
        bids, asks = self.bids, self.asks
        parts: list[bytes] = []
        for at in range(CHECKSUM_LEVELS):
            for side in (bids, asks):
                if at < len(side.keys):
                    parts.append(side.texts[side.keys[at]])
        value = crc32(b":".join(parts))
        return value - (1 << 32) if value >> 31 else value
