"""Measures, flows and bars equal the slow oracle on any stream, cut anywhere, with any room for rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.book import bars, define, flow, make_books, wide
from tapehouse.book import measures as m
from tapehouse.book.layout import SIZE_MAX
from tapehouse.book.reference import ReferenceBooks
from tapehouse.market import Action, Cells, Flag, Kind, Side, empty_cells, extend, words
from tests.support.analytics_oracle import FlowOracle, bars_of, fold, signed
from tests.support.analytics_rows import assert_row

TICK, LEVELS, BPS = 5, 2, 700
EVERY, SAMPLE, RECOVERY = 24, 8, 5
IDS = np.array([-1, 0, 1], np.int64)  # ids 1 and 2
often = st.sampled_from


@st.composite
def records(draw):
    """One record: what it is, how long after the one before, and its fields."""
    kind = draw(often([Kind.MBO] * 6 + [Kind.MBP] * 3 + [Kind.QUOTE, Kind.TRADE, Kind.TRADE, Kind.GAP, Kind.CLOCK]))
    action = draw(often([Action.ADD] * 5 + [Action.CANCEL, Action.MODIFY, Action.TRADE] * 2 + [Action.CLEAR]))
    side = draw(often([Side.BID, Side.ASK, Side.BID, Side.ASK, Side.NONE]))
    away = -1 if (side == Side.BID) == (kind != Kind.TRADE) else 1
    flags = draw(often([int(Flag.LAST)] * 8 + [0, 0, int(Flag.SNAPSHOT), int(Flag.SNAPSHOT | Flag.LAST)]))
    return {
        "kind": kind,
        "action": action,
        "side": side,
        "flags": flags,
        "wait": draw(often([0, 0, 1, 2, 3, 7, 8, 24]) | st.integers(-3, 90)),
        "instrument": draw(often([0] * (kind == Kind.GAP) + [1, 1, 1, 2])),
        "source": draw(often([3, 3, 3, 0, 4])),
        "order_id": draw(st.integers(1, 9)),
        "price": TICK * (20 + away * draw(st.integers(-1, 4))) * draw(often([1] * 30 + [-1])),
        "size": draw(st.integers(1, 9)),
        "depth": draw(often([0, 1, 2])),
    }


streams = st.lists(records(), max_size=12) | st.lists(records(), min_size=30, max_size=70)


def cells_of(stream) -> Cells:
    made, now = [empty_cells(0)], 1_000
    for number, record in enumerate(stream):
        now += record["wait"]
        cells = empty_cells(2 if record["kind"] == Kind.QUOTE else 1)
        for name in record:
            if name != "wait":
                cells[name] = record[name]
        cells["ts_recv"] = now
        if record["kind"] == Kind.GAP:
            cells["action"] = 1
        if len(cells) == 2:
            cells["side"] = Side.NONE
            cells["price"][1] += TICK * (number % 4)
            extend(cells)
        cells["cells"][0] = len(cells)
        made.append(cells)
    return np.concatenate(made)


def books_of_both():
    books, oracle = make_books(2, orders=32, levels=64), ReferenceBooks(2, orders=32, levels=64)
    for slot in range(2):
        define(books, slot, TICK)
        oracle.define(slot, TICK)
    return books, oracle


def rows_of(cells: Cells, cuts, room: int, start: int = 0):
    """Rows by slot: exact and real columns, folded in parts with room for so many rows."""
    books, _ = books_of_both()
    state = flow.make_flow(2, every=EVERY, sample=SAMPLE, recovery=RECOVERY, levels=LEVELS, bps=BPS, start=start)
    out, found = flow.make_rows(room), []

    def keep(rows: int) -> None:
        found.extend(zip(out.exact[:rows].copy(), out.reals[:rows].copy(), strict=True))

    for part in cuts:
        at, why = 0, flow.ROWS_FULL
        while why != flow.DONE:
            at, rows, why = flow.fold_flow(books, IDS, state, words(part), at, out, 0)
            keep(rows)
    for slot in range(2):
        why = flow.ROWS_FULL
        while why != flow.DONE:
            rows, why = flow.finish_flow(books, state, slot, int(state.terms[flow.NOW]), out, 0)
            keep(rows)
    return [[row for row in found if row[0][flow.ROW_SLOT] == slot] for slot in range(2)]


def parts_of(cells: Cells, data) -> list[Cells]:
    starts = np.flatnonzero(cells["cells"] > 0).tolist()
    inner = data.draw(st.lists(often(starts), max_size=4)) if starts else []
    return np.split(cells, sorted(set(inner)))


@settings(deadline=None, max_examples=250)
@given(streams, st.data())
def test_flows_equal_the_oracle_on_any_stream_and_any_cut(stream, data):
    cells = cells_of(stream)
    _, reference = books_of_both()
    oracles = fold(reference, cells, [-1, 0, 1], every=EVERY, sample=SAMPLE, recovery=RECOVERY)
    whole = rows_of(cells, [cells], 1_000)
    for rows, oracle in zip(whole, oracles, strict=True):
        assert len(rows) == len(oracle.ended)
        for (exact, reals), ended in zip(rows, oracle.ended, strict=True):
            assert_row(exact, reals, *ended, levels=LEVELS, bps=BPS)
    start = data.draw(often([0, 0, 1_000]) | st.integers(980, 2_000))
    cut = rows_of(cells, parts_of(cells, data), data.draw(st.integers(1, 3)), start)
    for every, others in zip(whole, cut, strict=True):
        rows = [row for row in every if row[0][flow.ROW_BEGIN] >= start]
        assert [exact.tolist() for exact, _ in rows] == [exact.tolist() for exact, _ in others]
        assert [reals.tobytes() for _, reals in rows] == [reals.tobytes() for _, reals in others]


def test_an_oracle_with_another_rule_of_order_flow_is_caught(monkeypatch):
    """The comparison can fail: an oracle to which a worse price is no flow does not pass."""

    def look(self: FlowOracle) -> None:
        truth(self)
        self.interval.flow = max(self.interval.flow, 0)

    truth = FlowOracle._look
    monkeypatch.setattr(FlowOracle, "_look", look)
    usual = {"kind": Kind.MBP, "action": Action.MODIFY, "side": Side.BID, "flags": int(Flag.LAST), "wait": 1}
    usual |= {"instrument": 1, "source": 3, "order_id": 0, "depth": 0, "price": 100}
    cells = cells_of([usual | {"size": size} for size in (5, 9, 2, 1)])
    _, reference = books_of_both()
    oracle = fold(reference, cells, [-1, 0, 1], every=EVERY, sample=SAMPLE, recovery=RECOVERY)[0]
    (exact, reals), *_ = rows_of(cells, [cells], 10)[0]
    assert exact[flow.ROW_SUMS + flow.OFI] == -4
    with pytest.raises(AssertionError):
        assert_row(exact, reals, *oracle.ended[0], levels=LEVELS, bps=BPS)


BYS = {bars.By.TIME: 24, bars.By.TICK: 3, bars.By.VOLUME: 17, bars.By.DOLLAR: 1_500}


def bars_rows(cells: Cells, cuts, by: bars.By, size: int, room: int):
    state = bars.make_bars(2)
    for slot in range(2):
        bars.define_bars(state, slot, by, size)
    out, found, now = np.zeros((room, bars.BAR_COLUMNS), np.int64), [], -(2**62)
    for part in cuts:
        at, why = 0, flow.ROWS_FULL
        while why != flow.DONE:
            at, now, rows, why = bars.fold_bars(IDS, state, words(part), at, now, out, 0)
            found += out[:rows].tolist()
    found += out[: bars.finish_bars(state, now, out, 0)].tolist()
    return found, now


@settings(deadline=None, max_examples=150)
@given(streams, often(list(BYS)), st.integers(1, 60), st.data())
def test_bars_equal_the_oracle_on_any_stream_and_any_cut(stream, by, size, data):
    size = size * 30 if by == bars.By.DOLLAR else size
    cells = cells_of(stream)
    found, now = bars_rows(cells, [cells], by, size, 1_000)
    latest = -(2**62)
    trades: list[list[tuple[int, int, int, int]]] = [[], []]
    for cell in cells[cells["cells"] > 0]:
        latest = max(latest, int(cell["ts_recv"]))
        told = cell["kind"] in (Kind.MBO, Kind.MBP) and cell["action"] == Action.TRADE
        if told or cell["kind"] == Kind.TRADE:
            mine = trades[IDS[cell["instrument"]]]
            sign = signed(int(cell["side"]), int(cell["price"]), None, [price for _, price, _, _ in mine])
            mine.append((latest, int(cell["price"]), int(cell["size"]), sign))
    for slot in range(2):
        expected = bars_of(trades[slot], by.name.lower(), size)
        rows = [row for row in found if row[bars.SLOT] == slot]
        names = ("open", "high", "low", "close", "volume", "trades", "buy", "sell")
        assert [
            {
                **dict(zip(names, row[bars.OPEN : bars.SELL_VOLUME + 1], strict=True)),
                "begin": row[bars.BEGIN],
                "end": row[bars.END],
                "notional": wide.whole(*row[bars.NOTIONAL : bars.NOTIONAL + 2]),
            }
            for row in rows
        ] == expected
        for row in rows:
            measure = {
                bars.By.TIME: row[bars.END] <= now,
                bars.By.TICK: row[bars.TRADES] >= size,
                bars.By.VOLUME: row[bars.VOLUME] >= size,
                bars.By.DOLLAR: wide.whole(*row[bars.NOTIONAL : bars.NOTIONAL + 2]) >= size,
            }[by]
            assert row[bars.COMPLETE] == (measure or (by == bars.By.TIME and row is not rows[-1]))
    cut, _ = bars_rows(cells, parts_of(cells, data), by, size, data.draw(st.integers(2, 4)))
    assert sorted(cut) == sorted(found)


words64 = st.integers(-(2**63), 2**63 - 1) | often([-(2**63), 2**63 - 1, -1, 0, 1, 2**32, -(2**32), 2**32 - 1])


@settings(deadline=None, max_examples=300)
@given(words64, words64, words64, words64)
def test_wide_arithmetic_is_exact(a, b, c, d):
    first, second = wide.multiply(a, b), wide.multiply(c, d)
    assert wide.whole(*first) == a * b
    least = wide.add(*wide.halves(-(2**127)), *first)
    assert wide.whole(*least) == max(-(2**127), a * b - 2**127)
    assert wide.halves(a * b) == tuple(map(int, first))
    assert wide.whole(*wide.add(*first, *second)) == max(-(2**127), min(a * b + c * d, 2**127 - 1))
    assert bool(wide.reaches(*first, *second)) == (a * b >= c * d)


@given(st.integers(-SIZE_MAX, SIZE_MAX), st.integers(-SIZE_MAX, SIZE_MAX))
def test_a_sum_of_sizes_is_held_where_64_bits_end(a, b):
    assert m.add_capped(a, b) == max(-SIZE_MAX, min(a + b, SIZE_MAX))


@st.composite
def wild_cells(draw):
    """Cells of kinds that are looked at, any bits in all other fields."""
    n = draw(st.integers(0, 30))
    cells = words(empty_cells(n))
    for row in range(n):
        for column in range(8):
            cells[row, column] = draw(words64)
    made = cells.reshape(-1).view(empty_cells(0).dtype)
    made["kind"] = draw(st.lists(often([1, 2, 3, 4, 14]), min_size=n, max_size=n))
    made["instrument"] = draw(st.lists(often([0, 1, 2, 2**32 - 1]), min_size=n, max_size=n))
    return made


@settings(deadline=None, max_examples=200)
@given(wild_cells(), st.sampled_from([1, 7, flow.EVERY_MAX]))
def test_any_bits_are_folded_within_bounds(cells, every):
    books, _ = books_of_both()
    state = flow.make_flow(2, every=every, sample=every, recovery=every, levels=3, bps=10_000)
    out = flow.make_rows(4, ladder_levels=3)
    at, array = 0, words(cells)
    for _ in range(100):  # A jump in time may be more rows than anybody takes.
        at, rows, why = flow.fold_flow(books, IDS, state, array, at, out, 0)
        assert 0 <= rows <= 4
        assert 0 <= at <= len(cells)
        if why == flow.DONE:
            break
        if why == flow.NEEDS_SLOT:
            assert cells["instrument"][at] not in (1, 2)
            at += 1
    series = bars.make_bars(2)
    for slot in range(2):
        bars.define_bars(series, slot, bars.By.DOLLAR if slot else bars.By.TIME, every)
    at, now, room = 0, -(2**62), np.zeros((4, bars.BAR_COLUMNS), np.int64)
    why = flow.ROWS_FULL
    while why != flow.DONE:
        at, now, rows, why = bars.fold_bars(IDS, series, array, at, now, room, 0)
        assert 0 <= rows <= 4
        at += why == flow.NEEDS_SLOT
    assert (state.state[:, flow.WAITING] <= len(cells)).all()
