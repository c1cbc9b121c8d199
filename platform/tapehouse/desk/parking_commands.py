"""Commands and events of what is parked: inputs that could not be understood, and what becomes of them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tapehouse.log.envelope import Registry

_ORDINAL_MAX = 2**63 - 1


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ReplayParked(_Body):
    """Decide a parked command again with today's code, under its own client and number."""

    position: int = Field(ge=0, le=_ORDINAL_MAX, description="the input ordinal at which it was parked")


class DropParked(_Body):
    """Forget a parked command."""

    position: int = Field(ge=0, le=_ORDINAL_MAX, description="the input ordinal at which it was parked")


class SetPoison(_Body):
    """What the desk does at a record of the tape that it cannot apply: halt, or park it and go on."""

    policy: Literal["halt", "park"]


class CommandParked(_Body):
    """A command could not be understood; it is kept. Its position is the event's input ordinal."""

    reason: str
    sequence: int = Field(ge=0, description="in CMDS")
    client: str = ""
    number: int = 0
    type: str = Field(default="", description="empty where the bytes are no envelope")
    version: int = 0
    size: int = Field(ge=0, description="in bytes")
    hash: str = Field(description="BLAKE3 of the bytes, hex")


class CommandUnparked(_Body):
    """A parked command is decided again, by the same input; its outcome follows."""

    position: int
    sequence: int


class CommandDropped(_Body):
    """A parked command is forgotten: somebody asked for it, or there was no more room."""

    position: int
    sequence: int
    why: Literal["asked", "no room"]


class InputParked(_Body):
    """A record of the tape could not be applied and was skipped."""

    reason: str
    ordinal: int = Field(ge=0, description="of its first cell on the tape")
    kind: int
    cells: int
    instrument: int = 0


class PoisonSet(_Body):
    """The desk's policy at records that it cannot apply, from the next input on."""

    policy: Literal["halt", "park"]


def register_parking(commands: Registry, events: Registry) -> None:
    """Make the types known."""
    commands.register("parked.replay", 1, ReplayParked)
    commands.register("parked.drop", 1, DropParked)
    commands.register("desk.poison", 1, SetPoison)
    events.register("command.parked", 1, CommandParked)
    events.register("command.unparked", 1, CommandUnparked)
    events.register("command.dropped", 1, CommandDropped)
    events.register("input.parked", 1, InputParked)
    events.register("desk.poison_set", 1, PoisonSet)
