"""IEX captures against a slow decoder on streams of every kind, mutated captures, and flipped bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tapehouse.core import DecodeError
from tapehouse.feeds.formats import check_source
from tapehouse.feeds.iex import IexFeed
from tapehouse.market import Kind
from tests.support import iex, itch

TIMES = st.integers(0, iex.T0 + 10**9)
SYMBOLS = st.sampled_from(["A", "ZVZZT", "BRK.A", "ABCDEFGH"])
SIZES = st.one_of(st.just(0), st.integers(1, 2**32 - 1))
PRICES = st.integers(1, 10**12)
MESSAGES = st.one_of(
    st.builds(iex.level, TIMES, SYMBOLS, st.sampled_from("85"), SIZES, PRICES, st.booleans()),
    st.builds(iex.trade, TIMES, SYMBOLS, st.integers(1, 2**32 - 1), PRICES),
    st.builds(iex.quote, TIMES, SYMBOLS, SIZES, st.integers(0, 10**12), st.integers(0, 10**12), SIZES),
    st.builds(iex.status, TIMES, SYMBOLS, st.sampled_from("HOPTx")),
    st.builds(iex.halt, TIMES, SYMBOLS, st.sampled_from("ONx")),
    st.builds(iex.short_sale, TIMES, SYMBOLS, st.booleans()),
    st.builds(iex.security, TIMES, SYMBOLS, st.sampled_from("OC")),
    st.builds(iex.system, TIMES, st.sampled_from("OSRMECx")),
    st.builds(iex.broken, TIMES, SYMBOLS),
    st.binary(max_size=30).map(lambda rest: b"z" + rest),
    st.just(b""),
)
SCRATCH = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def capture_of(packets: list[bytes], *, summed: bool = True) -> bytes:
    frames = [(iex.T0 + 10**9 * (at + 2), itch.frame(body, summed=summed)) for at, body in enumerate(packets)]
    return itch.capture(frames, nano=False)


@SCRATCH
@given(groups=st.lists(st.lists(MESSAGES, max_size=12), min_size=1, max_size=6), batch=st.integers(1, 20))
def test_the_kernels_decode_as_the_slow_decoder(tmp_path: Path, groups: list[list[bytes]], batch: int) -> None:
    path = tmp_path / "some.pcap"
    path.write_bytes(capture_of(iex.chained(groups)))
    slow = iex.SlowDecoder()
    rows, first = [], 1
    for at, messages in enumerate(groups):
        rows += slow.decode(messages, iex.T0 + 10**9 * (at + 2), first)
        first += len(messages)
    feed = IexFeed(path, batch_cells=batch)
    batches = list(feed.batches())
    assert [row for cells in batches for row in itch.rows_of(cells)] == rows
    assert [instrument.id for instrument in feed.instruments] == list(slow.instruments.values())
    for cells in batches:
        assert len(cells) <= batch + 1
        assert cells["cells"][0] > 0
        for instrument in feed.instruments:
            prices = cells["price"][(cells["instrument"] == instrument.id) & (cells["price"] != iex.UNDEFINED)]
            assert (prices % instrument.tick_size == 0).all()


@SCRATCH
@given(data=st.data())
def test_mutated_captures_end_in_cells_or_a_decode_error(tmp_path: Path, data: st.DataObject) -> None:
    messages = iex.day()
    packets = iex.chained([messages[at : at + 4] for at in range(0, len(messages), 4)])
    content = bytearray(capture_of(packets + packets[:2]))
    for _ in range(data.draw(st.integers(0, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "some"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        check_source("iex", [path])
        feed = IexFeed(path)
        latest = 0
        for cells in feed.batches():
            assert (np.diff(cells["ts_recv"]) >= 0).all()
            assert cells["ts_recv"][0] >= latest
            latest = int(cells["ts_recv"][-1])
            assert cells["instrument"].max() <= len(feed.instruments)
    except DecodeError as caught:
        assert_names(caught)


def assert_names(error: DecodeError) -> None:
    assert error.subject == "some"
    assert error.position.startswith("byte ") or not error.position


def _flips() -> list[tuple[int, int]]:
    """Bytes of the third packet's header, and of the types, states and lengths of its messages."""
    return [(byte, bit) for byte in (0, *range(2, 16), *range(16, 32), *range(40, 43)) for bit in (0, 3, 7)]


@pytest.mark.parametrize(("byte", "bit"), _flips())
def test_one_flipped_bit_is_found_without_checksums_too(tmp_path: Path, byte: int, bit: int) -> None:
    messages = iex.day()
    groups = [messages[:4], messages[4:8], messages[8:12], messages[12:]]
    packets = [bytearray(body) for body in iex.chained(groups)]
    packets[2][byte] ^= 1 << bit
    path = tmp_path / "some"
    path.write_bytes(capture_of([bytes(body) for body in packets], summed=False))
    try:
        check = check_source("iex", [path])
    except DecodeError:
        return
    changed = {"sessions": check.truths["resets"], "missing": check.truths["missing"]}
    assert check.mismatches > 0 or changed["sessions"] == 2, (byte, bit, changed)


@SCRATCH
@given(data=st.data())
def test_a_flipped_bit_of_a_datagram_with_a_checksum_is_found(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(capture_of(iex.chained([iex.day()])))
    content[data.draw(st.integers(24 + 16 + 14, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "some"
    path.write_bytes(content)
    try:
        check = check_source("iex", [path])
    except DecodeError:
        return
    lost = int(check.truths["other_packets"] or 0) + int(check.truths["cut_datagrams"] or 0)  # no UDP any more
    unsummed = int(check.truths["without_checksum"] or 0)  # the checksum itself became 0 or the addresses' own
    assert check.mismatches > 0 or lost or unsummed


def test_a_quote_is_one_record_of_two_cells(tmp_path: Path) -> None:
    path = tmp_path / "some.pcap"
    path.write_bytes(capture_of(iex.chained([[iex.quote(iex.T0, "A", 1, 2, 3, 4)]])))
    (cells,) = IexFeed(path).batches()
    assert cells["kind"].tolist() == [Kind.QUOTE] * 2
    assert cells["cells"].tolist() == [2, 0]
    assert cells[0].tobytes()[48:55] == cells[1].tobytes()[48:55]
