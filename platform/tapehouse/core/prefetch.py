"""Telling the CPU which memory a kernel will read soon, so that it is there by then; it changes nothing else."""

from __future__ import annotations

from typing import Any

import numba.core.cgutils
import numba.extending
from llvmlite import ir
from numba import types

intrinsic: Any = numba.extending.intrinsic  # these two have no types
cgutils: Any = numba.core.cgutils
_INT = ir.IntType(32)
_READ, _KEEP, _DATA = _INT(0), _INT(3), _INT(1)


def _fetch(context: Any, builder: Any, kind: Any, array: Any, indices: Any) -> Any:
    struct = context.make_array(kind)(context, builder, array)
    place = cgutils.get_item_pointer(context, builder, kind, struct, indices)
    pointer = ir.IntType(8).as_pointer()
    call = ir.FunctionType(ir.VoidType(), [pointer, _INT, _INT, _INT])
    fetch = cgutils.get_or_insert_function(builder.module, call, "llvm.prefetch.p0")
    builder.call(fetch, [builder.bitcast(place, pointer), _READ, _KEEP, _DATA])
    return context.get_dummy_value()


def _prefetch(typing_context: Any, array: Any, row: Any) -> Any:
    """Fetch the cache line in which a row of a two-dimensional array begins; `row` must be one of its rows."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, row = arguments
        return _fetch(context, builder, signature.args[0], array, [row, row.type(0)])

    return types.void(array, types.int64), generate


def _prefetch_row(typing_context: Any, array: Any, first: Any, second: Any) -> Any:
    """As `prefetch`, for the row `[first, second]` of a three-dimensional array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, first, second = arguments
        return _fetch(context, builder, signature.args[0], array, [first, second, first.type(0)])

    return types.void(array, types.int64, types.int64), generate


prefetch: Any = intrinsic(_prefetch)
prefetch_row: Any = intrinsic(_prefetch_row)
