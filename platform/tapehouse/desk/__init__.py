"""Commands, events, risk, orders, positions and profit, the paper exchange."""

from tapehouse.desk.kernels import LADDER, crosses, on_liquidity, on_trade, shrink_level, shrink_queues
from tapehouse.desk.money import POWERS
from tapehouse.desk.orders import catch_up, decide, follow_up, refuse, submit
from tapehouse.desk.records import next_order_id
from tapehouse.desk.requests import BUY, GTC, IOC, OK, POST_ONLY, REASONS, SELL, UNKNOWN_ORDER
from tapehouse.desk.state import (
    Desk,
    define_instrument,
    make_desk,
    order_pool,
    revise_instrument,
    working_count,
    working_orders,
)
from tapehouse.desk.working import cancel_order, cancel_side, expire_due, mass_cancel

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
    "catch_up",
    "crosses",
    "decide",
    "define_instrument",
    "expire_due",
    "follow_up",
    "make_desk",
    "mass_cancel",
    "next_order_id",
    "on_liquidity",
    "on_trade",
    "order_pool",
    "refuse",
    "revise_instrument",
    "shrink_level",
    "shrink_queues",
    "submit",
    "working_count",
    "working_orders",
]
