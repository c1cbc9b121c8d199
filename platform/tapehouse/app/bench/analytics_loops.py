"""The compiled loop that measures a book after every record; slot 0 takes them all."""

from __future__ import annotations

from tapehouse.book import apply
from tapehouse.book.measures import measure
from tapehouse.core.kernel import Array, Int, State, kernel


@kernel()
def measure_each(books: State, words: Array, levels: Int, bps: Int, exact: Array, ratios: Array) -> None:
    """Apply every record, and write every measure after it."""
    for row in range(words.shape[0]):
        apply(books, 0, words, row)
        measure(books, 0, levels, bps, exact, ratios)
