"""The surface projection is a pure fold: batches, snapshots and replays do not show in its state."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core import UNDEFINED
from tapehouse.market import Cells, Instrument, Kind, empty_cells, extend, record_starts, words
from tapehouse.pricing import YEAR_NS, SurfaceProjection

NOW = 1_600_000_000_000_000_000
UNDERLYINGS = (1, 2)
STRIKES = (90, 100, 110)


def option_id(underlying: int, expiry: int, strike: int, right: str) -> int:
    return 100 * underlying + 20 * expiry + 2 * STRIKES.index(strike) + (right == "P") + 10


def instrument(number: int) -> list[Instrument]:
    """The nth option's definition, after its underlying's."""
    underlying = UNDERLYINGS[number % 2]
    expiry, strike, right = number // 2 % 3, STRIKES[number // 6 % 3], "CP"[number // 18 % 2]
    return [
        Instrument(id=underlying, symbol=f"U{underlying}"),
        Instrument(
            id=option_id(underlying, expiry, strike, right),
            symbol=f"U{underlying}-{expiry}-{strike}-{right}",
            asset_class="option",
            underlying=underlying,
            strike=strike * 10**9,
            expiry_ns=NOW + (expiry + 1) * YEAR_NS // 4,
            right=right,
        ),
    ]


def quote(instrument_id: int, forward: int, bid: int, vol: int, ts_recv: int) -> Cells:
    record = empty_cells(3)
    record["ts_recv"][0] = ts_recv
    record["instrument"], record["kind"], record["cells"] = instrument_id, Kind.OPTION_QUOTE, 3
    extend(record)
    array = words(record)
    array[0, 4], array[1, 4] = bid * 10**8, (bid + 1) * 10**8
    array[2, :6] = forward * 10**9 if forward else UNDEFINED, UNDEFINED, UNDEFINED, UNDEFINED, UNDEFINED, UNDEFINED
    if vol:
        array[2, 4] = vol * 10**7
    return record


@st.composite
def tapes(draw: st.DrawFn) -> Cells:
    """Definitions and quotes in any order that defines before it quotes, with strangers between."""
    parts: list[Cells] = []
    known: list[int] = []
    now = NOW
    for step in draw(st.lists(st.integers(0, 35), min_size=1, max_size=40)):
        now += step * YEAR_NS // 1000
        if not known or step % 3 == 0:
            listed = instrument(step)
            parts += [each.definition(ts_recv=now) for each in listed]
            known.append(listed[1].id)
        elif step % 3 == 1:
            forward = draw(st.sampled_from([0, 95, 100]))
            bid, vol = draw(st.integers(1, 300)), draw(st.sampled_from([0, 20, 45]))
            parts.append(quote(draw(st.sampled_from(known)), forward, bid, vol, now))
        else:
            clock = empty_cells(1)
            clock["ts_recv"], clock["kind"], clock["cells"] = now, Kind.CLOCK, 1
            parts.append(clock)
    return np.concatenate(parts)


class Header:
    def __init__(self, first_ordinal: int) -> None:
        self.first_ordinal = first_ordinal


def fold(machine: SurfaceProjection, cells: Cells, cuts: list[int]) -> None:
    """Apply the cells in pieces that end at records."""
    starts = record_starts(cells)
    ends = sorted({0, len(cells), *(int(starts[cut % len(starts)]) for cut in cuts)})
    for first, end in pairwise(ends):
        machine.apply(Header(first), cells[first:end])


@settings(deadline=None, max_examples=60)
@given(tapes(), st.lists(st.integers(0, 1000), max_size=8))
def test_batches_do_not_show(cells: Cells, cuts: list[int]) -> None:
    whole, pieces = SurfaceProjection(), SurfaceProjection()
    fold(whole, cells, [])
    fold(pieces, cells, cuts)
    assert pieces.snapshot() == whole.snapshot()
    assert pieces.digest() == whole.digest()


@settings(deadline=None, max_examples=60)
@given(tapes(), st.integers(0, 1000))
def test_a_restored_projection_goes_on_alike(cells: Cells, cut: int) -> None:
    starts = record_starts(cells)
    at = int(starts[cut % len(starts)])
    straight, first = SurfaceProjection(), SurfaceProjection()
    straight.apply(Header(0), cells)
    first.apply(Header(0), cells[:at])
    second = SurfaceProjection()
    second.restore(first.snapshot())
    assert second.snapshot() == first.snapshot()
    second.apply(Header(at), cells[at:])
    assert second.snapshot() == straight.snapshot()
    assert list(second.items()) == list(straight.items())


@settings(deadline=None, max_examples=60)
@given(tapes())
def test_the_digest_sees_one_more_quote(cells: Cells) -> None:
    """The control: another state has another digest."""
    machine = SurfaceProjection()
    machine.apply(Header(0), cells)
    before = machine.digest()
    assert machine.digest() == before
    option = int(cells["instrument"][cells["instrument"] > 2][0])
    machine.apply(Header(len(cells)), quote(option, 97, 3, 33, NOW))
    assert machine.digest() != before
