"""GAP records in the engine: which books they reach, what a strategy is shown, and a session that excludes gaps."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.book import confidence
from tapehouse.core.errors import IntegrityError
from tapehouse.core.sections import pack_sections, unpack_sections
from tapehouse.engine import CompiledStrategy, Engine, Intent, Submit, View, strategy_kernel
from tapehouse.engine.sequencer import DESK_SOURCE
from tapehouse.engine.strategy import INTENT_KIND, INTENT_PRICE, INTENT_SIZE, SUBMIT, VIEW_BID, VIEW_CONFIDENCE
from tapehouse.market import Action, Cause, Cells, Confidence, Kind, Side, gap_record
from tests.support.bench import SHARE, EngineBench, cell, fills_in, fold, level, quick_maker, shared_day, trade

GOOD, SUSPECT, REBUILDING = Confidence.GOOD, Confidence.SUSPECT, Confidence.REBUILDING
OTHER = replace(SHARE, id=2, symbol="BETA")
OPTION = replace(
    SHARE, id=3, symbol="ALFA-C", asset_class="option", underlying=1, strike=100, right="C", expiry_ns=2**62
)
LATE = replace(SHARE, id=4, symbol="GAMMA")


class Witness:
    """Remembers every view that it is shown."""

    name = "witness"

    def __init__(self) -> None:
        self.views: list[View] = []

    def on_market(self, view: View) -> list[Intent]:
        self.views.append(view)
        return []

    def state(self) -> bytes:
        return len(self.views).to_bytes(8, "little")

    def restore(self, state: bytes) -> None:
        del self.views[int.from_bytes(state, "little") :]


def gap(worth: int, instrument: int = 1, cause: int = Cause.SEQUENCE, source: int = 1) -> Cells:
    return cell(Kind.GAP, instrument, action=int(cause), depth=int(worth), source=source)


def declared(instrument: int, source: int) -> Cells:
    """What the sequencer writes beside a definition that a feed ring sends."""
    return cell(Kind.RAW, instrument, size=source, source=DESK_SOURCE, sequence=77, order_id=5)


def worths(bench: EngineBench) -> list[Confidence]:
    return [confidence(bench.engine.books, slot) for slot in range(int((bench.engine._routes.slots >= 0).sum()))]


def two_books(**more: object) -> EngineBench:
    bench = EngineBench(**more)  # type: ignore[arg-type]
    bench.feed(OTHER.definition(ts_recv=0), OPTION.definition(ts_recv=0))
    return bench


def test_a_gap_is_of_one_book_or_of_all() -> None:
    bench = two_books()
    steps: list[tuple[Cells, list[Confidence]]] = [
        (gap(SUSPECT, 2), [GOOD, SUSPECT]),
        (gap(REBUILDING, 2), [GOOD, REBUILDING]),
        (gap(SUSPECT, 0), [SUSPECT, SUSPECT]),
        (gap(GOOD, 1, Cause.SNAPSHOT), [GOOD, SUSPECT]),
        (gap(GOOD, 0, Cause.RESUMED), [GOOD, GOOD]),
        (gap(SUSPECT, 3), [GOOD, GOOD]),  # an option has no book
        (gap(SUSPECT, 900), [GOOD, GOOD]),  # nobody defined it
        (gap(SUSPECT, 2**32 - 1), [GOOD, GOOD]),
    ]
    for record, after in steps:
        assert len(bench.feed(record)) == 0
        assert worths(bench) == after
    bench.feed(gap(SUSPECT, 0), LATE.definition(ts_recv=0))
    assert worths(bench) == [SUSPECT, SUSPECT, GOOD], "what is defined later is told anew"


@pytest.mark.parametrize("cause", [0, ord("N")])
def test_a_gap_of_an_older_tape_is_suspect(cause: int) -> None:
    bench = two_books()
    bench.feed(gap(0, 0, cause))
    assert worths(bench) == [SUSPECT, SUSPECT]
    bench.feed(gap(9, 1, Cause.SNAPSHOT), gap(REBUILDING, 2, cause))
    assert worths(bench) == [SUSPECT, REBUILDING], "and a confidence that nobody knows is none"


def test_a_feed_that_is_named_loses_its_own_books_alone() -> None:
    bench = two_books()
    bench.feed(declared(1, 16), declared(3, 17), declared(900, 17))
    bench.feed(gap(SUSPECT, 0, source=17))
    assert worths(bench) == [GOOD, SUSPECT], "book 2 may be anybody's"
    bench.feed(declared(2, 17), gap(GOOD, 0, source=16))
    assert worths(bench) == [GOOD, SUSPECT]
    bench.feed(gap(SUSPECT, 0, source=16), gap(GOOD, 0, source=17))
    assert worths(bench) == [SUSPECT, GOOD]
    fork = bench.fork()
    for each in (bench, fork):
        each.feed(gap(GOOD, 0, source=16), gap(REBUILDING, 0, source=17))
        assert worths(each) == [GOOD, REBUILDING]
    assert fork.engine.digest() == bench.engine.digest()
    bench.feed(cell(Kind.RAW, 1, size=17, source=16), cell(Kind.RAW, 1, size=2**40, source=DESK_SOURCE))
    assert bench.engine._routes.sources[:2].tolist() == [16, 17], "a feed's own bytes say nothing of that"


def test_a_strategy_is_shown_what_the_book_is_worth_and_not_called_for_it() -> None:
    witness = Witness()
    bench = EngineBench(witness)
    bench.feed(level("buy", 99, 5), level("sell", 101, 5))
    calls = len(witness.views)
    bench.feed(gap(SUSPECT), gap(REBUILDING), gap(SUSPECT, 0))
    assert len(witness.views) == calls
    bench.feed(level("buy", 99, 6))
    bench.feed(gap(GOOD, 1, Cause.SNAPSHOT), level("buy", 99, 7))
    assert [view.confidence for view in witness.views[calls - 1 :]] == [GOOD, SUSPECT, GOOD]
    assert isinstance(witness.views[-1].confidence, Confidence)


@strategy_kernel
def stands_aside(view, numbers, parameters, memory, intents):  # type: ignore[no-untyped-def]
    if view[VIEW_CONFIDENCE] != 0:
        return 0
    intents[0, INTENT_KIND], intents[0, INTENT_PRICE], intents[0, INTENT_SIZE] = SUBMIT, view[VIEW_BID], 1
    return 1


def test_a_compiled_strategy_can_stand_aside() -> None:
    bench = EngineBench(CompiledStrategy(name="aside", on_market=stands_aside))
    bench.feed(level("buy", 99, 5))
    assert len(bench.feed(level("buy", 99, 6))) > 0
    bench.feed(gap(SUSPECT))
    assert len(bench.feed(level("buy", 99, 7))) == 0
    bench.feed(gap(GOOD, 1, Cause.FILLED))
    assert len(bench.feed(level("buy", 99, 8))) > 0


class Buyer(Witness):
    """Bids for one at the best bid, each time that it is asked."""

    def on_market(self, view: View) -> list[Intent]:
        super().on_market(view)
        return [] if view.bid is None else [Submit(side=0, price=view.bid, size=1)]


def excluding(strategy: Witness, share: bool = True) -> EngineBench:
    bench = EngineBench(strategy, share=None)
    bench.engine = Engine(strategy, exclude_gaps=True)
    if share:
        bench.feed(SHARE.definition(ts_recv=0))
    return bench


def test_a_session_without_gaps_does_not_ask_while_a_book_is_not_good() -> None:
    buyer = Buyer()
    bench = excluding(buyer)
    bench.feed(level("buy", 99, 5), level("sell", 101, 5))
    bench.feed(OTHER.definition(ts_recv=0), level("buy", 50, 5, 2))
    calls = len(buyer.views)
    bench.feed(gap(SUSPECT))
    assert len(bench.feed(level("buy", 99, 6), level("sell", 102, 6))) == 0
    bench.feed(level("buy", 51, 5, 2))
    assert [view.instrument for view in buyer.views[calls:]] == [2], "other books are as good as before"
    assert fills_in(bench.feed(trade(int(Side.ASK), 98, 50)))[0] == (int(Side.BID), 99, 1), "open orders are left alone"
    bench.feed(gap(REBUILDING), level("buy", 99, 6))
    bench.feed(gap(GOOD, 1, Cause.SNAPSHOT))
    assert len(buyer.views) == calls + 1
    bench.feed(level("sell", 140, 1))
    assert len(buyer.views) == calls + 2, "the first event after the gap is shown, wherever it was"
    assert (buyer.views[-1].bid, buyer.views[-1].bid_size, buyer.views[-1].confidence) == (99 * 10_000_000, 6, GOOD)


def test_a_snapshot_of_the_other_kind_of_session_is_refused() -> None:
    bench = excluding(Witness())
    with pytest.raises(IntegrityError, match="gaps otherwise"):
        Engine(Witness()).restore(bench.engine.snapshot())
    Engine(Witness(), exclude_gaps=True).restore(bench.engine.snapshot())


GAPS = st.lists(
    st.tuples(
        st.integers(0, 999),  # thousandths of the day
        st.sampled_from([0, 0, 1, 2, 77]),  # instrument
        st.sampled_from([0, 1, 2, 7, 8, 32, 34, ord("N"), 200]),  # cause
        st.integers(0, 3),
        st.sampled_from([0, 1, 16]),  # source
    ),
    max_size=12,
)


def with_gaps(cells: Cells, gaps: list[tuple[int, ...]]) -> Cells:
    """A day's cells with GAP records before the records nearest to each place."""
    starts = np.flatnonzero(cells["cells"])
    parts, at = [], 0
    for thousandth, instrument, cause, worth, source in sorted(gaps):
        before = int(starts[len(starts) * thousandth // 1000])
        record = gap_record(Cause.SEQUENCE, GOOD, ts_recv=int(cells["ts_recv"][before]), instrument=instrument)
        record["action"], record["depth"], record["source"] = cause, worth, source
        parts += [cells[at:before], record]
        at = before
    return np.concatenate([*parts, cells[at:]])


def reference_worth(cells: Cells, instruments: list[int]) -> dict[int, int]:
    """The slow way: what every book is worth at the end, by the rules in words."""
    worth: dict[int, int] = {}
    for record in cells[cells["cells"] > 0]:
        number = int(record["instrument"])
        if record["kind"] == Kind.DEFINITION and number not in worth:
            worth[number] = 0
        if record["kind"] != Kind.GAP:
            continue
        says = int(record["depth"])
        if says not in (0, 1, 2) or (says == 0 and record["action"] in (0, ord("N"))):
            says = 1
        for each in worth if number == 0 else [number]:
            if each in worth:
                worth[each] = says
    return {number: worth[number] for number in instruments}


@settings(deadline=None, max_examples=15)
@given(GAPS, st.lists(st.integers(0, 999), max_size=3), st.booleans())
def test_any_cut_and_any_restore_is_the_same_session(gaps: list, cuts: list[int], exclude: bool) -> None:
    _, _, tape, _ = shared_day(quick_maker, cells=3_000)
    cells = with_gaps(tape, gaps)
    whole = Engine(quick_maker(), exclude_gaps=exclude)
    decided = fold(whole, cells, [])
    starts = np.flatnonzero(cells["cells"])
    places = sorted({int(starts[len(starts) * cut // 1000]) for cut in cuts})
    engine, outputs = Engine(quick_maker(), exclude_gaps=exclude), []
    for begin, end in zip([0, *places], [*places, len(cells)], strict=True):
        outputs.append(fold(engine, cells[:end], [], start=begin))
        reborn = Engine(quick_maker(), exclude_gaps=exclude)
        reborn.restore(engine.snapshot())
        engine = reborn
    assert np.concatenate(outputs).tobytes() == decided.tobytes()
    assert engine.digest() == whole.digest()
    booked = [number for number in whole.instruments if whole.route(number) >= 0]
    found = {number: int(confidence(whole.books, whole.route(number))) for number in booked}
    assert found == reference_worth(cells, booked)


def test_gaps_change_no_decision_of_a_strategy_that_does_not_look() -> None:
    _, _, tape, _ = shared_day(quick_maker, cells=3_000)
    gaps = [(300, 0, 1, 1, 1), (600, 0, 32, 0, 1)]
    letters = [
        [
            (int(cell["kind"]), int(cell["action"]), int(cell["price"]), int(cell["size"]))
            for cell in fold(Engine(quick_maker(), exclude_gaps=exclude), with_gaps(tape, given_gaps), [])
            if cell["kind"] in (Kind.ORDER, Kind.FILL) and cell["cells"]
        ]
        for given_gaps, exclude in (([], False), (gaps, False), ([], True), (gaps, True))
    ]
    assert letters[0] == letters[1] == letters[2]
    assert letters[3] != letters[0], "a session that excludes them decides otherwise"
    assert {Action.ACCEPTED} <= {letter[1] for letter in letters[3]}, "and decides before and after"


def test_an_engine_goes_on_from_a_snapshot_of_before_books_had_a_confidence() -> None:
    _, _, cells, _ = shared_day(quick_maker, cells=3_000)
    engine, old = Engine(quick_maker()), Engine(quick_maker())
    fold(engine, cells, [])
    sections = unpack_sections(engine.snapshot())
    head = json.loads(sections["head"])
    del head["exclude_gaps"], sections["sources"]
    old.restore(pack_sections({**sections, "head": json.dumps(head).encode()}))
    assert old.digests() == engine.digests()
    with pytest.raises(IntegrityError, match="gaps otherwise"):
        Engine(quick_maker(), exclude_gaps=True).restore(pack_sections({**sections, "head": json.dumps(head).encode()}))
