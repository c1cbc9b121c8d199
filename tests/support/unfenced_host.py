"""A negative control: `tapehouse host` whose appends carry no fence and whose lease is its own.

`python -m tests.support.unfenced_host host --tape T ...`: two of them on one tape both lead.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from tapehouse.app import serving
from tapehouse.bus.jetstream import JetStreamLog
from tapehouse.cli.main import run

_append = JetStreamLog.append


async def unfenced(log: JetStreamLog, payload: bytes, *, expected_last: int | None, **more: Any) -> int:
    """Append wherever the log ends now."""
    sequence = await _append(log, payload, expected_last=None, **more)
    return sequence if expected_last is None else expected_last + 1  # what a fence would have promised


if __name__ == "__main__":
    JetStreamLog.append = unfenced  # type: ignore[method-assign]
    serving.lease_name = lambda tape: f"{tape}-{os.getpid()}"  # type: ignore[assignment]
    sys.exit(run(sys.argv[1:]))
