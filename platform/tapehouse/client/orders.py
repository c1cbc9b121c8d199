"""Sending many orders as frames: each frame is durable in CMDS before the next goes, each order is answered in EVENTS.

A frame is made once: where its append was ambiguous the same bytes are sent again, and the desk takes each number once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from blake3 import blake3

from tapehouse.client.commands import append_command
from tapehouse.client.listener import Answers, Listener, unread_id
from tapehouse.core.errors import AmbiguousAppendError, BusUnavailableError, DataError
from tapehouse.desk.bulk import WINDOW
from tapehouse.desk.order_frames import ORDER_CELLS, ORDERS_PER_FRAME_MAX, encode_orders
from tapehouse.desk.requests import REASONS
from tapehouse.log import Log
from tapehouse.market import ORDER_EXTENSION, Action, Cells

# Frames without all their answers: few enough that whatever is unanswered can be sent again within the desk's window.
FRAMES_WAITING_MAX = WINDOW // ORDERS_PER_FRAME_MAX - 2
_SUBJECT = "orders.frame"

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderOutcome:
    """What became of one order, replace or cancel of a frame.

    Args:
        number: The client's.
        outcome: `accepted`, `rejected`, or `repeated`: its number was seen before, and nothing happened.
        reason: Why it was rejected, now or when its number was seen first.
        order_id: Of the order concerned.
        position: The tape's ordinal of what is answered here.
    """

    number: int
    outcome: str
    reason: str
    order_id: int
    position: int

    @property
    def accepted(self) -> bool:
        """Whether the desk took it, now or when its number was seen first."""
        return not self.reason


def bulk_client(name: str) -> int:
    """The number by which frames call a client: the same for a name for ever, and not 0."""
    return int.from_bytes(blake3(name.encode()).digest(length=8), "little") or 1


async def send_frames(
    commands: Log, listener: Listener, orders: Cells, *, tape: str, timeout: float, on_progress: Progress | None = None
) -> list[OrderOutcome]:
    """Append orders in frames and return the outcome of each, in order.

    Args:
        orders: Consecutive orders of one client, as `order_rows.order_cells` makes them.
        timeout: Seconds that each frame may take from its append to its last answer.
        on_progress: Called with the orders that are answered and rejected so far.

    Raises:
        BusUnavailableError: Not all were answered in time. Sent again with the same client and numbers, each has one
            effect.
        DataError: The desk's sequencer refused a frame.
    """
    await listener.open()
    step = ORDER_CELLS * ORDERS_PER_FRAME_MAX
    told: list[list[OrderOutcome]] = [[] for _ in range(0, len(orders), step)]
    running: set[asyncio.Task[None]] = set()
    counts = [0, 0]

    async def answer(at: int, answers: Answers, sequence: int) -> None:
        told[at] = _outcomes(await _answered(listener, answers, commands.name, sequence, tape=tape, timeout=timeout))
        counts[0] += len(told[at])
        counts[1] += sum(not outcome.accepted for outcome in told[at])
        if on_progress is not None:
            on_progress(*counts)

    try:
        for at in range(len(told)):
            piece = orders[at * step : (at + 1) * step]
            said = piece[1:2].view(ORDER_EXTENSION)[0]
            payload = encode_orders(piece)
            while len(running) >= FRAMES_WAITING_MAX:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            answers = listener.expect_orders(int(said["client"]), int(said["number"]), len(piece) // ORDER_CELLS)
            try:
                sequence = await _append(commands, payload, answers, tape)
            except BaseException:
                listener.forget_orders(answers)
                raise
            running.add(asyncio.create_task(answer(at, answers, sequence)))
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return [outcome for frame in told for outcome in frame]


async def _append(commands: Log, payload: bytes, answers: Answers, tape: str) -> int:
    try:
        return await append_command(commands, payload, subject=f"cmd.v1.{tape}.{_SUBJECT}")
    except AmbiguousAppendError as error:
        error.position = f"{commands.name}, orders {answers.first} on"
        error.hint = "send the same client and numbers again: each order has one effect"
        raise


async def _answered(
    listener: Listener, answers: Answers, log: str, sequence: int, *, tape: str, timeout: float
) -> Answers:
    """Wait for the answers to a frame that is in CMDS; or for the refusal of the frame."""
    frame = unread_id(sequence)
    refused = await listener.expect(frame)
    try:
        waiting: set[asyncio.Future[object]] = {answers.done, refused}  # type: ignore[arg-type]
        done, _ = await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if answers.done in done:
            answers.done.result()
            return answers
        position = f"{log} sequence {sequence}"
        if refused in done:
            raise DataError(refused.result().reason, subject="frame of orders", position=position)
        missing = answers.missing
        raise BusUnavailableError(
            f"no answer to {len(missing)} orders, from number {int(missing[0])} on, within {timeout:g} s",
            subject="frame of orders",
            position=position,
            hint=f"it is stored: is a host running? tapehouse host --tape {tape}; "
            "sent again with the same client and numbers it has one effect",
        )
    finally:
        listener.forget(frame)
        listener.forget_orders(answers)


def _outcomes(answers: Answers) -> list[OrderOutcome]:
    said = zip(
        np.arange(len(answers.action)).tolist(),
        answers.action.tolist(),
        answers.reason.tolist(),
        answers.order_id.tolist(),
        answers.position.tolist(),
        strict=True,
    )
    return [
        OrderOutcome(
            number=answers.first + at,
            outcome="repeated" if action == Action.REPEATED else "rejected" if reason else "accepted",
            reason=REASONS[reason] if reason < len(REASONS) else f"reason {reason}",
            order_id=order_id,
            position=position,
        )
        for at, action, reason, order_id, position in said
    ]
