"""`append_one`: a built-in function of CPython whose body is machine code that Numba made, so no C compiler is needed.

CPython calls such a function with a C array of its arguments. The body turns each into an int64 by CPython's own
functions, appends by the ring's kernels, and returns True or False; a wrong argument raises as in any built-in
function. It is compiled once and cached like every kernel; the ring's address reaches it through the function's `self`,
an array of one word that is set to 0 when the ring is closed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import cfunc, types
from numba.core import cgutils
from numba.extending import intrinsic as _intrinsic

from tapehouse.core.atomics import load
from tapehouse.core.kernel import Int, cached_with
from tapehouse.ring.kernels import OK, append_cell, append_cell_or_drop
from tapehouse.ring.layout import POLICY, Policy
from tapehouse.ring.mapping import Mapping

ARGUMENTS = 8
_METH_FASTCALL = 0x0080
# A NumPy array's data pointer is the first field behind the object's head.
_DATA_AT = object.__basicsize__
_DROP = int(Policy.DROP)
_ERROR = 0  # NULL: an exception is set
intrinsic: Any = _intrinsic  # A type checker would hold a kernel's calls against the emitting function's parameters.
_WORD = ir.IntType(64)
_POINTER = ir.IntType(8).as_pointer()


def _call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    declare: Any = cgutils.get_or_insert_function
    call = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(declare(builder.module, call, name), arguments)


def _reader(name: str) -> Any:
    """An intrinsic that turns a Python integer, given by its address, into a word; -1 may say that it raised."""

    @intrinsic
    def read(typing_context: Any, thing: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return _call(builder, name, _WORD, builder.inttoptr(arguments[0], _POINTER))

        return types.int64(types.int64), emit

    return read


_signed = _reader("PyLong_AsLongLong")
_unsigned = _reader("PyLong_AsUnsignedLongLong")


@intrinsic
def _raised(typing_context: Any) -> Any:
    """Whether an exception is set."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ptrtoint(_call(builder, "PyErr_Occurred", _POINTER), _WORD)

    return types.int64(), emit


@intrinsic
def _boolean(typing_context: Any, value: Any) -> Any:
    """A new reference to True or False."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ptrtoint(_call(builder, "PyBool_FromLong", _POINTER, arguments[0]), _WORD)

    return types.int64(types.int64), emit


def _raiser(exception: str, message: str) -> Any:
    """An intrinsic that sets an exception and returns NULL."""

    @intrinsic
    def fail(typing_context: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            context.get_python_api(builder).err_set_string(exception, message)
            return _WORD(_ERROR)

        return types.int64(), emit

    return fail


_wrong_count = _raiser("PyExc_TypeError", f"append_one() takes exactly {ARGUMENTS} arguments")
_closed = _raiser("PyExc_ValueError", "append_one() of a ring that is closed")
_no_record = _raiser("PyExc_ValueError", "append_one() appends records of one cell: byte 55, `cells`, must be 1")


def _body(self_address: Int, arguments: Int, count: Int) -> Int:
    """What CPython calls: addresses of `self` and of the argument vector, and the vector's length."""
    if count != ARGUMENTS:
        return _wrong_count()
    w0 = _signed(load(arguments))
    if w0 == -1 and _raised():
        return _ERROR
    w1 = _signed(load(arguments + 8))
    if w1 == -1 and _raised():
        return _ERROR
    w2 = _unsigned(load(arguments + 16))
    if w2 == -1 and _raised():
        return _ERROR
    w3 = _unsigned(load(arguments + 24))
    if w3 == -1 and _raised():
        return _ERROR
    w4 = _signed(load(arguments + 32))
    if w4 == -1 and _raised():
        return _ERROR
    w5 = _signed(load(arguments + 40))
    if w5 == -1 and _raised():
        return _ERROR
    w6 = _unsigned(load(arguments + 48))
    if w6 == -1 and _raised():
        return _ERROR
    w7 = _unsigned(load(arguments + 56))
    if w7 == -1 and _raised():
        return _ERROR
    ring = load(load(self_address + _DATA_AT))  # Only now: an argument's own code may have closed the ring.
    if ring == 0:
        return _closed()
    if (w6 >> 56) & 0xFF != 1:
        return _no_record()
    if load(ring + POLICY) == _DROP:
        return _boolean(append_cell_or_drop(ring, w0, w1, w2, w3, w4, w5, w6, w7) == OK)
    return _boolean(append_cell(ring, w0, w1, w2, w3, w4, w5, w6, w7) == OK)


class _MethodDef(ctypes.Structure):
    """CPython's PyMethodDef."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("method", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    ]


@cache
def _method() -> tuple[_MethodDef, Any]:
    """The definition that all rings share, with what keeps its machine code."""
    with cached_with(_body):
        code: Any = cfunc(types.int64(types.int64, types.int64, types.int64), cache=True, error_model="numpy")(_body)
    doc = b"append_one(ts_event, ts_recv, sequence, order_id, price, size, small, packed) -> bool"
    return _MethodDef(b"append_one", code.address, _METH_FASTCALL, doc), code


class Gate:
    """One ring's `append_one`, which raises once the gate is closed."""

    __slots__ = ("_ring", "append_one")

    def __init__(self, mapping: Mapping) -> None:
        word: Any = (ctypes.c_int64 * 1)(mapping.address)
        word.keeper = mapping.keeper  # The function keeps the array, that this word, and it the mapped memory.
        self._ring = np.frombuffer(word, np.int64)
        definition, _ = _method()
        make = ctypes.pythonapi.PyCFunction_NewEx
        make.restype = ctypes.py_object
        make.argtypes = [ctypes.c_void_p, ctypes.py_object, ctypes.py_object]
        function: Callable[[int, int, int, int, int, int, int, int], bool] = make(
            ctypes.addressof(definition), self._ring, __name__
        )
        self.append_one = function

    def close(self) -> None:
        """Cut the function off from the ring."""
        self._ring[0] = 0
