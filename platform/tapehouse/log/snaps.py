"""The `Snaps` port: small snapshots of machines along a log, each under a subject of its own.

A subject names a snapshot whole: of which machine, of what, at which position. Two writers that follow the same log
make the same subjects, and the first to store one is the only one: a snapshot is never replaced. So it needs neither
fence nor lease, and a writer that died anywhere goes on where it left off.

Adapters: in memory (here), the stream SNAPS (`bus.snaps`). One contract suite runs both.
"""

from __future__ import annotations

from typing import Protocol

from tapehouse.core.errors import DataError, UsageError

SNAP_BYTES_MAX = 768 * 1024  # of one message: below what a broker takes by default, also when it comes back as base64
SUBJECTS_MAX = 10_000_000  # that one pattern may list
_ANY, _REST = "*", ">"


class Snaps(Protocol):
    """Snapshots by subject."""

    async def subjects(self, pattern: str) -> list[str]:
        """The subjects that match a pattern, sorted; `*` stands for one token, a last `>` for one or more.

        Raises:
            BusUnavailableError: The broker does not answer.
        """
        ...

    async def load(self, subject: str) -> bytes | None:
        """What is stored under a subject; None where nothing is.

        Raises:
            BusUnavailableError: The broker does not answer.
        """
        ...

    async def store(self, subject: str, payload: bytes) -> bool:
        """Store durably under a subject; False, and nothing changed, where something is there already.

        Raises:
            DataError: It is longer than SNAP_BYTES_MAX.
            BusUnavailableError: The broker does not answer.
        """
        ...


class MemorySnaps:
    """Snapshots in a dictionary: the port's shipped double."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}

    async def subjects(self, pattern: str) -> list[str]:
        return sorted(subject for subject in self.stored if matches(pattern, subject))

    async def load(self, subject: str) -> bytes | None:
        return self.stored.get(subject)

    async def store(self, subject: str, payload: bytes) -> bool:
        check_snap(subject, payload)
        if subject in self.stored:
            return False
        self.stored[subject] = bytes(payload)
        return True


def check_snap(subject: str, payload: bytes) -> None:
    """Refuse what no adapter takes.

    Raises:
        DataError: The payload is too long.
        UsageError: The subject is a pattern, or has an empty token.
    """
    tokens = subject.split(".")
    if not all(tokens) or _ANY in tokens or _REST in tokens:
        raise UsageError("a snapshot needs one whole subject", subject=subject)
    if len(payload) > SNAP_BYTES_MAX:
        raise DataError(
            f"a snapshot of {len(payload)} bytes", subject=subject, hint=f"{SNAP_BYTES_MAX} is the most: split it"
        )


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject matches a pattern as NATS has them."""
    wanted, tokens = pattern.split("."), subject.split(".")
    if wanted[-1] == _REST:
        wanted = wanted[:-1]
        if len(tokens) <= len(wanted):
            return False
        tokens = tokens[: len(wanted)]
    return len(wanted) == len(tokens) and all(want in (_ANY, token) for want, token in zip(wanted, tokens, strict=True))
