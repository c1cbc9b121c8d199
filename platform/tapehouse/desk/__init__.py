"""Commands, events, risk, orders, positions and profit, the paper exchange."""

from tapehouse.desk.kernels import (
    LADDER,
    cancel_order,
    cancel_side,
    crosses,
    emit_order,
    on_liquidity,
    on_trade,
    shrink_level,
    shrink_queues,
    submit,
)
from tapehouse.desk.money import POWERS
from tapehouse.desk.requests import BUY, GTC, IOC, OK, POST_ONLY, REASONS, SELL, UNKNOWN_ORDER
from tapehouse.desk.state import Desk, define_instrument, make_desk, order_pool, revise_instrument

__all__ = [
    "BUY",
    "GTC",
    "IOC",
    "LADDER",
    "OK",
    "POST_ONLY",
    "POWERS",
    "REASONS",
    "SELL",
    "UNKNOWN_ORDER",
    "Desk",
    "cancel_order",
    "cancel_side",
    "crosses",
    "define_instrument",
    "emit_order",
    "make_desk",
    "on_liquidity",
    "on_trade",
    "order_pool",
    "revise_instrument",
    "shrink_level",
    "shrink_queues",
    "submit",
]
