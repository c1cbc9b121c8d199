"""What a trade record says: whether it is one, and who was the aggressor.

The side is the venue's where the record has it. Where it has none, the quote rule decides by the mid that stood before
the trade, and where there is no mid or the trade is at it, the tick rule by the last price that differed (Lee and
Ready 1991; with the quotes that stood at the trade, not those of five seconds before, because tapes are ordered).
"""

from __future__ import annotations

from tapehouse.book.layout import PRICE_MAX, SIZE_MAX
from tapehouse.core.kernel import Int, kernel
from tapehouse.core.units import UNDEFINED
from tapehouse.market import Action, Kind, Side

BUY, SELL, UNSIGNED = 1, -1, 0
_MBO, _MBP, _TRADE, _TRADED = int(Kind.MBO), int(Kind.MBP), int(Kind.TRADE), int(Action.TRADE)
_BID, _ASK = int(Side.BID), int(Side.ASK)


@kernel(inline=True)
def is_trade(kind: Int, action: Int) -> Int:
    """Whether a record is a trade that a venue printed. The fill of a resting order is the other half of one."""
    return kind == _TRADE or ((kind == _MBO or kind == _MBP) and action == _TRADED)


@kernel(inline=True)
def counts_as_trade(price: Int, size: Int) -> Int:
    """Whether a trade's price and size are such as can be: a price that a book takes, a size above 0."""
    return -PRICE_MAX <= price <= PRICE_MAX and 0 < size <= SIZE_MAX


@kernel(inline=True)
def tick_of(price: Int, last_price: Int, last_tick: Int) -> Int:
    """Which way the price went last: BUY up, SELL down, and where it is as before, what it was then.

    Args:
        last_price: Of the trade before; UNDEFINED where there was none.
    """
    if last_price == UNDEFINED or price == last_price:
        return last_tick
    return BUY if price > last_price else SELL


@kernel(inline=True)
def trade_sign(letter: Int, price: Int, twice_mid: Int, tick: Int) -> Int:
    """BUY, SELL, or UNSIGNED where nothing tells.

    Args:
        letter: The record's side.
        twice_mid: Before the trade; UNDEFINED where there was none.
        tick: As `tick_of` says of this trade.
    """
    if letter == _BID:
        return BUY
    if letter == _ASK:
        return SELL
    if twice_mid != UNDEFINED and 2 * price != twice_mid:
        return BUY if 2 * price > twice_mid else SELL
    return tick
