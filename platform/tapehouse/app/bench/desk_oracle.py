"""The plain desk on the first orders of a stream: what the kernels must have said before they are timed."""

from __future__ import annotations

from typing import Any

from tapehouse.app.bench.desk_stream import SLOT, Part, Stream
from tapehouse.app.bench.engines import header
from tapehouse.book import ASK, BID, levels
from tapehouse.core.check import check
from tapehouse.desk.order_frames import CANCELLED, REPLACED
from tapehouse.desk.reference import Limits, Market, ReferenceDesk, Request
from tapehouse.desk.requests import BUY, CANCEL, REPLACE, SELL, SUBMIT, UNKNOWN_ORDER
from tapehouse.desk.state import (
    CASH,
    CROSSING,
    LAST_TRADE,
    LIMIT_NOTIONAL,
    LIMIT_OPEN_ORDERS,
    LIMIT_ORDER_SIZE,
    LIMIT_POSITION,
    LOT,
    MONEY_EXPONENT,
    MULTIPLIER,
    POSITION,
    STREET,
    TICK,
)
from tapehouse.engine import Engine
from tapehouse.market import (
    ANSWER_EXTENSION,
    FILL_EXTENSION,
    ORDER_EXTENSION,
    Action,
    Cells,
    Kind,
    Side,
    record_starts,
)

_KINDS = {CANCELLED: CANCEL, REPLACED: REPLACE}
_ACTIONS = {Action.ACCEPTED: "accepted", Action.REJECTED: "rejected", Action.CANCELLED: "cancelled"}
Asked = list[tuple[int, int, Request]]  # ordinal, time, request


def before_orders(stream: Stream) -> tuple[Engine, int, Part]:
    """An engine before the first order, the ordinal there, and the first frame."""
    engine, ordinal = stream.engine(), len(stream.opening)
    for part in stream.parts:
        if part.is_orders:
            return engine, ordinal, part
        engine.apply(header(ordinal), part.cells)
        ordinal += len(part.cells)
    raise AssertionError("a stream has orders")


def read_requests(cells: Cells, first_ordinal: int) -> Asked:
    """Orders as the plain desk takes them."""
    first, second = cells[::2], cells[1::2].view(ORDER_EXTENSION)
    asked = []
    for at, (cell, said) in enumerate(zip(first, second, strict=True)):
        kind = _KINDS.get(int(cell["action"]), SUBMIT)
        request = Request(
            kind=kind, account=int(cell["count"]), slot=SLOT, side=BUY if cell["side"] == Side.BID else SELL,
            order_type=int(cell["depth"]) & 15, time_in_force=int(cell["depth"]) >> 4, flags=int(cell["flags"]) & 127,
            price=int(cell["price"]), size=int(cell["size"]), target=int(cell["order_id"]), number=int(said["number"]),
        )  # fmt: skip
        asked.append((first_ordinal + 2 * at, int(cell["ts_recv"]), request))
    return asked


def plain_desk(engine: Engine) -> ReferenceDesk:
    """A plain desk where an engine stands that has no orders and no positions yet."""
    desk = engine.desk
    row, limits = desk.instruments[SLOT], desk.limits[1, SLOT]
    shown = {side: [(price, size) for price, size, _ in levels(engine.books, SLOT, side)] for side in (BID, ASK)}
    market = Market(
        levels=lambda side: shown[side], money_exponent=int(row[MONEY_EXPONENT]), tick=int(row[TICK]),
        lot=int(row[LOT]), multiplier=int(row[MULTIPLIER]), crossing=bool(row[CROSSING]),
        last_trade=int(row[LAST_TRADE]),
    )  # fmt: skip
    plain = ReferenceDesk([market], maker_fee_ppm=int(desk.fees[0]), taker_fee_ppm=int(desk.fees[1]))
    for account in range(STREET):
        plain.limits[account, SLOT] = Limits(
            order_size=int(limits[LIMIT_ORDER_SIZE]), position=int(limits[LIMIT_POSITION]),
            notional=int(limits[LIMIT_NOTIONAL]), open_orders=int(limits[LIMIT_OPEN_ORDERS]),
        )  # fmt: skip
    return plain


def ask_all(plain: ReferenceDesk, asked: Asked) -> list[int]:
    """Have a plain desk decide; returns the reasons."""
    reasons = []
    for ordinal, now, request in asked:
        plain.begin(ordinal, now)
        reasons.append(plain.decide(request))
    return reasons


def require_agreement(stream: Stream, count: int) -> tuple[ReferenceDesk, Asked]:
    """Hold the kernels against the plain desk on the first orders; raises where they differ in anything.

    Returns:
        A plain desk that stands before the first order, and what it is asked.
    """
    engine, ordinal, part = before_orders(stream)
    cells = part.cells[: 2 * count]
    asked = read_requests(cells, ordinal)
    plain, fresh = plain_desk(engine), plain_desk(engine)
    reasons = ask_all(plain, asked)
    engine.take_outputs()
    engine.apply(header(ordinal), cells)
    answered, told = _told(engine.take_outputs())
    check(answered == reasons, "the plain desk gives other answers", subject=stream.name)
    check(told == plain.records, "the plain desk tells other records", subject=stream.name)
    for account in range(STREET + 1):
        ledger, row = plain.ledger(account, SLOT), engine.desk.accounts[account, SLOT]
        same = (ledger.position, ledger.cash) == (int(row[POSITION]), int(row[CASH]))
        check(same, f"account {account} has other amounts", subject=stream.name)
    return fresh, asked


def _told(outputs: Cells) -> tuple[list[int], list[tuple[object, ...]]]:
    """The reason of each answer, and all records as the plain desk tells them; it tells none of unknown orders."""
    reasons, told = [], []
    for start in record_starts(outputs).tolist():
        record = outputs[start : start + int(outputs["cells"][start])]
        first, depth = record[0], int(record["depth"][0])
        is_order = int(first["kind"]) == Kind.ORDER
        if is_order and len(record) > 2:
            reasons.append(int(record[-1:].view(ANSWER_EXTENSION)["reason"][0]))
            if reasons[-1] == UNKNOWN_ORDER:
                continue
        more = record[1:2].view(ORDER_EXTENSION if is_order else FILL_EXTENSION)[0]
        told.append(_order(first, more, depth) if is_order else _fill(first, more, depth))
    return reasons, told


def _side(first: Any) -> int:
    return BUY if first["side"] == Side.BID else SELL


def _order(first: Any, more: Any, depth: int) -> tuple[object, ...]:
    said = (int(more[name]) for name in ("client", "number", "stop", "display", "expiry", "replaced"))
    what = (_ACTIONS[Action(int(first["action"]))], depth, int(first["order_id"]), _side(first))
    return ("order", *what, int(first["price"]), int(first["size"]), *said)


def _fill(first: Any, more: Any, depth: int) -> tuple[object, ...]:
    said = (int(more[name]) for name in ("fee", "counter_order", "client", "position", "cash", "match_id"))
    what = (("maker", "taker")[depth], int(first["order_id"]), _side(first), int(first["price"]), int(first["size"]))
    return ("fill", *what, *said)


__all__ = ["ask_all", "before_orders", "plain_desk", "read_requests", "require_agreement"]
