"""How commands speak: tables and progress for people, one JSON line for scripts."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Coroutine, Iterable, Sequence
from types import TracebackType
from typing import Any, TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from tapehouse.cli.console import PipeConsole
from tapehouse.core.errors import UsageError
from tapehouse.core.units import NS_PER_SECOND

T = TypeVar("T")
SECONDS_MAX = 1e9  # some thirty years
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}  # in seconds
_UNBROKEN = 24  # characters of a cell
_NARROWEST = 140  # where the output is no terminal, tables need not fit one
console = PipeConsole(width=None if sys.stdout.isatty() else _NARROWEST)
diagnostics = Console(stderr=True)


def run_async(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine to its end on uvloop."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)


def stop_signal() -> asyncio.Event:
    """Of the running loop: set by Ctrl-C or SIGTERM, once or more often."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def compile_kernels(*, quiet: bool = False) -> None:
    """Compile the kernels where this machine has not yet: once, and before connections wait for it."""
    from tapehouse.app.warm import is_warm, warm

    if not is_warm():
        if not quiet:
            diagnostics.print("compiling the kernels, once on this machine …", highlight=False)
        warm()


def read_seconds(seconds: float, option: str) -> int:
    """Seconds as the user gave them, in ns; raises UsageError where no time is that long."""
    if not 0 <= seconds <= SECONDS_MAX:
        raise UsageError(f"{seconds:g} seconds", subject=option, hint=f"0 to {SECONDS_MAX:g}")
    return int(seconds * NS_PER_SECOND)


def read_duration(text: str, option: str) -> int:
    """A time such as `500ms`, `1s`, `2min` or `1h`, in ns; raises UsageError where it is none, or none that long."""
    for unit in sorted(_UNITS, key=len, reverse=True):
        if text.endswith(unit):
            try:
                seconds = float(text.removesuffix(unit)) * _UNITS[unit]
            except ValueError:
                break
            return read_seconds(seconds, option)
    raise UsageError(f"{text!r} is no time", subject=option, hint="write it as 500ms, 1s, 2min or 1h")


def print_json(value: Any) -> None:
    """One line of JSON on standard output."""
    sys.stdout.write(json.dumps(value, default=str) + "\n")
    sys.stdout.flush()


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table for people; numbers to the right, and what is short is never broken over two lines."""
    table = Table(title=title or None, title_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    body = [list(row) for row in rows]
    shown = [
        [f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell) for cell in row]
        for row in body
    ]
    for at, column in enumerate(columns):
        numeric = {type(row[at]) for row in body if row[at] != ""} in ({int}, {float}, {int, float})
        widest = max((len(row[at]) for row in shown), default=0)
        table.add_column(
            column,
            justify="right" if numeric else "left",
            overflow="fold",
            min_width=widest if widest <= _UNBROKEN else None,
        )
    for row in shown:
        table.add_row(*map(Text, row))  # As it is: a cell's square brackets are no markup.
    console.print(table)


class Bar:
    """A progress bar with rate and time left on standard error; silent where that is no terminal."""

    def __init__(self, label: str, total: int | None, *, unit: str = "cells", quiet: bool = False) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[amount]}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=diagnostics,
            disable=quiet or not diagnostics.is_terminal,
            transient=True,
        )
        self._label, self._total, self._unit = label, total, unit
        self._task: TaskID | None = None

    def __enter__(self) -> Bar:
        self._progress.start()
        self._task = self._progress.add_task(self._label, total=self._total, amount="", rate="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def at(self, completed: int) -> None:
        """Move to a position."""
        if self._task is None:
            return
        speed = self._progress.tasks[0].speed
        rate = f"{speed:,.0f}/s" if speed else ""
        self._progress.update(self._task, completed=completed, amount=f"{completed:,} {self._unit}", rate=rate)
