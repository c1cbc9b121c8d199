"""Real ITCH messages and packets, and a simulated day: their counts, and every cell against the slow decoder."""

from __future__ import annotations

import gzip
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from tapehouse.core import DecodeError
from tapehouse.feeds import check_source
from tapehouse.feeds.itch import ItchFeed
from tapehouse.feeds.itch_layout import LENGTHS
from tapehouse.feeds.mold import read_packet
from tapehouse.feeds.new_york import midnight_ns
from tapehouse.feeds.pcap import Capture
from tapehouse.market import Kind
from tests.support import itch

DAY = date(2010, 12, 24)
SIMULATED = "SIMULATED_ex20101224.TEST_ITCH_50.gz"
REAL = "first1000_msgs.itch"
TYPES = {
    SIMULATED: {"S": 6, "R": 3, "H": 3, "A": 4997, "F": 3, "E": 198, "D": 1745, "P": 5000, "U": 12, "X": 45},
    REAL: {"S": 1, "R": 993, "H": 3, "Y": 3},
}


def messages_of(path: Path) -> list[bytes]:
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    at, messages = 0, []
    while at < len(content):
        end = at + 2 + LENGTHS[chr(content[at + 2])]
        messages.append(content[at + 2 : end])
        at = end
    return messages


@pytest.mark.parametrize("name", TYPES)
def test_a_file_holds_and_is_what_the_slow_decoder_says(market_data: Path, name: str) -> None:
    path = market_data / "itch50" / name
    feed = ItchFeed(path, day=DAY)
    cells = np.concatenate(list(feed.batches()))
    slow = itch.SlowDecoder(midnight_ns(DAY))
    messages = messages_of(path)
    assert itch.rows_of(cells) == slow.decode(messages)
    assert feed.decoder.types == TYPES[name]
    assert feed.decoder.counters["unknown_orders"] == slow.unknown_orders
    check = check_source("itch", [path])
    assert (check.rows, check.mismatches) == (len(messages), 0)
    assert {letter: check.truths[f"type_{letter}"] for letter in TYPES[name]} == TYPES[name]


def test_what_is_known_of_the_simulated_day(market_data: Path) -> None:
    check = check_source("itch", [market_data / "itch50" / SIMULATED])
    truths = ("zero_lengths", "unknown_orders", "orders_remaining", "instruments", "whole")
    assert [check.truths[name] for name in truths] == [12_012, 117, 3204, 3, "no"]


def test_the_directory_of_a_real_day(market_data: Path) -> None:
    feed = ItchFeed(market_data / "itch50" / REAL, day=DAY)
    assert [instrument.symbol for instrument in feed.instruments[:3]] == ["A", "AA", "AAAU"]
    assert len({instrument.symbol for instrument in feed.instruments}) == 993


def test_real_packets(market_data: Path) -> None:
    paths = sorted((market_data / "itch50" / "omi_pcap").iterdir())
    assert len(paths) == 11
    types: dict[str, int] = {}
    for path in paths:
        feed = ItchFeed(path)
        cells = np.concatenate(list(feed.batches()))
        slow = itch.SlowDecoder(midnight_ns(date(2023, 8, 22)))
        rows = []
        for datagram in Capture([path.read_bytes()], path.name).datagrams():
            packet = read_packet(datagram.payload)
            rows += slow.decode(packet.messages, datagram.time, packet.sequence)
        told = cells["kind"] != Kind.GAP
        assert itch.rows_of(cells[told]) == rows
        assert (~told).sum() == len(set(cells["order_id"][~told].tolist())) > 0
        late = cells["ts_recv"][told] - cells["ts_event"][told]
        assert ((late > 0) & (late < 10**9)).all()  # the day is right: they were captured just after they were sent
        for letter, count in feed.decoder.types.items():
            types[letter] = types.get(letter, 0) + count
        check = check_source("itch", [path])
        assert (check.mismatches, check.truths["packets"]) == (0, 2 if "Multiple" in path.name else 1)
    assert types == {"A": 38, "D": 3, "E": 1, "F": 2, "H": 1, "I": 1, "L": 1, "U": 2}


def test_a_flipped_byte_in_a_real_packet_is_found(market_data: Path, tmp_path: Path) -> None:
    path = next((market_data / "itch50" / "omi_pcap").glob("*Multiple*"))
    content = path.read_bytes()
    for byte in range(len(content) - 1400, len(content), 23):
        flipped = bytearray(content)
        flipped[byte] ^= 1
        (tmp_path / "flipped.pcap").write_bytes(flipped)
        try:
            check = check_source("itch", [tmp_path / "flipped.pcap"])
        except DecodeError as caught:
            told = str(caught)  # a length: the packet is not framed any more
        else:
            told = check.first_mismatch or ""
        assert told.startswith(("packet 2: the checksum", "message", "flipped.pcap, datagram 2"))
