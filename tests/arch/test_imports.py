"""The arrows between rooms, and what a core may not touch; read from the sources, so nothing is missed at run time.

The tables below are DESIGN.md section 6 as data. Every checker has a negative control: a small bad tree that it must
catch.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
ROOTS = tuple(PROJECT / name / "tapehouse" for name in ("platform", "replay", "strategies", "dr"))

# room: the rooms that it may import, and through them theirs.
MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "market": {"core"},
    "log": {"market"},
    "ring": {"market"},
    "book": {"market"},
    "pricing": {"market"},
    "feeds": {"log"},
    "desk": {"log", "book", "pricing"},
    "engine": {"ring", "desk"},
    "kv": {"log"},
    "bus": {"log"},
    "replay": {"engine", "feeds"},
    "strategies": {"replay"},
    "dr": {"log"},
    "query": {"desk", "kv"},
    "health": {"core"},
}
EVERYTHING = {"gateway", "client", "web", "cli", "app"}  # the outermost rooms: they may import any
ONLY_IN = {"nats": "bus"}  # a library that one room keeps to itself
NEVER = {"tests"}

# Rooms that decide: they get times, seeds and settings as values.
CORES = {"core", "market", "log", "ring", "book", "pricing", "feeds", "desk", "engine", "kv", "replay", "strategies"}
# A dotted name, or anything below it: why a core may not use it.
BANNED = {
    "time": "wall clock",
    "datetime.datetime.now": "wall clock",
    "datetime.datetime.utcnow": "wall clock",
    "datetime.datetime.today": "wall clock",
    "datetime.date.today": "wall clock",
    "tapehouse.core.clock.SystemClock": "wall clock",
    "tapehouse.core.SystemClock": "wall clock",
    "random": "randomness",
    "secrets": "randomness",
    "numpy.random": "randomness",
    "os.urandom": "randomness",
    "uuid.uuid1": "randomness",
    "uuid.uuid4": "randomness",
    "tapehouse.core.ids.new_log_id": "randomness",
    "tapehouse.core.ids.new_writer_id": "randomness",
    "os.environ": "environment",
    "os.getenv": "environment",
    "logging": "logging",
}
# file: what it may use all the same, and why.
ALLOWED: dict[str, tuple[set[str], str]] = {
    "core/clock.py": ({"wall clock"}, "the clock port's real adapter"),
    "core/__init__.py": ({"wall clock"}, "re-exports the clock adapters"),
    "core/ids.py": ({"randomness"}, "where fresh identities are made, for shells"),
    "core/kernel.py": ({"environment"}, "where machine code is cached"),
    "log/memory.py": ({"randomness"}, "a log in memory is a shell: it needs an identity"),
    "ring/place.py": ({"environment"}, "where the rings of this machine lie"),
    "ring/ring.py": ({"randomness"}, "a ring is a shell: it needs an identity"),
    "engine/guard.py": ({"wall clock", "randomness"}, "names what a strategy may not call; calls none of it"),
}


@dataclass(frozen=True, slots=True)
class Source:
    """One parsed file."""

    room: str
    name: str  # such as `log/frame.py`
    tree: ast.Module


def read_sources(roots: tuple[Path, ...]) -> list[Source]:
    """Every Python file below the source roots."""
    return [
        Source(
            room=path.relative_to(root).parts[0],
            name=path.relative_to(root).as_posix(),
            tree=ast.parse(path.read_bytes(), path.as_posix()),
        )
        for root in roots
        for path in sorted(root.rglob("*.py"))
    ]


def imports_of(source: Source) -> Iterator[tuple[int, str, str]]:
    """Line, full dotted name and the local name of everything imported, wherever in the file."""
    package = ["tapehouse", *source.name.split("/")[:-1]]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                local = alias.asname or alias.name.partition(".")[0]
                yield node.lineno, alias.name, local if alias.asname or "." not in alias.name else ""
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}", alias.asname or alias.name
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__"):
                yield node.lineno, str(node.args[0].value), ""


def reachable() -> dict[str, set[str]]:
    """For each room, all rooms that it may import, directly or through another."""
    closed: dict[str, set[str]] = {}

    def close(room: str) -> set[str]:
        if room not in closed:
            closed[room] = set().union(*({near} | close(near) for near in MAY_IMPORT[room]))
        return closed[room]

    for room in MAY_IMPORT:
        close(room)
    return closed


def wrong_arrows(sources: list[Source]) -> list[str]:
    """Imports that the tables do not allow, as `file:line: what`."""
    allowed = reachable()
    wrong = []
    for source in sources:
        for line, name, _ in imports_of(source):
            parts = name.split(".")
            where = f"{source.name}:{line}"
            if parts[0] in NEVER:
                wrong.append(f"{where}: the product imports {name}")
            if parts[0] in ONLY_IN and source.room != ONLY_IN[parts[0]]:
                wrong.append(f"{where}: only {ONLY_IN[parts[0]]} imports {parts[0]}")
            if parts[0] == "tapehouse" and len(parts) > 1 and source.room not in EVERYTHING:
                room = parts[1]
                if source.room not in allowed:
                    wrong.append(f"{where}: room {source.room} is not in DESIGN.md section 6")
                elif room != source.room and room not in allowed[source.room]:
                    wrong.append(f"{where}: {source.room} may not import {room}")
    return wrong


def dotted(node: ast.expr) -> str:
    """`a.b.c` of an attribute chain that begins with a name; empty for anything else."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(names)]) if isinstance(node, ast.Name) else ""


def banned_uses(sources: list[Source]) -> list[tuple[str, str, str]]:
    """File, reason and `file:line: what` of every use, in a core, of what a core may not use."""
    found = []
    for source in sources:
        if source.room not in CORES:
            continue
        uses = []
        local_names = {}
        for line, name, local in imports_of(source):
            uses.append((line, name))
            if local:
                local_names[local] = name
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Attribute):
                head, _, rest = dotted(node).partition(".")
                if head in local_names or head in ("os", "datetime"):
                    uses.append((node.lineno, f"{local_names.get(head, head)}.{rest}"))
        for line, name in uses:
            for banned, reason in BANNED.items():
                if name == banned or name.startswith(banned + "."):
                    found.append((source.name, reason, f"{source.name}:{line}: {reason} ({name})"))
    return sorted(set(found))


@pytest.fixture(scope="module")
def sources() -> list[Source]:
    return read_sources(ROOTS)


def test_every_import_follows_an_arrow(sources: list[Source]) -> None:
    assert len(sources) > 20
    assert wrong_arrows(sources) == []


def test_the_rooms_have_no_cycle() -> None:
    for room, rooms in reachable().items():
        assert room not in rooms


def test_cores_have_no_clock_randomness_environment_or_logging(sources: list[Source]) -> None:
    uses = banned_uses(sources)
    wrong = [text for name, reason, text in uses if reason not in ALLOWED.get(name, (set(), ""))[0]]
    assert wrong == [], (
        "take it as a value or through a port; a shell within a core is named in ALLOWED, with its reason"
    )


def test_every_exception_is_still_needed(sources: list[Source]) -> None:
    used = {(name, reason) for name, reason, _ in banned_uses(sources)}
    granted = {(name, reason) for name, (reasons, _) in ALLOWED.items() for reason in reasons}
    assert granted - used == set()


def test_the_namespace_stays_open() -> None:
    closing = [path for root in ROOTS for path in (root / "__init__.py", root.parent / "__init__.py") if path.exists()]
    assert closing == [], "these hide the sibling roots, or Python's own platform module"


def test_pythons_own_platform_module_can_be_imported_from_the_project_root() -> None:
    code = "import platform, tapehouse; assert platform.python_version(); assert len(list(tapehouse.__path__)) == 4"
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True, timeout=60)


BAD_ARROWS = {
    "core/a.py": "from tapehouse.market import CELL",
    "market/a.py": "def late():\n    from tapehouse.log import frame\n",
    "log/a.py": "from ..book import view",
    "book/a.py": "import tapehouse.pricing.surface as s",
    "dr/a.py": "import importlib\nimportlib.import_module('tapehouse.bus')",
    "kv/a.py": "from nats.js import api",
    "engine/a.py": "import tests.support",
    "unheard/a.py": "from tapehouse.core import check",
}
BAD_USES = {
    "core/a.py": "import time",
    "market/a.py": "from time import time_ns",
    "log/a.py": "import os\nx = os.environ['A']",
    "book/a.py": "import numpy as np\nx = np.random.default_rng()",
    "pricing/a.py": "from datetime import datetime\nx = datetime.now()",
    "feeds/a.py": "import datetime as d\nx = d.datetime.utcnow()",
    "desk/a.py": "import uuid\nx = uuid.uuid4()",
    "engine/a.py": "from tapehouse.core.ids import new_writer_id",
    "kv/a.py": "import logging.handlers",
    "replay/a.py": "from os import environ as e",
    "ring/a.py": "def f():\n    import os.path\n    return os.urandom(1)",
}


@pytest.mark.parametrize(("name", "text"), BAD_ARROWS.items())
def test_control_a_wrong_arrow_is_caught(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "tapehouse" / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert len(wrong_arrows(read_sources((tmp_path / "tapehouse",)))) == 1


@pytest.mark.parametrize(("name", "text"), BAD_USES.items())
def test_control_a_banned_use_is_caught(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "tapehouse" / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert banned_uses(read_sources((tmp_path / "tapehouse",))) != []


def test_control_a_good_tree_passes(tmp_path: Path) -> None:
    for name, text in {
        "log/a.py": "from tapehouse.core import check\nfrom tapehouse.log.b import c\nfrom . import b",
        "bus/a.py": "import nats\nimport time\nfrom tapehouse.log import Log",
        "cli/a.py": "from tapehouse.dr import backup\nfrom tapehouse.strategies import maker",
        "core/a.py": "from datetime import datetime\nx = datetime.fromisoformat('2012-06-21')\nimport os\nos.path",
    }.items():
        path = tmp_path / "tapehouse" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = read_sources((tmp_path / "tapehouse",))
    assert wrong_arrows(found) == []
    assert banned_uses(found) == []
