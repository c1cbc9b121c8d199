"""Orders of bulk frames for tests, and the slow desk's memory of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tapehouse.desk.order_frames import make_orders
from tapehouse.desk.requests import OK, STALE_NUMBER
from tapehouse.market import ANSWER_EXTENSION, Action, Cells, Kind
from tests.support.bench import TICK


def orders(
    client: int, number: int, count: int = 1, *, ticks: int | Sequence[int] = 98, size: int = 1, account: int = 0,
    instrument: int = 1, **fields: int,
) -> Cells:  # fmt: skip
    """Consecutive buy orders of the share that `bench` knows."""
    cells = make_orders(count, client=client, number=number)
    first = cells[::2]
    first["price"] = np.array(ticks) * TICK
    first["size"], first["count"], first["instrument"] = size, account, instrument
    for name, value in fields.items():
        first[name] = value
    return cells


@dataclass(frozen=True, slots=True)
class Answer:
    """What an ORDER record says to the client of a frame."""

    client: int
    number: int
    action: str
    order_id: int
    reason: int
    ordinal: int


def answers_in(outputs: Cells) -> list[Answer]:
    """Every answer among decisions, in order."""
    starts = np.flatnonzero((outputs["kind"] == Kind.ORDER) & (outputs["cells"] > 2))
    found = []
    for start in starts.tolist():
        record = outputs[start : start + int(outputs["cells"][start])]
        said = record[-1:].view(ANSWER_EXTENSION)[0]
        assert (record["action"] == record["action"][0]).all()
        found.append(
            Answer(
                client=int(said["client"]), number=int(said["number"]), action=Action(int(record["action"][0])).name,
                order_id=int(said["order_id"]), reason=int(said["reason"]), ordinal=int(record["sequence"][0]),
            )
        )  # fmt: skip
    return found


@dataclass(slots=True)
class SlowClients:
    """What the kernels' table of clients means: dictionaries, and no arithmetic on places."""

    clients_max: int
    window: int
    last: dict[int, int] = field(default_factory=dict)  # the client that spoke last comes last
    told: dict[int, dict[int, tuple[int, int]]] = field(default_factory=dict)

    def speak(self, client: int) -> None:
        """A client sends something; one too many and the longest silent is forgotten."""
        self.last[client] = self.last.pop(client, 0)
        self.told.setdefault(client, {})
        if len(self.last) > self.clients_max:
            gone = next(iter(self.last))
            del self.last[gone], self.told[gone]

    def find(self, client: int, number: int) -> tuple[int, int] | None:
        """(order id, reason) of a number that was seen; STALE_NUMBER without an order below the window; None if new."""
        if number <= self.last[client] - self.window:
            return 0, STALE_NUMBER
        return self.told[client].get(number)

    def remember(self, client: int, number: int, order_id: int, reason: int = OK) -> None:
        """The outcome of a new number."""
        self.told[client][number] = order_id, reason
        self.last[client] = max(self.last[client], number)
