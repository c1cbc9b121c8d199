"""The engine as a machine: batches, snapshots and what halts it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.book.layout import BID, OCCUPIED
from tapehouse.core.errors import DataError, DecodeError, IntegrityError, InvariantError, StrategyError, UsageError
from tapehouse.core.sections import pack_sections, unpack_sections
from tapehouse.desk import working_orders
from tapehouse.engine import Engine, Strategy, Submit, View
from tapehouse.log import FrameHeader
from tapehouse.market import Kind, empty_cells, pack_payload, record_starts
from tapehouse.strategies import maker, watcher
from tests.support.bench import (
    LOG_ID,
    SHARE,
    EngineBench,
    cell,
    fold,
    idler,
    level,
    quick_maker,
    quick_watcher,
    quote,
    shared_day,
)

HEADER = FrameHeader(log_id=LOG_ID, writer=1, epoch=1, first_ordinal=0)


MAKERS: list[Callable[[], Strategy]] = [quick_maker, quick_watcher]
BOTH = pytest.mark.parametrize("make", MAKERS)


@BOTH
def test_any_split_into_batches_decides_alike(make: Callable[[], Strategy]) -> None:
    _, report, cells, events = shared_day(make)
    starts = record_starts(cells)[1:].tolist()
    assert report.digests is not None
    assert report.digests.decisions > 100

    @settings(max_examples=15, deadline=None)
    @given(st.lists(st.sampled_from(starts), max_size=40, unique=True))
    def check(cuts: list[int]) -> None:
        engine = Engine(make())
        outputs = fold(engine, cells, sorted(cuts))
        assert np.array_equal(outputs, events)
        assert engine.digests() == report.digests

    check()


@BOTH
def test_one_record_at_a_time_decides_alike(make: Callable[[], Strategy]) -> None:
    _, report, cells, events = shared_day(make, cells=1_000)
    engine = Engine(make())
    assert np.array_equal(fold(engine, cells, record_starts(cells)[1:].tolist()), events)
    assert engine.digests() == report.digests


@BOTH
def test_a_restored_engine_goes_on_as_if_nothing_had_been(make: Callable[[], Strategy]) -> None:
    _, _, cells, events = shared_day(make)
    starts = record_starts(cells).tolist()
    whole = Engine(make())
    fold(whole, cells, [])
    for cut in (starts[1], starts[60], *(starts[len(starts) * part // 7] for part in range(1, 7)), len(cells)):
        first, second = Engine(make()), Engine(make())
        before = fold(first, cells[:cut], [])
        snapshot = first.snapshot()
        second.restore(snapshot)
        assert second.snapshot() == snapshot
        assert second.digests() == first.digests()
        after = fold(second, cells, [], start=cut)
        assert np.array_equal(np.concatenate([before, after]), events)
        assert second.snapshot() == whole.snapshot()
        assert second.digests() == whole.digests()


@BOTH
def test_equal_states_have_equal_snapshots_and_others_have_not(make: Callable[[], Strategy]) -> None:
    _, _, cells, _ = shared_day(make)
    starts = record_starts(cells)
    one, other, less = Engine(make()), Engine(make()), Engine(make())
    fold(one, cells, [])
    fold(other, cells, starts[100::37].tolist())
    last_change = int(np.flatnonzero((cells["cells"] > 0) & (cells["kind"] == Kind.MBO))[-1])
    fold(less, cells[:last_change], [])
    assert one.snapshot() == other.snapshot()
    assert one.digest() == other.digest()
    assert one.digest() != less.digest()


def test_orders_left_in_other_pool_slots_are_the_same_state() -> None:
    one, other = EngineBench(), EngineBench()
    for bench in (one, other):
        bench.feed(level("buy", 99, 10), level("sell", 101, 10))
    first = one.order("buy", "0.98", "1")["order_id"]
    one.order("buy", "0.97", "1")
    one.send("order.cancel", instrument="ALFA", order_id=first, account="manual")
    one.order("buy", "0.96", "1")
    restored = one.fork()
    for bench in (one, restored):
        bench.order("buy", "0.95", "1")
    assert one.engine.snapshot() == restored.engine.snapshot()
    rows = [[order.row for order in working_orders(bench.engine.desk, 0)] for bench in (one, restored)]
    assert rows[0] != rows[1]
    assert one.engine.digest() != other.engine.digest()


def test_the_digests_are_what_the_format_page_says() -> None:
    """Computed once more from docs/formats/decisions.md, with nothing of the engine's."""
    _, report, cells, events = shared_day(quick_maker)
    decided = events[np.isin(events["kind"], [7, 8, 10])].tobytes()
    block, link = 1024 * 64, bytes(32)
    whole = len(decided) // block * block
    for start in range(0, whole, block):
        link = blake3(link + decided[start : start + block]).digest()
    head = blake3(link + decided[whole:] + (len(decided) // 64).to_bytes(8, "little")).digest()
    assert report.digests is not None
    assert head == report.digests.decision
    assert int((np.frombuffer(decided, cells.dtype)["cells"] > 0).sum()) == report.digests.decisions
    engine = Engine(quick_maker())
    fold(engine, cells, [])
    names = ("books", "bulk", "chain", "clients", "desk", "instruments", "memory", "python", "seen", "sources")
    sections = unpack_sections(engine.snapshot())
    parts = [
        len(name).to_bytes(4, "little") + name.encode() + bytes([32, 0, 0, 0]) + blake3(sections[name]).digest()
        for name in names
    ]
    assert blake3(b"".join(parts)).digest() == report.digests.state


# What halts an engine.


def test_an_unknown_kind_halts_and_names_its_cell() -> None:
    bench = EngineBench()
    known = bench.ordinal
    with pytest.raises(DecodeError, match="kind 127 is unknown") as caught:
        bench.feed(level("buy", 99, 1), cell(127))
    assert caught.value.position == f"cell {known + 1}"


@pytest.mark.parametrize("kind", [128, 255])
def test_a_kind_from_128_up_is_skipped(kind: int) -> None:
    bench, plain = EngineBench(), EngineBench()
    bench.feed(level("buy", 99, 1), np.concatenate([cell(kind), level("buy", 98, 2)]))
    plain.feed(level("buy", 99, 1), level("buy", 98, 2))
    bench.feed(cell(kind))
    assert bench.engine.cells == plain.engine.cells + 2
    assert bench.engine.now > plain.engine.now  # time passes all the same
    bench.engine.desk.counters[0] = plain.engine.desk.counters[0]
    assert bench.engine.digest() == plain.engine.digest()


@pytest.mark.parametrize("kind", [Kind.MBO, Kind.MBP, Kind.QUOTE, Kind.TRADE, Kind.OPTION_QUOTE])
@pytest.mark.parametrize("instrument", [0, 2, 4095, 4096, 2**32 - 1])
def test_an_instrument_that_nothing_defined_halts(kind: Kind, instrument: int) -> None:
    bench = EngineBench()
    with pytest.raises(DecodeError, match=f"instrument {instrument} is used before its definition") as caught:
        bench.feed(cell(kind, instrument))
    assert caught.value.position == f"cell {bench.ordinal}"


def test_a_revision_of_the_terms_goes_on_with_the_same_instrument() -> None:
    bench = EngineBench(quick_maker())

    def bids() -> int:
        slot = bench.engine.slot_of(SHARE.symbol)
        return int(bench.engine._books.slots[slot, OCCUPIED + BID])

    bench.feed(level("buy", 98, 1), level("sell", 101, 2))
    larger = replace(SHARE, lot_size=SHARE.lot_size * 10, revision=2)
    bench.feed(larger.definition(ts_recv=0))
    assert bench.engine.instruments[SHARE.id] == larger
    assert bids() == 1, "the book stays"
    finer = replace(larger, tick_size=1, revision=3)
    bench.feed(finer.definition(ts_recv=0))
    assert bids() == 0, "a book of another tick begins empty"
    bench.feed(level("buy", 98, 1, price=12_345), level("sell", 101, 2))
    assert bids() == 1
    copy = Engine(quick_maker())
    copy.restore(bench.engine.snapshot())
    assert copy.digest() == bench.engine.digest()
    assert copy.instruments == bench.engine.instruments


def test_a_record_that_is_cut_short_halts() -> None:
    for made in (quote((99, 1), (101, 1))[:1], cell(Kind.QUOTE), empty_cells(1)):
        with pytest.raises(DecodeError, match="cut short"):
            EngineBench().feed(level("buy", 98, 1), made)


def test_a_definition_again_is_nothing_and_a_different_one_halts() -> None:
    bench = EngineBench()
    bench.feed(SHARE.definition(ts_recv=0))
    assert len(bench.engine.instruments) == 1
    other = replace(SHARE, multiplier=2)
    with pytest.raises(DataError, match="defined twice, differently") as caught:
        bench.feed(other.definition(ts_recv=0))
    assert caught.value.position == f"cell {bench.ordinal}"


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"id": 4096}, "beyond 4095"),
        ({"id": 0}, "beyond 4095"),
        ({"tick_size": 0}, "a tick of 0"),
        ({"tick_size": 2**60}, "tick"),
        ({"lot_size": -1}, "a lot of -1"),
        ({"multiplier": 0}, "a multiplier of 0"),
        ({"multiplier": 10**9 + 1}, "a multiplier of"),
        ({"price_exponent": -60}, "scaled by"),
        ({"asset_class": "option", "underlying": 9}, "before its underlying"),
        ({"asset_class": "option", "underlying": 1, "right": "X", "strike": 1, "expiry_ns": 1}, "no option right"),
    ],
)
def test_terms_that_cannot_be_traded_halt(terms: dict[str, int | str], message: str) -> None:
    bench = EngineBench()
    with pytest.raises(DataError, match=message) as caught:
        bench.feed(replace(SHARE, **{"id": 2, "symbol": "B", **terms}).definition(ts_recv=0))
    assert f"cell {bench.ordinal}" in str(caught.value) or "cell" in caught.value.position


def test_a_definition_that_is_no_json_halts_and_names_its_cell() -> None:
    bench = EngineBench()
    with pytest.raises(DecodeError, match="no JSON") as caught:
        bench.feed(pack_payload(Kind.DEFINITION, b"{", ts_event=0, ts_recv=0))
    assert caught.value.position == f"cell {bench.ordinal}"


def test_more_instruments_than_a_desk_trades_halt() -> None:
    bench = EngineBench()
    more = [replace(SHARE, id=number, symbol=f"S{number}").definition(ts_recv=0) for number in range(2, 66)]
    with pytest.raises(DataError, match="64 instruments at most"):
        bench.feed(*more)


def test_an_engine_that_halted_neither_goes_on_nor_keeps_its_state() -> None:
    bench = EngineBench()
    with pytest.raises(DecodeError):
        bench.feed(level("buy", 99, 1), cell(127))
    for use in (lambda: bench.feed(level("buy", 99, 1)), bench.engine.snapshot):
        with pytest.raises(InvariantError, match="halted"):
            use()


def test_decisions_not_taken_are_in_no_snapshot() -> None:
    bench = EngineBench()
    bench.engine.apply(replace(HEADER, first_ordinal=bench.ordinal), SHARE.definition(ts_recv=0))
    with pytest.raises(InvariantError, match="must be taken"):
        bench.engine.snapshot()


# Snapshots that do not fit.


def _spoilt(snapshot: bytes, **parts: bytes | None) -> bytes:
    sections = unpack_sections(snapshot)
    for name, data in parts.items():
        if data is None:
            del sections[name]
        else:
            sections[name] = data
    return pack_sections(sections)


def _sections() -> list[str]:
    return sorted(unpack_sections(Engine(quick_watcher()).snapshot()))


DAMAGES = [(section, "missing") for section in _sections()]
DAMAGES += [(section, how) for section in _sections() if section != "python" for how in ("empty", "short", "long")]


@pytest.mark.parametrize(("section", "damage"), DAMAGES)
def test_a_damaged_snapshot_leaves_an_engine_as_it_was(section: str, damage: str) -> None:
    _, _, cells, events = shared_day(quick_watcher, cells=1_000)
    cut = int(record_starts(cells)[700])
    donor, engine = Engine(quick_watcher()), Engine(quick_watcher())
    fold(donor, cells[: int(record_starts(cells)[500])], [])
    before = fold(engine, cells[:cut], [])
    digests = engine.digests()
    data = unpack_sections(donor.snapshot())[section]
    bad = {"missing": None, "empty": b"", "short": data[: len(data) // 2], "long": data + bytes(8)}[damage]
    with pytest.raises(IntegrityError):
        engine.restore(_spoilt(donor.snapshot(), **{section: bad}))
    assert engine.digests() == digests
    after = fold(engine, cells, [], start=cut)
    assert np.array_equal(np.concatenate([before, after]), events)


def test_a_snapshot_of_another_strategy_or_of_other_parameters_is_refused() -> None:
    snapshot = Engine(maker()).snapshot()
    for engine in (Engine(maker(size=200)), Engine(idler()), Engine(watcher())):
        with pytest.raises(IntegrityError, match="another strategy or other parameters"):
            engine.restore(snapshot)


class Forgetful:
    """Refuses to be restored."""

    name = "forgetful"

    def __init__(self) -> None:
        self.kept = b"as it was"

    def on_market(self, view: View) -> list[Submit]:
        return []

    def state(self) -> bytes:
        return self.kept

    def restore(self, state: bytes) -> None:
        self.kept = state
        if state != b"as it was":
            raise ValueError("what is this?")


def test_a_strategy_that_refuses_its_state_is_asked_to_keep_the_old_one() -> None:
    donor = Engine(Forgetful())
    engine = Engine(Forgetful())
    fold(engine, SHARE.definition(ts_recv=5), [])
    digests = engine.digests()
    with pytest.raises(IntegrityError, match="what is this"):
        engine.restore(_spoilt(donor.snapshot(), python=b"other"))
    assert engine.digests() == digests


# Parameters.


def test_parameters_are_integers_and_few() -> None:
    for parameters, message in (
        ({"size": 1.5}, "size is 1.5"),
        ({"size": "7"}, "size is '7'"),
        ({"size": True}, "size is True"),
        ({"size": 2**63}, "no 64-bit"),
        ({f"p{number}": 0 for number in range(65)}, "65 parameters"),
    ):
        with pytest.raises(UsageError, match=message):
            Engine(idler(**parameters))  # type: ignore[arg-type]


@pytest.mark.parametrize("parameters", [{"size": 0}, {"spread_ticks": -1}, {"interval_ms": -1}, {"position_max": -5}])
def test_a_maker_that_makes_no_sense_is_refused(parameters: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="maker"):
        maker(**parameters)


def test_a_snapshot_is_readable_by_its_names() -> None:
    head = json.loads(unpack_sections(Engine(maker()).snapshot())["head"])
    assert (head["strategy"], head["cells"], head["outputs"]) == ("maker", 0, 0)


def test_what_a_strategy_raises_names_strategy_and_cell() -> None:
    class Broken(Forgetful):
        name = "broken"

        def on_market(self, view: View) -> list[Submit]:
            if view.ask is None:
                return []
            raise IntegrityError("this is not the log's fault")

    bench = EngineBench(Broken())
    bench.feed(level("buy", 99, 1))
    with pytest.raises(StrategyError, match="IntegrityError: this is not") as caught:
        bench.feed(cell(Kind.CLOCK, 0), level("sell", 101, 1))
    assert (caught.value.subject, caught.value.position) == ("strategy broken", f"cell {bench.ordinal + 1}")
