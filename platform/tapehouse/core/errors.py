"""Every error a tapehouse user can meet, sorted by who must act.

An error says what was touched (`subject`), where (`position`: a line, a byte, a sequence) and what to do about it
(`hint`). Only `TransientError` may be retried. The command line prints one line and leaves with `exit_code`.
"""

from __future__ import annotations

EXIT_CHECK_FAILED = 1
EXIT_USAGE = 2
EXIT_MISSING = 3
EXIT_BAD_DATA = 4


class TapehouseError(Exception):
    """The base of all; never raised itself."""

    exit_code = EXIT_CHECK_FAILED

    def __init__(self, message: str, *, subject: str = "", position: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.subject = subject
        self.position = position
        self.hint = hint

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.subject, self.position) if part)
        line = f"{where}: {self.message}" if where else self.message
        return f"{line} ({self.hint})" if self.hint else line


class InvariantError(TapehouseError):
    """Our own bug: stop."""


class UsageError(TapehouseError):
    """The caller asked for something that cannot be: a wrong option, an unknown name."""

    exit_code = EXIT_USAGE


class MissingError(TapehouseError):
    """Something needed is not there: a server, a program, an extra, a file."""

    exit_code = EXIT_MISSING


class DataError(TapehouseError):
    """Input that came from outside is bad."""

    exit_code = EXIT_BAD_DATA


class DecodeError(DataError):
    """Bytes that are not what their format says."""


class GapError(DataError):
    """A sequence of inputs has a hole."""


class ConflictError(TapehouseError):
    """A fence was lost: another writer got there first. Reload, then decide again."""


class TransientError(TapehouseError):
    """It may work later: back off and retry."""

    exit_code = EXIT_MISSING


class BusUnavailableError(TransientError):
    """The broker did not answer."""


class AmbiguousAppendError(TransientError):
    """An append was sent and its acknowledgement never came: read the last frame to learn which."""


class BusyError(TransientError):
    """A service has as much to do as it takes on: nothing was begun. Ask again in a moment."""


class StoreThrottledError(TransientError):
    """The object store asked us to slow down or failed on its side."""


class IntegrityError(TapehouseError):
    """Durable bytes disagree with their digest, or a log with its own past: halt, quarantine."""

    exit_code = EXIT_BAD_DATA


class StrategyError(TapehouseError):
    """A strategy broke its contract: stop that strategy."""
