"""What the desk does about inputs that it does not understand: parks them by event, replays and drops them by command.

A command that cannot be read is parked; one that is read and refused is not. A replay decides the old bytes with
today's code, as the command that they are: under its own client and number, answered by an outcome of its own.
"""

from __future__ import annotations

from typing import Protocol

from blake3 import blake3
from pydantic import BaseModel

from tapehouse.core.errors import DataError
from tapehouse.desk.clients import Outcome
from tapehouse.desk.commands import COMMANDS
from tapehouse.desk.parking_commands import DropParked, ReplayParked, SetPoison
from tapehouse.engine.parking import Parked, Parking
from tapehouse.log.envelope import Body, Envelope, read_envelope
from tapehouse.market import Cells

REASON_MAX = 400  # characters of a reason in an event or outcome
ABOUT_PARKING = (ReplayParked, DropParked, SetPoison)


class Desk(Protocol):
    """What parking needs of the desk's commands."""

    @property
    def ordinal(self) -> int:
        """The present input ordinal."""
        ...

    def emit(self, kind: str, causation: str, correlation: str, body: Body) -> None:
        """Write an event."""
        ...

    def decide(self, envelope: Envelope, command: BaseModel) -> Outcome:
        """Decide one command that was read; raises DataError where it is refused."""
        ...

    def settle(self, envelope: Envelope, outcome: Outcome) -> None:
        """Remember an outcome under the command's client and number, and answer with it."""
        ...


class ParkedCommands:
    """The parked inputs of one desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.parking = Parking()

    def park(self, payload: bytes, sequence: int, envelope: Envelope | None, error: DataError) -> Outcome:
        """Keep a command that cannot be understood, by event; returns its outcome.

        Args:
            payload: Its bytes.
            sequence: Its sequence in CMDS; names it where it has no envelope.
        """
        reason = str(error)[:REASON_MAX]
        causation, correlation = _chain(envelope, sequence)
        gone = self.parking.add(Parked(position=self._desk.ordinal, sequence=sequence, payload=payload, reason=reason))
        for oldest in gone:
            self._emit_dropped(oldest, "no room", causation, correlation)
        body: Body = {
            "reason": reason,
            "sequence": sequence,
            "client": envelope.client if envelope else "",
            "number": envelope.number if envelope else 0,
            "type": envelope.type if envelope else "",
            "version": envelope.version if envelope else 0,
            "size": len(payload),
            "hash": blake3(payload).hexdigest(),
        }
        self._desk.emit("command.parked", causation, correlation, body)
        return {"outcome": "parked", "reason": reason}

    def park_input(self, record: Cells, ordinal: int, reason: str) -> None:
        """Note by event that a record of the tape is skipped."""
        self.parking.inputs += 1
        first = record[0]
        body: Body = {
            "reason": reason[:REASON_MAX],
            "ordinal": ordinal,
            "kind": int(first["kind"]),
            "cells": len(record),
            "instrument": int(first["instrument"]),
        }
        self._desk.emit("input.parked", f"tape:{ordinal}", f"tape:{ordinal}", body)

    def handle(self, command: ReplayParked | DropParked | SetPoison, envelope: Envelope) -> Outcome:
        """Carry out a command about what is parked; raises DataError where it is refused."""
        if isinstance(command, SetPoison):
            self.parking.policy = command.policy
            self._desk.emit("desk.poison_set", envelope.id, envelope.correlation, {"policy": command.policy})
            return {"outcome": "accepted"}
        parked = self.parking.find(command.position)
        if isinstance(command, DropParked):
            self.parking.settle(parked.position, f"was dropped at {self._desk.ordinal}")
            self._emit_dropped(parked, "asked", envelope.id, envelope.correlation)
            return {"outcome": "accepted"}
        return self._replay(parked, envelope)

    def _replay(self, parked: Parked, asked: Envelope) -> Outcome:
        desk = self._desk
        original = read_envelope(parked.payload)  # What still cannot be read stays parked: the error is the reason.
        _, command = COMMANDS.decode(parked.payload)
        if isinstance(command, ABOUT_PARKING):
            raise DataError(f"a {original.type} is not replayed", hint="send it anew, and drop this one")
        self.parking.settle(parked.position, f"was replayed at {desk.ordinal}")
        told: Body = {"position": parked.position, "sequence": parked.sequence}
        desk.emit("command.unparked", asked.id, asked.correlation, told)
        try:
            outcome = desk.decide(original, command)
        except DataError as error:
            outcome = {"outcome": "rejected", "reason": str(error)[:REASON_MAX]}
        desk.settle(original, outcome)
        reason = f": {outcome['reason']}" if outcome.get("reason") else ""
        answer: Outcome = {"outcome": "accepted", "reason": f"decided again, {outcome['outcome']}{reason}"[:REASON_MAX]}
        if "order_id" in outcome:
            answer["order_id"] = outcome["order_id"]
        return answer

    def _emit_dropped(self, parked: Parked, why: str, causation: str, correlation: str) -> None:
        body: Body = {"position": parked.position, "sequence": parked.sequence, "why": why}
        self._desk.emit("command.dropped", causation, correlation, body)


def _chain(envelope: Envelope | None, sequence: int) -> tuple[str, str]:
    """Causation and correlation of what a command leads to."""
    if envelope is None:
        return f"cmds:{sequence}", f"cmds:{sequence}"
    return envelope.id, envelope.correlation
