"""The parked commands of one desk: bytes that could not be understood, kept in its state within named bounds.

Pure: no I/O, no events. `parked_commands` says what happens by event. The oldest falls out where there is no room for a
new one. What was replayed or dropped is remembered for a while, so that asking for it again is answered with words.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any, Literal

from tapehouse.core.errors import DataError, IntegrityError

PARKED_MAX = 1024  # commands
PARKED_BYTES_MAX = 4 << 20  # of their bytes together
SETTLED_MAX = 1024  # replayed or dropped ones, of which it is known what became of them
Policy = Literal["halt", "park"]
POLICIES: tuple[Policy, ...] = ("halt", "park")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """One command: where it was parked, its sequence in CMDS, its bytes, and why."""

    position: int
    sequence: int
    payload: bytes
    reason: str


class Parking:
    """What is parked, in order of position, and what the desk does at a record that it cannot apply."""

    def __init__(self) -> None:
        self._parked: dict[int, Parked] = {}
        self._settled: dict[int, str] = {}
        self._bytes = 0
        self.policy: Policy = "halt"
        self.inputs = 0  # records of the tape that were skipped so far
        self.commands = 0  # commands that were parked so far

    def __len__(self) -> int:
        return len(self._parked)

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return self._bytes

    def add(self, parked: Parked) -> list[Parked]:
        """Keep one; returns the oldest ones that had to go for it."""
        self.commands += 1
        self._parked[parked.position] = parked
        self._bytes += len(parked.payload)
        gone = []
        while len(self._parked) > PARKED_MAX or self._bytes > PARKED_BYTES_MAX:
            oldest = next(iter(self._parked.values()))
            self.settle(oldest.position, "had to make room")
            gone.append(oldest)
        return gone

    def find(self, position: int) -> Parked:
        """The one that was parked at an input ordinal; raises DataError that says what became of it."""
        found = self._parked.get(position)
        if found is not None:
            return found
        settled = self._settled.get(position)
        message = (
            f"nothing is parked at {position}" if settled is None else f"the command parked at {position} {settled}"
        )
        raise DataError(message, hint="see tapehouse parked list")

    def settle(self, position: int, what: str) -> None:
        """Keep one no more; `what` goes on a sentence, such as "was dropped at 70"."""
        self._bytes -= len(self._parked.pop(position).payload)
        self._settled[position] = what
        if len(self._settled) > SETTLED_MAX:
            del self._settled[next(iter(self._settled))]

    def snapshot(self) -> bytes:
        """Canonical JSON; parked ones in order of position, settled ones in the order in which that happened."""
        state = {
            "policy": self.policy,
            "inputs": self.inputs,
            "commands": self.commands,
            "parked": [
                [each.position, each.sequence, base64.b64encode(each.payload).decode(), each.reason]
                for each in self._parked.values()
            ],
            "settled": list(self._settled.items()),
        }
        return json.dumps(state, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def restore(cls, data: bytes) -> Parking:
        """What `snapshot` returned; raises IntegrityError for other bytes."""
        parking = cls()
        try:
            state: dict[str, Any] = json.loads(data)
            if state["policy"] not in POLICIES:
                raise ValueError(f"policy {state['policy']!r}")
            parking.policy = state["policy"]
            for position, sequence, payload, reason in state["parked"]:
                parking.add(
                    Parked(
                        position=int(position),
                        sequence=int(sequence),
                        payload=base64.b64decode(payload, validate=True),
                        reason=str(reason),
                    )
                )
            if len(parking) != len(state["parked"]) or len(state["settled"]) > SETTLED_MAX:
                raise ValueError("more is parked than there is room for")
            parking._settled = {int(position): str(what) for position, what in state["settled"]}
            parking.inputs, parking.commands = int(state["inputs"]), int(state["commands"])
        except (KeyError, ValueError, TypeError) as error:
            raise IntegrityError("what a snapshot says is parked is damaged", hint="refold the log") from error
        return parking
