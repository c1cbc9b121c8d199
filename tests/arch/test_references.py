"""What `core.reference.refer` returns is read as what never changes, so only a kernel that stays a call may read it.

Where a kernel takes references fresh from its caller, and is inlined there, a load could be moved above the store that
the reference points to. So a fresh reference goes only to a kernel that begins with `never_inline()`, or to one that
does nothing but hand it on to such a kernel.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.arch.test_imports import ROOTS

Function = ast.FunctionDef


def name_of(call: ast.Call) -> str:
    """The name that is called, without what it belongs to."""
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def is_fresh(argument: ast.expr, known: set[str]) -> bool:
    """Whether an argument is, or is taken from, what `refer` returned in the same function."""
    if isinstance(argument, ast.Call):
        return name_of(argument) == "refer"
    if isinstance(argument, (ast.Subscript, ast.Starred)):
        return is_fresh(argument.value, known)
    return isinstance(argument, ast.Name) and argument.id in known


def fresh_names(function: Function) -> set[str]:
    """Local names that are bound to fresh references, alone or in a tuple."""
    names: set[str] = set()
    for node in ast.walk(function):
        if not isinstance(node, ast.Assign) or len(node.targets) != 1:
            continue
        target, value = node.targets[0], node.value
        values = value.elts if isinstance(value, ast.Tuple) else [value]
        targets = target.elts if isinstance(target, ast.Tuple) else [target] * len(values)
        for one, what in zip(targets, values, strict=True) if len(targets) == len(values) else ():
            if isinstance(one, ast.Name) and isinstance(what, ast.Call) and name_of(what) == "refer":
                names.add(one.id)
    return names


def body_of(function: Function) -> list[ast.stmt]:
    """Its statements without a docstring."""
    return function.body[1:] if ast.get_docstring(function) else function.body


def stays(function: Function) -> bool:
    """Whether it begins with `never_inline()`."""
    first = body_of(function)[0]
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Call) and name_of(first.value) == "never_inline"


def hands_on(function: Function) -> bool:
    """Whether it reads no field of what it is given: it calls another with `refer` of it, and that is all."""
    return not any(
        isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in referred(function)
        for statement in body_of(function)
        for node in ast.walk(statement)
    ) and bool(referred(function))


def referred(function: Function) -> set[str]:
    """Parameters that it refers to."""
    return {
        call.args[0].id
        for call in ast.walk(function)
        if isinstance(call, ast.Call) and name_of(call) == "refer" and isinstance(call.args[0], ast.Name)
    }


def wrong_calls(trees: dict[str, ast.Module]) -> Iterator[str]:
    """Calls that hand a fresh reference to what might be inlined."""
    functions: dict[str, list[Function]] = {}
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                functions.setdefault(node.name, []).append(node)
    for file, tree in trees.items():
        aliases = {
            alias.asname: alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
            if alias.asname
        }
        local = {node.name: node for node in tree.body if isinstance(node, Function)}
        for function in [node for node in ast.walk(tree) if isinstance(node, Function)]:
            names = fresh_names(function)
            for call in [node for node in ast.walk(function) if isinstance(node, ast.Call)]:
                if name_of(call) == "refer" or not any(is_fresh(argument, names) for argument in call.args):
                    continue
                callee = aliases.get(name_of(call), name_of(call))
                found = [local[callee]] if callee in local else functions.get(callee, [])
                if not found or not all(stays(one) or hands_on(one) for one in found if takes_state(one)):
                    yield f"{file}:{call.lineno}: {callee} may be inlined, and is given a fresh reference"


def takes_state(function: Function) -> bool:
    """Whether any parameter of it is a named tuple of arrays: another of the same name may be no kernel at all."""
    return any(getattr(argument.annotation, "id", "") == "State" for argument in function.args.args)


def parse(texts: dict[str, str]) -> dict[str, ast.Module]:
    return {name: ast.parse(text) for name, text in texts.items()}


def test_fresh_references_go_to_kernels_that_stay_calls() -> None:
    sources = [path for root in ROOTS for path in root.rglob("*.py")]
    trees = parse({str(path): Path(path).read_text(encoding="utf-8") for path in sources})
    assert list(wrong_calls(trees)) == []
    assert any("refer" in referred_anywhere(tree) for tree in trees.values())


def referred_anywhere(tree: ast.Module) -> set[str]:
    return {name_of(node) for node in ast.walk(tree) if isinstance(node, ast.Call)}


GOOD = """
def inner(desk: State) -> Int:
    never_inline()
    return desk.counters[0]

def outer(desk: State) -> Int:
    return inner(refer(desk))
"""


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (GOOD, 0),
        (GOOD.replace("    never_inline()\n", ""), 1),
        (GOOD + "def again(desk: State) -> Int:\n    state = refer(desk), 1\n    return outer(state[0])\n", 0),
        (GOOD.replace("    never_inline()\n", "") + "def a(d: State):\n    s = refer(d)\n    return inner(s)\n", 2),
        (
            GOOD.replace("return inner(", "return desk.counters[0] + inner(")
            + "def a(d: State):\n    outer(refer(d))\n",
            1,
        ),
    ],
)
def test_what_may_be_inlined_is_found(text: str, wrong: int) -> None:
    assert len(list(wrong_calls(parse({"one.py": text})))) == wrong
