"""A sample market maker: quotes both sides around the mid, wider when volatile, leaning against its inventory.

The half-spread is `spread_ticks` plus what the implied at-the-money volatility says the price may move within
`horizon_ms`; the centre leans `skew_ticks` per `size` of inventory. It quotes anew when its price would change and
`interval_ms` have passed. Integers and IEEE arithmetic alone, so that any CPU decides alike.

Source: the reservation price and spread of Avellaneda and Stoikov (2008), reduced to two linear terms.
"""

from __future__ import annotations

from math import sqrt

from tapehouse.core.errors import UsageError
from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.core.units import UNDEFINED
from tapehouse.engine.strategy import (
    BUY,
    CANCEL_SIDE,
    INTENT_KIND,
    INTENT_PRICE,
    INTENT_SIDE,
    INTENT_SIZE,
    INTENT_TIME_IN_FORCE,
    NUMBER_VOLATILITY,
    POST_ONLY,
    SELL,
    SUBMIT,
    VIEW_ASK,
    VIEW_BID,
    VIEW_NOW,
    VIEW_OWN_ASK,
    VIEW_OWN_BID,
    VIEW_POSITION,
    VIEW_SLOT,
    VIEW_TICK,
    CompiledStrategy,
    strategy_kernel,
)

SIZE, SPREAD_TICKS, SKEW_TICKS, HORIZON_MS, INTERVAL_MS, POSITION_MAX = range(6)
_UNDEFINED = UNDEFINED
_YEAR_MS = 365 * 86_400_000.0


@kernel()
def _quote(intents: Array, count: Int, side: Int, own: Int, price: Int, size: Int) -> Int:
    """Replace our order on one side where its price is to change; returns the intents' new count."""
    if own == price:
        return count
    if own != _UNDEFINED:
        intents[count, INTENT_KIND] = CANCEL_SIDE
        intents[count, INTENT_SIDE] = side
        count += 1
    if price != _UNDEFINED:
        intents[count, INTENT_KIND] = SUBMIT
        intents[count, INTENT_SIDE] = side
        intents[count, INTENT_PRICE] = price
        intents[count, INTENT_SIZE] = size
        intents[count, INTENT_TIME_IN_FORCE] = POST_ONLY
        count += 1
    return count


@strategy_kernel
def on_market(view: Array, numbers: Array, parameters: Array, memory: Array, intents: Array) -> Int:
    """Decide on both quotes; `memory[slot]` is the engine time of the last change."""
    bid = view[VIEW_BID]
    ask = view[VIEW_ASK]
    if bid == _UNDEFINED or ask == _UNDEFINED or bid >= ask:
        return 0
    slot = view[VIEW_SLOT]
    now = view[VIEW_NOW]
    if now - memory[slot] < parameters[INTERVAL_MS] * 1_000_000:
        return 0
    tick = view[VIEW_TICK]
    size = parameters[SIZE]
    position = view[VIEW_POSITION]
    mid2 = bid + ask  # twice the mid, exact
    move = 0.5 * mid2 * numbers[NUMBER_VOLATILITY] * sqrt(parameters[HORIZON_MS] / _YEAR_MS)
    half = parameters[SPREAD_TICKS] * tick + int(move)
    lean = parameters[SKEW_TICKS] * tick * position // size
    own_bid = (mid2 // 2 - half - lean) // tick * tick
    own_ask = -(-(mid2 // 2 + mid2 % 2 + half - lean) // tick) * tick
    if own_bid >= ask:
        own_bid = ask - tick
    if own_ask <= bid:
        own_ask = bid + tick
    if position >= parameters[POSITION_MAX] or own_bid <= 0:
        own_bid = _UNDEFINED
    if position <= -parameters[POSITION_MAX]:
        own_ask = _UNDEFINED
    count = _quote(intents, 0, BUY, view[VIEW_OWN_BID], own_bid, size)
    count = _quote(intents, count, SELL, view[VIEW_OWN_ASK], own_ask, size)
    if count > 0:
        memory[slot] = now
    return count


def maker(
    *,
    size: int = 100,
    spread_ticks: int = 1,
    skew_ticks: int = 1,
    horizon_ms: int = 1_000,
    interval_ms: int = 250,
    position_max: int = 1_000,
) -> CompiledStrategy:
    """The market maker with its parameters: sizes in the instrument's units, times in engine milliseconds.

    Raises:
        UsageError: The size is not positive, or a distance or time is negative.
    """
    if size < 1 or min(spread_ticks, skew_ticks, horizon_ms, interval_ms, position_max) < 0:
        raise UsageError("a maker's size is at least 1, and nothing of it is negative", subject="maker")
    return CompiledStrategy(
        name="maker",
        on_market=on_market,
        parameters={
            "size": size,
            "spread_ticks": spread_ticks,
            "skew_ticks": skew_ticks,
            "horizon_ms": horizon_ms,
            "interval_ms": interval_ms,
            "position_max": position_max,
        },
    )
