"""Order books by order, by price and by quote, in compiled kernels over plain arrays, with the slow oracle beside them.

Kernels take a `Books` whole: `apply`, `apply_cells` and `set_level` change it, `expect` has the CPU fetch what they
will need, `top`, `ladder`, `depth`, `best_price`, `best_size`, `level_size` and `state_of` read it. Python reads it
with `levels`, `state`, `counts`, `transitions`, `window`, and keeps it with `snapshot`, `restore`, `digest`. What a
book is worth, where market data is missing, is said with `set_confidence`, read with `confidence` and `confidences`.
"""

from tapehouse.book.canonical import digest, restore, snapshot
from tapehouse.book.kernels import AHEAD, apply, apply_cells, apply_record, expect, set_level
from tapehouse.book.layout import (
    ASK,
    BID,
    Books,
    BookState,
    Status,
    confidence,
    confidences,
    counts,
    define,
    make_books,
    order_pool,
    transitions,
)
from tapehouse.book.queues import clear
from tapehouse.book.standing import set_confidence, told_confidence
from tapehouse.book.view import (
    Top,
    best_price,
    best_size,
    depth,
    ladder,
    level_size,
    levels,
    order_counts,
    state,
    state_of,
    top,
    window,
)

# For callers that keep more than books.
restore_books, snapshot_books = restore, snapshot

__all__ = [
    "AHEAD",
    "ASK",
    "BID",
    "BookState",
    "Books",
    "Status",
    "Top",
    "apply",
    "apply_cells",
    "apply_record",
    "best_price",
    "best_size",
    "clear",
    "confidence",
    "confidences",
    "counts",
    "define",
    "depth",
    "digest",
    "expect",
    "ladder",
    "level_size",
    "levels",
    "make_books",
    "order_counts",
    "order_pool",
    "restore",
    "restore_books",
    "set_confidence",
    "set_level",
    "snapshot",
    "snapshot_books",
    "state",
    "state_of",
    "told_confidence",
    "top",
    "transitions",
    "window",
]
