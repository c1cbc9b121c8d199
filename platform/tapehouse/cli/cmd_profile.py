"""`tapehouse profile`: a flamegraph of a running process or of a command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def profile(
    *target: Annotated[str, Parameter(allow_leading_hyphen=True)],
    tape: str | None = None,
    seconds: float | None = None,
    output: Path | None = None,
    memory: bool = False,
    native: bool = True,
    home: Path | None = None,
    json: bool = False,
) -> int:
    """Show where a Python process spends its time, or with --memory what it allocates: a picture for the browser.

    What a profiled command prints goes to standard error.

    Examples:

        tapehouse profile --tape main

        tapehouse profile 4711 --seconds 30 --output busy.svg

        tapehouse profile -- tapehouse replay --tape amzn

        tapehouse profile --memory -- python mine.py

    Parameters
    ----------
    target
        A process's number, or after `--` a command to run.
    tape
        The running host of this tape.
    seconds
        How long to look: 10 at a process; a command otherwise runs to its end, and is stopped after so long.
    output
        Where to write: SVG, or with --memory HTML; else profile-NUMBER or profile-COMMAND here.
    memory
        Allocations at their peak (memray) instead of time (py-spy).
    native
        Show compiled code below the Python line that called it.
    home
        Of the embedded cluster, as given to `tapehouse up`.
    json
        One line of JSON.
    """
    from tapehouse.app import host_process, profiling
    from tapehouse.app.bootstrap import home_directory
    from tapehouse.cli.output import console, diagnostics, print_json
    from tapehouse.core.errors import MissingError, UsageError

    if bool(target) == (tape is not None):
        raise UsageError("give a process, a command after --, or --tape", hint="see tapehouse profile --help")
    if seconds is not None and not 1 <= seconds <= profiling.SECONDS_MAX:
        raise UsageError(f"{seconds:g} seconds", subject="--seconds", hint=f"1 to {profiling.SECONDS_MAX:g}")
    pid: int | None = None
    if tape is not None:
        host = host_process.find(home_directory(home), tape)
        if host is None:
            raise MissingError("no host of this tape runs here", subject=tape, hint=f"tapehouse host --tape {tape}")
        pid = host.pid
    elif len(target) == 1 and target[0].isdigit():
        pid = int(target[0])
    suffix = ".html" if memory else ".svg"
    picture = output or Path(f"profile-{pid if pid is not None else Path(target[0]).stem}{suffix}")
    profiling.check_output(picture, suffix)
    looked = profiling.SECONDS_DEFAULT if seconds is None else seconds
    if not json:
        of = f"process {pid} for {looked:g} s" if pid is not None else " ".join(target)
        diagnostics.print(f"profiling {of} …", highlight=False, markup=False)
    if pid is not None and memory:
        profiling.profile_memory_of_process(pid, picture, seconds=looked)
    elif pid is not None:
        profiling.profile_process(pid, picture, seconds=looked, native=native)
    elif memory:
        profiling.profile_memory_of_command(target, picture, seconds=seconds)
    else:
        profiling.profile_command(target, picture, seconds=seconds, native=native)
    if json:
        print_json({"output": str(picture.absolute()), "process": pid, "memory": memory})
    else:
        console.print(f"{'written':<18} {picture.absolute()}", highlight=False, markup=False, soft_wrap=True)
    return 0
