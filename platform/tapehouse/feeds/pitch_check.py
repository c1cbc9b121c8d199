"""What a PITCH file can be held against: its columns and its own orders, and published volumes where there are some.

Every line has the length and the letters of its type, no execution has a number twice, and times never go back among
the lines of one unit: ids begin with the unit that sends them, and units are merged loosely. Every execution is of an
order that was added, and nothing takes more than remains. An order that comes back after its end, as one that was
changed does, has the symbol and the side that it had. Cancels of orders that were never added are counted, because a
portion of a day begins with such; one of an order that has ended is a mismatch. An `answer.txt` beside the file is the
top of the executed volume by symbol: ours must be the same, ties in either order. In the end the orders that remain
and the volumes must be what the feed's cells say.

What cannot be noticed: digits of a price, of a size that is taken nowhere, or of a time that keeps the order; the id of
an order that nothing refers to, or of a cancel that hits another live order; the symbol of an order without execution.
"""

from __future__ import annotations

from collections import Counter
from datetime import date
from pathlib import Path

from tapehouse.core.errors import DecodeError
from tapehouse.feeds.byte_blocks import byte_blocks
from tapehouse.feeds.checking import Check
from tapehouse.feeds.pitch import PitchFeed
from tapehouse.feeds.pitch_kernels import LINE_BYTES_MAX, PRICE_UNIT
from tapehouse.market import Action, Kind, Side

ANSWER = "answer.txt"
ENDED_MAX = 1 << 20  # orders, and executions, that are remembered after their end
_LENGTHS = {"A": (45,), "d": (51, 52), "E": (39,), "X": (27,), "P": (56,), "r": (58,), "B": (21,), "s": (17,)}
_OTHERS = "HIJR"  # status, auctions, retail interest: of no consequence here
_SIDES = {"B": int(Side.BID), "S": int(Side.ASK)}

Order = tuple[str, int, int, int]  # symbol, side, price, shares


class Account:
    """Everything that the lines so far say."""

    def __init__(self) -> None:
        self.check = Check()
        self.types: Counter[str] = Counter()
        self.orders: dict[int, Order] = {}
        self.volumes: Counter[str] = Counter()
        self.symbols: set[str] = set()
        self.unknown_orders = 0
        self._ended: dict[int, tuple[str, int]] = {}
        self._executions: set[str] = set()
        self._latest: dict[str, int] = {}

    def take(self, line: str) -> None:
        """One line without its end."""
        check = self.check
        check.rows += 1
        where = f"line {check.rows}"
        kind = line[9:10]
        if not check.compare(f"{where}: whether it is one", line[:1] == "S" and len(line) > 9, True):
            return
        known = check.compare(f"{where}: whether type {kind!r} is known", kind in _LENGTHS or kind in _OTHERS, True)
        self.types[kind] += 1
        if not known or kind in _OTHERS:
            return
        if not check.compare(f"{where}: its length", len(line) - 1 in _LENGTHS[kind], True):
            return
        try:
            self._take(line[1:], kind, where)
        except ValueError:
            check.mismatch(f"{where}: a time, number or id is none")

    def _take(self, line: str, kind: str, where: str) -> None:
        time = decimal(line[:8])
        unit = "" if kind == "s" else line[9]
        earlier = self._latest.get(unit, 0)
        self.check.compare(f"{where}: whether its time follows", earlier <= time < 86_400_000, True)
        self._latest[unit] = max(earlier, time)
        if kind in "AdPr":
            self._tell(line, kind, where)
        elif kind in "EX":
            self._reduce(line, kind, where)
        elif kind == "s":
            symbol = line[9:17].rstrip(" ")
            self.orders = {ref: order for ref, order in self.orders.items() if order[0] != symbol}

    def _tell(self, line: str, kind: str, where: str) -> None:
        """An add or a trade of a hidden order."""
        check = self.check
        ref = number36(line[9:21])
        side, shares = line[21], decimal(line[22:28])
        end = 36 if kind in "dr" else 34
        symbol, price = line[28:end].rstrip(" "), decimal(line[end : end + 10])
        check.compare(f"{where}: whether {side!r} is a side", side in _SIDES, True)
        named = symbol.isascii() and symbol.isprintable() and symbol and " " not in symbol
        check.compare(f"{where}: whether {symbol!r} is a name", bool(named), True)
        check.compare(f"{where}: whether it has shares and a price", shares > 0 and price > 0, True)
        self.symbols.add(symbol)
        if kind in "Pr":
            self._execute(symbol, shares, line[end + 10 : end + 22], where)
            return
        check.compare(f"{where}: whether {line[end + 10]!r} says if it is displayed", line[end + 10] in "YN", True)
        check.compare(f"{where}: whether order {line[9:21]} is there already", ref in self.orders, False)
        before = self._ended.pop(ref, None)
        if before is not None:
            check.compare(f"{where}: symbol and side of {line[9:21]}", (symbol, _SIDES.get(side, 0)), before)
        self.orders[ref] = (symbol, _SIDES.get(side, 0), price, shares)

    def _execute(self, symbol: str, shares: int, execution: str, where: str) -> None:
        number36(execution)
        self.check.compare(f"{where}: whether execution {execution} was there", execution in self._executions, False)
        if len(self._executions) >= ENDED_MAX:
            self._executions.clear()
        self._executions.add(execution)
        self.volumes[symbol] += shares

    def _reduce(self, line: str, kind: str, where: str) -> None:
        ref, taken = number36(line[9:21]), decimal(line[21:27])
        order = self.orders.get(ref)
        if order is None:
            self.unknown_orders += 1
            self.check.compared += 1
            if kind == "E" or ref in self._ended:
                self.check.mismatch(f"{where}: order {line[9:21]} is not live")
            return
        symbol, side, price, left = order
        self.check.compare(f"{where}: whether {taken} of {left} can be taken", 0 < taken <= left, True)
        if kind == "E":
            self._execute(symbol, taken, line[27:39], where)
        self.orders[ref] = (symbol, side, price, left - taken)
        if taken >= left:
            del self.orders[ref]
            if len(self._ended) >= ENDED_MAX:
                self._ended.clear()
            self._ended[ref] = (symbol, side)


def check(path: Path, day: date) -> Check:
    """Hold one file against what it says, and against the answer beside it.

    Raises:
        MissingError, DecodeError: As the feed does.
    """
    feed = PitchFeed(path, day=day)
    account = Account()
    rest = b""
    for block in byte_blocks(path):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            account.take(line.removesuffix(b"\r").decode("latin-1"))
        if len(rest) > LINE_BYTES_MAX:
            where = f"line {account.check.rows + 1}"
            raise DecodeError(f"it is longer than {LINE_BYTES_MAX} bytes", subject=path.name, position=where)
    if rest:
        account.take(rest.removesuffix(b"\r").decode("latin-1"))
    found = account.check
    answered = _hold_answer(path.parent / ANSWER, account)
    if not found.mismatches:
        _hold_cells(feed, account)
    found.truths.update(
        orders_remaining=len(account.orders),
        unknown_orders=account.unknown_orders,
        shares_executed=sum(account.volumes.values()),
        instruments=len(account.symbols),
        volumes_answered=answered,
    )
    found.truths.update({f"type_{kind}": account.types[kind] for kind in sorted(account.types)})
    return found


def _hold_answer(path: Path, account: Account) -> int:
    """The published volumes, where there are some, against ours; how many there are."""
    if not path.is_file():
        return 0
    expected: dict[str, int] = {}
    for number, line in enumerate(path.read_text("ascii", "replace").splitlines(), 1):
        fields = line.split()
        if len(fields) != 2 or not fields[1].isdecimal():
            raise DecodeError("it is no symbol with its volume", subject=path.name, position=f"line {number}")
        expected[fields[0]] = int(fields[1])
    top = [volume for _, volume in account.volumes.most_common(len(expected))]
    account.check.compare(f"the {len(expected)} largest volumes", top, sorted(expected.values(), reverse=True))
    for symbol, volume in expected.items():
        account.check.compare(f"the volume of {symbol}", account.volumes[symbol], volume)
    return len(expected)


def _hold_cells(feed: PitchFeed, account: Account) -> None:
    """The feed's cells, folded into dicts, against the lines."""
    names = {instrument.id: instrument.symbol for instrument in feed.instruments}
    orders: dict[int, list[int]] = {}
    volumes: Counter[str] = Counter()
    columns = ("kind", "action", "side", "order_id", "price", "size", "instrument")
    for cells in feed.batches():
        for kind, action, side, ref, price, size, instrument in zip(
            *(cells[column].tolist() for column in columns), strict=True
        ):
            if action == Action.TRADE and kind in (Kind.MBO, Kind.TRADE):
                volumes[names[instrument]] += size
            elif kind == Kind.MBO and action == Action.ADD:
                orders[ref] = [instrument, side, price, size]
            elif kind == Kind.MBO and action == Action.CANCEL:
                orders[ref][3] -= size
                if orders[ref][3] == 0:
                    del orders[ref]
            elif kind == Kind.MBO and action == Action.CLEAR:
                orders = {ref: order for ref, order in orders.items() if order[0] != instrument}
    check = account.check
    check.compare("orders that remain in the cells", len(orders), len(account.orders))
    for ref, (symbol, side, price, shares) in account.orders.items():
        instrument, cell_side, fixed, size = orders.get(ref, [0, 0, 0, 0])
        told = (names.get(instrument), cell_side, fixed, size)
        check.compare(f"order {ref} in the cells", told, (symbol, side, price * PRICE_UNIT, shares))
    check.compare("volumes in the cells", dict(volumes), dict(account.volumes))


def decimal(text: str) -> int:
    """Digits; raises ValueError for anything else, such as the signs and blanks that `int` takes."""
    if not (text.isascii() and text.isdigit()):
        raise ValueError(text)
    return int(text)


def number36(text: str) -> int:
    """Digits and capital letters in base 36; raises ValueError for anything else."""
    if not (text.isascii() and text.isalnum() and text == text.upper()):
        raise ValueError(text)
    return int(text, 36)
