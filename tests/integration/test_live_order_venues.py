"""Kraken and Coinbase, made up, served and recorded over real sockets: each fault is told, and the books are right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tapehouse.feeds import open_feed
from tapehouse.feeds.capture import capture_line, read_capture
from tapehouse.feeds.faults import Fault, FaultPlan
from tapehouse.feeds.served_venues import served_venue
from tapehouse.market import Cells, Kind
from tapehouse.market.gap import RECOVERED_FROM, Cause, Confidence
from tests.integration.test_live_venues import Venue, record
from tests.support.live_feeds import gaps_of, instruments_of
from tests.support.order_venues import Consumer, Kraken, write_full, write_kraken, write_level2

WRITERS = {"kraken": write_kraken, "level2": write_level2, "full": write_full}
VENUES = {
    "kraken": Venue(
        name="kraken",
        file="",
        lines=0,
        path="/v2",
        symbols=(Kraken.symbol,),
        noticed=Cause.CHECKSUM,
        corrupted=Cause.CHECKSUM,
    ),
    "level2": Venue(
        name="coinbase",
        file="",
        lines=0,
        path="/",
        symbols=("BTC-USD",),
        noticed=Cause.SEQUENCE,
        corrupted=Cause.MALFORMED,
        market="level2",
    ),
    "full": Venue(
        name="coinbase",
        file="",
        lines=0,
        path="/",
        symbols=("BTC-USD",),
        noticed=Cause.SEQUENCE,
        corrupted=Cause.MALFORMED,
        market="full",
        rest=True,
    ),
}


def consumed(cells: Cells) -> Consumer:
    """The books at the end, in the units of the instrument."""
    instrument = next(iter(instruments_of(cells).values()))
    consumer = Consumer(instrument.price_exponent, instrument.size_exponent)
    told = cells[(cells["kind"] != Kind.DEFINITION)] if len(cells) else cells
    consumer.take_all(told)
    return consumer


def in_the_middle(name: str, source: Path) -> int:
    """The number of a message that can be missed; of level2 only trades bear a number."""
    side = served_venue(VENUES[name].name)
    played = [item for message in read_capture(source) if (item := side.play(message)) is not None]
    return next(at for at in range(len(played) // 2, len(played)) if played[at].numbered)


@pytest.mark.parametrize("name", VENUES)
@pytest.mark.parametrize("fault", [None, *Fault])
async def test_what_is_served_is_recorded_and_each_fault_is_told(
    tmp_path: Path, name: str, fault: Fault | None
) -> None:
    source = tmp_path / "made.capture"
    true = WRITERS[name](source)
    venue = VENUES[name]
    at = in_the_middle(name, source)
    plan = FaultPlan() if fault is None else FaultPlan(at={fault: frozenset((at,))})

    def whole(cells: Cells) -> bool:
        last = {gap[5]: gap[1] for gap in gaps_of(cells)}
        return set(last.values()) <= {Confidence.GOOD} and true.right(consumed(cells))

    run = await record(venue, source, plan, whole, hold_before=None if fault is None else at)
    assert run.happened == ([] if fault is None else [fault])
    gaps = gaps_of(run.cells)
    if fault in (None, Fault.DUP):
        assert gaps == []
    else:
        other = {Fault.DISCONNECT: Cause.DISCONNECTED, Fault.CORRUPT_CHECKSUM: venue.corrupted}
        expected = other.get(fault, venue.noticed)
        assert {Cause(gap[0]) for gap in gaps if gap[0] < RECOVERED_FROM} == {expected}
        assert gaps[-1][1] == Confidence.GOOD
    if fault is None:
        written = tmp_path / "again"
        written.write_bytes(b"".join(map(capture_line, run.capture)))
        feed = open_feed(venue.name, [written])
        cells = np.concatenate([*(item.definition(ts_recv=0) for item in feed.instruments), *feed.batches()])
        assert true.right(consumed(cells)), "the capture that a recorder wrote is as good as the one that was served"
