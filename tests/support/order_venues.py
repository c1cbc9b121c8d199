"""Kraken and Coinbase made up for tests: a true book each, told in the venue's own messages and number texts."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

from tapehouse.feeds.capture import Happening, Message, capture_line
from tapehouse.feeds.session import Want, Wish
from tapehouse.feeds.venue_coinbase import CoinbaseSession
from tapehouse.feeds.venue_kraken import KrakenSession
from tapehouse.feeds.venue_session import BookSession
from tapehouse.market import Action, Cause, Cells, Confidence, Flag, Kind, Side
from tapehouse.market.wide_id import read_wide_id

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
TIME = "2023-10-06T17:35:55.440295Z"
PRICE_EXPONENT, SIZE_EXPONENT = -1, -8  # of the numbers below
Levels = dict[int, int]  # tenths: hundred-millionths
Sides = tuple[Levels, Levels]


def price_text(tenths: int) -> str:
    return f"{tenths // 10}.{tenths % 10}"


def size_text(size: int) -> str:
    return f"{size // 10**8}.{size % 10**8:08d}"


class Consumer:
    """What a consumer of cells holds: levels, orders by the venue's ids, trades, and what gap records say."""

    def __init__(self, price_exponent: int = -9, size_exponent: int = -9) -> None:
        self._units = (10 ** (PRICE_EXPONENT - price_exponent), 10 ** (SIZE_EXPONENT - size_exponent))
        self.levels: Sides = ({}, {})
        self.orders: dict[bytes, tuple[bool, int, int]] = {}
        self.trades: list[tuple[int, int, int, int]] = []
        self.worth = Confidence.GOOD
        self.gaps: list[tuple[Cause, Confidence]] = []
        self.spans = 0
        self._ids: dict[int, bytes] = {}

    def take_all(self, cells: Cells) -> None:
        """Whole records, one by one."""
        at = 0
        while at < len(cells):
            record = cells[at : at + max(int(cells["cells"][at]), 1)]
            at += len(record)
            self._one(record)

    def take(self, cells: Cells) -> None:
        """What a session gave at once: it ends where an event does."""
        self.take_all(cells)
        assert cells["flags"][-1] & Flag.LAST or cells["kind"][-1] == Kind.GAP

    def _one(self, record: Cells) -> None:
        cell = record[0]
        kind = cell["kind"]
        if kind == Kind.GAP:
            worth = Confidence(cell["depth"])
            self.spans += self.worth is Confidence.GOOD and worth is not Confidence.GOOD
            self.worth = worth
            self.gaps.append((Cause(cell["action"]), worth))
        elif kind == Kind.WIDE_ID:
            number, wide = read_wide_id(record)
            self._ids[number] = wide
        elif kind == Kind.TRADE:
            self.trades.append((int(cell["order_id"]), int(cell["price"]), int(cell["size"]), int(cell["side"])))
        elif cell["action"] == Action.CLEAR:
            self.levels[0].clear()
            self.levels[1].clear()
            self.orders.clear()
        elif kind == Kind.MBP:
            levels = self.levels[int(cell["side"] != Side.BID)]
            price, size = self._numbers(cell)
            levels[price] = size
            if not size:
                del levels[price]
        elif kind == Kind.MBO:
            self._order(cell)

    def _numbers(self, cell: Any) -> tuple[int, int]:
        price, rest = divmod(int(cell["price"]), self._units[0])
        size, more = divmod(int(cell["size"]), self._units[1])
        assert rest == more == 0
        return price, size

    def _order(self, cell: Any) -> None:
        wide = self._ids[int(cell["order_id"])]
        bid = bool(cell["side"] == Side.BID)
        price, size = self._numbers(cell)
        if cell["action"] == Action.ADD:
            assert wide not in self.orders
            self.orders[wide] = (bid, price, size)
        elif cell["action"] == Action.MODIFY:
            assert wide in self.orders
            self.orders[wide] = (bid, price, size)
        elif cell["action"] == Action.CANCEL:
            was = self.orders[wide]
            assert was[:2] == (bid, price)
            self.orders[wide] = (bid, price, was[2] - size)
            if was[2] == size:
                del self.orders[wide]
        else:
            assert cell["action"] == Action.FILL
            assert self.orders[wide][2] >= size


class Kraken:
    """A book deeper than what is subscribed to: a level that comes into view is told, one that leaves it is not."""

    symbol = "BTC/USD"
    make: Callable[..., BookSession] = KrakenSession

    def __init__(self, seed: int, depth: int = 10) -> None:
        self.random = random.Random(seed)
        self.depth = depth
        self.book: Sides = ({}, {})
        self.trade = 0
        for _ in range(60):
            self._move()

    def options(self) -> dict[str, Any]:
        return {"depth": self.depth}

    def view(self) -> Sides:
        bids, asks = self.book
        return (
            {price: bids[price] for price in sorted(bids, reverse=True)[: self.depth]},
            {price: asks[price] for price in sorted(asks)[: self.depth]},
        )

    def right(self, consumer: Consumer) -> bool:
        return consumer.levels == self.view()

    def _move(self) -> None:
        for _ in range(self.random.randint(1, 3)):
            at = self.random.randrange(2)
            price = 452_840 + (1 if at else -1) * self.random.randint(1, 20)
            if price in self.book[at] and self.random.random() < 0.35:
                del self.book[at][price]
            else:
                self.book[at][price] = self.random.choice([1, 7, 10**7, self.random.randint(1, 10**10)])

    def messages(self) -> list[bytes]:
        """The next change of what is seen."""
        before = self.view()
        while self.view() == before:
            self._move()
        after = self.view()
        changes: Sides = ({}, {})
        for at in range(2):
            changes[at].update({p: 0 for p in before[at] if p not in self.book[at]})
            changes[at].update({p: q for p, q in after[at].items() if before[at].get(p) != q})
        return [self.told("update", changes)]

    def whole(self) -> bytes:
        return self.told("snapshot", self.view())

    def told(self, kind: str, levels: Sides) -> bytes:
        rows = [
            ",".join(f'{{"price":{price_text(p)},"qty":{size_text(q) if q else 0}}}' for p, q in side.items())
            for side in levels
        ]
        data = f'{{"symbol":"{self.symbol}","bids":[{rows[0]}],"asks":[{rows[1]}],"checksum":{self.checksum()}'
        data += f',"timestamp":"{TIME}"}}' if kind == "update" else "}"
        return f'{{"channel":"book","type":"{kind}","data":[{data}]}}'.encode()

    def checksum(self) -> int:
        bids, asks = self.book
        best = [(p, asks[p]) for p in sorted(asks)[:10]] + [(p, bids[p]) for p in sorted(bids)[-10:][::-1]]
        return crc32("".join(f"{price}{size}" for price, size in best).encode())

    def trade_message(self) -> bytes:
        self.trade += 1
        data = {"symbol": self.symbol, "side": "sell", "ord_type": "market", "trade_id": self.trade, "timestamp": TIME}
        text = json.dumps({"channel": "trade", "type": "update", "data": [data]})
        return text.replace('"trade_id"', f'"price":{price_text(452_841)},"qty":{size_text(5)},"trade_id"').encode()

    def answer(self, wish: Wish) -> list[bytes]:
        told = json.loads(wish.body)
        if told["method"] != "subscribe" or told["params"]["channel"] != "book":
            return []
        result = {"channel": "book", "depth": told["params"]["depth"], "snapshot": True, "symbol": self.symbol}
        return [json.dumps({"method": "subscribe", "result": result, "success": True}).encode(), self.whole()]


class Level2:
    """Coinbase's book by price; each message of changes is followed by a trade, which bears the only numbers."""

    symbol = "BTC-USD"
    make: Callable[..., BookSession] = CoinbaseSession

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.book: Sides = ({}, {})
        self.trade = self.random.randint(1, 10**9)
        self.sequence = self.random.randint(1, 10**9)
        for _ in range(10):
            self._move()

    def options(self) -> dict[str, Any]:
        return {"market": "level2"}

    def right(self, consumer: Consumer) -> bool:
        return consumer.levels == self.book

    def _move(self) -> dict[tuple[int, int], int]:
        changes = {}
        for _ in range(self.random.randint(1, 4)):
            at = self.random.randrange(2)
            price = 1000 + (1 if at else -1) * self.random.randint(1, 30)
            gone = price in self.book[at] and self.random.random() < 0.4
            size = 0 if gone else self.random.randint(1, 10**10)
            self.book[at][price] = changes[at, price] = size
            if gone:
                del self.book[at][price]
        return changes

    def messages(self) -> list[bytes]:
        rows = [[("buy", "sell")[at], price_text(p), size_text(q)] for (at, p), q in self._move().items()]
        update = {"type": "l2update", "product_id": self.symbol, "time": TIME, "changes": rows}
        self.trade += 1
        self.sequence += self.random.randint(1, 9)
        match = {"type": "match", "trade_id": self.trade, "sequence": self.sequence, "time": TIME, "side": "sell"}
        match |= {"product_id": self.symbol, "size": "0.00000005", "price": "100.1"}
        match |= {"maker_order_id": str(uuid.UUID(int=1)), "taker_order_id": str(uuid.UUID(int=2))}
        return [json.dumps(update).encode(), json.dumps(match).encode()]

    def heartbeat(self) -> bytes:
        told = {"type": "heartbeat", "sequence": self.sequence, "last_trade_id": self.trade, "time": TIME}
        return json.dumps(told | {"product_id": self.symbol}).encode()

    def whole(self) -> bytes:
        rows = [[[price_text(p), size_text(q)] for p, q in side.items()] for side in self.book]
        return json.dumps({"type": "snapshot", "product_id": self.symbol, "bids": rows[0], "asks": rows[1]}).encode()

    def answer(self, wish: Wish) -> list[bytes]:
        told = json.loads(wish.body)
        if told["type"] != "subscribe" or "level2_batch" not in told["channels"]:
            return []
        names = [{"name": name, "product_ids": [self.symbol]} for name in told["channels"]]
        return [json.dumps({"type": "subscriptions", "channels": names}).encode(), self.whole()]


class Full:
    """Coinbase's orders: a small matching engine that tells every step of each order."""

    symbol = "BTC-USD"
    make: Callable[..., BookSession] = CoinbaseSession

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.orders: dict[str, list[Any]] = {}  # id: bid, price, size; in the order of their arrival
        self.sequence = self.random.randint(1, 10**9)
        self.trade = self.random.randint(1, 10**9)
        for _ in range(12):
            self.messages()

    def options(self) -> dict[str, Any]:
        return {"market": "full"}

    def right(self, consumer: Consumer) -> bool:
        return consumer.orders == {uuid.UUID(wide).bytes: tuple(order) for wide, order in self.orders.items()}

    def _told(self, kind: str, **fields: Any) -> bytes:
        self.sequence += 1
        told = {"type": kind, "time": TIME, "product_id": self.symbol, "sequence": self.sequence}
        return json.dumps(told | fields).encode()

    def messages(self) -> list[bytes]:
        """All messages of one step: a new order, a cancel, or a change."""
        if self.orders and self.random.random() < 0.5:
            wide = self.random.choice(list(self.orders))
            bid, price, size = self.orders[wide]
            said = {"order_id": wide, "side": "buy" if bid else "sell"}
            if self.random.random() < 0.5:
                del self.orders[wide]
                more = {"price": price_text(price), "reason": "canceled", "remaining_size": size_text(size)}
                return [self._told("done", **said, **more)]
            return self._change(wide, said)
        return self._new(self.random.random() < 0.5)

    def _change(self, wide: str, said: dict[str, str]) -> list[bytes]:
        bid, price, size = self.orders[wide]
        if size > 1 and self.random.random() < 0.5:
            after = self.random.randint(1, size - 1)
            self.orders[wide][2] = after
            sizes = {"old_size": size_text(size), "new_size": size_text(after)}
            return [self._told("change", reason="STP", price=price_text(price), **sizes, **said)]
        after, moved = size + self.random.randint(0, 5), price + (-1 if bid else 1)
        self.orders[wide] = [bid, moved, after]
        fields = {"old_size": size_text(size), "new_size": size_text(after), "old_price": price_text(price)}
        return [self._told("change", reason="modify_order", new_price=price_text(moved), **fields, **said)]

    def _new(self, bid: bool) -> list[bytes]:
        wide = str(uuid.UUID(int=self.random.getrandbits(128)))
        price = 1000 + self.random.randint(-8, 8) + (-4 if bid else 4)
        size = self.random.randint(1, 20)
        said = {"order_id": wide, "side": "buy" if bid else "sell"}
        told = [self._told("received", order_type="limit", size=size_text(size), price=price_text(price), **said)]
        while size:
            crossing = [
                (order[1], name)
                for name, order in self.orders.items()
                if order[0] != bid and (order[1] <= price if bid else order[1] >= price)
            ]
            if not crossing:
                break
            best = min(each[0] for each in crossing) if bid else max(each[0] for each in crossing)
            maker = next(name for at, name in crossing if at == best)
            taken = min(size, self.orders[maker][2])
            told.append(self._match(maker, wide, taken))
            size -= taken
            if not self.orders[maker][2]:
                del self.orders[maker]
                more = {"order_id": maker, "side": "sell" if bid else "buy", "price": price_text(best)}
                told.append(self._told("done", reason="filled", remaining_size="0", **more))
        if size:
            self.orders[wide] = [bid, price, size]
            told.append(self._told("open", price=price_text(price), remaining_size=size_text(size), **said))
        else:
            told.append(self._told("done", reason="filled", price=price_text(price), remaining_size="0", **said))
        return told

    def _match(self, maker: str, taker: str, taken: int) -> bytes:
        order = self.orders[maker]
        order[2] -= taken
        self.trade += 1
        fields = {"trade_id": self.trade, "maker_order_id": maker, "taker_order_id": taker, "size": size_text(taken)}
        return self._told("match", side="buy" if order[0] else "sell", price=price_text(order[1]), **fields)

    def heartbeat(self) -> bytes:
        told = {"type": "heartbeat", "sequence": self.sequence, "last_trade_id": self.trade, "time": TIME}
        return json.dumps(told | {"product_id": self.symbol}).encode()

    def whole(self) -> bytes:
        sides: tuple[list[Any], list[Any]] = ([], [])
        for wide, (bid, price, size) in self.orders.items():
            sides[not bid].append([price_text(price), size_text(size), wide])
        return json.dumps({"sequence": self.sequence, "bids": sides[0], "asks": sides[1], "time": TIME}).encode()

    def answer(self, wish: Wish) -> list[bytes]:
        return []


VENUES: dict[str, Callable[[int], Kraken | Level2 | Full]] = {"kraken": Kraken, "level2": Level2, "full": Full}


class Connection:
    """A session, its venue, and a consumer of its cells.

    Args:
        lag: Messages that the session gets between its wish for a book by REST and the answer.
    """

    def __init__(self, name: str, seed: int, lag: int = 0) -> None:
        self.venue = VENUES[name](seed)
        self.session = type(self.venue).make((self.venue.symbol,), **self.venue.options())
        self.consumer = Consumer()
        self.now = START
        self.lag = lag
        self._waiting: list[tuple[int, bytes]] = []  # countdown, answer
        self.session.connected(self.now)
        self.pump()

    def deliver(self, *bodies: bytes) -> None:
        for body in bodies:
            self.now += 2 * SECOND
            self.session.receive(body, self.now)
            self._waiting = [(left - 1, answer) for left, answer in self._waiting]
            self.pump()

    def pump(self) -> None:
        self.collect()
        for wish in self.session.wishes():
            if wish.want is Want.SNAPSHOT:
                assert wish.request == f"/products/{self.venue.symbol}/book?level=3"
                self._waiting.append((self.lag, self.venue.whole()))
            else:
                for body in self.venue.answer(wish):
                    self.session.receive(body, self.now)
        for _, answer in [each for each in self._waiting if each[0] <= 0]:
            self.session.answered(self.venue.symbol, answer, self.now)
        self._waiting = [each for each in self._waiting if each[0] > 0]
        self.collect()

    def collect(self) -> None:
        for cells in self.session.take():
            assert (cells["ts_recv"][cells["cells"] > 0] <= self.now).all()
            self.consumer.take(cells)

    @property
    def right(self) -> bool:
        return self.venue.right(self.consumer)


# Captures.


def write_kraken(path: Path, *, acknowledged: bool = True, depth: int = 10) -> Kraken:
    venue = Kraken(11, depth)
    result = {"channel": "book", "depth": depth, "snapshot": True, "symbol": venue.symbol}
    bodies = [json.dumps({"method": "subscribe", "result": result, "success": True}).encode()] if acknowledged else []
    bodies += [venue.whole(), venue.trade_message(), *(venue.messages()[0] for _ in range(40))]
    _write(path, [Message(ts_recv=0, body=body) for body in bodies])
    return venue


def write_full(path: Path) -> Full:
    venue = Full(11)
    lines = [Message(ts_recv=0, body=body) for _ in range(3) for body in venue.messages()]
    url = "https://api.exchange.coinbase.com/products/BTC-USD/book?level=3"
    lines.append(Message(ts_recv=0, kind=Happening.ANSWERED, url=url, body=venue.whole()))
    lines += [Message(ts_recv=0, body=body) for _ in range(60) for body in [*venue.messages(), venue.heartbeat()]]
    _write(path, lines)
    return venue


def write_level2(path: Path) -> Level2:
    venue = Level2(11)
    bodies = [venue.whole()]
    for _ in range(40):
        bodies += [*venue.messages(), venue.heartbeat()]
    _write(path, [Message(ts_recv=0, body=body) for body in bodies])
    return venue


def _write(path: Path, messages: list[Message]) -> None:
    path.write_bytes(
        b"".join(
            capture_line(Message(ts_recv=START + at * SECOND, kind=each.kind, url=each.url, body=each.body))
            for at, each in enumerate(messages)
        )
    )
