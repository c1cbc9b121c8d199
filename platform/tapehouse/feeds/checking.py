"""What holding a source against the truth that it carries has found; every format answers in this one shape."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

Truth = int | float | str | Decimal | None


@dataclass(slots=True, kw_only=True)
class Check:
    """What was found in one source.

    Args:
        rows: Records, messages or lines that were read.
        compared: How often something of ours was held against something that the source itself says.
        mismatches: How often the two differed.
        first_mismatch: Where and how they differed first, in words; None where they never did.
        truths: The format's own numbers, by name, as `feeds check` shows them.
    """

    rows: int = 0
    compared: int = 0
    mismatches: int = 0
    first_mismatch: str | None = None
    truths: dict[str, Truth] = field(default_factory=dict)

    def compare(self, where: str, found: Any, expected: Any) -> bool:
        """Count a comparison; `where` and both values become the first mismatch where they differ."""
        self.compared += 1
        if found == expected:
            return True
        self.mismatch(f"{where}: {found}, not {expected}")
        return False

    def mismatch(self, text: str) -> None:
        """Count a difference that was found without `compare`."""
        self.mismatches += 1
        if self.first_mismatch is None:
            self.first_mismatch = text
