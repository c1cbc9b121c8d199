"""The order core: one kernel that decides on a request, whichever door it came through."""

from __future__ import annotations

from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.desk.kernels import cancel_order, submit
from tapehouse.desk.requests import (
    BAD_REQUEST,
    CANCEL,
    LIMIT,
    POST_ONLY,
    POST_ONLY_FLAG,
    REQUEST_ACCOUNT,
    REQUEST_FLAGS,
    REQUEST_KIND,
    REQUEST_NUMBER,
    REQUEST_PRICE,
    REQUEST_SIDE,
    REQUEST_SIZE,
    REQUEST_SLOT,
    REQUEST_TARGET,
    REQUEST_TIME_IN_FORCE,
    REQUEST_TYPE,
    SUBMIT,
)


@kernel()
def decide(desk: State, books: State, ladder: Array, out: Array, powers: Array, request: Array) -> Int:
    """Decide on one request; returns OK or the reason of its rejection. What became of it are records in `out`.

    Args:
        ladder: Scratch, shape (2, LADDER) int64.
        request: Shape (REQUEST_COLUMNS,): see `requests.py`.
    """
    slot, account = request[REQUEST_SLOT], request[REQUEST_ACCOUNT]
    if request[REQUEST_KIND] == CANCEL:
        return cancel_order(desk, out, slot, account, request[REQUEST_TARGET])
    if request[REQUEST_KIND] != SUBMIT or request[REQUEST_TYPE] != LIMIT:
        return BAD_REQUEST
    time_in_force = request[REQUEST_TIME_IN_FORCE]
    if request[REQUEST_FLAGS] & POST_ONLY_FLAG:
        time_in_force = POST_ONLY
    return submit(
        desk, books, ladder, out, powers, slot, account, request[REQUEST_SIDE], request[REQUEST_PRICE],
        request[REQUEST_SIZE], time_in_force, request[REQUEST_NUMBER],
    )  # fmt: skip
