"""ITCH messages by hand, a small day of them, captures of them, and a slow decoder to hold the kernels against.

The decoder is written from the specification with `struct` and dicts; it shares nothing with the product but the
vocabulary of cells.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tapehouse.market import Action, Flag, Kind, Side

UNDEFINED = 2**63 - 1
UNIT = 100_000
T0 = 34_200 * 10**9
LAST = int(Flag.LAST)

Row = tuple[
    int, ...
]  # ts_event, ts_recv, sequence, order_id, price, size, instrument, kind, action, side, flags, count
COLUMNS = ("ts_event", "ts_recv", "sequence", "order_id", "price", "size", "instrument", "kind", "action", "side",
           "flags", "count")  # fmt: skip


def rows_of(cells: object) -> list[Row]:
    """Cells as the oracle writes them."""
    return list(zip(*(cells[column].tolist() for column in COLUMNS), strict=True))  # type: ignore[index]


def head(letter: str, locate: int, time: int) -> bytes:
    return letter.encode() + struct.pack(">HH", locate, 0) + time.to_bytes(6, "big")


def system(time: int, event: str) -> bytes:
    return head("S", 0, time) + event.encode()


def directory(locate: int, time: int, stock: str) -> bytes:
    return head("R", locate, time) + stock.ljust(8).encode() + b"QN" + struct.pack(">I", 100) + b"NCZ PN 1N\0\0\0\0N"


def action(locate: int, time: int, stock: str, state: str) -> bytes:
    return head("H", locate, time) + stock.ljust(8).encode() + state.encode() + b"     "


def add(locate: int, time: int, ref: int, side: str, shares: int, stock: str, price: int, by: bytes = b"") -> bytes:
    body = struct.pack(">QcI8sI", ref, side.encode(), shares, stock.ljust(8).encode(), price)
    return head("F" if by else "A", locate, time) + body + by


def execute(locate: int, time: int, ref: int, shares: int, match: int = 1) -> bytes:
    return head("E", locate, time) + struct.pack(">QIQ", ref, shares, match)


def execute_at(locate: int, time: int, ref: int, shares: int, printable: str, price: int) -> bytes:
    return head("C", locate, time) + struct.pack(">QIQcI", ref, shares, 1, printable.encode(), price)


def cancel(locate: int, time: int, ref: int, shares: int) -> bytes:
    return head("X", locate, time) + struct.pack(">QI", ref, shares)


def delete(locate: int, time: int, ref: int) -> bytes:
    return head("D", locate, time) + struct.pack(">Q", ref)


def replace(locate: int, time: int, old: int, new: int, shares: int, price: int) -> bytes:
    return head("U", locate, time) + struct.pack(">QQII", old, new, shares, price)


def trade(locate: int, time: int, shares: int, stock: str, price: int) -> bytes:
    return head("P", locate, time) + struct.pack(">QcI8sIQ", 0, b"B", shares, stock.ljust(8).encode(), price, 7)


def cross(locate: int, time: int, shares: int, stock: str, price: int) -> bytes:
    return head("Q", locate, time) + struct.pack(">Q8sIQc", shares, stock.ljust(8).encode(), price, 8, b"O")


def broken(locate: int, time: int, match: int) -> bytes:
    return head("B", locate, time) + struct.pack(">Q", match)


def framed(messages: Iterable[bytes], *, zero: bool = False) -> bytes:
    return b"".join(struct.pack(">H", 0 if zero else len(message)) + message for message in messages)


def day(stocks: int = 3, orders: int = 40) -> list[bytes]:
    """A small whole day: every type that becomes a cell, and all orders consistent."""
    names = [f"ST{index}" for index in range(1, stocks + 1)]
    out = [system(T0 - 10, "O")] + [directory(at, T0 - 9, name) for at, name in enumerate(names, 1)]
    out += [system(T0 - 8, "S"), *(action(at, T0 - 7, name, "T") for at, name in enumerate(names, 1))]
    out.append(system(T0 - 6, "Q"))
    time = T0
    for index in range(orders):
        locate = index % stocks + 1
        ref, price = 1000 + 7 * index, 250_000 + 100 * index
        side = "BS"[index % 2]
        out.append(add(locate, time, ref, side, 300, names[locate - 1], price, b"MPID" if index % 9 == 0 else b""))
        time += 1000 + index
        kind = index % 8
        if kind == 0:
            out.append(execute(locate, time, ref, 100))
        elif kind == 1:
            out.append(execute_at(locate, time, ref, 300, "Y", price + 50))
        elif kind == 2:
            out.append(execute_at(locate, time, ref, 200, "N", price))
        elif kind == 3:
            out += [cancel(locate, time, ref, 120), delete(locate, time + 1, ref)]
        elif kind == 4:
            out.append(replace(locate, time, ref, ref + 3, 500, price + 100))
            out.append(execute(locate, time + 2, ref + 3, 500))
        elif kind == 5:
            out += [trade(locate, time, 77, names[locate - 1], price), delete(locate, time, ref)]
        elif kind == 6:
            out += [cross(locate, time, 10_000, names[locate - 1], price), cross(locate, time, 0, names[locate - 1], 0)]
        time += 50
    out += [broken(1, time, 1), system(time, "M"), system(time, "E"), system(time, "C")]
    return out


STATES = {"H": 8, "P": 9, "Q": 3, "T": 7}
EVENTS = {"O": 0, "S": 1, "Q": 7, "M": 13, "E": 12, "C": 15}


@dataclass
class SlowDecoder:
    """One message after the other, each as tuples of numbers."""

    midnight: int
    instruments: dict[int, int] = field(default_factory=dict)
    orders: dict[int, list[int]] = field(default_factory=dict)
    latest: int = 0
    unknown_orders: int = 0
    overtaken: int = 0
    duplicates: int = 0

    def decode(self, messages: Sequence[bytes], ts_recv: int | None = None, first: int = 1) -> list[Row]:
        rows: list[Row] = []
        for number, message in enumerate(messages, first):
            rows += self.one(message, number, ts_recv)
        return rows

    def one(self, message: bytes, number: int, ts_recv: int | None) -> list[Row]:
        if not message or chr(message[0]) not in "SRHAFECXDUPQ":
            return []
        letter = chr(message[0])
        (locate,) = struct.unpack(">H", message[1:3])
        event = self.midnight + int.from_bytes(message[5:11], "big")
        self.latest = max(self.latest, event if ts_recv is None else ts_recv)
        instrument = 0
        if letter != "S":
            instrument = self.instruments.setdefault(locate, len(self.instruments) + 1)
        made: list[tuple[int, int, int, int, int, int, int, int]] = []

        def put(kind: int, what: int, side: int, ref: int, price: int, size: int, of: int, count: int = 0) -> None:
            made.append((kind, what, side, ref, price, size, of, count))

        if letter in "AF":
            ref, side, shares, _, price = struct.unpack(">QcI8sI", message[11:36])
            self.put_new(put, ref, Side.BID if side == b"B" else Side.ASK, shares, price * UNIT, instrument)
        elif letter in "ECXD":
            self.reduce(put, letter, message)
        elif letter == "U":
            old, new, shares, price = struct.unpack(">QQII", message[11:35])
            if old not in self.orders:
                self.unknown_orders += 1
                return []
            of, side_code, old_price, left = self.orders.pop(old)
            put(Kind.MBO, Action.CANCEL, side_code, old, old_price, left, of)
            self.put_new(put, new, side_code, shares, price * UNIT, of)
        elif letter == "P":
            _, _, shares, _, price, _ = struct.unpack(">QcI8sIQ", message[11:44])
            put(Kind.TRADE, Action.TRADE, Side.NONE, 0, price * UNIT, shares, instrument)
        elif letter == "Q":
            shares, _, price, _, _ = struct.unpack(">Q8sIQc", message[11:40])
            if shares:
                put(Kind.TRADE, Action.TRADE, Side.NONE, 0, price * UNIT, shares, instrument)
        elif letter == "H":
            put(Kind.STATUS, Action.NONE, Side.NONE, 0, UNDEFINED, 0, instrument, STATES.get(chr(message[19]), 0))
        elif letter == "S":
            put(Kind.STATUS, Action.NONE, Side.NONE, 0, UNDEFINED, 0, 0, EVENTS.get(chr(message[11]), 0))
        return [
            (event, self.latest, number, ref, price, size, of, kind, what, side, LAST * (at == len(made) - 1), count)
            for at, (kind, what, side, ref, price, size, of, count) in enumerate(made)
        ]

    def put_new(self, put: object, ref: int, side: int, shares: int, price: int, of: int) -> None:
        if ref in self.orders:
            self.duplicates += 1
            return
        self.orders[ref] = [of, side, price, shares]
        put(Kind.MBO, Action.ADD, side, ref, price, shares, of)  # type: ignore[operator]

    def reduce(self, put: object, letter: str, message: bytes) -> None:
        (ref,) = struct.unpack(">Q", message[11:19])
        if ref not in self.orders:
            self.unknown_orders += 1
            return
        of, side, price, left = self.orders[ref]
        taken = left if letter == "D" else struct.unpack(">I", message[19:23])[0]
        if letter in "EC":
            paid = price if letter == "E" else struct.unpack(">I", message[32:36])[0] * UNIT
            if letter == "E" or message[31:32] != b"N":
                aggressor = Side.ASK if side == Side.BID else Side.BID
                put(Kind.MBO, Action.TRADE, aggressor, 0, paid, taken, of)  # type: ignore[operator]
            put(Kind.MBO, Action.FILL, side, ref, paid, taken, of)  # type: ignore[operator]
        self.overtaken += taken > left
        put(Kind.MBO, Action.CANCEL, side, ref, price, min(taken, left), of)  # type: ignore[operator]
        self.orders[ref][3] -= taken
        if self.orders[ref][3] <= 0:
            del self.orders[ref]


def folded(data: bytes) -> int:
    total = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return int(total)


def frame(payload: bytes, *, vlan: bool = False, port: int = 26_477, summed: bool = True) -> bytes:
    """An Ethernet frame of one UDP datagram, with good checksums."""
    addresses = bytes([10, 0, 0, 1, 233, 54, 12, 111])
    udp = struct.pack(">HHHH", 5000, port, 8 + len(payload), 0)
    total = folded(addresses + struct.pack(">HH", 17, 8 + len(payload)) + udp + payload)
    udp = udp[:6] + struct.pack(">H", (0xFFFF - total or 0xFFFF) if summed else 0)
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 28 + len(payload), 7, 0x4000, 16, 17, 0) + addresses
    ip = ip[:10] + struct.pack(">H", 0xFFFF - folded(ip)) + ip[12:]
    tag = b"\x81\x00\x00\x8d" if vlan else b""
    return bytes(12) + tag + b"\x08\x00" + ip + udp + payload


def capture(frames: Sequence[tuple[int, bytes]], *, order: str = "<", nano: bool = True) -> bytes:
    """A classic pcap of frames with their times in UTC ns."""
    out = [struct.pack(order + "IHHIIII", 0xA1B23C4D if nano else 0xA1B2C3D4, 2, 4, 0, 0, 65_535, 1)]
    for time, data in frames:
        seconds, rest = divmod(time, 10**9)
        out.append(struct.pack(order + "IIII", seconds, rest // (1 if nano else 1000), len(data), len(data)) + data)
    return b"".join(out)
