"""Memory by address, for kernels that share it with another process: plain and ordered loads and stores, and copies.

An address is an int64 count of bytes, a multiple of 8. Kernels run without Numba's reference counting, in which an
array cannot be made of an address, so everything shared is reached by these. They are intrinsics: each is one or a few
machine instructions inside the kernel that uses it, and none can be called from Python.

Who publishes stores with `store_release`, who looks stores nothing and reads with `load_acquire`: then everything that
was written before the one is seen after the other. On x86 both are plain moves; the compiler is kept in order too.

Nothing here checks an address. A wrong one ends the process, or worse.
"""

from __future__ import annotations

from typing import Any

import numba.core.cgutils
import numba.extending
from llvmlite import ir
from numba import types

from tapehouse.core.cycles import HAS_COUNTER
from tapehouse.core.kernel import Int, kernel

intrinsic: Any = numba.extending.intrinsic  # these two have no types
cgutils: Any = numba.core.cgutils
CELL_BYTES = 64
_ALIGNED = 8
_BYTE = ir.IntType(8)
_WORD = ir.IntType(64)


def _place(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, _WORD.as_pointer())


@intrinsic
def load(typing_context: Any, address: Any) -> Any:
    """The word at an address."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_place(builder, arguments[0]), align=_ALIGNED)

    return types.int64(types.int64), emit


@intrinsic
def store(typing_context: Any, address: Any, value: Any) -> Any:
    """Write the word at an address."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[1], _place(builder, arguments[0]), align=_ALIGNED)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), emit


@intrinsic
def load_acquire(typing_context: Any, address: Any) -> Any:
    """The word at an address; nothing after it in the program is read earlier."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(_place(builder, arguments[0]), "acquire", _ALIGNED)

    return types.int64(types.int64), emit


@intrinsic
def store_release(typing_context: Any, address: Any, value: Any) -> Any:
    """Write the word at an address; everything before it in the program is done by then."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store_atomic(arguments[1], _place(builder, arguments[0]), "release", _ALIGNED)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), emit


@intrinsic
def pause(typing_context: Any) -> Any:
    """Tell the CPU that this is a waiting loop; nothing where it has no such instruction."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if HAS_COUNTER:
            hint = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, hint, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic
def nap(typing_context: Any, microseconds: Any) -> Any:
    """Give the core away for at least so long, below a second; the kernel adds its timer slack of some 50 us."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        call = ir.FunctionType(ir.IntType(32), [ir.IntType(32)])
        sleep = cgutils.get_or_insert_function(builder.module, call, "usleep")
        builder.call(sleep, [builder.trunc(arguments[0], ir.IntType(32))])
        return context.get_dummy_value()

    return types.void(types.int64), emit


@intrinsic
def array_address(typing_context: Any, array: Any) -> Any:
    """Where the first element of a C-contiguous array is; the array must outlive the use of it."""
    if not isinstance(array, types.Array) or array.layout != "C":
        return None

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        made = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.ptrtoint(made.data, _WORD)

    return types.int64(array), emit


@intrinsic
def copy_cell(typing_context: Any, to_address: Any, from_address: Any) -> Any:
    """Copy one cell; the two places must not overlap."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = _BYTE.as_pointer()
        call = ir.FunctionType(ir.VoidType(), [pointer, pointer, _WORD, ir.IntType(1)])
        copy = cgutils.get_or_insert_function(builder.module, call, "llvm.memcpy.p0i8.p0i8.i64")
        places = (builder.inttoptr(address, pointer) for address in arguments)
        builder.call(copy, [*places, _WORD(CELL_BYTES), ir.Constant(ir.IntType(1), 0)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), emit


@kernel(inline=True)
def copy_cells(to_address: Int, from_address: Int, cells: Int) -> None:
    """Copy so many cells; the two places must not overlap.

    A loop of whole cells in vector registers: it was never slower than the C library's copy, and twice as fast from 64
    to 255 cells, where that one switches to string moves.
    """
    for cell in range(cells):
        at = cell * CELL_BYTES
        copy_cell(to_address + at, from_address + at)


__all__ = [
    "array_address",
    "copy_cell",
    "copy_cells",
    "load",
    "load_acquire",
    "nap",
    "pause",
    "store",
    "store_release",
]
