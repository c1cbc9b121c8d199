"""What the machine code of compiled kernels refers to outside itself; as a program it prints that as JSON.

`python -m tests.support.object_code` decides a small day first, so that the kernels of a desk are loaded; with the
argument `control` it compiles one function that calls the C library instead.
"""

from __future__ import annotations

import asyncio
import gc
import json
import math
import struct
import sys
from typing import Any

from numba import njit
from numba.core.ccallback import CFunc
from numba.core.codegen import CodeLibrary
from numba.core.dispatcher import Dispatcher

_HEADER = struct.Struct("<16xHHIQQQIHHHHHH")  # of an ELF file of 64 bits, little-endian
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_SYMBOL_TABLE = 2


def undefined_symbols(code: bytes) -> list[str]:
    """The names that an object file needs from elsewhere, from its symbol tables."""
    if code[:6] != b"\x7fELF\x02\x01":
        raise ValueError("no ELF file of 64 bits, little-endian")
    header = _HEADER.unpack_from(code)
    start, size, count = header[5], header[10], header[11]
    sections = [_SECTION.unpack_from(code, start + size * number) for number in range(count)]
    names = set()
    for section in sections:
        if section[1] != _SYMBOL_TABLE:
            continue
        first, length, strings = section[4], section[5], sections[section[6]][4]
        for at in range(first + _SYMBOL.size, first + length, _SYMBOL.size):  # The first symbol is none.
            name, _, _, place, _, _ = _SYMBOL.unpack_from(code, at)
            if place == 0:
                begin = strings + name
                names.add(code[begin : code.index(b"\0", begin)].decode())
    return sorted(names - {""})


def loaded_libraries() -> dict[str, Any]:
    """The code library of every compiled function in this process, by a name with its module."""
    found = {}
    for thing in gc.get_objects():
        if isinstance(thing, Dispatcher):
            for number, result in enumerate(thing.overloads.values()):
                found[f"{thing.py_func.__module__}.{thing.py_func.__qualname__}#{number}"] = result.library
        elif isinstance(thing, CFunc):
            found[f"{thing._pyfunc.__module__}.{thing._pyfunc.__qualname__}"] = thing._library
    return found


def references(loaded: dict[int, bytes]) -> dict[str, list[str]]:
    """For every compiled function of this process, what it refers to outside itself.

    Args:
        loaded: The object code of libraries that came from the cache, by their id: they keep none themselves.
    """
    found = loaded_libraries()
    return {
        name: undefined_symbols(loaded.get(id(library)) or library._get_compiled_object())
        for name, library in found.items()
    }


def keep_what_is_loaded() -> dict[int, bytes]:
    """From now on, keep the object code of every library that is loaded from the cache, by its id."""
    loaded: dict[int, bytes] = {}
    take = CodeLibrary._set_compiled_object

    def kept(library: CodeLibrary, value: bytes) -> None:
        loaded[id(library)] = value
        take(library, value)

    CodeLibrary._set_compiled_object = kept
    return loaded


def main() -> None:
    if "control" in sys.argv:
        control = njit(lambda x, y: math.exp(x) + math.pow(x, y), cache=False)
        control(1.5, 2.5)
        library = control.overloads[control.signatures[0]].library
        symbols = undefined_symbols(library.codegen._tm.emit_object(library._final_module))
        print(json.dumps({"control": symbols}))
        return
    loaded = keep_what_is_loaded()
    from tests.support.golden_day import digests_of, generated  # Only now: kernels of a module are loaded with it.

    asyncio.run(digests_of(generated()))
    print(json.dumps(references(loaded)))


if __name__ == "__main__":
    main()
