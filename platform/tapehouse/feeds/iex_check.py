"""What an IEX capture can be held against: its packets' chain, its types and symbols, told once more in plain Python.

Every packet says where it lies in its session twice, by its first message's number and by a byte position: both must
go on from the packet before, begin anew together, or jump together. What it says of its length and its number of
messages must hold, it is sent no earlier than the packet before, and no message in it is younger than it. Messages have
the length and the letters of their type, their symbols are names. The checksums of IP must hold, and those of UDP where
the capture has them. In the end the levels and the shares traded must be what the feed's cells say.

What cannot be noticed: digits of a price or a size, a letter of a symbol that stays a letter, a time that goes back;
fields of messages that become no cells. IEX says nothing of a price twice, and a test environment's books are crossed.
A last packet that is cut short is told as a truth, because that is how such captures end.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tapehouse.core.errors import DecodeError
from tapehouse.feeds.byte_blocks import byte_blocks
from tapehouse.feeds.checking import Check
from tapehouse.feeds.iex import IexFeed
from tapehouse.feeds.iex_layout import HEADER_BYTES, LENGTHS, LETTERS, PRICE_UNIT, PROTOCOLS, SYMBOL_AT, VERSION
from tapehouse.feeds.pcap import Capture
from tapehouse.market import Action, Kind, Side

_HEADER = struct.Struct("<BxHIIHHqqq")
_LEVEL = struct.Struct("<8sIq")
_SIDES = {"8": int(Side.BID), "5": int(Side.ASK)}

Level = tuple[str, int, int]  # symbol, side, price


@dataclass(slots=True)
class Account:
    """What the packets so far say."""

    check: Check = field(default_factory=Check)
    types: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    levels: dict[Level, int] = field(default_factory=dict)
    traded: Counter[str] = field(default_factory=Counter)
    symbols: set[str] = field(default_factory=set)
    stream: tuple[int, int, int] | None = None
    expected: int = 1
    position: int = 0
    sent: int = 0


def check(path: Path) -> Check:
    """Hold one capture against what it says.

    Raises:
        MissingError, DecodeError: As the feed does, but for a last packet that is cut short.
    """
    account = Account()
    capture = Capture(byte_blocks(path), path.name, verify=True)
    try:
        for number, datagram in enumerate(capture.datagrams(), 1):
            _take_packet(account, datagram.payload, number)
    except DecodeError:
        if capture.truncated is None:
            raise
    found = account.check
    found.compared += capture.packets - capture.others - capture.clipped
    if capture.bad_checksums:
        found.mismatch(f"packet {capture.first_bad_checksum}: the checksum of IP or UDP is wrong")
    if not found.mismatches:
        _hold_cells(IexFeed(path, cut_is_end=True), account)
    have, want = capture.truncated or (0, 0)
    found.truths.update(
        packets=capture.packets,
        messages=found.rows,
        heartbeats=account.found["heartbeats"],
        resets=account.found["resets"],
        missing=account.found["missing"],
        repeated=account.found["repeated"],
        instruments=len(account.symbols),
        levels=len(account.levels),
        shares_traded=sum(account.traded.values()),
        truncated_tail_bytes=have,
        truncated_tail_of=want,
        other_packets=capture.others,
        cut_datagrams=capture.clipped,
        without_checksum=capture.unsummed,
    )
    found.truths.update({f"type_{letter}": account.types[letter] for letter in sorted(account.types)})
    return found


def _take_packet(account: Account, payload: bytes, number: int) -> None:
    check, where = account.check, f"packet {number}"
    if not check.compare(f"{where}: whether it has a header", len(payload) >= HEADER_BYTES, True):
        return
    version, protocol, channel, session, length, count, position, first, sent = _HEADER.unpack_from(payload)
    check.compare(f"{where}: its version", version, VERSION)
    check.compare(f"{where}: whether the protocol {protocol:#x} is known", protocol in PROTOCOLS, True)
    check.compare(f"{where}: its payload's length", length, len(payload) - HEADER_BYTES)
    repeated = _hold_chain(account, where, (session, channel, protocol), first, position, count, sent)
    account.sent = max(account.sent, sent)
    at = HEADER_BYTES
    for index in range(count):
        size = int.from_bytes(payload[at : at + 2], "little")
        message = payload[at + 2 : at + 2 + size]
        if at + 2 > len(payload) or len(message) < size:
            check.mismatch(f"{where}: it ends inside message {index + 1} of {count}")
            return
        at += 2 + size
        if index >= repeated:
            check.rows += 1
            _take_message(account, f"{where}, message {index + 1}", message, sent)
    check.compare(f"{where}: where its messages end", at, len(payload))
    account.found["heartbeats"] += count == 0
    if not repeated and first >= account.expected:
        account.expected, account.position = first + count, position + length


def _hold_chain(
    account: Account, where: str, stream: tuple[int, int, int], first: int, position: int, count: int, sent: int
) -> int:
    """Hold a packet's place against the one before it; how many of its messages were seen already."""
    check, found = account.check, account.found
    if account.stream != stream or (first < account.expected and sent > account.sent):
        found["resets"] += account.stream is not None
        if account.stream == stream:
            check.compare(f"{where}: whether its position begins anew too", position < account.position, True)
        account.stream, account.expected, account.position, account.sent = stream, 1, 0, 0
        account.levels.clear()
    if first < account.expected:
        repeated = min(count, account.expected - first)
        found["repeated"] += repeated
        return repeated
    jump = first - account.expected
    found["missing"] += jump
    ahead = position - account.position
    check.compared += 1
    if (jump == 0 and ahead != 0) or (jump > 0 and ahead <= 0):
        check.mismatch(f"{where}: its number is {jump} ahead, its position {ahead} bytes")
    check.compare(f"{where}: whether it was sent after the one before", sent >= account.sent, True)
    return 0


def _take_message(account: Account, where: str, message: bytes, sent: int) -> None:
    check = account.check
    letter = chr(message[0]) if message else ""
    if not check.compare(f"{where} ({letter!r}): its length", len(message), LENGTHS.get(letter)):
        return
    account.types[letter] += 1
    if letter in LETTERS and chr(message[1]) not in LETTERS[letter]:
        check.mismatch(f"{where} ({letter!r}): {message[1]} at byte 1 is not among {LETTERS[letter]!r}")
    (time,) = struct.unpack_from("<q", message, 2)
    check.compare(f"{where} ({letter!r}): whether its time is before its packet's", 0 <= time <= sent, True)
    if letter == "S":
        return
    symbol = message[SYMBOL_AT : SYMBOL_AT + 8].decode("ascii", "backslashreplace").rstrip(" ")
    named = symbol.isascii() and symbol.isprintable() and " " not in symbol and len(symbol) in range(1, 9)
    check.compare(f"{where} ({letter!r}): whether {symbol!r} is a name", named, True)
    account.symbols.add(symbol)
    if letter in _SIDES:
        _, size, price = _LEVEL.unpack_from(message, SYMBOL_AT)
        check.compare(f"{where} ({letter!r}): whether its price is positive", price > 0, True)
        level = (symbol, _SIDES[letter], price)
        account.levels.pop(level, None)
        if size:
            account.levels[level] = size
    elif letter == "T":
        account.traded[symbol] += _LEVEL.unpack_from(message, SYMBOL_AT)[1]


def _hold_cells(feed: IexFeed, account: Account) -> None:
    """The feed's cells, folded into dicts, against the messages."""
    levels: dict[tuple[int, int, int], int] = {}
    traded: Counter[int] = Counter()
    columns = ("kind", "action", "side", "price", "size", "instrument")
    for cells in feed.batches():
        for kind, action, side, price, size, instrument in zip(
            *(cells[column].tolist() for column in columns), strict=True
        ):
            if kind == Kind.TRADE:
                traded[instrument] += size
            elif kind == Kind.MBP:
                levels.pop((instrument, side, price), None)
                if size:
                    levels[instrument, side, price] = size
            elif kind == Kind.MBO and action == Action.CLEAR:
                levels = {level: size for level, size in levels.items() if level[0] != instrument}
    names = {instrument.id: instrument.symbol for instrument in feed.instruments}
    check = account.check
    told = {(names[number], side, price): size for (number, side, price), size in levels.items()}
    expected = {(symbol, side, price * PRICE_UNIT): size for (symbol, side, price), size in account.levels.items()}
    check.compare("levels in the cells", len(told), len(expected))
    for level, size in expected.items():
        check.compare(f"level {level} in the cells", told.get(level), size)
    check.compare("shares traded in the cells", {names[at]: n for at, n in traded.items()}, dict(account.traded))
    check.compare("messages that the feed took", int(feed.types.sum()), check.rows)
    check.compare("times that numbers began anew in the feed", feed.resets, account.found["resets"])
