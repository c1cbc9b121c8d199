"""Order books by order and by price, in compiled kernels over plain arrays, with the slow oracle beside them.

Kernels take a `Books` whole: `apply`, `apply_cells`, `set_level`, `best_price`, `best_size`, `level_size`, `depth`.
Python reads it with `levels`, `counts`, `window`, and keeps it with `snapshot`, `restore`, `digest`.
"""

from tapehouse.book.canonical import digest, restore, snapshot
from tapehouse.book.kernels import apply, apply_cells, set_level
from tapehouse.book.layout import ASK, BID, Books, Status, counts, define, make_books, order_pool
from tapehouse.book.view import best_price, best_size, depth, level_size, levels, order_counts, window

# For callers that keep more than books.
restore_books, snapshot_books = restore, snapshot

__all__ = [
    "ASK",
    "BID",
    "Books",
    "Status",
    "apply",
    "apply_cells",
    "best_price",
    "best_size",
    "counts",
    "define",
    "depth",
    "digest",
    "level_size",
    "levels",
    "make_books",
    "order_counts",
    "order_pool",
    "restore",
    "restore_books",
    "set_level",
    "snapshot",
    "snapshot_books",
    "window",
]
