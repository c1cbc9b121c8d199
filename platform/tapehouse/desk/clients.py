"""Each client's recent commands and their outcomes: what makes a repeated command have one effect.

A client's numbers only grow. A number seen before is answered with its first outcome; one below the window that is
kept is answered `expired` and never run. All of it is machine state: bounded, in snapshots, in the digest. What the
bound costs: of CLIENTS_MAX clients the one that was silent longest is forgotten, and a repeat of its would run again.
"""

from __future__ import annotations

import json

from tapehouse.core.errors import IntegrityError

CLIENTS_MAX = 4096  # the longest-silent client is forgotten first
OUTCOMES_MAX = 256  # of one client

Outcome = dict[str, str | int]


class Clients:
    """Outcomes by client and number."""

    def __init__(self) -> None:
        self._outcomes: dict[str, dict[int, Outcome]] = {}  # the client that spoke last comes last

    def find(self, client: str, number: int) -> Outcome | None:
        """The first outcome of a number seen before, an `expired` one below the window, None for a new number."""
        known = self._outcomes.get(client)
        if known is None:
            return None
        first = known.get(number)
        if first is not None:
            return first
        if number < min(known):
            return {"outcome": "expired", "reason": f"number {number} is below this client's window"}
        return None

    def remember(self, client: str, number: int, outcome: Outcome) -> None:
        """Keep the first outcome of a new number."""
        known = self._outcomes.pop(client, {})
        self._outcomes[client] = known
        known[number] = outcome
        if len(known) > OUTCOMES_MAX:
            del known[min(known)]
        if len(self._outcomes) > CLIENTS_MAX:
            del self._outcomes[next(iter(self._outcomes))]

    def snapshot(self) -> bytes:
        """Canonical JSON, clients in order of their last command."""
        rows = [[client, sorted(known.items())] for client, known in self._outcomes.items()]
        return json.dumps(rows, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def restore(cls, data: bytes) -> Clients:
        """What `snapshot` returned; raises IntegrityError for other bytes."""
        clients = cls()
        try:
            for client, known in json.loads(data):
                if not known or len(known) > OUTCOMES_MAX:
                    raise ValueError(f"{len(known)} outcomes")
                clients._outcomes[str(client)] = {int(number): dict(outcome) for number, outcome in known}
        except (ValueError, TypeError) as error:
            raise IntegrityError("the clients of a snapshot are damaged", hint="refold the log") from error
        return clients
