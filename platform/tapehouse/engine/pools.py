"""The pools of an engine, for metrics and reports."""

from __future__ import annotations

from tapehouse.book import order_pool as book_orders
from tapehouse.core.pools import Pool
from tapehouse.desk import order_pool as desk_orders
from tapehouse.engine.machine import Engine
from tapehouse.pricing import option_pool


def pools_of(engine: Engine) -> list[Pool]:
    """Orders in the books, our own orders, options of the chain, as they are now.

    The rows in which decisions are written are no pool: every call begins at the first one again.
    """
    return [book_orders(engine.books), desk_orders(engine.desk), option_pool(engine.chain)]
