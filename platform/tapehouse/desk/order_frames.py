"""Frames of orders: how many orders of one client travel through CMDS as one message, and stand on TAPE.

The message is a frame whose body is ORDER records of two cells; docs/formats/decisions.md says what each field asks
for. `encode_orders` makes one, `decode_orders` checks one: what it lets through needs no further check but that of
risk. Pure: bytes in, cells out.
"""

from __future__ import annotations

import json

import numpy as np

from tapehouse.core.errors import DataError
from tapehouse.core.ids import LOG_ID_BYTES
from tapehouse.desk.requests import ORDER_TYPES, POST_ONLY_FLAG, REDUCE_ONLY_FLAG, TIMES_IN_FORCE
from tapehouse.log.frame import MAGIC, Body, FrameHeader, decode_frame, encode_frame, read_header
from tapehouse.market import ORDER_EXTENSION, Action, Cells, Flag, Kind, Side, empty_cells

ORDERS_PER_FRAME_MAX = 1024
ORDER_CELLS = 2
NUMBER_MAX = 2**63 - 1
SUBMITTED, REPLACED, CANCELLED = int(Action.ADD), int(Action.MODIFY), int(Action.CANCEL)
REASON_CHARACTERS_MAX = 400
_REFUSED = b'{"refused_frame": '
_TYPE_BITS = 4  # of `depth`: the order type below, the time in force above
_FLAGS = POST_ONLY_FLAG | REDUCE_ONLY_FLAG


def is_order_frame(payload: bytes) -> bool:
    """Whether a message of CMDS is a frame of orders, or a damaged one; a JSON command never begins like it."""
    return payload.startswith(MAGIC)


def pack_depth(order_type: int, time_in_force: int) -> int:
    """The `depth` of an order: its type and its time in force, numbers of `requests.py`."""
    return order_type | time_in_force << _TYPE_BITS


def make_orders(count: int, *, client: int, number: int) -> Cells:
    """Cells of `count` orders of a client with consecutive numbers, shape (2 x count,); the rest of them is zero.

    The caller writes what the orders ask for into the first cells (every other one, from 0 on) and, viewed as
    ORDER_EXTENSION, into the second ones.
    """
    cells = empty_cells(ORDER_CELLS * count)
    first = cells[::ORDER_CELLS]
    first["kind"], first["cells"], first["action"], first["side"] = Kind.ORDER, ORDER_CELLS, SUBMITTED, Side.BID
    said = cells[1::ORDER_CELLS].view(ORDER_EXTENSION)
    said["client"] = client
    said["number"] = np.arange(number, number + count, dtype=np.uint64)
    return cells


def encode_orders(cells: Cells) -> bytes:
    """Orders as a message for CMDS; the same orders give the same bytes on this machine.

    Raises:
        DataError: What no sequencer would take; see `decode_orders`.
    """
    _check_count(cells)
    cells = cells.copy()
    first, second = cells[::ORDER_CELLS], cells[1::ORDER_CELLS]
    second.view(ORDER_EXTENSION)["head"] = first.view(ORDER_EXTENSION)["head"]
    second["cells"] = 0
    check_orders(cells)
    said = cells[1].view(ORDER_EXTENSION)
    header = FrameHeader(
        log_id=bytes(LOG_ID_BYTES), writer=int(said["client"]), epoch=0, first_ordinal=int(said["number"])
    )
    return encode_frame(cells, header)


def decode_orders(payload: bytes) -> Cells:
    """The orders of a message of CMDS, as they were sent.

    Raises:
        DecodeError: The frame is damaged.
        DataError: It holds something else than consecutive orders of one client, or more than ORDERS_PER_FRAME_MAX.
    """
    header = read_header(payload)
    if header.body is not Body.CELLS:
        raise DataError("its body is no cells")
    if header.count > ORDER_CELLS * ORDERS_PER_FRAME_MAX:  # Before anything of that size is allocated.
        raise DataError(f"it has {header.count} cells, {ORDER_CELLS * ORDERS_PER_FRAME_MAX} are the most")
    _, cells = decode_frame(payload)
    check_orders(cells)
    return cells


def _check_count(cells: Cells) -> int:
    count, rest = divmod(len(cells), ORDER_CELLS)
    if rest or not 0 < count <= ORDERS_PER_FRAME_MAX:
        raise DataError(f"{len(cells)} cells are not 1 to {ORDERS_PER_FRAME_MAX} orders of {ORDER_CELLS}")
    return count


def check_orders(cells: Cells) -> None:
    """Raise DataError unless these are whole orders of one client with consecutive numbers, and not too many."""
    count = _check_count(cells)
    first, second = cells[::ORDER_CELLS], cells[1::ORDER_CELLS]
    said = second.view(ORDER_EXTENSION)
    heads = second.copy()
    heads["cells"] = ORDER_CELLS
    same_head = heads.view(ORDER_EXTENSION)["head"] == first.view(ORDER_EXTENSION)["head"]
    numbers = said["number"] - said["number"][0]  # Unsigned: a number that wraps around fails the range below.
    kinds, times = first["depth"] & 15, first["depth"] >> _TYPE_BITS
    rules = {
        "a record that is no order": (first["kind"] == Kind.ORDER) & (first["cells"] == ORDER_CELLS),
        "an extension that is not its order's": (second["cells"] == 0) & same_head,
        "an action that is none of submit, replace, cancel": np.isin(first["action"], (SUBMITTED, REPLACED, CANCELLED)),
        "a side that is none": (first["side"] == Side.BID) | (first["side"] == Side.ASK),
        "an order type that is unknown": kinds < len(ORDER_TYPES),
        "a time in force that is unknown": times < len(TIMES_IN_FORCE),
        "a flag that is unknown": first["flags"] & ~np.uint8(_FLAGS) == 0,
        "an id of an order that cannot be": first["order_id"] <= NUMBER_MAX,
        "a field that must be 0 and is not": (said["replaced"] == 0) & (first["source"] == 0),
        "another client, or none": (said["client"] == said["client"][0]) & (said["client"] != 0),
        "a number that does not follow the one before": numbers == np.arange(count, dtype=np.uint64),
        "a number that is not in 1 to 2^63 - 1": (said["number"] >= 1) & (said["number"] <= NUMBER_MAX),
    }
    for what, holds in rules.items():
        if not holds.all():
            raise DataError(what, position=f"order {int(np.flatnonzero(~holds)[0])} of the frame")


def refusal(reason: str) -> bytes:
    """The payload of the COMMAND record that stands on TAPE for a frame that is refused."""
    return json.dumps({"refused_frame": reason[:REASON_CHARACTERS_MAX]}).encode()


def refuse_frame(payload: bytes) -> None:
    """Raise DataError with the reason where the payload of a COMMAND record stands for a frame that was refused."""
    if payload.startswith(_REFUSED):
        raise DataError(json.loads(payload)["refused_frame"], subject="frame of orders")


def place_orders(cells: Cells, *, sequence: int, now: int, source: int, skip: int = 0) -> Cells:
    """Checked orders as TAPE has them: stamped, the last one of the message with the flag LAST.

    Args:
        skip: So many of the first ones are on TAPE already.
    """
    cells = cells.copy()
    first = cells[::ORDER_CELLS]
    first["sequence"], first["ts_event"], first["ts_recv"] = sequence, now, now
    cells["source"] = source
    cells["flags"][-ORDER_CELLS:] |= np.uint8(Flag.LAST)
    return cells[ORDER_CELLS * skip :]


def orders_of(cells: Cells, source: int) -> Cells:
    """The first cells of the orders that a sequencer of that `source` took from CMDS, among cells of TAPE."""
    found: Cells = cells[(cells["kind"] == Kind.ORDER) & (cells["cells"] > 0) & (cells["source"] == source)]
    return found


def consumed_through(cells: Cells, before: int, source: int) -> int:
    """The CMDS sequence whose messages are whole with these cells of TAPE, where it was `before` without them."""
    commands = cells["sequence"][(cells["kind"] == Kind.COMMAND) & (cells["cells"] > 0)]
    orders = orders_of(cells, source)
    ended = orders["sequence"][orders["flags"] & np.uint8(Flag.LAST) != 0]
    return max(before, int(commands.max(initial=0)), int(ended.max(initial=0)))
