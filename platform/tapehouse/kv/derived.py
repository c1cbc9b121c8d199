"""Prefixes whose keys are no entries of the KV's logs: projections of a desk, read in the same API and never written.

`Kv` asks a `Derived` for every key below its prefixes; what stands behind it is the composition root's matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from tapehouse.kv.errors import DerivedKeyError
from tapehouse.kv.levels import Level
from tapehouse.kv.reference import Stored


class Derived(Protocol):
    """Keys that something else keeps.

    A `Stored` of a derived key has revision 0 and never expires: there is nothing to compare and swap.
    """

    @property
    def prefixes(self) -> Mapping[bytes, str]:
        """Each prefix, with its `/`, and by which command what is below it changes."""
        ...

    async def get(self, key: bytes, level: Level) -> Stored | None:
        """What a key holds; None where there is none.

        Raises:
            MissingError: Nobody serves it.
            BusUnavailableError: No answer came, or not one of this level.
        """
        ...

    async def scan(self, prefix: bytes, level: Level, *, after: bytes | None, limit: int) -> list[tuple[bytes, Stored]]:
        """Keys that begin with `prefix`, those above `after` alone, in the order of their bytes; errors as of `get`.

        Args:
            prefix: One of `prefixes`, or longer.
        """
        ...


def refuse_derived(derived: Derived | None, key: bytes, what: str) -> None:
    """Raise DerivedKeyError for a key that only its projection changes.

    Args:
        what: That cannot be done with it, such as "be written".
    """
    for prefix, command in derived.prefixes.items() if derived is not None else ():
        if key.startswith(prefix):
            raise DerivedKeyError(
                f"{prefix.decode()} is derived from a desk's logs and cannot {what}", subject=repr(key),
                hint=f"it changes by {command}; choose another prefix for your own keys",
            )  # fmt: skip
