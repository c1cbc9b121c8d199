"""Random streams for a desk: what a venue shows, and what clients send, with all that goes wrong on the way.

`Traffic` makes commands one by one: of every type in `ROWS`, sent again, under a used number with another body, out of
order, and bytes that are no command. A new type of command is one row.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from tapehouse.log import Envelope
from tapehouse.market import Action, Cells, Flag, Instrument, Kind, Side, empty_cells

START = 1_767_623_400_000_000_000
# Small exponents, so that fees and rounding are seen; LATE is defined in the middle of the stream.
SHARE = Instrument(id=1, symbol="ALFA", venue="XNAS", tick_size=10_000_000, lot_size=1)
COIN = Instrument(
    id=2, symbol="BTC-USD.P", venue="TEST", asset_class="crypto", price_exponent=-2, size_exponent=-3, tick_size=50,
    lot_size=5, multiplier=7, currency_exponent=-3,
)  # fmt: skip
LATE = Instrument(id=3, symbol="LATE", venue="XNAS", tick_size=10_000_000, currency_exponent=-4)
INSTRUMENTS = (SHARE, COIN, LATE)
ACCOUNTS = ("manual", "alice", "bob", "carol")
CLIENTS = ("desk", "phone", "robot")
MID = 1000  # in ticks; bids are shown below it and asks above, so that no book is crossed

Row = tuple[int, dict[str, Any]]  # version and body


def market_records(seed: int, count: int) -> list[Cells]:
    """That many records of one cell: levels, trades, and some that change nothing; LATE comes in the second half."""
    rng = random.Random(seed)
    now, made = START, []
    for at in range(count):
        now += rng.choice([0, 1, 1_000_000, 40_000_000])
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
    """Commands of a few clients.

    Attributes:
        orders: Ids that clients have heard of, as (order id, symbol, account); whoever runs the world adds them.
        inputs: Input ordinals of decisions that clients have heard of.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.sent: list[bytes] = []
        self.numbers = dict.fromkeys(CLIENTS, 0)
        self.orders: list[int] = []
        self.inputs: list[int] = [0]

    def next(self) -> bytes:
        """The next message of CMDS."""
        rng = self.rng
        if self.sent and rng.random() < 0.15:  # Resent: an acknowledgement was lost, or a client started anew.
            payload = rng.choice(self.sent[-40:])
        elif rng.random() < 0.06:
            payload = self._poison()
        else:
            payload = self._command()
        self.sent.append(payload)
        return payload

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
        good = self._command()
        return rng.choice(
            [
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
        return self.rng.choices([*(one.symbol for one in INSTRUMENTS), "NOPE"], [6, 4, 3, 1])[0]

    def account(self) -> str:
        """Any account."""
        return self.rng.choice(ACCOUNTS)

    def order_id(self) -> int:
        """Mostly one that clients have heard of, else none that is."""
        return (
            self.rng.choice(self.orders[-30:]) if self.orders and self.rng.random() < 0.9 else self.rng.randrange(9999)
        )

    def submit(self) -> Row:
        """A limit order around what is shown, now and then of an impossible price or size."""
        rng, symbol = self.rng, self.symbol()
        instrument = next((one for one in INSTRUMENTS if one.symbol == symbol), SHARE)
        ticks = MID + rng.randrange(-12, 13)
        price = str(instrument.price(ticks * instrument.tick_size + (rng.random() < 0.04)))
        lots = rng.choices([rng.randrange(1, 90), 20_000, 0], [95, 3, 0])[0]
        size = str(instrument.size(lots * instrument.lot_size + (rng.random() < 0.03)))
        body = {"instrument": symbol, "side": rng.choice(["buy", "sell"]), "price": price, "size": size}
        body["account"] = self.account()
        if rng.random() < 0.4:
            return 1, {**body, "time_in_force": rng.choice(["gtc", "ioc", "post_only"])}
        more: dict[str, Any] = rng.choice([{}, {"time_in_force": "ioc"}, {"post_only": True}, {"tag": "mine"}])
        return 3, {**body, **more}

    def cancel(self) -> Row:
        """By id, with or without the instrument, by the owner or another."""
        body: dict[str, Any] = {"order_id": self.order_id(), "account": self.account()}
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
            "open_orders": rng.randrange(2, 64), "notional": str(rng.randrange(1, 400) / 8),
        }  # fmt: skip
        chosen = rng.sample(sorted(parts), rng.randrange(1, 4))
        return 1, {"account": self.account(), **{name: parts[name] for name in chosen}}

    def cash(self) -> Row:
        """Any kind of booking, now and then one finer than the currency's unit."""
        rng = self.rng
        amount = str(rng.randrange(1, 10**6) / rng.choice([1, 8, 10**6]))
        kind = rng.choice(["deposit", "withdrawal", "fee", "interest", "dividend"])
        return 1, {"account": self.account(), "currency": rng.choice(["USD", "CHF"]), "amount": amount, "kind": kind}

    def about_parked(self) -> Row:
        """Of an input that was parked, or of any other."""
        return 1, {"position": self.rng.choice(self.inputs[-20:])}


# Type of command: how often, and what makes one. Whoever adds a type adds it to `desk_oracle.HANDLERS` too.
ROWS: dict[str, tuple[int, Callable[[Traffic], Row]]] = {
    "order.submit": (60, Traffic.submit),
    "order.cancel": (14, Traffic.cancel),
    "order.mass_cancel": (4, Traffic.mass_cancel),
    "account.kill": (4, Traffic.kill),
    "kill.switch": (4, Traffic.switch),
    "risk.set_limits": (5, Traffic.limits),
    "desk.ping": (2, lambda _: (1, {})),
    "account.open": (2, lambda traffic: (1, {"account": traffic.account()})),
    "cash.book": (3, Traffic.cash),
    "strategy.start": (1, lambda _: (1, {})),
    "strategy.stop": (1, lambda traffic: (1, {"cancel_orders": traffic.rng.random() < 0.5})),
    "desk.poison": (1, lambda traffic: (1, {"policy": traffic.rng.choice(["halt", "park"])})),
    "parked.drop": (2, Traffic.about_parked),
    "parked.replay": (2, Traffic.about_parked),
}


def join(records: list[Cells]) -> Cells:
    """Records one after the other."""
    return np.concatenate(records) if records else empty_cells(0)
