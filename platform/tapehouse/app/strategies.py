"""Strategies by name: the ones that are shipped, and any in a user's own file or module."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tapehouse.core.errors import MissingError, UsageError
from tapehouse.engine import CompiledStrategy, Strategy

SHIPPED = {"maker": "tapehouse.strategies:maker", "watcher": "tapehouse.strategies:watcher"}


def load_strategy(name: str, parameters: str | None = None) -> Strategy:
    """A strategy ready to run.

    Args:
        name: A shipped one (`maker`), `module:factory`, or `path/to/file.py:factory`. The factory is called with the
            parameters; it returns a CompiledStrategy or an object with `on_market`, `state` and `restore`.
        parameters: A JSON object of keyword arguments.

    Raises:
        MissingError: There is no such file, module or factory.
        UsageError: The parameters are no JSON object, or the factory refuses them.
    """
    target = SHIPPED.get(name, name)
    place, _, factory_name = target.rpartition(":")
    if not place:
        raise MissingError(f"no strategy {name!r}", hint=f"shipped: {', '.join(SHIPPED)}; or FILE.py:NAME, MODULE:NAME")
    factory = _find(place, factory_name)
    try:
        arguments = json.loads(parameters) if parameters else {}
    except ValueError as error:
        raise UsageError(f"strategy parameters are no JSON: {error}", hint='such as {"size": 100}') from None
    if not isinstance(arguments, dict):
        raise UsageError("strategy parameters are no JSON object", hint='such as {"size": 100}')
    try:
        strategy: Strategy = factory(**arguments)
    except TypeError as error:
        raise UsageError(f"{name} refuses its parameters: {error}") from None
    if not isinstance(strategy, CompiledStrategy) and not hasattr(strategy, "on_market"):
        raise UsageError(f"{name} made a {type(strategy).__name__}, no strategy", hint="it needs on_market(view)")
    return strategy


def _find(place: str, factory_name: str) -> Callable[..., Any]:
    try:
        module = _load_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except ModuleNotFoundError as error:
        raise MissingError(f"no module {place!r}: {error}", hint="is it installed in this environment?") from None
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        raise MissingError(f"{place} has no {factory_name!r}", hint="name the class or function after the colon")
    return factory  # type: ignore[no-any-return]


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise MissingError(f"no file {path}", hint="give the path of a Python file")
    name = f"tapehouse_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise MissingError(f"{path} cannot be loaded as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
