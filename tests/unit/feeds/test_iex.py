"""IEX captures: restarts, gaps, sessions, a cut tail, what is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tapehouse.core import DecodeError, MissingError
from tapehouse.feeds import check_source, open_feed
from tapehouse.feeds.iex import IexFeed
from tapehouse.market import Action, Kind
from tapehouse.market.gap import Cause, Confidence
from tests.support import iex, itch

FIELDS = ("action", "depth", "sequence", "order_id", "count", "instrument")


def written(path: Path, packets: list[bytes]) -> Path:
    frames = [(iex.T0 + 10**9 * (at + 2), itch.frame(body)) for at, body in enumerate(packets)]
    path.write_bytes(itch.capture(frames, nano=False))
    return path


def test_restarts_gaps_repetitions_and_sessions(tmp_path: Path) -> None:
    day = iex.day()
    sent = iex.T0 + 10**9
    path = written(
        tmp_path / "some.pcap",
        [
            iex.packet(1, day[:5], sent, 0),
            iex.packet(1, day[:5], sent, 0),  # the same once more
            iex.packet(9, day[8:9], sent + 1, 1000),
            iex.packet(0, [], sent + 2, 0),  # a heartbeat of a session that begins anew
            iex.packet(1, day[:2], sent + 3, 0),
            iex.packet(1, day[:1], sent + 4, 0, session=10),
        ],
    )
    feed = IexFeed(path)
    cells = np.concatenate(list(feed.batches()))
    gaps = cells[cells["kind"] == Kind.GAP]
    assert [tuple(int(gap[name]) for name in FIELDS) for gap in gaps] == [
        (Cause.SEQUENCE, Confidence.SUSPECT, 5, 9, 3, 0),
        (Cause.RESET, Confidence.GOOD, 9, 0, 0, 0),
        (Cause.RESET, Confidence.GOOD, 2, 1, 0, 0),
    ]
    assert (cells["action"] == Action.CLEAR).sum() == 1  # of ABC, at the first restart
    check = check_source("iex", [path])
    assert check.mismatches == 0
    truths = ("packets", "messages", "resets", "missing", "repeated")
    assert [check.truths[name] for name in truths] == [6, 9, 2, 3, 5]


def test_a_cut_tail_is_an_error_of_the_feed_and_a_truth_of_the_check(tmp_path: Path) -> None:
    day = iex.day()
    path = written(tmp_path / "some.pcap", iex.chained([day[:5], day[5:]]))
    path.write_bytes(path.read_bytes()[:-30])
    feed = open_feed("iex", [path])
    got: list[object] = []
    with pytest.raises(DecodeError, match="cut short") as caught:
        got.extend(feed.batches())
    assert caught.value.position.startswith("byte ")
    assert len(got) == 1
    assert list(open_feed("iex", [path], checking=True).batches())
    check = check_source("iex", [path])
    have, want = check.truths["truncated_tail_bytes"], check.truths["truncated_tail_of"]
    assert (check.mismatches, check.rows, int(want or 0) - int(have or 0)) == (0, 5, 30)


def test_what_no_capture_of_iex_is(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        open_feed("iex", [tmp_path / "none"])
    (tmp_path / "text").write_bytes(b"no capture at all, but long enough for a header")
    with pytest.raises(DecodeError, match="no pcap"):
        open_feed("iex", [tmp_path / "text"])
    for body in (b"", bytes(40), iex.packet(1, [], 1, protocol=0x8001), iex.packet(1, [b"S"], 1)[:-1]):
        path = written(tmp_path / "other.pcap", [body])
        with pytest.raises(DecodeError, match="no IEX-TP packet"):
            list(IexFeed(path).batches())


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (iex.trade(iex.T0, "A", 0, 1), "no shares"),
        (iex.trade(iex.T0, "A", 1, 0), "price"),
        (iex.level(iex.T0, "A", "8", 1, 10**12 + 1, True), "price"),
        (iex.quote(iex.T0, "A", 1, -1, 1, 1), "price"),
        (iex.halt(-1, "A", "N"), "time"),
        (iex.halt(iex.T0, "A", "N") + b"x", "length"),
    ],
)
def test_what_cannot_be(tmp_path: Path, message: bytes, text: str) -> None:
    path = written(tmp_path / "some.pcap", iex.chained([[iex.day()[0], message]]))
    got: list[object] = []
    with pytest.raises(DecodeError, match=text):
        got.extend(IexFeed(path).batches())
    assert len(got) == 1


def test_instruments_have_names_of_their_own(tmp_path: Path) -> None:
    other = iex.halt(iex.T0, "A", "N").replace(b"A       ", b"A\0      ")
    nameless = iex.halt(iex.T0, "", "N")
    path = written(tmp_path / "some.pcap", iex.chained([[iex.halt(iex.T0, "A", "N"), other, nameless]]))
    assert [instrument.symbol for instrument in IexFeed(path).instruments] == ["A", "A#2", "#3"]
