"""A real IEX capture: its published counts, and every cell against the slow decoder."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapehouse.core import DecodeError
from tapehouse.feeds import check_source
from tapehouse.feeds.byte_blocks import byte_blocks
from tapehouse.feeds.iex import IexFeed
from tapehouse.feeds.pcap import Capture
from tapehouse.market import Action, Kind
from tests.support import iex, itch


def slow_rows(path: Path) -> Iterator[tuple[int, ...]]:
    slow = iex.SlowDecoder()
    capture = Capture(byte_blocks(path), path.name)
    expected = 1
    try:
        for datagram in capture.datagrams():
            count, first = struct.unpack_from("<H8xq", datagram.payload, 14)
            at, messages = 40, []
            if first < expected:
                slow.transit.clear()
            expected = first + count
            for _ in range(count):
                end = at + 2 + struct.unpack_from("<H", datagram.payload, at)[0]
                messages.append(datagram.payload[at + 2 : end])
                at = end
            yield from slow.decode(messages, datagram.time, first)
    except DecodeError:
        assert capture.truncated == (460, 1490)


def test_the_capture(market_data: Path) -> None:
    path = market_data / "iex" / "DEEP10.pcap.gz"
    feed = IexFeed(path)
    expected = slow_rows(path)
    resets = clears = 0

    def hold() -> None:
        nonlocal resets, clears
        for cells in feed.batches():
            told = (cells["kind"] != Kind.GAP) & (cells["action"] != Action.CLEAR)
            resets += int((cells["kind"] == Kind.GAP).sum())
            clears += int((cells["action"] == Action.CLEAR).sum())
            for row in itch.rows_of(cells[told]):
                assert row == next(expected)

    with pytest.raises(DecodeError, match="packet 121315 is cut short: 460 of 1490 bytes"):
        hold()
    assert next(expected, None) is None
    assert (resets, clears, feed.resets, feed.protocol) == (11, 43, 11, "DEEP 1.0")


def test_its_truths(market_data: Path) -> None:
    check = check_source("iex", [market_data / "iex" / "DEEP10.pcap.gz"])
    assert (check.rows, check.mismatches, check.first_mismatch) == (391_999, 0, None)
    truths = {"packets": 121_314, "resets": 11, "missing": 0, "truncated_tail_bytes": 460, "truncated_tail_of": 1490}
    assert {name: check.truths[name] for name in truths} == truths
