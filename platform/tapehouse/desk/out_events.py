"""Decisions as JSON for any language: EVENTS folded to one object for each record; see docs/formats/out.md.

An object says everything by name and as decimals, so that a reader needs neither cells nor definitions. It is a pure
function of EVENTS: the same record gives the same bytes whenever and wherever it is folded, so a reader that meets it
twice knows it by its id.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from blake3 import blake3

from tapehouse.book.projection import fixed_text
from tapehouse.core.errors import DecodeError, IntegrityError
from tapehouse.core.sections import pack_sections, unpack_sections
from tapehouse.core.units import format_time_ns
from tapehouse.desk.names import Names
from tapehouse.desk.orders_projection import reason_text
from tapehouse.log.envelope import Body, deterministic_id, read_envelope
from tapehouse.market import (
    FILL_EXTENSION,
    KIND_SKIPPED_FROM,
    ORDER_EXTENSION,
    Action,
    Cells,
    Instrument,
    Kind,
    Side,
    empty_cells,
    read_definition,
    record_starts,
    unpack_payload,
)

VERSION = 1  # of the bodies that are made here; those of JSON events keep their own
WORKING_MAX = 1 << 17  # orders whose beginning is remembered; beyond it the oldest is forgotten
ORDER_TYPES = {
    int(Action.ACCEPTED): "order.accepted",
    int(Action.REJECTED): "order.rejected",
    int(Action.CANCELLED): "order.cancelled",
    int(Action.EXPIRED): "order.expired",
    int(Action.TRIGGERED): "order.triggered",
    int(Action.REPEATED): "order.repeated",
}
FILLED, DEFINED, OUTCOME = "order.filled", "instrument.defined", "command.outcome"
_ENDS = {int(Action.REJECTED), int(Action.CANCELLED), int(Action.EXPIRED)}
_OUTCOME = b'"command.outcome"'


class EventsHeader(Protocol):
    """What the fold reads of a frame's header."""

    @property
    def first_ordinal(self) -> int:
        """The ordinal of the first cell."""
        ...

    @property
    def is_partial(self) -> bool:
        """Whether the append that this frame is part of goes on."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OutMessage:
    """One record as JSON.

    Args:
        ordinal: Of the record's first cell in EVENTS.
        after: The ordinal behind its last cell.
        type: The last part of its subject.
        payload: JSON, UTF-8.
    """

    ordinal: int
    after: int
    type: str
    payload: bytes


@dataclass(slots=True)
class _Working:
    """What later records of an order need of its beginning."""

    correlation: str
    left: int


class OutEvents:
    """A machine over EVENTS whose outputs are JSON; see the module."""

    name = "out"
    version = 1

    def __init__(self, tape: str) -> None:
        self._tape = tape
        self._names = Names()
        self._working: dict[int, _Working] = {}  # by order id, which only grows
        self._previous = -1  # the ordinal of the last record that was told
        self._held = empty_cells(0)  # of an append that goes on, not yet told
        self._held_from = 0
        self._made: list[OutMessage] = []

    def apply(self, header: EventsHeader, cells: Cells) -> None:
        """Fold whole records of EVENTS; what they say is taken by `take`, each input's once it is there whole.

        Raises:
            DecodeError: A record cannot be read, or is of a kind or action that is unknown.
        """
        if not len(self._held):
            self._held_from = header.first_ordinal
        held, ordinal = np.concatenate([self._held, cells]), self._held_from
        starts = record_starts(held)
        bounds = [0, *(np.flatnonzero(np.diff(held["sequence"][starts])) + 1).tolist(), len(starts)]
        if header.is_partial:  # The outcome that says which command led to the last records may be in the next frame.
            bounds.pop()
        ends = [*starts.tolist(), len(held)]
        for first, last in itertools.pairwise(bounds):
            self._tell([(ordinal + ends[at], held[ends[at] : ends[at + 1]]) for at in range(first, last)])
        told = ends[bounds[-1]]
        self._held, self._held_from = held[told:].copy(), ordinal + told

    def take(self) -> list[OutMessage]:
        """What was told since the last call, in order."""
        made, self._made = self._made, []
        return made

    @property
    def is_between_appends(self) -> bool:
        """Whether nothing is held back: only then the state can be kept."""
        return not len(self._held) and not self._made

    def _tell(self, group: list[tuple[int, Cells]]) -> None:
        """Tell all records that one input led to."""
        for (ordinal, record), cause in zip(group, _causes_of(group), strict=True):
            kind = int(record["kind"][0])
            if kind >= KIND_SKIPPED_FROM:
                continue
            if kind in (Kind.DEFINITION, Kind.EVENT):
                self._names.learn(record)
            if kind == Kind.ORDER:
                self._put(ordinal, record, *self._order(record, cause))
            elif kind == Kind.FILL:
                self._put(ordinal, record, *self._fill(record, cause))
            elif kind == Kind.EVENT:
                event = read_envelope(unpack_payload(record))
                chain = (event.causation or cause[0], event.correlation)
                self._put(ordinal, record, event.type, chain, event.body, version=event.version, event_id=event.id)
            elif kind == Kind.DEFINITION:
                self._put(ordinal, record, DEFINED, cause, _definition(record))
            else:
                raise DecodeError(f"record kind {kind} is no decision", subject="EVENTS", position=f"cell {ordinal}")

    def _order(self, record: Cells, cause: tuple[str, str]) -> tuple[str, tuple[str, str], Body]:
        first, more = record[0], _extension(record, ORDER_EXTENSION)
        action, order_id, size = int(first["action"]), int(first["order_id"]), int(first["size"])
        kind = ORDER_TYPES.get(action)
        if kind is None:
            raise DecodeError(f"action {action} of an order is unknown", subject="EVENTS", hint="upgrade tapehouse")
        known = self._working.get(order_id)
        chain = (cause[0], known.correlation if known is not None else cause[1])
        instrument = self._instrument(int(first["instrument"]))
        body: Body = {
            "order_id": order_id,
            "instrument": instrument.symbol,
            "account": self._names.account(int(more["client"])),
            "number": int(more["number"]),
            "side": _side(int(first["side"])),
            "price": fixed_text(int(first["price"]), instrument.price_exponent),
            "left": fixed_text(size, instrument.size_exponent),
            "reason": reason_text(int(first["depth"])),
        }
        stop = fixed_text(int(more["stop"]), instrument.price_exponent)
        if stop is not None:
            body["stop"] = stop
        if int(more["display"]) not in (0, size):
            body["display"] = fixed_text(int(more["display"]), instrument.size_exponent)
        if int(more["expiry"]):
            body["expiry"] = format_time_ns(int(more["expiry"]))
        if int(more["replaced"]):
            body["replaced"] = int(more["replaced"])
        if action in _ENDS:
            self._working.pop(order_id, None)
        elif action != Action.REPEATED:
            self._remember(order_id, chain[1], size)
        return kind, chain, body

    def _fill(self, record: Cells, cause: tuple[str, str]) -> tuple[str, tuple[str, str], Body]:
        first, more = record[0], _extension(record, FILL_EXTENSION)
        order_id, size = int(first["order_id"]), int(first["size"])
        instrument = self._instrument(int(first["instrument"]))
        known = self._working.get(order_id)
        body: Body = {
            "order_id": order_id,
            "instrument": instrument.symbol,
            "account": self._names.account(int(more["client"])),
            "side": _side(int(first["side"])),
            "price": fixed_text(int(first["price"]), instrument.price_exponent),
            "size": fixed_text(size, instrument.size_exponent),
            "liquidity": "taker" if int(first["depth"]) else "maker",
            "fee": fixed_text(int(more["fee"]), instrument.currency_exponent),
            "currency": instrument.currency,
            "match_id": int(more["match_id"]),
            "position": fixed_text(int(more["position"]), instrument.size_exponent),
            "cash": fixed_text(int(more["cash"]), instrument.currency_exponent),
        }
        if int(more["counter_order"]):
            body["counter_order"] = int(more["counter_order"])
        if known is None:
            return FILLED, cause, body
        known.left -= size
        body["left"] = fixed_text(known.left, instrument.size_exponent)
        if known.left <= 0:
            del self._working[order_id]
        return FILLED, (cause[0], known.correlation), body

    def _instrument(self, number: int) -> Instrument:
        instrument = self._names.instruments.get(number)
        if instrument is None:
            raise DecodeError(f"instrument {number} is used before its definition", subject="EVENTS")
        return instrument

    def _remember(self, order_id: int, correlation: str, left: int) -> None:
        self._working[order_id] = _Working(correlation, left)
        if len(self._working) > WORKING_MAX:
            del self._working[min(self._working)]

    def _put(
        self,
        ordinal: int,
        record: Cells,
        kind: str,
        chain: tuple[str, str],
        body: Body,
        *,
        version: int = VERSION,
        event_id: str = "",
    ) -> None:
        first = record[0]
        consumed, index, now = int(first["sequence"]), int(first["count"]), int(first["ts_recv"])
        told = {
            "id": event_id or deterministic_id(kind, consumed, index),
            "type": kind,
            "version": version,
            "tape": self._tape,
            "position": {"events": ordinal, "previous": self._previous, "input": consumed, "index": index},
            "causation": chain[0],
            "correlation": chain[1],
            "time": format_time_ns(now),
            "time_ns": now,
            "body": body,
        }
        payload = json.dumps(told, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
        self._made.append(OutMessage(ordinal=ordinal, after=ordinal + len(record), type=kind, payload=payload))
        self._previous = ordinal

    # State.

    def snapshot(self) -> bytes:
        """The whole state, canonical; only between appends.

        Raises:
            IntegrityError: Something is held back, which is in no snapshot.
        """
        if not self.is_between_appends:
            raise IntegrityError("what is not told yet is in no snapshot", subject=self.name, hint="take it first")
        working = [[order_id, order.correlation, order.left] for order_id, order in sorted(self._working.items())]
        state = {"tape": self._tape, "previous": self._previous, "working": working}
        return pack_sections(
            {"names": self._names.snapshot(), "state": json.dumps(state, separators=(",", ":")).encode()}
        )

    def restore(self, snapshot: bytes) -> None:
        """Become the state that `snapshot` returned; raises IntegrityError for other bytes, and of another tape."""
        sections = unpack_sections(snapshot)
        try:
            names = Names.restore(sections["names"])
            state: dict[str, Any] = json.loads(sections["state"])
            tape, previous = str(state["tape"]), int(state["previous"])
            working = {int(order): _Working(str(chain), int(left)) for order, chain, left in state["working"]}
        except (KeyError, ValueError, TypeError) as error:
            raise IntegrityError(f"a snapshot of OUT is damaged: {error}", hint="refold the log") from error
        if tape != self._tape:
            raise IntegrityError(f"a snapshot of OUT is of tape {tape}", hint="refold the log")
        self._names, self._previous, self._working = names, previous, working
        self._held, self._made = empty_cells(0), []

    def digest(self) -> bytes:
        """BLAKE3 of the snapshot."""
        return blake3(self.snapshot()).digest()


def _causes_of(group: list[tuple[int, Cells]]) -> list[tuple[str, str]]:
    """What led to each record of one input: the id and correlation of the command whose outcome comes next in it.

    An input without an outcome is no command: its place on TAPE stands for both. One that has a parked command decided
    again has two outcomes; what follows the last of them is the last one's.
    """
    place = f"tape:{int(group[0][1]['sequence'][0])}"
    outcomes = [_outcome_of(record) for _, record in group]
    cause = next((told for told in reversed(outcomes) if told is not None), (place, place))
    causes = []
    for told in reversed(outcomes):
        cause = told or cause
        causes.append(cause)
    return causes[::-1]


def _outcome_of(record: Cells) -> tuple[str, str] | None:
    """The command that a record answers, and its correlation; None where it is no outcome."""
    if int(record["kind"][0]) != Kind.EVENT:
        return None
    payload = unpack_payload(record)
    if _OUTCOME not in payload:
        return None
    event = read_envelope(payload)
    return (event.causation, event.correlation) if event.type == OUTCOME and event.causation else None


def _definition(record: Cells) -> Body:
    instrument = read_definition(record)
    body: Body = {
        "instrument": instrument.symbol,
        "number": instrument.id,
        "venue": instrument.venue,
        "asset_class": instrument.asset_class,
        "tick_size": fixed_text(instrument.tick_size, instrument.price_exponent),
        "lot_size": fixed_text(instrument.lot_size, instrument.size_exponent),
        "multiplier": instrument.multiplier,
        "currency": instrument.currency,
        "revision": instrument.revision,
    }
    if instrument.asset_class == "option":
        body |= {"strike": fixed_text(instrument.strike, instrument.price_exponent), "right": instrument.right}
        body["underlying"] = instrument.underlying
    if instrument.expiry_ns:
        body["expiry"] = format_time_ns(instrument.expiry_ns)
    return body


def _extension(record: Cells, layout: np.dtype[Any]) -> Any:
    if len(record) < 2:
        raise DecodeError("an order's or fill's record is cut short", subject="EVENTS")
    return record[1:2].view(layout)[0]


def _side(side: int) -> str:
    return "sell" if side == Side.ASK else "buy" if side == Side.BID else ""
