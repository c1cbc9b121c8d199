"""The desk's projections: what readers see of EVENTS, under `orders/` and `positions/`."""

from tapehouse.desk.orders_projection import OrdersProjection
from tapehouse.desk.positions_projection import PositionsProjection

__all__ = ["OrdersProjection", "PositionsProjection"]
