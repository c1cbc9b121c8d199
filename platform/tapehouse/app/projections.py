"""The projections of a desk: which machine folds which log, and reading any of them as keys and values."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any, Literal, Protocol

from tapehouse.app.valuation import Valuation
from tapehouse.book.projection import PricesProjection
from tapehouse.core.errors import MissingError, UsageError
from tapehouse.desk.projection import OrdersProjection, PositionsProjection
from tapehouse.log import Machine
from tapehouse.pricing import SurfaceProjection

NEAREST_MAX = 5  # keys that are offered instead of one that is not there
CANDIDATES_MAX = 2000  # keys that are compared to find them
Source = Literal["tape", "events"]


class Reader(Protocol):
    """What readers see as keys and values below a name."""

    def get(self, key: str) -> Any | None:
        """The value under a key, ready for JSON; None where there is none."""
        ...

    def items(self, prefix: str) -> Any:
        """(key, value) of all keys that begin with `prefix`."""
        ...


class Projection(Machine, Reader, Protocol):
    """A machine that is read below its own name."""


# A new projection is one more entry here; its name is the first part of its keys, and names its snapshots. A record of
# TAPE that cannot be applied is skipped: whether anybody halts there the desk decides, by its policy for poison.
_MACHINES: dict[Source, dict[str, Callable[[], Projection]]] = {
    "tape": {
        PricesProjection.name: partial(PricesProjection, skip=True),
        SurfaceProjection.name: partial(SurfaceProjection, skip=True),
    },
    "events": {OrdersProjection.name: OrdersProjection, PositionsProjection.name: PositionsProjection},
}
NAMES: dict[Source, tuple[str, ...]] = {source: tuple(made) for source, made in _MACHINES.items()}
# Which machines the keys below a name are read from.
READS: dict[str, tuple[str, ...]] = {
    **{name: (name,) for names in NAMES.values() for name in names},
    **dict.fromkeys(Valuation.names, (PositionsProjection.name, PricesProjection.name)),
}


def make_projections(names: Collection[str] | None = None) -> dict[Source, list[Projection]]:
    """All projections, or those of these names, empty, by the log that they fold."""
    return {
        source: [make() for name, make in made.items() if names is None or name in names]
        for source, made in _MACHINES.items()
    }


def check_projections(names: Iterable[str] | None) -> None:
    """Raise UsageError for a name that no projection has."""
    unknown = sorted(set(names or ()) - set(READS))
    if unknown:
        raise UsageError(f"there is no projection {unknown[0]!r}", hint=f"there are {', '.join(sorted(READS))}")


class Projections:
    """Machines by name, read as one space of keys."""

    def __init__(self, machines: dict[str, Projection]) -> None:
        self.machines = machines
        self._readers: dict[str, Reader] = dict(machines)
        positions, prices = machines.get(PositionsProjection.name), machines.get(PricesProjection.name)
        if isinstance(positions, PositionsProjection) and isinstance(prices, PricesProjection):
            self._readers |= dict.fromkeys(Valuation.names, Valuation(positions, prices))

    def get(self, key: str) -> Any | None:
        """The value under a key such as `positions/strategy/AAPL`; None where there is none."""
        reader = self._readers.get(key.partition("/")[0])
        return reader.get(key) if reader is not None else None

    def items(self, prefix: str = "") -> list[tuple[str, Any]]:
        """All keys that begin with `prefix`, name by name, with their values."""
        found: list[tuple[str, Any]] = []
        for name, reader in sorted(self._readers.items()):
            own = f"{name}/"
            if prefix.startswith(own) or own.startswith(prefix):
                found += reader.items(prefix if prefix.startswith(own) else own)
        return found

    def nearest(self, key: str) -> list[str]:
        """A few keys like one that is not there."""
        name = key.partition("/")[0]
        candidates = [found for found, _ in self.items(f"{name}/" if name in self._readers else "")]
        return difflib.get_close_matches(key, candidates[-CANDIDATES_MAX:], n=NEAREST_MAX, cutoff=0.3)

    def digests(self) -> dict[str, str]:
        """Each machine's state digest, in hex."""
        return {name: machine.digest().hex() for name, machine in sorted(self.machines.items())}


class Readable(Protocol):
    """What has keys."""

    def get(self, key: str) -> Any | None:
        """The value under a key; None where there is none."""
        ...

    def nearest(self, key: str) -> list[str]:
        """A few keys like one that is not there."""
        ...


def require(readable: Readable, key: str) -> Any:
    """The value under a key; raises MissingError that offers the nearest keys."""
    value = readable.get(key)
    if value is None:
        raise missing(key, readable.nearest(key))
    return value


def missing(key: str, nearest: list[str]) -> MissingError:
    """The error for a key that is not there."""
    known = ", ".join(nearest) or "nothing yet: has the tape been recorded?"
    return MissingError("no such key", subject=key, hint=f"nearest: {known}")
