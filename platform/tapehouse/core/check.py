"""Invariants that stay on in production."""

from __future__ import annotations

from tapehouse.core.errors import InvariantError


def check(condition: bool, message: str, *, subject: str = "", position: str = "") -> None:
    """Stop at a broken invariant.

    Raises:
        InvariantError: `condition` is false; this is a bug of ours, never of the input.
    """
    if not condition:
        raise InvariantError(message, subject=subject, position=position, hint="this is a bug: please report it")
