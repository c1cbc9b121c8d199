"""Strategies by name: the ones that are shipped, and any in a user's own file or module."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tapehouse.core.errors import MissingError, StrategyError, TapehouseError, UsageError
from tapehouse.engine import CompiledStrategy, Strategy

_PARTS = ("on_market", "state", "restore")
SHIPPED = {"maker": "tapehouse.strategies:maker", "watcher": "tapehouse.strategies:watcher"}


def load_strategy(name: str, parameters: str | None = None) -> Strategy:
    """A strategy ready to run.

    Args:
        name: A shipped one (`maker`), `module:factory`, or `path/to/file.py:factory`. The factory is called with the
            parameters; it returns a CompiledStrategy or an object with `on_market`, `state` and `restore`.
        parameters: A JSON object of keyword arguments.

    Raises:
        MissingError: There is no such file, module, or factory in it.
        StrategyError: The file cannot be run, or the factory fails.
        UsageError: No strategy is shipped under that name, the parameters are no JSON object, the factory refuses
            them, or it makes no strategy.
    """
    target = SHIPPED.get(name, name)
    place, _, factory_name = target.rpartition(":")
    if not place or not factory_name:
        raise UsageError(
            f"there is no strategy {name!r}", hint=f"shipped: {', '.join(SHIPPED)}; or FILE.py:NAME, MODULE:NAME"
        )
    arguments = _read_parameters(parameters)
    factory = _find(place, factory_name)
    try:
        strategy: Strategy = factory(**arguments)
    except TapehouseError:
        raise
    except TypeError as error:
        raise UsageError(f"it refuses its parameters: {error}", subject=f"strategy {name}") from error
    except Exception as error:
        raise _broken(name, error) from error
    return _checked(name, strategy)


def resolve_strategy(name: str) -> str:
    """The same strategy by a name that holds in any directory."""
    place, colon, factory_name = name.rpartition(":")
    return f"{Path(place).absolute()}{colon}{factory_name}" if place.endswith(".py") else name


def _read_parameters(parameters: str | None) -> dict[str, Any]:
    try:
        arguments = json.loads(parameters) if parameters is not None else {}
    except ValueError as error:
        raise UsageError(f"strategy parameters are no JSON: {error}", hint='such as {"size": 100}') from None
    if not isinstance(arguments, dict):
        raise UsageError("strategy parameters are no JSON object", hint='such as {"size": 100}')
    return arguments


def _checked(name: str, strategy: Strategy) -> Strategy:
    """What the factory made, where it is a strategy."""
    if isinstance(strategy, CompiledStrategy):
        strategy.parameter_array()  # Raises where a parameter is none.
        return strategy
    lacking = [part for part in _PARTS if not callable(getattr(strategy, part, None))]
    if not isinstance(getattr(strategy, "name", None), str):
        lacking.append("name")
    if lacking:
        raise UsageError(
            f"the {type(strategy).__name__} that it made lacks {', '.join(lacking)}",
            subject=f"strategy {name}",
            hint="a strategy has a name, on_market(view), state() and restore(state)",
        )
    return strategy


def _find(place: str, factory_name: str) -> Callable[..., Any]:
    try:
        module = _load_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except TapehouseError:
        raise
    except ModuleNotFoundError as error:
        raise MissingError(
            f"there is no module {error.name!r}", subject=place, hint="is it installed in this environment?"
        ) from error
    except (Exception, SystemExit) as error:
        raise _broken(place, error) from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        raise MissingError(
            f"there is no class or function {factory_name!r} in it", subject=place, hint="name one after the colon"
        )
    return factory  # type: ignore[no-any-return]


def _broken(name: str, error: BaseException) -> StrategyError:
    """A user's code that raised, with the line of theirs where it did."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = (error.filename, error.lineno) if isinstance(error, SyntaxError) else (last.filename, last.lineno)
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    return StrategyError(
        f"it raised {type(error).__name__}: {message}",
        subject=f"strategy {name}",
        position=f"{Path(where[0] or name).name} line {where[1]}",
    )


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise MissingError("there is no such file", subject=str(path), hint="give the path of a Python file")
    name = f"tapehouse_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise MissingError("it cannot be loaded as Python", subject=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
