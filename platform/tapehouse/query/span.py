"""Spans of time: as people write them, and as parts of a tape."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from tapehouse.book.flow import EVERY_MAX
from tapehouse.core.errors import UsageError
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.market import Cells
from tapehouse.query.read import cut_at

UNITS = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": NS_PER_SECOND,
    "m": 60 * NS_PER_SECOND,
    "h": 3_600 * NS_PER_SECOND,
    "d": 86_400 * NS_PER_SECOND,
}
_SPAN = re.compile(r"(\d{1,18}(?:\.\d{1,9})?)(ns|us|ms|s|m|h|d)", re.ASCII)


def parse_span_ns(text: str) -> int:
    """`1s`, `250ms`, `1.5m`, `1d` in ns.

    Raises:
        UsageError: It is no such span, no whole number of ns, or not from 1 ns to two years.
    """
    match = _SPAN.fullmatch(text.strip())
    if not match:
        raise UsageError(f"{text!r} is no span of time", hint=f"a number and one of {', '.join(UNITS)}, such as 250ms")
    span = Decimal(match[1]) * UNITS[match[2]]
    if span != int(span) or not 0 < span <= EVERY_MAX:
        raise UsageError(f"{text!r} is no span that can be", hint="whole ns, above 0, up to two years")
    return int(span)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Part of a tape: engine time, UTC ns, from `start` on and before `end`; None for all."""

    start: int | None = None
    end: int | None = None

    def cut(self, cells: Cells) -> tuple[Cells, bool]:
        """The records before the end, and whether there are later ones."""
        stop = len(cells) if self.end is None else cut_at(cells, self.end - 1)
        return cells[:stop], stop < len(cells)
