"""Fields that the messages of several venues have."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

MILLISECOND_NS = 1_000_000
Id = Annotated[int, Meta(ge=0, le=2**63 - 1)]
SignedId = Annotated[int, Meta(ge=-1, le=2**63 - 1)]  # -1: none
Millis = Annotated[int, Meta(ge=0, le=(2**63 - 1) // MILLISECOND_NS)]
Checksum = Annotated[int, Meta(ge=-(2**31), le=2**32 - 1)]
_QUOTED = ("USDT", "USDC", "FDUSD", "TUSD", "BUSD", "USD", "EUR", "TRY", "BTC", "ETH", "BNB")


def quoted_asset(symbol: str) -> str:
    """What a pair without a separator is priced in, as far as its spelling tells; else USD."""
    pair = symbol.partition("_")[0]
    return next((asset for asset in _QUOTED if pair.endswith(asset) and pair != asset), "USD")


def signed(checksum: int | None) -> int | None:
    """A CRC-32 as a signed number, however it was sent."""
    return checksum - (1 << 32) if checksum is not None and checksum >> 31 > 0 else checksum
