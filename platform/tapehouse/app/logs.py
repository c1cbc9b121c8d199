"""The logs of one desk, together."""

from __future__ import annotations

from dataclasses import dataclass

from tapehouse.log import Log


@dataclass(frozen=True, slots=True, kw_only=True)
class Logs:
    """The logs of one desk."""

    tape: Log
    events: Log
    commands: Log | None = None
