"""Strategies by name: shipped, from a file, from a module; and everything that can be wrong with one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tapehouse.app.strategies import load_strategy, resolve_strategy
from tapehouse.core import MissingError, StrategyError, UsageError
from tapehouse.engine import CompiledStrategy

GOOD = """
class Mine:
    name = "mine"

    def __init__(self, size=1):
        self.size = size

    def on_market(self, view):
        return []

    def state(self):
        return b""

    def restore(self, state):
        pass


class Nameless(Mine):
    name = None


class Forgetful:
    name = "forgetful"

    def on_market(self, view):
        return []


class Failing(Mine):
    def __init__(self):
        raise RuntimeError("not today")


number = 7
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    return path


def test_the_shipped_ones() -> None:
    assert [load_strategy(name).name for name in ("maker", "watcher")] == ["maker", "watcher"]
    maker = load_strategy("maker", json.dumps({"size": 3}))
    assert isinstance(maker, CompiledStrategy)
    assert maker.parameters["size"] == 3


def test_one_from_a_file_and_from_a_module(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_strategy(f"{file}:Mine", '{"size": 5}').size == 5  # type: ignore[union-attr]
    monkeypatch.syspath_prepend(str(file.parent))
    assert load_strategy("mine:Mine").name == "mine"
    del sys.modules["mine"]


def test_each_load_is_a_fresh_one(file: Path) -> None:
    """What one run left in a module's globals must not reach the next."""
    first, second = load_strategy(f"{file}:Mine"), load_strategy(f"{file}:Mine")
    assert type(first) is not type(second)


def test_a_name_that_holds_in_any_directory(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert resolve_strategy("mine.py:Mine") == f"{file}:Mine"
    assert resolve_strategy("maker") == "maker"
    assert resolve_strategy("package.module:Name") == "package.module:Name"


@pytest.mark.parametrize("name", ["nothing", "", "file.py", "file.py:", ":", ":Name"])
def test_no_such_strategy(name: str) -> None:
    with pytest.raises(UsageError, match=r"there is no strategy .*shipped: maker, watcher; or FILE.py:NAME"):
        load_strategy(name)


def test_what_is_not_there(file: Path) -> None:
    with pytest.raises(MissingError, match="there is no such file"):
        load_strategy(f"{file}x.py:Mine")
    with pytest.raises(MissingError, match="there is no module 'nowhere'"):
        load_strategy("nowhere:Mine")
    for name in ("Other", "number"):
        with pytest.raises(MissingError, match=f"no class or function '{name}' in it"):
            load_strategy(f"{file}:{name}")


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ("{", "no JSON"),
        ("", "no JSON"),
        ("[1]", "no JSON object"),
        ("7", "no JSON object"),
        ('{"colour": 1}', "refuses its parameters: .*colour"),
    ],
)
def test_wrong_parameters(file: Path, parameters: str, said: str) -> None:
    for name in ("maker", f"{file}:Mine"):
        with pytest.raises(UsageError, match=said):
            load_strategy(name, parameters)


@pytest.mark.parametrize("value", ["1.5", "true", "null", str(2**63)])
def test_a_compiled_strategy_takes_integers(value: str) -> None:
    with pytest.raises(UsageError):
        load_strategy("maker", f'{{"size": {value}}}')


def test_what_is_no_strategy(file: Path) -> None:
    with pytest.raises(UsageError, match=r"the Forgetful that it made lacks state, restore \(a strategy has a name"):
        load_strategy(f"{file}:Forgetful")
    with pytest.raises(UsageError, match="lacks name"):
        load_strategy(f"{file}:Nameless")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def f(:\n    pass\n", r"broken.py line 1: it raised SyntaxError: invalid syntax"),
        ("\n\nraise ValueError('one\\ntwo')\n", r"broken.py line 3: it raised ValueError: one"),
        ("import sys\nsys.exit(5)\n", r"broken.py line 2: it raised SystemExit: 5"),
        ("x = 1\n\nx.y\n", r"broken.py line 3: it raised AttributeError"),
    ],
)
def test_a_file_that_does_not_run(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(StrategyError, match=said):
        load_strategy(f"{path}:Mine")


def test_a_module_that_is_missing_inside_is_named(tmp_path: Path) -> None:
    path = tmp_path / "needs.py"
    path.write_text("import nothing_of_that_name\n")
    with pytest.raises(MissingError, match="there is no module 'nothing_of_that_name'"):
        load_strategy(f"{path}:Mine")


def test_a_factory_that_fails_is_named_with_its_line(file: Path) -> None:
    with pytest.raises(StrategyError, match=r"mine.py line \d+: it raised RuntimeError: not today"):
        load_strategy(f"{file}:Failing")
