"""Whether a strategy is called, and with which parameters: engine state that commands change."""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt

from tapehouse.core.errors import DataError, IntegrityError
from tapehouse.engine.python_turns import PythonTurns
from tapehouse.engine.strategy import PARAMETERS_MAX, CompiledStrategy, Strategy


class StrategyControl:
    """Of one engine's strategy. A Python strategy's changed parameters are in its own state, a compiled one's here."""

    def __init__(self, strategy: Strategy, turns: PythonTurns | None) -> None:
        self.name = strategy.name
        self._turns = turns
        self.is_running = True
        compiled = strategy if isinstance(strategy, CompiledStrategy) else None
        self._names = list(compiled.parameters) if compiled else []
        self.base = compiled.parameter_array() if compiled else np.zeros(PARAMETERS_MAX, np.int64)
        self.parameters: npt.NDArray[np.int64] = self.base.copy()

    @property
    def is_changed(self) -> bool:
        """Whether a command left anything other than it began."""
        return not self.is_running or bool((self.parameters != self.base).any())

    def require(self, name: str | None) -> None:
        """Raise DataError where a command means another strategy."""
        if name is not None and name != self.name:
            raise DataError(f"strategy {name!r} does not run here", hint=f"this desk runs {self.name}")

    def configure(self, changes: dict[str, int]) -> None:
        """Change parameters by name: all of them or none.

        Raises:
            DataError: One is unknown, or a Python strategy refuses them.
        """
        if self._turns is not None:
            self._turns.configure(changes)
            return
        for name in changes:
            if name not in self._names:
                raise DataError(
                    f"strategy {self.name} has no parameter {name!r}",
                    hint=f"it has {', '.join(self._names) or 'none'}",
                )
        for name, value in changes.items():
            self.parameters[self._names.index(name)] = value

    def state(self) -> bytes:
        """Canonical JSON: whether it runs, and the parameters that are not those that it began with."""
        changed = {
            name: int(value)
            for name, value, before in zip(self._names, self.parameters, self.base, strict=False)
            if value != before
        }
        return json.dumps({"changed": changed, "running": self.is_running}, sort_keys=True).encode()

    def load(self, data: bytes) -> None:
        """Become what `state` returned; raises IntegrityError for other bytes."""
        try:
            state = json.loads(data)
            for name, value in state["changed"].items():
                self.parameters[self._names.index(name)] = value
            self.is_running = bool(state["running"])
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise IntegrityError(
                "the strategy's parameters in a snapshot are damaged", hint="refold the log"
            ) from error
