"""`refer(state)`: hand a named tuple of arrays on to other kernels as one pointer.

A kernel that is not inlined takes a named tuple apart: each array is five to eleven words, pushed for every call, and
the engine's state is some 450 words, 150 ns. What `refer` returns reads the same, attribute by attribute, and is one
word. The arrays' addresses and shapes are loaded where they are used, and since they never change, only once.
"""

from __future__ import annotations

from typing import Any

import numba.core.cgutils
import numba.core.imputils
import numba.extending
from llvmlite import ir
from numba import types
from numba.core.typing.templates import AttributeTemplate, infer_getattr

intrinsic: Any = numba.extending.intrinsic  # these have no types
cgutils: Any = numba.core.cgutils
imputils: Any = numba.core.imputils
models: Any = numba.extending.models
_INDEX: Any = ir.IntType(32)


class Reference(types.Type):
    """A pointer to a named tuple that lives as long as the call of the kernel that referred to it."""

    def __init__(self, pointee: Any) -> None:
        self.pointee = pointee
        super().__init__(name=f"Reference({pointee})")


@numba.extending.register_model(Reference)
class ReferenceModel(models.PrimitiveModel):
    """One pointer to the tuple as a value lies in memory."""

    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, manager.lookup(kind.pointee).get_value_type().as_pointer())


@infer_getattr
class ReferenceAttributes(AttributeTemplate):
    """The fields of the tuple: arrays as they are, tuples within it as references."""

    key = Reference

    def generic_resolve(self, kind: Any, name: str) -> Any:  # type: ignore[override]
        """The type of a field, None where there is none of the name."""
        if name not in kind.pointee.fields:
            return None
        field = kind.pointee.types[kind.pointee.fields.index(name)]
        return Reference(field) if isinstance(field, types.BaseNamedTuple) else field


def _load(builder: Any, place: Any, kind: Any) -> Any:
    """Load a value leaf by leaf, as what never changes."""
    if not isinstance(kind, (ir.LiteralStructType, ir.ArrayType)):
        value = builder.load(place)
        value.set_metadata("invariant.load", builder.module.add_metadata([]))
        return value
    whole = ir.Constant(kind, ir.Undefined)
    for at in range(len(kind)):
        leaf = _load(builder, cgutils.gep_inbounds(builder, place, 0, at), kind.gep(_INDEX(at)))
        whole = builder.insert_value(whole, leaf, at)
    return whole


def _store(builder: Any, value: Any, place: Any) -> None:
    """Store a value leaf by leaf."""
    if not isinstance(value.type, (ir.LiteralStructType, ir.ArrayType)):
        builder.store(value, place)
        return
    for at in range(len(value.type)):
        _store(builder, builder.extract_value(value, at), cgutils.gep_inbounds(builder, place, 0, at))


@imputils.lower_getattr_generic(Reference)
def _read_field(context: Any, builder: Any, kind: Any, value: Any, name: str) -> Any:
    at = kind.pointee.fields.index(name)
    place = cgutils.gep_inbounds(builder, value, 0, at)
    field = kind.pointee.types[at]
    if isinstance(field, types.BaseNamedTuple):
        return place
    return _load(builder, place, context.get_value_type(field))


def _refer(typing_context: Any, state: Any) -> Any:
    """Refer to a named tuple; a reference is itself.

    What takes it must begin with `never_inline`: fields are read as what was there before the kernel began.
    """
    if isinstance(state, Reference):
        return state(state), lambda context, builder, signature, arguments: arguments[0]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = cgutils.alloca_once(builder, context.get_value_type(state))
        _store(builder, arguments[0], place)
        return place

    return Reference(state)(state), generate


def _never_inline(typing_context: Any) -> Any:
    """Mark the function that calls this as one that stays a function; no code comes of it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), generate


refer: Any = intrinsic(_refer)
never_inline: Any = intrinsic(_never_inline)
