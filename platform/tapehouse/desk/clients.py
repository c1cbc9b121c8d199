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
        self._outcomes: dict[str, dict[int, Outcome]] = {}
        self._forgotten: dict[str, int] = {}  # the highest number that left each client's window

    def find(self, client: str, number: int) -> Outcome | None:
        """The first outcome of a number seen before, an `expired` one below the window, None for a new number."""
        known = self._outcomes.get(client)
        if known is None:
            return None
        first = known.get(number)
        if first is not None:
            return first
        if number <= self._forgotten.get(client, -1) or (known and number < min(known)):
            return {"outcome": "expired", "reason": f"number {number} is below this client's window"}
        return None

    def remember(self, client: str, number: int, outcome: Outcome) -> None:
        """Keep the first outcome of a new number."""
        known = self._outcomes.pop(client, {})
        self._outcomes[client] = known  # the most recent client comes last
        known[number] = outcome
        if len(known) > OUTCOMES_MAX:
            oldest = min(known)
            del known[oldest]
            self._forgotten[client] = max(oldest, self._forgotten.get(client, -1))
        if len(self._outcomes) > CLIENTS_MAX:
            silent = next(iter(self._outcomes))
            del self._outcomes[silent]
            self._forgotten.pop(silent, None)

    def snapshot(self) -> bytes:
        """Canonical JSON, clients in order of their last command."""
        rows = [
            [client, self._forgotten.get(client, -1), sorted(known.items())] for client, known in self._outcomes.items()
        ]
        return json.dumps(rows, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def restore(cls, data: bytes) -> Clients:
        """What `snapshot` returned; raises IntegrityError for other bytes."""
        clients = cls()
        try:
            for client, forgotten, known in json.loads(data):
                clients._outcomes[client] = {int(number): outcome for number, outcome in known}
                if forgotten >= 0:
                    clients._forgotten[client] = forgotten
        except (ValueError, TypeError) as error:
            raise IntegrityError("the clients of a snapshot are damaged", hint="refold the log") from error
        return clients
