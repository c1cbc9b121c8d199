"""The consoles that commands write to: where their reader has gone away, they say so as Python itself does."""

from __future__ import annotations

from rich.console import Console


class PipeConsole(Console):
    """A console whose reader may leave; the library's own ends the process with code 1 then."""

    def on_broken_pipe(self) -> None:
        """Let the command line decide what it means."""
        raise BrokenPipeError
