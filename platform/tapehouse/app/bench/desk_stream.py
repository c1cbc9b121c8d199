"""Long streams of orders to the desk, as a tape has them: frames of many clients, for an instrument on which accounts
trade with each other, and for one that is traded against a recorded book.

Orders are chosen while the stream before them is decided, so that cancels and replaces name orders that rest, and
prices lie near the touch: 2 in 5 requests are cancels and replaces, a quarter of the others are meant to trade at once.
What rests settles near RESTING orders of sixty accounts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tapehouse.app.bench.books import Flow
from tapehouse.app.bench.desk_loops import (
    RESTING_ACCOUNT,
    RESTING_COLUMNS,
    RESTING_ID,
    RESTING_LEFT,
    RESTING_PRICE,
    list_resting,
)
from tapehouse.app.bench.engines import fresh_engine, header
from tapehouse.app.bench.material import SEED
from tapehouse.book import best_price
from tapehouse.core.check import check
from tapehouse.core.units import UNDEFINED
from tapehouse.desk import BUY, GTC, IOC
from tapehouse.desk.commands import COMMANDS
from tapehouse.desk.order_frames import CANCELLED, ORDERS_PER_FRAME_MAX, REPLACED, make_orders, pack_depth, place_orders
from tapehouse.desk.requests import FOK, LIMIT, MARKET, POST_ONLY_FLAG
from tapehouse.desk.state import (
    CASH,
    FILL_COUNT,
    INTERNAL_VENUE,
    LIMIT_OPEN_ORDERS,
    LIMIT_POSITION,
    POSITION,
    REJECTED,
    WORKING_MAX,
)
from tapehouse.engine import CompiledStrategy, Engine
from tapehouse.engine.loop import idle
from tapehouse.engine.sequencer import DESK_SOURCE
from tapehouse.log.envelope import Body, Envelope
from tapehouse.market import Cells, Instrument, Kind, Side, from_words, pack_payload

ACCOUNTS = 60
CLIENTS = 8
RESTING = 2_500
CHOSEN_AT_ONCE = 128  # orders that see the same touch
REQUESTS_ABOUT_RESTING = 0.42  # of all requests where RESTING orders rest
START_TICKS = 100_000
START_NS = 1_767_623_400_000_000_000
FRAME_NS = 100_000  # between two choices
POSITION_LOTS_MAX = 1 << 40
TOO_LARGE_LOTS = 20_000
WARM_SHARE = 4  # a quarter of the recorded day comes before the first order
SLOT = 0

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A stretch of the tape: market records, or a frame's orders."""

    cells: Cells
    is_orders: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class Stream:
    """What a desk is fed with, and what became of it.

    Args:
        opening: The instrument, and the commands that open the accounts; ordinals begin there.
        accounts: Positions and cash of all accounts after the last part.
        resting: Orders at the end.
    """

    name: str
    instrument: Instrument
    opening: Cells
    parts: tuple[Part, ...]
    accounts: Ints
    fills: int
    rejected: int
    resting: int

    @property
    def orders(self) -> int:
        """How many requests there are."""
        return sum(len(part.cells) // 2 for part in self.parts if part.is_orders)

    def engine(self) -> Engine:
        """An engine with the accounts open, every page of its books touched."""
        return open_engine(self.opening)

    def require_end(self, engine: Engine) -> None:
        """Raise where an engine did not come to the stream's end, to the last amount and fill."""
        same = np.array_equal(money(engine), self.accounts)
        check(same and int(engine.desk.counters[FILL_COUNT]) == self.fills, "decided otherwise", subject=self.name)


def crossing_stream(count: int) -> Stream:
    """So many requests for an instrument on which accounts trade with each other."""
    instrument = Instrument(id=1, symbol="CROSS", venue=INTERNAL_VENUE)
    return _make("crossing", instrument, (None for _ in range(count // ORDERS_PER_FRAME_MAX)))


def paper_stream(flow: Flow, count: int) -> Stream:
    """At most so many requests against the recorded book of one instrument, a frame after as many market records."""
    instrument = replace(flow.instrument, id=1)
    cells = from_words(flow.by_order.copy())
    cells["instrument"] = instrument.id
    warm = len(cells) // WARM_SHARE
    frames = min(count, len(cells) - warm) // ORDERS_PER_FRAME_MAX
    starts = [0, *range(warm, warm + (frames - 1) * ORDERS_PER_FRAME_MAX + 1, ORDERS_PER_FRAME_MAX)]
    pieces = (cells[start:end] for start, end in pairwise(starts))
    return _make(flow.name, instrument, pieces)


def command(number: int, kind: str, body: Body, *, client: str) -> Cells:
    """A COMMAND record as the sequencer writes it."""
    payload = Envelope(
        id=f"{client}-{number}", type=kind, version=COMMANDS.version(kind), client=client, number=number,
        correlation=f"{client}-{number}", time=START_NS, body=body,
    ).encode()  # fmt: skip
    return pack_payload(Kind.COMMAND, payload, ts_event=START_NS, ts_recv=START_NS, sequence=number, source=DESK_SOURCE)


def account_name(number: int) -> str:
    """What the account of a number is called."""
    return f"account-{number}"


def open_engine(opening: Cells) -> Engine:
    """An engine behind the first cells of a tape, all its pages touched; its accounts may hold what they like."""
    engine = fresh_engine(CompiledStrategy(name="none", on_market=idle, parameters={}))
    own = (
        *engine.desk.own,
        engine.desk.orders,
        engine.desk.due,
        engine._routes.bulk.outcomes[: CLIENTS + 1],
        engine.out,
    )
    for array in own:
        array += array.dtype.type(0)
    engine.apply(header(0), opening)
    engine.take_outputs()
    engine.desk.limits[:, :, LIMIT_POSITION] = POSITION_LOTS_MAX
    engine.desk.limits[:, :, LIMIT_OPEN_ORDERS] = WORKING_MAX
    return engine


def money(engine: Engine) -> Ints:
    """Positions and cash of all accounts, the street's included."""
    return engine.desk.accounts[:, SLOT][:, [POSITION, CASH]].copy()


def resting(engine: Engine) -> Ints:
    """Id, account, price and what is left of each resting order."""
    found = np.zeros((WORKING_MAX, RESTING_COLUMNS), np.int64)
    return found[: list_resting(engine.desk, SLOT, found)]


def _make(name: str, instrument: Instrument, market: Iterator[Cells | None]) -> Stream:
    """A frame of orders after each piece of the market, chosen in the sight of both."""
    opened = [
        command(at, "account.open", {"account": account_name(at)}, client="opening") for at in range(1, ACCOUNTS + 1)
    ]
    opening = np.concatenate([instrument.definition(ts_recv=0), *opened])
    engine = open_engine(opening)
    ordinal = len(opening)
    chance = np.random.default_rng(SEED)
    parts: list[Part] = []
    numbers = [1] * CLIENTS
    for frame, piece in enumerate(market):
        if piece is not None:
            engine.apply(header(ordinal), piece)
            ordinal += len(piece)
            parts.append(Part(cells=piece, is_orders=False))
        chosen = []
        client = frame % CLIENTS
        for _ in range(0, ORDERS_PER_FRAME_MAX, CHOSEN_AT_ONCE):
            cells = _choose(engine, instrument, chance, client=client + 1, number=numbers[client])
            now = max(engine.now, START_NS) + FRAME_NS
            cells = place_orders(cells, sequence=frame + 1, now=now, source=DESK_SOURCE)
            engine.apply(header(ordinal), cells)
            engine.take_outputs()
            chosen.append(cells)
            ordinal += len(cells)
            numbers[client] += CHOSEN_AT_ONCE
        parts.append(Part(cells=np.concatenate(chosen), is_orders=True))
    counters = engine.desk.counters
    return Stream(
        name=name, instrument=instrument, opening=opening, parts=tuple(parts), accounts=money(engine),
        fills=int(counters[FILL_COUNT]), rejected=int(counters[REJECTED]), resting=len(resting(engine)),
    )  # fmt: skip


def _touch(engine: Engine, instrument: Instrument) -> tuple[int, int]:
    """The best bid and ask that an order would meet."""
    books = engine.desk.own if instrument.venue == INTERNAL_VENUE else engine.books
    tick = instrument.tick_size
    bid, ask = (int(best_price(books, SLOT, side)) for side in range(2))
    if bid == UNDEFINED:
        bid = START_TICKS * tick if ask == UNDEFINED else ask - tick
    return bid, bid + tick if ask == UNDEFINED else ask


def _choose(engine: Engine, instrument: Instrument, chance: np.random.Generator, *, client: int, number: int) -> Cells:
    """The next CHOSEN_AT_ONCE orders of a client."""
    count, tick, lot = CHOSEN_AT_ONCE, instrument.tick_size, instrument.lot_size
    bid, ask = _touch(engine, instrument)
    cells = make_orders(count, client=client, number=number)
    first = cells[::2]
    buys = chance.integers(0, 2, count) == BUY
    towards = np.where(buys, tick, -tick)  # the other side
    near, against = np.where(buys, bid, ask), np.where(buys, ask, bid)
    behind = chance.exponential(6.0, count).astype(np.int64)
    inside = (chance.random(count) < 0.3) & (ask - bid > tick)
    first["instrument"] = instrument.id
    first["side"] = np.where(buys, int(Side.BID), int(Side.ASK))
    first["count"] = chance.integers(1, ACCOUNTS + 1, count)
    first["size"] = lot * (1 + chance.exponential(4.0, count).astype(np.int64))
    first["price"] = near - towards * np.where(inside, -1, behind)
    first["depth"] = pack_depth(LIMIT, GTC)
    dice = chance.random(count)
    takes, ioc = dice < 0.15, (dice >= 0.15) & (dice < 0.22)
    market, fok = (dice >= 0.22) & (dice < 0.245), (dice >= 0.245) & (dice < 0.265)
    first["price"][takes] = against[takes]
    first["price"][ioc], first["depth"][ioc] = (against + 2 * towards)[ioc], pack_depth(LIMIT, IOC)
    first["price"][market], first["depth"][market] = 0, pack_depth(MARKET, IOC)
    first["price"][fok], first["depth"][fok] = (against + 3 * towards)[fok], pack_depth(LIMIT, FOK)
    first["size"][fok] *= 4
    first["flags"][(dice >= 0.265) & (dice < 0.325)] |= POST_ONLY_FLAG
    first["size"][(dice >= 0.325) & (dice < 0.332)] = TOO_LARGE_LOTS * lot
    _about_resting(first, resting(engine), chance, instrument)
    return cells


def _about_resting(first: Cells, there: Ints, chance: np.random.Generator, instrument: Instrument) -> None:
    """Make some of these requests cancels and replaces of orders that rest: the more, the more do."""
    share = min(0.6, REQUESTS_ABOUT_RESTING * len(there) / RESTING)
    rows = np.flatnonzero(chance.random(len(first)) < share)[: len(there)]
    meant = there[chance.choice(len(there), len(rows), replace=False)] if len(rows) else there[:0]
    replaces = chance.random(len(rows)) < 0.15
    moves = chance.random(len(rows)) < 0.5
    for name, values in (
        ("action", np.where(replaces, REPLACED, CANCELLED)), ("order_id", meant[:, RESTING_ID]),
        ("count", meant[:, RESTING_ACCOUNT]), ("flags", 0), ("depth", 0),
        ("price", np.where(replaces, meant[:, RESTING_PRICE] + np.where(moves, instrument.tick_size, 0), 0)),
        ("size", np.where(replaces, np.where(moves, meant[:, RESTING_LEFT], instrument.lot_size), 0)),
    ):  # fmt: skip
        column = first[name]
        column[rows] = values
