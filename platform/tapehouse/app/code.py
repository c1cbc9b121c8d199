"""Which code decides: a module of its own, so that a desk in memory imports no bus for it."""

from __future__ import annotations

from tapehouse.core.kernel import source_digest


def code_hash() -> str:
    """Which code decides: the hash that EPOCH records carry."""
    return source_digest()
