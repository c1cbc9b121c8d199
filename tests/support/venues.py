"""Venues made up for tests: one true book each, told in the venue's own messages, with the answers that it gives."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from zlib import crc32

from tapehouse.feeds.session import Want, Wish
from tapehouse.feeds.venue_binance import BinanceSession
from tapehouse.feeds.venue_bitget import BitgetSession
from tapehouse.feeds.venue_bybit import BybitSession
from tapehouse.feeds.venue_deribit import DeribitSession
from tapehouse.feeds.venue_okx import OkxSession
from tapehouse.feeds.venue_session import BookSession
from tapehouse.market import Action, Cause, Cells, Confidence, Flag, Kind, Side

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
Levels = dict[str, str]  # price: size, both as the venue writes them
Change = tuple[Levels, Levels, dict[str, str]]  # bids, asks, what Deribit calls each change


class ConsumerBook:
    """What a consumer of cells holds, with the worth that gap records give it."""

    def __init__(self, price_exponent: int = -9, size_exponent: int = -9) -> None:
        self.units = (price_exponent, size_exponent)
        self.sides: tuple[dict[Decimal, Decimal], dict[Decimal, Decimal]] = ({}, {})
        self.worth = Confidence.GOOD
        self.gaps: list[tuple[Cause, Confidence]] = []
        self.spans = 0

    def take(self, cells: Cells) -> None:
        for cell in cells:
            if cell["kind"] == Kind.GAP:
                worth = Confidence(cell["depth"])
                self.spans += self.worth is Confidence.GOOD and worth is not Confidence.GOOD
                self.worth = worth
                self.gaps.append((Cause(cell["action"]), worth))
            elif cell["kind"] == Kind.MBP:
                self.level(cell)

    def level(self, cell: Any) -> None:
        if cell["action"] == Action.CLEAR:
            assert cell["flags"] & Flag.SNAPSHOT
            for side in self.sides:
                side.clear()
            return
        levels = self.sides[0 if cell["side"] == Side.BID else 1]
        price = Decimal(int(cell["price"])).scaleb(self.units[0])
        size = Decimal(int(cell["size"])).scaleb(self.units[1])
        assert (cell["action"] == Action.CANCEL) == (size == 0)
        if size:
            assert (cell["action"] == Action.ADD) == (price not in levels)
            levels[price] = size
        else:
            levels.pop(price, None)


class Venue:
    """The venue's side: a true book, the next message, and the whole book on demand."""

    symbol = "BTCUSDT"
    make: Callable[..., BookSession]

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.bids: Levels = {}
        self.asks: Levels = {}
        self.last = 1_000
        self.first = self.previous = 1_000
        for _ in range(5):
            self.move()

    def truth(self) -> tuple[dict[Decimal, Decimal], dict[Decimal, Decimal]]:
        bids, asks = ({Decimal(p): Decimal(q) for p, q in side.items()} for side in (self.bids, self.asks))
        return bids, asks

    def move(self) -> Change:
        """Change one to four levels; ids go on."""
        self.previous = self.last
        self.first = self.last + 1
        self.last += self.steps()
        change: Change = ({}, {}, {})
        for _ in range(self.random.randint(1, 4)):
            at = self.random.randrange(2)
            side = (self.bids, self.asks)[at]
            number = self.random.randint(1, 30)
            price = f"{100 - number}.{number % 10}0" if at == 0 else f"{100 + number}.{number % 10}"
            if price in change[at]:
                continue
            if price in side and self.random.random() < 0.4:
                del side[price]
                change[at][price], change[2][price] = "0", "delete"
            else:
                change[2][price] = "change" if price in side else "new"
                side[price] = change[at][price] = f"{self.random.randint(1, 50)}.{self.random.choice(['', '5', '50'])}0"
        return change

    def steps(self) -> int:
        return 1

    def message(self) -> bytes:
        """The next change of the book."""
        raise NotImplementedError

    def whole(self) -> bytes:
        """The book as it stands."""
        raise NotImplementedError

    def checksum(self) -> int:
        bids = sorted(self.bids.items(), key=lambda level: -Decimal(level[0]))
        asks = sorted(self.asks.items(), key=lambda level: Decimal(level[0]))
        parts = []
        for at in range(25):
            parts += [f"{p}:{q}" for side in (bids, asks) for p, q in side[at : at + 1]]
        value = crc32(":".join(parts).encode())
        return value if value < 2**31 else value - 2**32

    def grant(self, session: BookSession, now: int) -> None:
        """Give a session what it wishes for."""
        for wish in session.wishes():
            if wish.want is Want.SNAPSHOT:
                session.answered(wish.symbol, self.whole(), now)
            elif self.asks_book(wish):
                session.receive(self.whole(), now)

    def asks_book(self, wish: Wish) -> bool:
        return False


def pairs(levels: Levels) -> list[list[str]]:
    return [[price, size] for price, size in levels.items()]


class Spot(Venue):
    make = BinanceSession

    def steps(self) -> int:
        return self.random.randint(1, 5)

    def message(self) -> bytes:
        bids, asks, _ = self.move()
        data = {"e": "depthUpdate", "E": 1, "s": self.symbol, "U": self.first, "u": self.last}
        data |= self.more() | {"b": pairs(bids), "a": pairs(asks)}
        return json.dumps({"stream": "btcusdt@depth@100ms", "data": data}).encode()

    def more(self) -> dict[str, Any]:
        return {}

    def whole(self) -> bytes:
        return json.dumps({"lastUpdateId": self.last, "bids": pairs(self.bids), "asks": pairs(self.asks)}).encode()


class Futures(Spot):
    def move(self) -> Change:
        change = super().move()
        self.first += self.random.randint(0, self.last - self.first)  # ids that other symbols took
        return change

    def more(self) -> dict[str, Any]:
        return {"pu": self.previous, "T": 2}


class Okx(Venue):
    make = OkxSession
    symbol = "BTC-USDT"
    channel = "books"
    names = ("seqId", "prevSeqId")

    def message(self) -> bytes:
        bids, asks, _ = self.move()
        return self.told("update", bids, asks, self.previous)

    def whole(self) -> bytes:
        return self.told("snapshot", self.bids, self.asks, -1)

    def told(self, action: str, bids: Levels, asks: Levels, previous: int) -> bytes:
        book = {"asks": pairs(asks), "bids": pairs(bids), "ts": "5", "checksum": self.checksum()}
        book |= {self.names[0]: self.last, self.names[1]: previous}
        arg = {"channel": self.channel, "instId": self.symbol}
        return json.dumps({"arg": arg, "action": action, "data": [book]}).encode()

    def asks_book(self, wish: Wish) -> bool:
        told = json.loads(wish.body) if wish.body.startswith(b"{") else {}
        return told.get("op") == "subscribe" and told["args"][0]["channel"] == self.channel


class Bitget(Okx):
    make = BitgetSession
    symbol = "BTCUSDT"
    names = ("seq", "pseq")


class Bybit(Venue):
    make = BybitSession

    def message(self) -> bytes:
        bids, asks, _ = self.move()
        return self.told("delta", bids, asks)

    def whole(self) -> bytes:
        return self.told("snapshot", self.bids, self.asks)

    def told(self, kind: str, bids: Levels, asks: Levels) -> bytes:
        data = {"s": self.symbol, "b": pairs(bids), "a": pairs(asks), "u": self.last, "seq": 7}
        return json.dumps({"topic": "orderbook.200.BTCUSDT", "type": kind, "ts": 5, "data": data}).encode()

    def asks_book(self, wish: Wish) -> bool:
        return json.loads(wish.body)["op"] == "subscribe"


class Deribit(Venue):
    make = DeribitSession
    symbol = "BTC-PERPETUAL"

    def steps(self) -> int:
        return self.random.randint(1, 9)

    def message(self) -> bytes:
        bids, asks, names = self.move()
        sides = [[[names[p], float(p), float(q)] for p, q in side.items()] for side in (bids, asks)]
        return self.told("change", sides, {"prev_change_id": self.previous})

    def whole(self) -> bytes:
        sides = [[["new", float(p), float(q)] for p, q in side.items()] for side in (self.bids, self.asks)]
        return self.told("snapshot", sides, {})

    def told(self, kind: str, sides: list[Any], more: dict[str, int]) -> bytes:
        data = {"type": kind, "timestamp": 5, "instrument_name": self.symbol, "change_id": self.last}
        data |= more | {"bids": sides[0], "asks": sides[1]}
        params = {"channel": f"book.{self.symbol}.100ms", "data": data}
        return json.dumps({"jsonrpc": "2.0", "method": "subscription", "params": params}).encode()

    def asks_book(self, wish: Wish) -> bool:
        return json.loads(wish.body)["method"] == "public/subscribe"


VENUES: dict[str, type[Venue]] = {
    "spot": Spot,
    "futures": Futures,
    "okx": Okx,
    "bitget": Bitget,
    "bybit": Bybit,
    "deribit": Deribit,
}


class Connection:
    """A session, its venue, and a consumer of its cells; a clock that the test moves."""

    def __init__(self, name: str, seed: int = 0, **options: Any) -> None:
        self.venue = VENUES[name](seed)
        self.session = type(self.venue).make((self.venue.symbol,), **options)
        self.book = ConsumerBook()
        self.now = START
        self.session.connected(self.now)
        self.pump()

    def deliver(self, *bodies: bytes, after: int = 2 * SECOND) -> None:
        for body in bodies:
            self.now += after
            self.session.receive(body, self.now)
            self.pump()

    def pass_time(self, duration: int) -> None:
        self.now += duration
        self.session.elapsed(self.now)
        self.pump()

    def pump(self) -> None:
        self.collect()
        self.venue.grant(self.session, self.now)
        self.collect()

    def collect(self) -> None:
        for cells in self.session.take():
            assert (cells["ts_recv"] <= self.now).all()
            assert cells["instrument"].max() <= len(self.session.instruments)
            self.book.take(cells)

    @property
    def right(self) -> bool:
        return self.book.sides == self.venue.truth()
