"""Orders of frames have one effect each: the kernels' table against dictionaries, and a whole engine over resends."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core.errors import IntegrityError
from tapehouse.desk.bulk import (
    NEW,
    ORDER,
    REASON,
    SEEN,
    STALE,
    look_up,
    make_bulk,
    place_of,
    remember,
    restore_bulk,
    snapshot_bulk,
)
from tapehouse.desk.order_frames import ORDERS_PER_FRAME_MAX, place_orders
from tapehouse.engine import Engine
from tapehouse.engine.sequencer import DESK_SOURCE
from tapehouse.log import FrameHeader
from tapehouse.market import Action, Cells, Kind
from tests.support.bench import LOG_ID, NOW, SHARE, idler, level
from tests.support.bulk_orders import SlowClients, answers_in, orders

CLIENTS, WINDOW = 3, 8
SPOKEN = st.tuples(st.integers(1, 5), st.integers(1, 40))


@settings(deadline=None, max_examples=200)
@given(spoken=st.lists(SPOKEN, max_size=80), cuts=st.sets(st.integers(0, 80)))
def test_the_table_remembers_what_dictionaries_do(spoken: list[tuple[int, int]], cuts: set[int]) -> None:
    bulk, slow = make_bulk(CLIENTS, WINDOW), SlowClients(CLIENTS, WINDOW)
    for at, (name, number) in enumerate(spoken):
        client = name * -(2**60)  # An id is unsigned: as a word it may be negative.
        if at in cuts:
            bulk = restore_bulk(snapshot_bulk(bulk), CLIENTS, WINDOW)
        place = place_of(bulk, client)
        slow.speak(client)
        known, want = look_up(bulk, place, number), slow.find(client, number)
        if want is None:
            assert known == NEW
            remember(bulk, place, number, 1000 + at, at % 3)
            slow.remember(client, number, 1000 + at, at % 3)
        elif known == STALE:
            assert want[0] == 0
        else:
            assert known == SEEN
            outcome = bulk.outcomes[place, number % WINDOW]
            assert (outcome[ORDER], outcome[REASON]) == want
    kept = snapshot_bulk(bulk)
    assert snapshot_bulk(restore_bulk(kept, CLIENTS, WINDOW)) == kept


def test_a_damaged_snapshot_is_refused() -> None:
    bulk = make_bulk(CLIENTS, WINDOW)
    for number in (1, 2, 30):
        remember(bulk, place_of(bulk, 7), number, number, 0)
    kept = snapshot_bulk(bulk)
    for damaged in (kept[:-1], kept + b"\0", kept[:10], kept[:8] + b"\x09" + kept[9:], b""):
        with pytest.raises(IntegrityError, match="refold the log"):
            restore_bulk(damaged, CLIENTS, WINDOW)
    other = np.frombuffer(kept, np.int64).copy()
    other[-3] = 31  # An outcome beyond the last number.
    with pytest.raises(IntegrityError, match="beyond its window"):
        restore_bulk(other.tobytes(), CLIENTS, WINDOW)


# A whole engine: frames, resends, clients in any order, cut anywhere.

FRAMES = st.lists(
    st.tuples(st.integers(1, 3), st.integers(0, 3), st.integers(1, 5), st.booleans()), min_size=1, max_size=14
)


def taped(frames: list[tuple[int, int, int, bool]]) -> tuple[Cells, set[tuple[int, int]]]:
    """A tape of these frames, and every (client, number) on it.

    Each is (client, how many numbers it goes back, orders, whether market data follows).
    """
    parts = [SHARE.definition(ts_recv=NOW, source=DESK_SOURCE)]
    following: dict[int, int] = {}
    sent = set()
    for sequence, (client, back, count, market) in enumerate(frames, 1):
        first = max(1, following.get(client, 1) - back)
        made = orders(client, first, count, ticks=50 + client)
        parts.append(place_orders(made, sequence=sequence, now=NOW + sequence, source=DESK_SOURCE))
        sent |= {(client, number) for number in range(first, first + count)}
        following[client] = max(following.get(client, 1), first + count)
        if market:
            moved = level("sell", 60 + sequence, 5)
            moved["ts_recv"] = NOW + sequence
            parts.append(moved)
    return np.concatenate(parts), sent


def decide(tape: Cells, cuts: list[int], snapshots: set[int]) -> tuple[Engine, Cells]:
    """An engine that folded the tape in pieces, thrown away for its snapshot after some of them."""
    engine = Engine(idler())
    outputs = []
    edges = [0, *cuts, len(tape)]
    for at, (start, end) in enumerate(itertools.pairwise(edges)):
        if start == end:
            continue
        engine.apply(FrameHeader(log_id=LOG_ID, writer=1, epoch=1, first_ordinal=start), tape[start:end])
        outputs.append(engine.take_outputs())
        if at in snapshots:
            kept = engine.snapshot()
            engine = Engine(idler())
            engine.restore(kept)
    return engine, np.concatenate(outputs)


@settings(deadline=None, max_examples=25)
@given(frames=FRAMES, data=st.data())
def test_each_number_has_one_effect_however_often_it_is_sent_and_however_the_tape_is_cut(
    frames: list[tuple[int, int, int, bool]], data: st.DataObject
) -> None:
    tape, sent = taped(frames)
    whole, outputs = decide(tape, [], set())
    starts = np.flatnonzero(tape["cells"]).tolist()
    cuts = sorted(data.draw(st.sets(st.sampled_from(starts), max_size=4)))
    cut, same = decide(tape, cuts, data.draw(st.sets(st.integers(0, 4))))
    assert np.array_equal(outputs, same)
    assert whole.digests() == cut.digests()
    answers = answers_in(outputs)
    asked = tape["sequence"][(tape["kind"] == Kind.ORDER) & (tape["cells"] > 0)]
    assert len(answers) == len(asked), "every order is answered once"
    announced = {}
    for answer in answers:
        key = (answer.client, answer.number)
        if answer.action == "REPEATED":
            assert announced[key] == (answer.order_id, answer.reason)
        else:
            assert key not in announced, "an order had a second effect"
            announced[key] = answer.order_id, answer.reason
    assert set(announced) == sent
    effects = (outputs["kind"] == Kind.ORDER) & (outputs["cells"] > 0) & (outputs["action"] != Action.REPEATED)
    assert int(effects.sum()) == len(sent)


def test_a_window_holds_many_frames() -> None:
    assert make_bulk().outcomes.shape[1] >= 4 * ORDERS_PER_FRAME_MAX
