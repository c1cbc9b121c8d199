"""Random tapes that tell books in every way, and the slow, obvious answer to "what was this book then"."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tapehouse.book import Books, apply, define, make_books, set_confidence, snapshot
from tapehouse.book.tape_book import LEVELS, ORDERS_MAX
from tapehouse.log import Branch, Codec, FrameHeader, MemoryLog, decode_frame, encode_frame
from tapehouse.market import (
    Action,
    Cells,
    Flag,
    Instrument,
    Kind,
    Side,
    empty_cells,
    extend,
    read_definition,
    records_of,
    words,
)
from tapehouse.market.gap import Cause, Confidence, gap_record

OLD_ID, NEW_ID = bytes(range(16)), bytes(range(50, 66))
START = 1_767_623_400_000_000_000
BY_ORDER = Instrument(id=1, symbol="ORD", tick_size=5)
BY_LEVEL = Instrument(id=3, symbol="LVL.P", tick_size=1, price_exponent=-2)
QUOTED = Instrument(id=4, symbol="QUO", tick_size=1)  # by quotes at first, by levels later
LATE = Instrument(id=2000, symbol="LATE", tick_size=2)  # defined in the middle
REVISED = replace(BY_ORDER, tick_size=10, revision=2)  # from the middle on
INSTRUMENTS = (BY_ORDER, BY_LEVEL, QUOTED, LATE)


def make_cells(seed: int, records: int) -> list[Cells]:
    """That many records and some definitions, one entry each; times jump, stand still, and now and then go back."""
    rng = np.random.default_rng(seed)
    now, made = START, [one.definition(ts_recv=START) for one in INSTRUMENTS[:3]]
    for number in range(records):
        if number == records // 2:
            made.append(LATE.definition(ts_recv=now))
        if number == records // 2 + 20:
            made += [REVISED.definition(ts_recv=now), LATE.definition(ts_recv=now)]
        now += int(rng.choice([0, 1, 1_000, 300_000_000, 2_000_000_000, -50], p=[0.3, 0.3, 0.2, 0.1, 0.05, 0.05]))
        ids = [1, 1, 1, 3, 4] + ([2000] if number >= records // 2 else [])
        made.append(_record(rng, int(rng.choice(ids)), now, late=number > 2 * records // 3))
    return made


def _record(rng: np.random.Generator, instrument: int, now: int, *, late: bool) -> Cells:
    cells = empty_cells(2 if instrument == 4 and not (late and rng.random() < 0.5) else 1)
    cells["ts_event"] = cells["ts_recv"] = now
    cells["instrument"], cells["cells"], cells["source"] = instrument, len(cells), 1 + instrument % 2
    cells["size"] = rng.integers(0, 5, len(cells))
    if len(cells) == 2:
        cells["kind"], cells["price"] = Kind.QUOTE, [rng.integers(90, 100), rng.integers(99, 110)]
        extend(cells)
        return cells
    if rng.random() < 0.06:
        said_of = int(rng.choice([0, 0, instrument]))
        return gap_record(
            Cause.SEQUENCE,
            rng.choice(list(Confidence)),
            ts_recv=now,
            instrument=said_of,
            source=int(rng.integers(0, 4)),
        )
    first = cells[0]
    first["kind"] = Kind.MBO if instrument in (1, 2000) else Kind.MBP
    actions = [Action.ADD, Action.ADD, Action.ADD, Action.CANCEL, Action.MODIFY, Action.TRADE, Action.CLEAR]
    first["action"] = rng.choice([int(action) for action in actions], p=[0.3, 0.2, 0.1, 0.2, 0.1, 0.08, 0.02])
    first["side"] = rng.choice([int(Side.BID), int(Side.ASK)])
    first["price"], first["order_id"] = int(rng.integers(90, 110)) * 10, rng.integers(1, 30)
    first["flags"] = Flag.SNAPSHOT if rng.random() < 0.05 else 0
    if rng.random() < 0.1:
        first["kind"] = Kind.CLOCK
    return cells


async def make_tape(
    seed: int, records: int, *, frame_records: int = 7, branch_at: int | None = None, name: str = "TAPE_books"
) -> MemoryLog:
    """Those cells in frames of so many records; `branch_at`: the last sequence of an older branch."""
    branches = (Branch(log_id=OLD_ID),)
    if branch_at is not None:
        branches = (Branch(log_id=OLD_ID, through=branch_at), Branch(log_id=NEW_ID))
    log = MemoryLog(name, branches=branches)
    made, ordinal = make_cells(seed, records), 0
    for at in range(0, len(made), frame_records):
        cells = np.concatenate(made[at : at + frame_records])
        last = (await log.extent()).last
        header = FrameHeader(
            log_id=(await log.extent()).log_id_at(last + 1), writer=1, epoch=1, first_ordinal=ordinal,
            codec=Codec.COLUMNS,
        )  # fmt: skip
        await log.append(encode_frame(cells, header), expected_last=last)
        ordinal += len(cells)
    return log


async def all_cells(log: MemoryLog) -> Cells:
    """Every cell of a tape."""
    extent = await log.extent()
    return np.concatenate([decode_frame(message.payload)[1] for message in [m async for m in log.read(extent.first)]])


def slow_book(
    cells: Cells, instrument: Instrument, *, time: int | None = None, ordinal: int | None = None
) -> tuple[bytes, int, int]:
    """The canonical bytes after the last record that counts, the next ordinal, and the engine time: record by record.

    `ordinal` counts the record that holds this cell.
    """
    tick = next(
        read_definition(record).tick_size
        for _, record in records_of(cells, Kind.DEFINITION)
        if record["instrument"][0] == instrument.id
    )
    books = _empty(tick, 0)
    array, by_records, source, worth = words(cells), False, -1, 0
    changing = (Action.ADD, Action.CANCEL, Action.MODIFY, Action.CLEAR)
    at, now = 0, -(2**63)
    while at < len(cells):
        cell = cells[at]
        then = max(now, int(cell["ts_recv"]))
        if (time is not None and then > time) or (ordinal is not None and at > ordinal):
            break
        now = then
        if cell["kind"] == Kind.GAP:
            theirs = (
                cell["instrument"] == 0 and source >= 0 and (0 in (source, cell["source"]) or source == cell["source"])
            )
            if cell["instrument"] == instrument.id or theirs:
                worth = int(cell["depth"])
                set_confidence(books, 0, worth)
        elif cell["kind"] == Kind.DEFINITION and cell["instrument"] == instrument.id:
            terms = read_definition(cells[at : at + int(cell["cells"])])
            if terms.tick_size != tick:
                tick = terms.tick_size
                books = _empty(tick, worth)
        elif cell["instrument"] == instrument.id:
            if cell["kind"] == Kind.QUOTE and not by_records:
                source = int(cell["source"])
                apply(books, 0, array, at)
            elif cell["kind"] in (Kind.MBO, Kind.MBP) and cell["action"] in changing:
                if not by_records:  # Whatever quotes had told is gone.
                    books = _empty(tick, worth)
                by_records, source = True, int(cell["source"])
                apply(books, 0, array, at)
        at += int(cell["cells"])
    return snapshot(books), at, now


def _empty(tick: int, worth: int) -> Books:
    books = make_books(1, orders=ORDERS_MAX, levels=LEVELS)
    define(books, 0, tick)
    set_confidence(books, 0, worth)
    return books
