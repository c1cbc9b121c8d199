"""What each connection asks, one request after the other: it follows from the options and the seed alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from tapehouse.app.kv_load.check import LevelName
from tapehouse.app.kv_load.values import VALUE_BYTES_MIN
from tapehouse.core.errors import UsageError

CONNECTIONS_MAX = 10_000
REQUESTS_MAX = 1_000_000_000
KEYS_MAX = 10_000_000
PIPELINE_MAX = 1_024  # more than a gateway takes unanswered
VALUE_BYTES_MAX = 1 << 20
_CHUNK = 4_096  # requests that are drawn together


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked, and how fast.

    Attributes:
        requests: That are measured, of all connections together.
        warm_up: Requests before them that are not.
        read_ratio: The share of reads.
        hotspot: The share of requests that go to the `hot_keys` first keys; the others are spread over all keys.
        pipeline: Requests of one connection that are under way at once.
        rate: Requests a second of all connections together, on a schedule that waits for no answer; None for as many
            as are answered.
    """

    connections: int
    requests: int
    warm_up: int
    read_ratio: float
    hotspot: float
    hot_keys: int
    keys: int
    value_bytes: int
    pipeline: int
    rate: float | None
    seed: int
    level: LevelName
    prefix: bytes = b"load/"

    def check(self) -> None:
        """Raise UsageError for what cannot be asked."""
        for name, value, least, most in (
            ("--threads", self.connections, 1, CONNECTIONS_MAX),
            ("--requests", self.requests, 1, REQUESTS_MAX),
            ("--warm-up", self.warm_up, 0, REQUESTS_MAX),
            ("--keys", self.keys, 1, KEYS_MAX),
            ("--hot-keys", self.hot_keys, 1, self.keys),
            ("--pipeline", self.pipeline, 1, PIPELINE_MAX),
            ("--value-bytes", self.value_bytes, VALUE_BYTES_MIN, VALUE_BYTES_MAX),
            ("--read-ratio", self.read_ratio, 0, 1),
            ("--hotspot", self.hotspot, 0, 1),
            ("--seed", self.seed, 0, 2**63),
        ):
            if not least <= value <= most:
                raise UsageError(f"{value:,}", subject=name, hint=f"{least:,} to {most:,}")
        if self.rate is not None and not 0 < self.rate <= 1e8:
            raise UsageError(f"{self.rate:g} requests a second", subject="--rate", hint="more than 0")

    @property
    def writes_max(self) -> int:
        """How many writes there can be, with those that give each key its first value."""
        return self.keys + self.warm_up + self.requests

    def key(self, number: int) -> bytes:
        """A key by its number."""
        return b"%b%08d" % (self.prefix, number)

    def first_writes(self, connection: int) -> Iterator[tuple[bool, int]]:
        """One write for each of a connection's share of the keys."""
        return ((False, key) for key in range(connection, self.keys, self.connections))

    def asked(self, connection: int, *, is_warm_up: bool) -> Iterator[tuple[bool, int]]:
        """What a connection asks: whether it is a read, and its key's number."""
        total = self.warm_up if is_warm_up else self.requests
        return islice(self._draw(connection, is_warm_up), shared(total, self.connections, connection))

    def _draw(self, connection: int, is_warm_up: bool) -> Iterator[tuple[bool, int]]:
        generator = np.random.default_rng((self.seed, connection, is_warm_up))
        while True:
            reads = generator.random(_CHUNK) < self.read_ratio
            hot = generator.random(_CHUNK) < self.hotspot
            keys = np.where(hot, generator.integers(0, self.hot_keys, _CHUNK), generator.integers(0, self.keys, _CHUNK))
            yield from zip(reads.tolist(), keys.tolist(), strict=True)


def shared(total: int, parts: int, part: int) -> int:
    """How many of a total one of so many parts has; the first ones have the rest."""
    return total // parts + (part < total % parts)
