"""Sending one command and waiting for what became of it.

A command is durable when CMDS acknowledges it, and decided when EVENTS holds its outcome. It carries (client, number),
so that a resend after an append without acknowledgement has one effect.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from tapehouse.client.listener import Listener
from tapehouse.core.errors import AmbiguousAppendError, BusUnavailableError, DataError
from tapehouse.desk.commands import COMMANDS
from tapehouse.log import Envelope, Log, validate
from tapehouse.market import PAYLOAD_BYTES_MAX

SEND_ATTEMPTS_MAX = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a command.

    Args:
        outcome: `accepted`, `rejected`, `parked` (the desk could not understand it, and kept it), `repeated` (its
            number was seen before), or `expired` (too old to know).
        reason: Why it was rejected or parked.
        order_id: Of the order concerned, 0 where there is none.
        position: The tape's ordinal at which it was decided.
        first: Of a repeated command: its first outcome.
        input: The sequence in CMDS that the desk answered, 0 where an older desk did not say.
        number: The command's number, of its client.
        tag: The order's own words.
        count: Orders that were cancelled.
        instrument: The tape's number of an instrument that was registered.
        command_id: The envelope's id.
        sequence: The command's sequence in CMDS.
    """

    outcome: str
    reason: str = ""
    order_id: int = 0
    position: int = 0
    first: str = ""
    input: int = 0
    number: int = 0
    tag: str = ""
    count: int = 0
    instrument: int = 0
    command_id: str = ""
    sequence: int = 0

    @property
    def accepted(self) -> bool:
        """Whether the desk took it, now or when its number was seen first."""
        return "accepted" in (self.outcome, self.first)


def make_command(
    kind: str, body: dict[str, Any], *, command_id: str, client: str, number: int, time_ns: int
) -> Envelope:
    """A checked command of the newest version.

    Raises:
        DataError: An unknown type, a field that is missing, unknown or wrong (it is named), or too much of it.
    """
    command = validate(COMMANDS.model(kind), body, subject=kind)
    envelope = validate(
        Envelope,
        {
            "id": command_id,
            "type": kind,
            "version": COMMANDS.version(kind),
            "client": client,
            "number": number,
            "correlation": command_id,
            "time": time_ns,
            "body": command.model_dump(mode="json"),
        },
        subject=kind,
    )
    size = len(envelope.encode())
    if size > PAYLOAD_BYTES_MAX:
        raise DataError(f"a command of {size} bytes", subject=kind, hint=f"{PAYLOAD_BYTES_MAX} bytes is the most")
    return envelope


async def send_command(commands: Log, listener: Listener, envelope: Envelope, *, tape: str, timeout: float) -> Outcome:
    """Publish a command and return its outcome.

    Raises:
        BusUnavailableError: No outcome came in time. The command may be decided later; the same (client, number) can
            be sent again and has one effect.
    """
    sequence = 0
    try:
        async with asyncio.timeout(timeout):
            await listener.open()
            waiting = await listener.expect(envelope.id)
            sequence = await append_command(commands, envelope.encode(), subject=f"cmd.v1.{tape}.{envelope.type}")
            body = await waiting
            return Outcome(**body.model_dump(), command_id=envelope.id, sequence=sequence)
    except TimeoutError:
        raise BusUnavailableError(
            f"no outcome within {timeout:g} s",
            subject=envelope.type,
            position=f"{commands.name} sequence {sequence}" if sequence else commands.name,
            hint=f"the command is stored: is a host running? tapehouse host --tape {tape}"
            if sequence
            else "was it stored? send the same client and number again: it has one effect",
        ) from None
    finally:
        listener.forget(envelope.id)


async def append_command(commands: Log, payload: bytes, *, subject: str) -> int:
    """Append to CMDS, again where no acknowledgement came; returns the sequence.

    Raises:
        AmbiguousAppendError: No acknowledgement came in SEND_ATTEMPTS_MAX attempts.
        BusUnavailableError: The broker does not answer.
    """
    for _ in range(SEND_ATTEMPTS_MAX - 1):
        try:
            return await commands.append(payload, expected_last=None, subject=subject)
        except AmbiguousAppendError:
            continue  # Twice in CMDS is once for the desk: the number is the same.
    return await commands.append(payload, expected_last=None, subject=subject)
