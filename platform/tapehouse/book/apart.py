"""`stay_apart()`: how a kernel says that it is rare, and must not be inlined into the frequent one that calls it.

LLVM inlines whatever is called from one place, however large. A book's rare ways (a far level, a cleared book) are
several times the size of its frequent ones: with them inlined, the registers and the cache of instructions are spent on
them, and a change of a level takes up to twice as long.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic


def _stay_apart(typing_context: Any) -> Any:
    """Mark the function that calls this as rare; no code comes of it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.function.attributes.add("noinline")
        builder.function.attributes.add("cold")
        return context.get_dummy_value()

    return types.void(), generate


stay_apart: Any = intrinsic(_stay_apart)
