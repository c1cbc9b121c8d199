"""What an ITCH file can be held against: its own types, directory and orders, told once more in plain Python.

Every message has a type, a length and letters that the specification knows; times never go back and stay in the day;
every stock is the one that its locate stands for; every execution, cancel, delete and replacement is of a live order of
the same locate, and never takes more than remains. In the end the orders that remain, and what was traded of each
stock, must be what the feed's cells say. Captures are held against the checksums of IP and UDP as well, and their
packets against their own headers; a gzip file against its own CRC.

A file that begins with the start of messages, or a capture from number 1 on without a gap, is *whole*: there an order
that nobody added is a mismatch. Elsewhere such orders are counted, unless they were added and have ended. A writer that
leaves out the lengths of messages is taken to have left out messages too, as the simulated file has.

What cannot be noticed in a file (in a capture the checksums notice it): digits of a price, of a size that is taken
nowhere, of a match number or a time that keeps the order; participants; a trading state that becomes another; fields of
messages that become no cells.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

from tapehouse.core.errors import DecodeError
from tapehouse.feeds.byte_blocks import byte_blocks
from tapehouse.feeds.checking import Check
from tapehouse.feeds.itch import ItchFeed
from tapehouse.feeds.itch_layout import HEAD_BYTES, LENGTHS, LETTERS, NS_PER_DAY, PRICE_UNIT, STOCK_AT
from tapehouse.feeds.mold import MoldPacket, read_packet
from tapehouse.feeds.pcap import Capture
from tapehouse.market import Action, Kind, Side

ENDED_MAX = 1 << 20  # orders that are remembered after their end
_HEAD = struct.Struct(">cHH")
_U32, _U64 = struct.Struct(">I"), struct.Struct(">Q")
_SIDES = {"B": Side.BID, "S": Side.ASK}


def check(path: Path, day: date) -> Check:
    """Hold one file or capture against what it says.

    Raises:
        MissingError, DecodeError: As the feed does.
    """
    feed = ItchFeed(path, day=day)
    account = Account()
    if feed.is_capture:
        for message in _captured(path, account):
            account.take(message)
    else:
        for message in _filed(path, account):
            account.take(message)
    if not account.check.mismatches:
        _hold_cells(feed, account)
    account.tell()
    return account.check


class Account:
    """Everything that the messages so far say, in dicts.

    Attributes:
        orders: Locate, side letter, shares and price of each live order, by its reference.
        directory: Symbols by locate.
        traded: Shares by locate.
    """

    def __init__(self) -> None:
        self.check = Check()
        self.types: Counter[str] = Counter()
        self.orders: dict[int, list[int | str]] = {}
        self.directory: dict[int, str] = {}
        self.traded: Counter[int] = Counter()
        self.whole = False
        self.zero_lengths = 0
        self.unknown_orders = 0
        self._listed = False
        self._ended: set[int] = set()
        self._latest = 0
        self._by_type: dict[str, Callable[[bytes, int], None]] = {
            "A": self._add, "F": self._add, "E": self._reduce, "C": self._reduce, "X": self._reduce,
            "D": self._reduce, "U": self._replace, "P": self._trade, "Q": self._trade,
        }  # fmt: skip

    def take(self, message: bytes) -> None:
        """One message, without its length."""
        self.check.rows += 1
        if not message:
            return
        letter = chr(message[0])
        where = f"message {self.check.rows} ({letter!r})"
        if not self.check.compare(f"{where}: its length", len(message), LENGTHS.get(letter)):
            return
        self.types[letter] += 1
        _, locate, _tracking = _HEAD.unpack_from(message)
        self._hold_time(where, message)
        for at, allowed in LETTERS.get(letter, ()):
            if chr(message[at]) not in allowed:
                self.check.mismatch(f"{where}: {chr(message[at])!r} at byte {at} is none of {allowed!r}")
        self._hold_stock(where, message, letter, locate)
        if letter in self._by_type:
            self._by_type[letter](message, locate)
        elif letter == "S" and self.check.rows == 1:
            self.whole = self.zero_lengths == 0 and chr(message[HEAD_BYTES]) == "O"

    def tell(self) -> None:
        """The truths."""
        truths = self.check.truths
        truths["whole"] = "yes" if self.whole else "no"
        truths["instruments"] = len(self.directory)
        truths["orders_remaining"] = len(self.orders)
        truths["shares_remaining"] = sum(int(order[2]) for order in self.orders.values())
        truths["shares_traded"] = sum(self.traded.values())
        truths["unknown_orders"] = self.unknown_orders
        truths["zero_lengths"] = self.zero_lengths
        for letter in sorted(self.types):
            truths[f"type_{letter}"] = self.types[letter]

    def _hold_time(self, where: str, message: bytes) -> None:
        time = int.from_bytes(message[5:HEAD_BYTES], "big")
        self.check.compared += 1
        if not self._latest <= time < NS_PER_DAY:
            self.check.mismatch(f"{where}: the time {time} after {self._latest}")
        self._latest = max(self._latest, time)

    def _hold_stock(self, where: str, message: bytes, letter: str, locate: int) -> None:
        """The locate must stand for the stock that the message names, or for any where it names none."""
        at = STOCK_AT.get(letter)
        if letter == "R":
            self._listed = True
        if at is None:
            if self._listed and letter in self._by_type:
                self.check.compare(f"{where}: locate {locate} in the directory", locate in self.directory, True)
            return
        stock = message[at : at + 8].decode("ascii", "backslashreplace")
        symbol = stock.rstrip(" ")
        if locate not in self.directory and (letter == "R" or not self._listed):
            self.check.compare(f"{where}: a stock's name", symbol.isprintable() and symbol.isascii(), True)
            self.directory[locate] = symbol
        self.check.compare(f"{where}: the stock of locate {locate}", symbol, self.directory.get(locate))

    def _add(self, message: bytes, locate: int) -> None:
        ref, side, shares, price = struct.unpack_from(">QcI8xI", message, HEAD_BYTES)
        where = f"message {self.check.rows}: order {ref}"
        self.check.compare(f"{where}: whether it was there already", ref in self.orders, False)
        self.check.compare(f"{where}: whether it has shares and a price", shares > 0 and price > 0, True)
        self.orders[ref] = [locate, side.decode("latin-1"), shares, price]

    def _found(self, ref: int, locate: int) -> list[int | str] | None:
        """The live order of that reference, held against the locate."""
        where = f"message {self.check.rows}: order {ref}"
        order = self.orders.get(ref)
        if order is None:
            self.unknown_orders += 1
            if self.whole or ref in self._ended:
                self.check.compare(f"{where}: whether it is live", False, True)
            return None
        self.check.compare(f"{where}: its locate", locate, order[0])
        return order

    def _end(self, ref: int) -> None:
        del self.orders[ref]
        if len(self._ended) >= ENDED_MAX:
            self._ended.clear()
        self._ended.add(ref)

    def _reduce(self, message: bytes, locate: int) -> None:
        (ref,) = _U64.unpack_from(message, HEAD_BYTES)
        order = self._found(ref, locate)
        if order is None:
            return
        letter = chr(message[0])
        left = int(order[2])
        taken = left if letter == "D" else _U32.unpack_from(message, 19)[0]
        self.check.compared += 1
        if not 0 < taken <= left:
            self.check.mismatch(f"message {self.check.rows}: {taken} shares taken from order {ref}, which has {left}")
        if letter == "E" or (letter == "C" and chr(message[31]) == "Y"):
            self.traded[locate] += taken
        order[2] = left - taken
        if taken >= left:
            self._end(ref)

    def _replace(self, message: bytes, locate: int) -> None:
        old, new, shares, price = struct.unpack_from(">QQII", message, HEAD_BYTES)
        order = self._found(old, locate)
        if order is None:
            return
        self._end(old)
        where = f"message {self.check.rows}: order {new}"
        self.check.compare(f"{where}: whether it was there already", new in self.orders, False)
        self.check.compare(f"{where}: whether it has shares and a price", shares > 0 and price > 0, True)
        self.orders[new] = [order[0], order[1], shares, price]

    def _trade(self, message: bytes, locate: int) -> None:
        cross = message[0] == ord("Q")
        self.traded[locate] += (_U64.unpack_from(message, 11) if cross else _U32.unpack_from(message, 20))[0]


def _filed(path: Path, account: Account) -> Iterator[bytes]:
    """The messages of a file; `account` is told how many do not say their length."""
    rest, base = b"", 0
    for block in byte_blocks(path):
        data = rest + block
        at = 0
        while at + 3 <= len(data):
            length = int.from_bytes(data[at : at + 2], "big")
            unsaid = length == 0
            if unsaid:
                length = LENGTHS.get(chr(data[at + 2]), 0)
                if length == 0:
                    where = f"byte {base + at}"
                    raise DecodeError("no length is said, and the type is unknown", subject=path.name, position=where)
            if at + 2 + length > len(data):
                break
            account.zero_lengths += unsaid
            yield data[at + 2 : at + 2 + length]
            at += 2 + length
        rest, base = data[at:], base + at
    if rest not in (b"", b"\0\0"):
        raise DecodeError("the file ends inside a message", subject=path.name, position=f"byte {base}")


def _captured(path: Path, account: Account) -> Iterator[bytes]:
    """The messages of a capture's packets, each number once; tells what the packets say at the end."""
    capture = Capture(byte_blocks(path), path.name, verify=True)
    session, expected = b"", 0
    found: Counter[str] = Counter()
    for number, datagram in enumerate(capture.datagrams(), 1):
        packet = _packet(datagram.payload, path.name, number)
        if packet.session != session:
            account.whole = not session and packet.sequence == 1
            found["sessions"] += 1
            if session:
                account.orders.clear()
            session, expected = packet.session, 1
        if packet.sequence > expected:
            account.whole = False
            found["missing"] += packet.sequence - expected
        repeated = max(0, expected - packet.sequence)
        found["repeated"] += min(repeated, len(packet.messages))
        account.check.compared += 1  # `read_packet` held the header's count against the lengths
        yield from packet.messages[repeated:]
        expected = max(expected, packet.next_sequence)
    check = account.check
    check.compared += capture.packets - capture.others - capture.clipped - capture.unsummed
    if capture.bad_checksums:
        check.mismatch(f"packet {capture.first_bad_checksum}: the checksum of IP or UDP is wrong")
        check.mismatches += capture.bad_checksums - 1
    check.truths.update({name: found[name] for name in ("sessions", "missing", "repeated")})
    check.truths.update(packets=capture.packets, other_packets=capture.others, cut_datagrams=capture.clipped)


def _packet(payload: bytes, name: str, number: int) -> MoldPacket:
    try:
        return read_packet(payload)
    except DecodeError as error:
        raise DecodeError(error.message, subject=name, position=f"datagram {number}, {error.position}") from error


def _hold_cells(feed: ItchFeed, account: Account) -> None:
    """The feed's cells, folded into dicts, against the messages."""
    orders: dict[int, list[int]] = {}
    traded: Counter[int] = Counter()
    columns = ("kind", "action", "side", "order_id", "price", "size", "instrument")
    for cells in feed.batches():
        for kind, action, side, ref, price, size, instrument in zip(
            *(cells[column].tolist() for column in columns), strict=True
        ):
            if action == Action.TRADE and kind in (Kind.MBO, Kind.TRADE):
                traded[instrument] += size
            elif kind == Kind.MBO and action == Action.ADD:
                orders[ref] = [instrument, side, price, size]
            elif kind == Kind.MBO and action == Action.CANCEL:
                orders[ref][3] -= size
                if orders[ref][3] == 0:
                    del orders[ref]
            elif kind == Kind.MBO and action == Action.CLEAR:
                orders = {ref: order for ref, order in orders.items() if order[0] != instrument}
    symbols = {instrument.id: instrument.symbol for instrument in feed.instruments}
    check = account.check
    check.compare("orders that remain in the cells", len(orders), len(account.orders))
    for ref, (locate, letter, shares, price) in account.orders.items():
        stock = account.directory.get(int(locate), f"LOCATE-{locate}")
        expected = (stock, _SIDES[str(letter)], int(price) * PRICE_UNIT, shares)
        instrument, side, fixed, size = orders.get(ref, [0, 0, 0, 0])
        check.compare(f"order {ref} in the cells", (symbols.get(instrument), side, fixed, size), expected)
    expected_trades = {account.directory.get(locate, f"LOCATE-{locate}"): n for locate, n in account.traded.items()}
    check.compare("shares traded in the cells", {symbols[number]: n for number, n in traded.items()}, expected_trades)
