"""Kernels: what their cache is named by, and the arithmetic that they are compiled with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tapehouse.core.kernel import Array, Int, cache_directory, cpu_name, kernel, kernel_directory
from tapehouse.core.sources import Sources, source_roots

TREE = {
    "book/kernels.py": (
        "from tapehouse.core.kernel import kernel\n"
        "from tapehouse.book.layout import (\n    WIDTH,\n)\n"
        "@kernel()\ndef update(): ...\n"
    ),
    "book/layout.py": "from tapehouse.market import CELL_BYTES\nWIDTH = 8\n",
    "market/__init__.py": "from tapehouse.market.cell import CELL_BYTES\n",
    "market/cell.py": "CELL_BYTES = 64\n",
    "ring/kernels.py": "from tapehouse.core.kernel import kernel\n@kernel()\ndef append(): ...\n",
    "core/kernel.py": "import numba\n",
    "cli/main.py": "from tapehouse.book.kernels import update\n",
    "bus/server.py": "# the kernel of the machine\n",
}
BOOK = ["book/kernels.py", "book/layout.py", "core/kernel.py", "market/__init__.py", "market/cell.py"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in TREE.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_kernel_depends_on_all_that_its_file_imports(tree: Path) -> None:
    sources = Sources([tree])
    assert sources.declaring() == ["book/kernels.py", "core/kernel.py", "ring/kernels.py"]
    assert sources.closure("book/kernels.py") == BOOK
    assert sources.closure(texts=[b"from tapehouse.book.layout import WIDTH"]) == BOOK[1:2] + BOOK[3:]


@pytest.mark.parametrize("name", TREE)
def test_an_edit_leads_to_a_fresh_cache_where_a_kernel_may_see_it(name: str, tree: Path) -> None:
    def digests() -> tuple[str, str]:
        sources = Sources([tree])
        book, ring = (sources.digest(sources.closure(file)) for file in ("book/kernels.py", "ring/kernels.py"))
        return book, ring

    before = digests()
    assert digests() == before
    with (tree / name).open("a") as file:
        file.write("# edited\n")
    after = digests()
    assert (after[0] != before[0]) == (name in BOOK)
    assert (after[1] != before[1]) == (name in ("ring/kernels.py", "core/kernel.py"))


def test_a_constant_in_a_file_without_kernels_is_seen() -> None:
    sources = Sources(source_roots())
    assert "core/units.py" in sources.closure("log/columns.py"), "log/columns.py compiles UNDEFINED into its kernels"
    assert "market/cell.py" in sources.closure("book/kernels.py")
    everything = sources.closure(*sources.deciding())
    assert "app/bench/book_loops.py" in sources.declaring(), "a measurement's kernels are cached like all"
    assert not any(name.startswith(("app/", "bus/", "cli/")) for name in everything)


def test_the_cache_is_named_by_sources_numba_and_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TAPEHOUSE_CACHE", str(tmp_path))
    here = cache_directory()
    assert here.parent == tmp_path / "kernels"
    monkeypatch.setenv("NUMBA_CPU_NAME", "another")
    assert cpu_name() == "another"
    assert cache_directory() != here


def test_a_strategy_from_elsewhere_is_cached_by_its_own_text(tmp_path: Path) -> None:
    one, other = tmp_path / "one.py", tmp_path / "other.py"
    one.write_text("from tapehouse.engine import strategy_kernel\n")
    other.write_text("from tapehouse.engine import strategy_kernel\nLIMIT = 3\n")
    assert kernel_directory(str(one)).name.startswith("one-")
    assert kernel_directory(str(one)).name.partition("-")[2] != kernel_directory(str(other)).name.partition("-")[2]
    assert kernel_directory("<string>").name.startswith("unknown-")


def test_a_process_keeps_its_kernels_there(tmp_path: Path) -> None:
    code = (
        "import numpy as np\nfrom tapehouse.log import columns\nprint(len(columns.encode(np.zeros((3, 8), np.int64))))"
    )
    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    environment["TAPEHOUSE_CACHE"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "32\n"
    assert list(tmp_path.glob("kernels/*/**/*.nbi"))


@kernel()
def _arithmetic(values: Array, divisor: Int) -> None:
    values[0] = values[0] + np.int64(1)
    values[1] = values[1] // divisor


def test_integers_wrap_and_a_division_by_zero_does_not_raise() -> None:
    values = np.array([2**63 - 1, 5], np.int64)
    _arithmetic(values, 0)
    assert values.tolist() == [-(2**63), 0]


@kernel()
def _add(first: Int, second: Int) -> Int:
    return first + second


@kernel()
def _add_in_many_ways(values: Array) -> Int:
    total = 0
    for at in range(values.shape[0]):
        total = _add(total, values[at])
    return _add(_add(total, 1), _add(2, 3))


def test_constants_lead_to_no_compilation_of_their_own() -> None:
    assert _add_in_many_ways(np.array([10, 20])) == 36
    _add_in_many_ways.recompile()  # One that is loaded from the cache brings its callees along, compiled or not.
    assert [[str(kind) for kind in signature] for signature in _add.signatures] == [["int64", "int64"]]
