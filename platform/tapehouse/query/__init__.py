"""SQL over the logs of a desk: events, books, projections, as of any moment."""

from tapehouse.query.session import TABLES, QuerySession
from tapehouse.query.table import Table
from tapehouse.query.trades import read_trades

__all__ = ["TABLES", "QuerySession", "Table", "read_trades"]
