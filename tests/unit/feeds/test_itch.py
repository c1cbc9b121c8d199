"""ITCH files and captures: framing, gaps, sessions, what is left out, and what a damaged one says."""

from __future__ import annotations

import gzip
import struct
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from tapehouse.core import DecodeError, MissingError, UsageError
from tapehouse.feeds import byte_blocks, check_source, itch_kernels, open_feed
from tapehouse.feeds.formats import SourceOptions
from tapehouse.feeds.itch import ItchFeed
from tapehouse.feeds.itch_decoder import ItchDecoder
from tapehouse.feeds.itch_layout import LENGTHS, STOCK_AT
from tapehouse.feeds.mold import build_end_of_session, build_packet
from tapehouse.feeds.new_york import day_of, midnight_ns
from tapehouse.market import Action, Cells, Kind, Side
from tapehouse.market.gap import Cause, Confidence
from tests.support import itch

DAY = date(2023, 8, 22)
MIDNIGHT = 1_692_676_800 * 10**9  # 04:00 UTC
SESSION = b"0000000001"


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def all_cells(feed: ItchFeed) -> Cells:
    return np.concatenate(list(feed.batches()))


def packets(*bodies: bytes) -> bytes:
    return itch.capture(
        [(MIDNIGHT + itch.T0 + at, itch.frame(body, vlan=at % 2 == 0)) for at, body in enumerate(bodies)]
    )


def test_the_layout_is_consistent() -> None:
    assert min(LENGTHS.values()) + 2 == itch_kernels.room_for(0) // 3 * 14
    for letter, at in STOCK_AT.items():
        assert at + 8 <= LENGTHS[letter]
    for message in itch.day():
        assert len(message) == LENGTHS[chr(message[0])]


def test_days_in_new_york() -> None:
    assert midnight_ns(DAY) == MIDNIGHT
    assert midnight_ns(date(2023, 1, 5)) == 1_672_894_800 * 10**9  # 05:00 UTC in winter
    assert day_of(MIDNIGHT) == DAY
    assert day_of(MIDNIGHT - 1) == date(2023, 8, 21)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_is_what_the_slow_decoder_says(tmp_path: Path, zero: bool, packed: bool) -> None:
    messages = itch.day()
    content = itch.framed(messages, zero=zero) + b"\0\0"
    path = written(tmp_path / "day.itch", gzip.compress(content) if packed else content)
    feed = ItchFeed(path, day=DAY)
    slow = itch.SlowDecoder(MIDNIGHT)
    assert itch.rows_of(all_cells(feed)) == slow.decode(messages)
    assert [instrument.symbol for instrument in feed.instruments] == ["ST1", "ST2", "ST3"]
    assert feed.decoder.counters["zero_lengths"] == (len(messages) if zero else 0)
    check = check_source("itch", [path])
    assert (check.rows, check.mismatches, check.first_mismatch) == (len(messages), 0, None)
    assert check.truths["whole"] == ("no" if zero else "yes")
    assert check.truths["orders_remaining"] == len(slow.orders)


@pytest.mark.parametrize("block_bytes", [1, 7, 64, 1000])
@pytest.mark.parametrize("batch_cells", [1, 5, 65_536])
def test_cells_do_not_depend_on_blocks_or_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int, batch_cells: int
) -> None:
    path = written(tmp_path / "day.itch", itch.framed(itch.day()))
    whole = all_cells(ItchFeed(path, day=DAY))
    blocks = byte_blocks.byte_blocks
    monkeypatch.setattr("tapehouse.feeds.itch.byte_blocks", lambda path, size=block_bytes: blocks(path, size))
    batches = list(ItchFeed(path, day=DAY, batch_cells=batch_cells).batches())
    assert np.concatenate(batches).tobytes() == whole.tobytes()
    assert max(map(len, batches)) <= max(batch_cells + 2, 3)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("nano", [False, True])
def test_a_capture(tmp_path: Path, order: str, nano: bool) -> None:
    messages = itch.day()
    bodies = [build_packet(SESSION, at + 1, messages[at : at + 7]) for at in range(0, len(messages), 7)]
    bodies += [build_packet(SESSION, len(messages) + 1), build_end_of_session(SESSION, len(messages) + 1)]
    frames = [(MIDNIGHT + 10**13 + 10**6 * at, itch.frame(body)) for at, body in enumerate(bodies)]
    path = written(tmp_path / "day.pcap", itch.capture(frames, order=order, nano=nano))
    feed = ItchFeed(path)
    slow = itch.SlowDecoder(MIDNIGHT)
    rows = []
    for at, (time, _) in enumerate(frames[:-2]):
        rows += slow.decode(messages[7 * at : 7 * at + 7], time, 7 * at + 1)
    assert feed.day == DAY
    assert itch.rows_of(all_cells(feed)) == rows
    check = check_source("itch", [path])
    assert (check.rows, check.mismatches, check.truths["whole"], check.truths["missing"]) == (
        len(messages),
        0,
        "yes",
        0,
    )


def test_a_gap_a_repetition_and_a_new_session(tmp_path: Path) -> None:
    adds = [itch.add(4, itch.T0, ref, "B", 10, "A", 10_000) for ref in range(1, 10)]
    path = written(
        tmp_path / "gaps.pcap",
        packets(
            build_packet(SESSION, 1, adds[:3]),
            build_packet(SESSION, 2, adds[1:4]),  # the other line, one message ahead
            build_packet(SESSION, 1, adds[:3]),
            build_packet(SESSION, 7, adds[6:8]),
            build_packet(SESSION, 12),  # a heartbeat tells what was lost
            build_packet(b"0000000002", 1, [itch.delete(4, itch.T0, 1), *adds[:1]]),
        ),
    )
    feed = ItchFeed(path)
    cells = all_cells(feed)
    gaps = cells[cells["kind"] == Kind.GAP]
    fields = ("action", "depth", "sequence", "order_id", "count", "instrument")
    assert [tuple(int(gap[name]) for name in fields) for gap in gaps] == [
        (Cause.SEQUENCE, Confidence.SUSPECT, 4, 7, 2, 0),
        (Cause.SEQUENCE, Confidence.SUSPECT, 8, 12, 3, 0),
        (Cause.RESET, Confidence.GOOD, 11, 1, 0, 0),
    ]
    assert feed.gaps == 3
    orders = cells[cells["kind"] == Kind.MBO]
    assert orders["order_id"].tolist() == [1, 2, 3, 4, 7, 8, 0, 1]
    assert orders["action"].tolist() == [Action.ADD] * 6 + [Action.CLEAR, Action.ADD]
    assert feed.decoder.counters["unknown_orders"] == 1  # the new session knows nothing of the old one's orders
    check = check_source("itch", [path])
    assert (check.mismatches, check.truths["missing"], check.truths["repeated"]) == (0, 5, 5)
    assert check.truths["sessions"] == 2


def test_a_capture_that_begins_late_begins_with_a_gap(tmp_path: Path) -> None:
    path = written(tmp_path / "late.pcap", packets(build_packet(SESSION, 100, [itch.delete(9, itch.T0, 5)])))
    feed = ItchFeed(path)
    (cells,) = feed.batches()
    assert (cells["kind"][0], cells["count"][0], cells["order_id"][0]) == (Kind.GAP, 99, 100)
    assert [instrument.symbol for instrument in feed.instruments] == ["LOCATE-9"]
    assert check_source("itch", [path]).mismatches == 0


def test_who_says_the_day(tmp_path: Path) -> None:
    path = written(tmp_path / "day.itch", itch.framed(itch.day()))
    with pytest.raises(UsageError, match="does not say its day"):
        open_feed("itch", [path])
    assert open_feed("itch", [path], checking=True).instruments
    assert open_feed("itch", [path], SourceOptions(day=DAY)).name == "day"
    with pytest.raises(MissingError):
        open_feed("itch", [tmp_path / "none"])
    with pytest.raises(UsageError, match="2 files"):
        open_feed("itch", [path, path])


def test_what_came_before_damage_is_yielded(tmp_path: Path) -> None:
    messages = itch.day()
    for content, position, text in [
        (itch.framed(messages)[:-3], len(itch.framed(messages[:-1])), "ends inside a message"),
        (
            itch.framed([*messages[:20], b"A" + bytes(34), *messages[20:]]),
            len(itch.framed(messages[:20])),
            "length of its",
        ),
        (itch.framed([*messages[:20], itch.execute(1, itch.T0, 1, 0)]), len(itch.framed(messages[:20])), "shares is 0"),
        (itch.framed(messages[:20]) + b"\0\0z", len(itch.framed(messages[:20])), "type is unknown"),
    ]:
        path = written(tmp_path / "bad.itch", content)
        feed = ItchFeed(path, day=DAY)
        got: list[Cells] = []
        with pytest.raises(DecodeError, match=text) as caught:
            got.extend(feed.batches())
        assert (caught.value.subject, caught.value.position) == ("bad.itch", f"byte {position}")
        kept = messages[:-1] if "inside" in text else messages[:20]
        assert itch.rows_of(np.concatenate(got)) == itch.SlowDecoder(MIDNIGHT).decode(kept)


def test_a_damaged_gzip_is_found_by_its_own_sum(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(itch.framed(itch.day()), compresslevel=0))
    content[400] ^= 1
    path = written(tmp_path / "day.gz", bytes(content))
    with pytest.raises(DecodeError, match="gzip is damaged"):
        check_source("itch", [path])
    path = written(tmp_path / "cut.gz", gzip.compress(itch.framed(itch.day()))[:-9])
    with pytest.raises(DecodeError, match="gzip is cut off"):
        list(ItchFeed(path, day=DAY).batches())


def test_a_flipped_byte_in_a_capture_is_found_whatever_it_means(tmp_path: Path) -> None:
    content = packets(*(build_packet(SESSION, at + 1, [message]) for at, message in enumerate(itch.day(orders=3))))
    path = tmp_path / "flipped.pcap"
    header = 24 + 16 + 18 + 20 + 8 + 20  # up to the first message
    for byte in range(header, header + 14):
        flipped = bytearray(content)
        flipped[byte] ^= 4
        path.write_bytes(flipped)
        try:
            check = check_source("itch", [path])
        except DecodeError:
            continue
        assert check.mismatches > 0
        assert check.first_mismatch is not None


def test_empty_files_and_other_captures(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="empty"):
        ItchFeed(written(tmp_path / "empty", b""), day=DAY)
    with pytest.raises(DecodeError, match="pcapng") as caught:
        list(ItchFeed(written(tmp_path / "ng.pcap", b"\x0a\x0d\x0d\x0a" + bytes(40))).batches())
    assert "editcap" in caught.value.hint


def test_a_live_receiver_decodes_packet_by_packet() -> None:
    decoder = ItchDecoder()
    first = decoder.decode(itch.framed([itch.add(3, itch.T0, 8, "S", 100, "ABC", 12_345)]), MIDNIGHT, MIDNIGHT + 50)
    assert itch.rows_of(first) == [
        (MIDNIGHT + itch.T0, MIDNIGHT + 50, 1, 8, 1_234_500_000, 100, 1, Kind.MBO, Action.ADD, Side.ASK, itch.LAST, 0)
    ]
    later = decoder.decode(itch.framed([itch.execute(3, itch.T0, 8, 40)]), MIDNIGHT, MIDNIGHT + 40, sequence=17)
    assert later["action"].tolist() == [Action.TRADE, Action.FILL, Action.CANCEL]
    assert later["side"].tolist() == [Side.BID, Side.ASK, Side.ASK]
    assert later["ts_recv"].tolist() == [MIDNIGHT + 50] * 3
    assert later["sequence"].tolist() == [17] * 3
    assert decoder.instruments[0].symbol == "ABC"
    with pytest.raises(DecodeError, match="inside a message"):
        decoder.decode(itch.framed([itch.delete(3, itch.T0, 8)])[:-1], MIDNIGHT)
    assert decoder.live_orders == 1
    assert len(decoder.decode(b"", MIDNIGHT)) == 0
    assert decoder.decode(itch.framed([itch.delete(3, itch.T0, 8)]), MIDNIGHT)["sequence"].tolist() == [18]


def test_memory_is_bounded_by_the_live_orders() -> None:
    decoder = ItchDecoder()
    rows = len(decoder._rows)
    for start in range(0, 200_000, 20_000):
        pairs = [
            message
            for ref in range(start, start + 10_000)
            for message in (itch.add(1, itch.T0, ref, "B", 1, "A", 100), itch.delete(1, itch.T0, ref))
        ]
        decoder.decode(itch.framed(pairs), MIDNIGHT)
    assert (decoder.live_orders, len(decoder._rows)) == (0, rows)


def test_ticks_divide_all_prices_and_a_cent(tmp_path: Path) -> None:
    prices = {1: (250_000, 250_100), 2: (250_050, 250_000), 3: (10_001,), 4: (250_000,)}
    messages = [
        itch.add(locate, itch.T0, 100 * locate + price % 97, "B", 1, f"S{locate}", price)
        for locate, some in prices.items()
        for price in some
    ]
    feed = ItchFeed(written(tmp_path / "ticks.itch", itch.framed(messages)), day=DAY)
    assert [instrument.tick_size for instrument in feed.instruments] == [10**7, 5 * 10**6, 10**5, 10**7]


def test_an_unknown_length_of_mold_is_no_zero_length() -> None:
    decoder = ItchDecoder()
    assert len(decoder.decode(struct.pack(">HH", 0, 0), MIDNIGHT)) == 0
    assert decoder.counters["empty_messages"] == 2
