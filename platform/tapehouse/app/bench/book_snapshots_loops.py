"""The compiled loops of the benchmark of book snapshots."""

from __future__ import annotations

from tapehouse.book import apply
from tapehouse.book.history import append_look, row_at
from tapehouse.core.kernel import Array, Int, State, kernel


@kernel()
def replay_keeping(history: State, books: State, words: Array, end: Int) -> Int:
    """Apply the rows before `end` and keep the book after each; return how many were kept.

    Engine time is the running maximum of `ts_recv`.
    """
    now, count = words[0, 1], 0
    for row in range(end):
        apply(books, 0, words, row)
        now = max(now, words[row, 1])
        count += append_look(history, books, 0, now, row)
    return count


@kernel()
def find_all(history: State, times: Array) -> Int:
    """Look up every time; return the sum of the rows found."""
    found = 0
    for at in range(times.shape[0]):
        found += row_at(history, times[at])
    return found
