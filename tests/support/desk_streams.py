"""Random streams for a desk: what a venue shows, and what clients send, with all that goes wrong on the way.

`Traffic` makes messages one by one: commands of every type in `ROWS` and frames of orders, sent again, under a used
number with another body, out of order, and bytes that are no command. A new type of command is one row.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from tapehouse.core.units import UNDEFINED
from tapehouse.desk import requests as r
from tapehouse.desk.order_frames import encode_orders, make_orders, pack_depth
from tapehouse.log import Envelope
from tapehouse.market import ORDER_EXTENSION, Action, Cells, Flag, Instrument, Kind, Side, empty_cells

START = 1_767_623_400_000_000_000
# Small exponents, so that fees and rounding are seen; LATE is defined in the middle of the stream.
SHARE = Instrument(id=1, symbol="ALFA", venue="XNAS", tick_size=10_000_000, lot_size=1)
COIN = Instrument(
    id=2, symbol="BTC-USD.P", venue="TEST", asset_class="crypto", price_exponent=-2, size_exponent=-3, tick_size=50,
    lot_size=5, multiplier=7, currency_exponent=-3,
)  # fmt: skip
LATE = Instrument(id=3, symbol="LATE", venue="XNAS", tick_size=10_000_000, currency_exponent=-4)
INSTRUMENTS = (SHARE, COIN, LATE)
# What commands register: crossing ones, and terms that are refused.
CROSS = {"symbol": "XONE", "venue": "internal", "tick_size": "0.5", "price_exponent": -2, "lot_size": "2",
         "currency_exponent": -4}  # fmt: skip
FINE = {"symbol": "XTWO", "venue": "internal", "tick_size": "0.01", "price_exponent": -3, "lot_size": "0.001",
        "size_exponent": -3, "multiplier": 3, "currency": "CHF", "currency_exponent": -2}  # fmt: skip
REGISTERED = (
    CROSS, CROSS, FINE, {**CROSS, "multiplier": 2}, {**CROSS, "symbol": "ALFA"}, {**FINE, "venue": "TEST"},
    {**FINE, "symbol": "ODD", "tick_size": "0.0001"}, {**FINE, "symbol": "OPT", "asset_class": "option"},
)  # fmt: skip
SYMBOLS = {"ALFA": 6, "BTC-USD.P": 4, "LATE": 2, "XONE": 8, "XTWO": 4, "NOPE": 1}
ACCOUNTS = ("manual", "alice", "bob", "carol")
CLIENTS = ("desk", "phone", "robot")
SENDERS = (1, 2, 3, 2**63 + 9)  # clients of frames
ORDERS_MAX = 40  # of one frame here: some times as many cells as a frame of the tape holds
HOUR = 3_600 * 10**9
MID = 1000  # in ticks; bids are shown below it and asks above, so that no book is crossed

Row = tuple[int, dict[str, Any]]  # version and body


def market_records(seed: int, count: int) -> list[Cells]:
    """That many records of one cell: levels, trades, and some that change nothing; LATE comes in the second half."""
    rng = random.Random(seed)
    now, made = START, []
    for at in range(count):
        now += rng.choice([0, 1, 1_000_000, 40_000_000]) if rng.random() < 0.98 else rng.choice([1, 9]) * HOUR
        instrument = rng.choice(INSTRUMENTS[:2] if at < count // 2 else INSTRUMENTS)
        cell = empty_cells(1)
        cell["ts_event"], cell["ts_recv"], cell["cells"], cell["instrument"] = now, now, 1, instrument.id
        cell["flags"], cell["side"] = Flag.LAST, rng.choice([int(Side.BID), int(Side.ASK)])
        sign = -1 if cell["side"][0] == Side.BID else 1
        kind = rng.choices([Kind.MBP, Kind.TRADE, Kind.STATUS, Kind.GAP], [70, 24, 3, 3])[0]
        cell["kind"] = kind
        if kind == Kind.MBP:
            cell["action"], cell["price"] = Action.MODIFY, (MID + sign * rng.randrange(1, 12)) * instrument.tick_size
            cell["size"] = rng.choice([0, *range(1, 60)]) * instrument.lot_size
        elif kind == Kind.TRADE:
            cell["price"] = (MID + rng.randrange(-12, 13)) * instrument.tick_size
            cell["size"] = rng.randrange(1, 80) * instrument.lot_size
            if rng.random() < 0.2:
                cell["side"] = Side.NONE
        made.append(cell)
    return made


class Traffic:
    """Messages of a few clients.

    Attributes:
        orders: Orders that clients have heard of, as (id, number of its account, instrument); whoever runs the world
            adds them.
        accounts: Names of accounts by number, likewise.
        inputs: Input ordinals of decisions that clients have heard of.
        instruments: What the tape defines by now, by id.
        now: The tape's time.
        frames: How many of a hundred messages are frames.
    """

    def __init__(self, seed: int, *, frames: int = 25) -> None:
        self.rng = random.Random(seed)
        self.sent: list[bytes] = []
        self.numbers = dict.fromkeys(CLIENTS, 0)
        self.frame_numbers = dict.fromkeys(SENDERS, 0)
        self.orders: list[tuple[int, int, int]] = []
        self.accounts: dict[int, str] = {}
        self.inputs: list[int] = [0]
        self.instruments: dict[int, Instrument] = {}
        self.now = START
        self.frames = frames

    def next(self) -> bytes:
        """The next message of CMDS."""
        rng = self.rng
        if self.sent and rng.random() < 0.15:  # Resent: an acknowledgement was lost, or a client started anew.
            payload = rng.choice(self.sent[-40:])
        elif rng.random() < 0.06:
            payload = self._poison()
        elif rng.random() * 100 < self.frames:
            payload = self._frame()
        else:
            payload = self._command()
        self.sent.append(payload)
        return payload

    # Frames.

    def _frame(self) -> bytes:
        """Some orders of one client: mostly with the next numbers, some that were sent before, some late or far on."""
        rng, client = self.rng, self.rng.choice(SENDERS)
        count = rng.choice([1, 2, 5, 12, rng.randrange(1, ORDERS_MAX + 1)])
        step = rng.choices([1, -count // 2, -90, 30, 70], [84, 6, 3, 4, 3])[0]
        first = max(1, self.frame_numbers[client] + step)
        self.frame_numbers[client] = max(self.frame_numbers[client], first + count - 1)
        cells = make_orders(count, client=client, number=first)
        said = cells[1::2].view(ORDER_EXTENSION)
        for at in range(count):
            self._order(cells[2 * at : 2 * at + 1], said[at : at + 1])
        return encode_orders(cells)

    def _order(self, first: Cells, said: Any) -> None:
        """Write one order, mostly one that means something."""
        rng = self.rng
        known = [*self.instruments.values()] * 3 + [SHARE]
        terms = rng.choice(known)
        first["instrument"] = terms.id if rng.random() < 0.96 else rng.choice([0, 9, 4_095, 70_000])
        first["count"] = rng.choice([0, *self.accounts] if rng.random() < 0.95 else [4, 62, 63, 2**31])
        side = rng.randrange(2)
        first["side"] = (int(Side.BID), int(Side.ASK))[side]
        first["price"] = (MID + rng.randrange(-12, 13)) * terms.tick_size + (rng.random() < 0.03)
        first["size"] = rng.randrange(1, 90) * terms.lot_size + (rng.random() < 0.02)
        kind = rng.choices([r.LIMIT, r.MARKET, r.STOP, r.STOP_LIMIT], [12, 2, 2, 2])[0]
        force = rng.choices([r.GTC, r.IOC, r.POST_ONLY, r.DAY, r.FOK, r.GTD], [10, 2, 1, 1, 1, 1])[0]
        first["depth"], first["flags"] = pack_depth(kind, force), rng.choices([0, 1, 2], [20, 1, 3])[0]
        said["stop"] = UNDEFINED
        if kind in (r.STOP, r.STOP_LIMIT):
            said["stop"] = (MID + (1 - 2 * side) * rng.randrange(-3, 12)) * terms.tick_size
        if rng.random() < 0.15:
            said["display"] = rng.randrange(1, 9) * terms.lot_size
        if force == r.GTD:
            said["expiry"] = self.now + rng.choice([-1, 10**7, HOUR, 20 * HOUR])
        if self.orders and rng.random() < 0.35:
            first["order_id"], account, instrument = self.order()
            if rng.random() < 0.9:
                first["count"], first["instrument"] = account, instrument
            first["action"] = rng.choice([int(Action.MODIFY), int(Action.CANCEL)])
            if rng.random() < 0.3:
                first["price"], first["size"] = 0, rng.randrange(1, 30) * terms.lot_size
        if rng.random() < 0.02:  # What no client means, and any may send.
            first[rng.choice(["price", "size"])] = rng.choice([0, -1, UNDEFINED, -(2**63), 2**62])
        if rng.random() < 0.02:
            said[rng.choice(["stop", "display", "expiry"])] = rng.choice([0, -1, UNDEFINED, -(2**63), 2**62])

    def _command(self) -> bytes:
        rng = self.rng
        kind = rng.choices(list(ROWS), [weight for weight, _ in ROWS.values()])[0]
        version, body = ROWS[kind][1](self)
        return self._envelope(kind, version, body)

    def _envelope(self, kind: str, version: int, body: dict[str, Any]) -> bytes:
        rng = self.rng
        client = rng.choice(("", *CLIENTS, *CLIENTS))
        number = 0
        if client:
            step = rng.choices([1, 0, -1, -7, 5, -30], [80, 5, 4, 4, 4, 3])[0]  # used, late, or with a gap
            number = max(0, self.numbers[client] + step)
            self.numbers[client] = max(self.numbers[client], number)
        name = f"c{len(self.sent)}"
        return Envelope(
            id=name, type=kind, version=version, client=client, number=number,
            correlation=rng.choice([name, "chain"]), time=rng.randrange(2**40), body=body,
        ).encode()  # fmt: skip

    def _poison(self) -> bytes:
        """Bytes that are no command, a command of no type, of no version, with a bad body, or too long."""
        rng = self.rng
        good, frame = self._command(), self._frame()
        return rng.choice(
            [
                frame[: rng.randrange(5, len(frame))], frame[:70] + b"?" + frame[71:], frame + b"!", b"THFR",
                b"", b"{", b"\xff\xfe\x00", good[: rng.randrange(len(good))], good.replace(b'"id"', b'"di"'),
                b"x" * 13_000,
                self._envelope("order.invent", 1, {}), self._envelope("order.submit", 99, {}),
                self._envelope("order.submit", 3, {"instrument": "ALFA", "side": "up"}),
                self._envelope("desk.ping", 1, {"more": [1, {"deep": "é" * rng.randrange(30)}]}),
            ]
        )  # fmt: skip

    # What rows are made of.

    def symbol(self) -> str:
        """Mostly one that is traded."""
        return self.rng.choices(list(SYMBOLS), list(SYMBOLS.values()))[0]

    def terms(self, symbol: str) -> Instrument:
        """An instrument by its symbol, any other where none is called so."""
        return next((one for one in self.instruments.values() if one.symbol == symbol), SHARE)

    def account(self) -> str:
        """Any account."""
        return self.rng.choice(ACCOUNTS)

    def order(self) -> tuple[int, int, int]:
        """Mostly one that clients have heard of, else none that is."""
        if self.orders and self.rng.random() < 0.95:
            return self.rng.choice(self.orders[-30:])
        return self.rng.randrange(9999), 1, 1

    def order_body(self) -> dict[str, Any]:
        """An order's id and its account, or another."""
        order_id, account, _ = self.order()
        right = self.rng.random() < 0.9 and account in self.accounts
        return {"order_id": order_id, "account": self.accounts[account] if right else self.account()}

    def submit(self) -> Row:
        """A limit order around what is shown, now and then of an impossible price or size; or any other order."""
        rng, symbol = self.rng, self.symbol()
        terms, side = self.terms(symbol), rng.randrange(2)
        lots = rng.choices([rng.randrange(1, 90), 20_000, 0], [95, 3, 0])[0]
        size = str(terms.size(lots * terms.lot_size + (rng.random() < 0.03)))
        body = {"instrument": symbol, "side": ("buy", "sell")[side], "price": self._near(terms), "size": size}
        body["account"] = self.account()
        if rng.random() < 0.3:
            return 1, {**body, "time_in_force": rng.choice(["gtc", "ioc", "post_only"])}
        more: dict[str, Any] = rng.choice(
            [{}, {}, {"time_in_force": "ioc"}, {"post_only": True}, {"tag": "mine"}, {"time_in_force": "fok"},
             {"reduce_only": True}, {"time_in_force": "day"}, {"time_in_force": "gtd"}, {"display": 1},
             {"type": "stop"}, {"type": "stop_limit"}, {"type": "market"}, {"type": "market", "time_in_force": "fok"}]
        ).copy()  # fmt: skip
        if more.get("time_in_force") == "gtd":
            more["expires_at"] = self.now + rng.choice([-1, 10**7, HOUR, 20 * HOUR])
        if "display" in more:
            more["display"] = str(terms.size(rng.randrange(1, 9) * terms.lot_size))
        if more.get("type", "limit") != "limit":
            beyond = (1 - 2 * side) * rng.randrange(-3, 12)
            more |= {"stop": self._near(terms, beyond)} if more["type"] != "market" else {}
            if more["type"] != "stop_limit":
                del body["price"]
            more["reduce_only"] = rng.random() < 0.3
        return 3, {**body, **more}

    def _near(self, terms: Instrument, ticks: int | None = None) -> str:
        """A price around what is shown."""
        ticks = self.rng.randrange(-12, 13) if ticks is None else ticks
        return str(terms.price((MID + ticks) * terms.tick_size + (self.rng.random() < 0.04)))

    def change(self) -> Row:
        """Another price, size, stop or display of an order."""
        rng, body = self.rng, self.order_body()
        terms = self.terms(self.symbol())
        known = [instrument for order_id, _, instrument in self.orders if order_id == body["order_id"]]
        if known and rng.random() < 0.9:
            terms = self.instruments[known[0]]
        parts = {
            "price": self._near(terms), "size": str(terms.size(rng.randrange(1, 60) * terms.lot_size)),
            "stop": self._near(terms), "display": str(terms.size(rng.randrange(1, 9) * terms.lot_size)),
            "instrument": terms.symbol, "tag": "new",
        }  # fmt: skip
        chosen = [name for name in parts if rng.random() < 0.3] or ["size"]
        return 1, {**body, **{name: parts[name] for name in chosen}}

    def cancel(self) -> Row:
        """By id, with or without the instrument, by the owner or another."""
        body = self.order_body()
        if self.rng.random() < 0.5:
            return 1, {**body, "instrument": self.symbol()}
        return 2, body

    def mass_cancel(self) -> Row:
        """Of all, or some."""
        rng = self.rng
        parts = {"account": self.account(), "instrument": self.symbol(), "side": rng.choice(["buy", "sell"])}
        return 1, {name: value for name, value in parts.items() if rng.random() < 0.4}

    def kill(self) -> Row:
        """Mostly let go again, so that the desk goes on."""
        return 1, {"account": self.account(), "on": self.rng.random() < 0.4}

    def switch(self) -> Row:
        """As `kill`, of all scopes."""
        scope = self.rng.choice(["account", "strategy", "all"])
        body: dict[str, Any] = {"scope": scope, "on": self.rng.random() < 0.4}
        return 1, body | ({"account": self.account()} if scope == "account" else {})

    def limits(self) -> Row:
        """Limits that orders here meet."""
        rng = self.rng
        parts = {
            "order_size": rng.randrange(20, 200), "position": rng.randrange(50, 400),
            "open_orders": rng.choice([rng.randrange(2, 64), 8_193]), "price_band_ppm": rng.choice([0, 4_000, 50_000]),
            "notional": rng.choice(["400.000000001", "70000.5", "900000000", "0.0000000001"]),
            "messages_per_second": rng.choice([0, 3, 10**6, 10**6]),
            "self_match": rng.choice(["cancel_newest", "cancel_oldest", "cancel_both", "decrement"]),
        }  # fmt: skip
        chosen = rng.sample(sorted(parts), rng.choice([1, 1, 1, 2, 3]))
        body: dict[str, Any] = {"account": self.account(), **{name: parts[name] for name in chosen}}
        return 1, body | ({"instrument": self.symbol()} if rng.random() < 0.3 else {})

    def cash(self) -> Row:
        """Any kind of booking, now and then one finer than the currency's unit."""
        rng = self.rng
        amount = str(rng.randrange(1, 10**6) / rng.choice([1, 8, 10**6]))
        kind = rng.choice(["deposit", "withdrawal", "fee", "interest", "dividend"])
        return 1, {"account": self.account(), "currency": rng.choice(["USD", "CHF"]), "amount": amount, "kind": kind}

    def booking(self) -> Row:
        """How an account's fills are booked; mostly refused, since few accounts are flat."""
        rng = self.rng
        parts = {
            "mode": rng.choice(["netting", "hedging"]), "method": rng.choice(["average", "fifo"]),
            "maker_fee_ppm": rng.choice([-50, 0, 70_000]), "taker_fee_ppm": rng.choice([0, 300, -10]),
        }  # fmt: skip
        chosen = rng.sample(sorted(parts), rng.randrange(1, 4))
        account = rng.choice([*ACCOUNTS, "dave", "erin"])
        return 1, {"account": account, **{name: parts[name] for name in chosen}}

    def correction(self) -> Row:
        """Of a position, either way."""
        rng, symbol = self.rng, self.symbol()
        terms = self.terms(symbol)
        size = str(terms.size(rng.choice([-40, -7, 3, 25]) * terms.lot_size))
        price = rng.choice(["0", self._near(terms)])
        return 1, {"account": self.account(), "instrument": symbol, "size": size, "price": price, "reason": "a trade"}

    def about_strategy(self) -> dict[str, Any]:
        """Mostly of the one that runs."""
        return self.rng.choice([{}, {}, {}, {"strategy": "idler"}, {"strategy": "another"}])

    def parameters(self) -> Row:
        """Parameters of the strategy, some that it has not."""
        rng = self.rng
        names = rng.choice([["width"], ["depth"], ["width", "depth"], ["depth", "height"]])
        return 1, {"parameters": {name: rng.randrange(-5, 9) for name in names}, **self.about_strategy()}

    def about_parked(self) -> Row:
        """Of an input that was parked, or of any other."""
        return 1, {"position": self.rng.choice(self.inputs[-20:])}


# Type of command: how often, and what makes one. Whoever adds a type adds it to `desk_oracle.HANDLERS` too.
ROWS: dict[str, tuple[int, Callable[[Traffic], Row]]] = {
    "order.submit": (60, Traffic.submit),
    "order.replace": (14, Traffic.change),
    "order.cancel": (10, Traffic.cancel),
    "order.mass_cancel": (3, Traffic.mass_cancel),
    "account.kill": (3, Traffic.kill),
    "kill.switch": (3, Traffic.switch),
    "risk.set_limits": (6, Traffic.limits),
    "desk.ping": (1, lambda _: (1, {})),
    "account.open": (3, lambda traffic: (1, {"account": traffic.account()})),
    "account.configure": (5, Traffic.booking),
    "instrument.register": (10, lambda traffic: (1, dict(traffic.rng.choice(REGISTERED)))),
    "position.correct": (4, Traffic.correction),
    "cash.book": (3, Traffic.cash),
    "strategy.start": (1, lambda traffic: (1, traffic.about_strategy())),
    "strategy.stop": (
        1, lambda traffic: (1, {"cancel_orders": traffic.rng.random() < 0.5, **traffic.about_strategy()})
    ),
    "strategy.configure": (2, Traffic.parameters),
    "desk.poison": (1, lambda traffic: (1, {"policy": traffic.rng.choice(["halt", "park"])})),
    "parked.drop": (2, Traffic.about_parked),
    "parked.replay": (2, Traffic.about_parked),
}  # fmt: skip


def join(records: list[Cells]) -> Cells:
    """Records one after the other."""
    return np.concatenate(records) if records else empty_cells(0)
