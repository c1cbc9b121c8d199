"""`tapehouse doctor`: what this machine has and lacks."""

from __future__ import annotations

import dataclasses
from pathlib import Path


def doctor(*, warm: bool = False, home: Path | None = None, json: bool = False) -> int:
    """Look at what tapehouse needs here, and say what to do about what is missing; exit 3 where something is.

    Examples:

        tapehouse doctor

        tapehouse doctor --warm

    Parameters
    ----------
    warm
        Compile all kernels now, so that nothing waits for it later.
    home
        Where stores and snapshots will live.
    json
        One line of JSON.
    """
    from tapehouse.app.bootstrap import home_directory
    from tapehouse.app.machine import examine
    from tapehouse.cli.output import compile_kernels, console, print_json

    if warm:
        compile_kernels(quiet=json)
    findings = examine(home_directory(home))
    if json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        for finding in findings:
            mark = " " if finding.well else "!"
            advice = "" if finding.well else f"  -> {finding.advice}"
            console.print(f"{mark} {finding.name:<14} {finding.value}{advice}", highlight=False)
    required = [finding for finding in findings if finding.name == "nats-server" and not finding.well]
    return 3 if required else 0
