"""IEX messages and packets by hand, and a slow decoder of them to hold the kernels against."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from tapehouse.market import Action, Flag, Kind, Side

UNDEFINED = 2**63 - 1
UNIT = 100_000
T0 = 1_493_149_909 * 10**9
LAST, BY_PRICE = int(Flag.LAST), int(Flag.BY_PRICE)
Row = tuple[int, ...]  # as `tests.support.itch.COLUMNS`, but the flags are whole


def padded(symbol: str) -> bytes:
    return symbol.ljust(8).encode()


def system(time: int, event: str) -> bytes:
    return struct.pack("<ccq", b"S", event.encode(), time)


def status(time: int, symbol: str, state: str) -> bytes:
    return struct.pack("<ccq8s4s", b"H", state.encode(), time, padded(symbol), b"    ")


def halt(time: int, symbol: str, state: str) -> bytes:
    return struct.pack("<ccq8s", b"O", state.encode(), time, padded(symbol))


def short_sale(time: int, symbol: str, on: bool) -> bytes:
    return struct.pack("<cBq8sc", b"P", on, time, padded(symbol), b" ")


def security(time: int, symbol: str, event: str) -> bytes:
    return struct.pack("<ccq8s", b"E", event.encode(), time, padded(symbol))


def level(time: int, symbol: str, side: str, size: int, price: int, complete: bool) -> bytes:
    return struct.pack("<cBq8sIq", side.encode(), complete, time, padded(symbol), size, price)


def trade(time: int, symbol: str, size: int, price: int) -> bytes:
    return struct.pack("<cBq8sIqq", b"T", 0, time, padded(symbol), size, price, 7)


def broken(time: int, symbol: str) -> bytes:
    return struct.pack("<cBq8sIqq", b"B", 0, time, padded(symbol), 1, 1, 7)


def quote(time: int, symbol: str, bid_size: int, bid: int, ask: int, ask_size: int) -> bytes:
    return struct.pack("<cBq8sIqqI", b"Q", 0, time, padded(symbol), bid_size, bid, ask, ask_size)


def packet(
    first: int, messages: Sequence[bytes], sent: int, position: int = 0, session: int = 9, protocol: int = 0x8004
) -> bytes:
    body = b"".join(struct.pack("<H", len(message)) + message for message in messages)
    return struct.pack("<BxHIIHHqqq", 1, protocol, 1, session, len(body), len(messages), position, first, sent) + body


def chained(groups: Sequence[Sequence[bytes]], sent: int = T0 + 10**9, session: int = 9) -> list[bytes]:
    """Packets one behind the other from number 1 on, a second apart."""
    first, position, packets = 1, 0, []
    for messages in groups:
        packets.append(packet(first, messages, sent, position, session))
        first += len(messages)
        position += sum(2 + len(message) for message in messages)
        sent += 10**9
    return packets


def day() -> list[bytes]:
    """One of each."""
    return [
        system(T0, "O"), status(T0 + 1, "ABC", "T"), halt(T0 + 2, "ABC", "N"), short_sale(T0 + 3, "ZVZZT", True),
        level(T0 + 4, "ABC", "8", 100, 250_000, True), level(T0 + 5, "ABC", "5", 200, 250_100, True),
        trade(T0 + 6, "ABC", 50, 250_050), level(T0 + 7, "ABC", "8", 50, 250_000, False),
        trade(T0 + 8, "ABC", 50, 250_000), level(T0 + 9, "ABC", "8", 0, 250_000, True),
        quote(T0 + 10, "ZVZZT", 100, 99_900, 100_100, 300), quote(T0 + 11, "ZVZZT", 0, 0, 100_100, 300),
        security(T0 + 12, "ABC", "C"), broken(T0 + 13, "ABC"), system(T0 + 14, "C"),
    ]  # fmt: skip


STATUSES = {
    b"S": b"O\0S\1R\7M\15E\14C\17", b"H": b"H\10O\1P\11T\7", b"O": b"O\10N\7", b"P": b"\0\16\1\16", b"E": b"O\0C\0",
}  # fmt: skip


@dataclass
class SlowDecoder:
    """One message after the other, each as tuples of numbers."""

    instruments: dict[bytes, int] = field(default_factory=dict)
    transit: set[int] = field(default_factory=set)
    latest: int = 0

    def decode(self, messages: Sequence[bytes], ts_recv: int, first: int = 1) -> list[Row]:
        rows: list[Row] = []
        for sequence, message in enumerate(messages, first):
            rows += self.one(message, sequence, ts_recv)
        return rows

    def one(self, message: bytes, sequence: int, ts_recv: int) -> list[Row]:
        kind = message[:1]
        if kind not in b"SHOPE85TQBAXDI" or not kind:
            return []
        (event,) = struct.unpack("<q", message[2:10])
        self.latest = max(self.latest, ts_recv)
        of = 0
        if kind != b"S":
            of = self.instruments.setdefault(message[10:18], len(self.instruments) + 1)

        def row(what: Kind, action: int, side: int, price: int, size: int, flags: int, count: int = 0) -> Row:
            return (event, self.latest, sequence, 0, price, size, of, what, action, side, flags, count)

        if kind in (b"8", b"5"):
            size, price = struct.unpack("<Iq", message[18:30])
            side = Side.BID if kind == b"8" else Side.ASK
            complete = message[1] & 1
            (self.transit.discard if complete else self.transit.add)(of)
            action = Action.ADD if size else Action.CANCEL
            return [row(Kind.MBP, action, side, price * UNIT, size, BY_PRICE + LAST * complete)]
        last = 0 if of in self.transit else LAST
        if kind == b"T":
            size, price = struct.unpack("<Iq", message[18:30])
            return [row(Kind.TRADE, Action.TRADE, Side.NONE, price * UNIT, size, last)]
        if kind == b"Q":
            bid_size, bid, ask, ask_size = struct.unpack("<IqqI", message[18:42])
            return [
                row(Kind.QUOTE, Action.NONE, Side.NONE, price * UNIT if price and size else UNDEFINED,
                    size if price else 0, last)
                for price, size in ((bid, bid_size), (ask, ask_size))
            ]  # fmt: skip
        if kind in STATUSES:
            known = dict(zip(STATUSES[kind][::2], STATUSES[kind][1::2], strict=True))
            return [row(Kind.STATUS, Action.NONE, Side.NONE, UNDEFINED, 0, last, known.get(message[1], 0))]
        return []
