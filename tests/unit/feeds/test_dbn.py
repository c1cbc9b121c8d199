"""DBN files made byte by byte: what becomes of each record, and what is said about files that are damaged."""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace

import databento_dbn
import numpy as np
import pytest
import zstandard

from tapehouse.core import UNDEFINED, DecodeError, MissingError, UsageError
from tapehouse.feeds import DbnFeed, check_dbn
from tapehouse.market import Action, Cells, Flag, Kind, Side

START = 1_700_000_000_000_000_000
NO_TIME = 2**64 - 1
Save = Callable[..., Path]


def metadata(
    schema: str | None, symbols: dict[str, list[int]] | None = None, version: int = 3, ts_out: bool = False
) -> bytes:
    mappings = [
        SimpleNamespace(
            raw_symbol=symbol,
            intervals=[
                SimpleNamespace(start_date=day(at), end_date=day(at + 1), symbol=str(number))
                for at, number in enumerate(numbers)
            ],
        )
        for symbol, numbers in (symbols or {}).items()
    ]
    made = databento_dbn.Metadata(
        dataset="XNAS.ITCH",
        start=START,
        stype_in=databento_dbn.SType.RAW_SYMBOL,
        stype_out=databento_dbn.SType.INSTRUMENT_ID,
        schema=None if schema is None else databento_dbn.Schema.from_str(schema),
        symbols=list(symbols or {}),
        mappings=mappings,
        version=version,
        ts_out=ts_out,
    )
    return bytes(made.encode())


def day(at: int) -> date:
    return date(2023, 11, 14) + timedelta(days=at)


def header(rtype: int, length: int, instrument: int, ts_event: int) -> bytes:
    return struct.pack("<BBHIQ", length // 4, rtype, 2, instrument, ts_event)


def mbo(
    action: str = "A",
    *,
    order: int = 1,
    price: int = 10**9,
    size: int = 1,
    side: str = "B",
    flags: int = 128,
    instrument: int = 7,
    at: int = 0,
    ts_recv: int | None = None,
    sequence: int = 1,
    tail: bytes = b"",
) -> bytes:
    received = START + at if ts_recv is None else ts_recv
    body = struct.pack(
        "<QqIBBccQiI", order, price, size, flags, 0, action.encode(), side.encode(), received, 5, sequence
    )
    return header(160, 56 + len(tail), instrument, START + at) + body + tail


def levels(pairs: list[tuple[int, int, int, int]]) -> bytes:
    """(bid, ask, bid size, ask size) for each level; order counts of 1."""
    return b"".join(struct.pack("<qqIIII", *pair, 1, 1) for pair in pairs)


def mbp(
    rtype: int, pairs: list[tuple[int, int, int, int]], action: str = "A", *, price: int = 10**9, at: int = 0
) -> bytes:
    body = struct.pack("<qIccBBQiI", price, 3, action.encode(), b"A", 128, 0, START + at, 5, 1 + at)
    return header(rtype, 48 + 32 * len(pairs), 7, START + at) + body + levels(pairs)


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def save_file(*parts: bytes, name: str = "day.dbn", compress: bool = False) -> Path:
        data = b"".join(parts)
        path = tmp_path / name
        path.write_bytes(zstandard.ZstdCompressor().compress(data) if compress else data)
        return path

    return save_file


def read(path: Path, **options: int) -> Cells:
    batches = list(DbnFeed(path, **options).batches())
    return np.concatenate(batches) if batches else np.zeros(0)


def test_fields_of_an_order(save: Save) -> None:
    (cell,) = read(
        save(metadata("mbo", {"AA": [7]}), mbo("M", order=2**64 - 1, price=-5, size=9, side="A", sequence=3))
    )
    assert (cell["kind"], cell["action"], cell["side"]) == (Kind.MBO, Action.MODIFY, Side.ASK)
    assert (cell["order_id"], cell["price"], cell["size"]) == (2**64 - 1, -5, 9)
    assert (cell["ts_event"], cell["ts_recv"], cell["sequence"]) == (START, START, 3)
    assert (cell["instrument"], cell["source"], cell["flags"], cell["cells"]) == (1, 2, Flag.LAST, 1)


def test_undefined_values(save: Save) -> None:
    cells = read(
        save(
            metadata("mbo", {"AA": [7]}),
            mbo(ts_recv=START),
            mbo("R", price=UNDEFINED, size=2**32 - 1, side="N", ts_recv=NO_TIME),
            mbo(ts_recv=NO_TIME, at=50),
        )
    )
    assert (cells["price"][1], cells["size"][1]) == (UNDEFINED, UNDEFINED)
    assert cells["ts_recv"].tolist() == [START, START, START + 50]


def test_receive_times_never_go_back(save: Save) -> None:
    path = save(metadata("mbo", {"AA": [7]}), *(mbo(at=at) for at in (5, 3, 9, 8, 10)))
    for batch_cells in (1, 100):
        feed = DbnFeed(path, batch_cells=batch_cells)
        cells = np.concatenate(list(feed.batches()))
        assert (cells["ts_recv"] - START).tolist() == [5, 5, 9, 9, 10]
        assert (cells["ts_event"] - START).tolist() == [5, 3, 9, 8, 10]
        assert feed.corrected_times == 2


def test_the_bit_that_is_ours_is_not_taken_from_the_file(save: Save) -> None:
    (cell,) = read(save(metadata("mbo", {"AA": [7]}), mbo(flags=0b1101_1111)))
    assert cell["flags"] == 0b1101_1110


def test_each_instrument_s_snapshot_begins_with_one_clear(save: Save) -> None:
    snapshot = int(Flag.SNAPSHOT)
    feed = DbnFeed(
        save(
            metadata("mbo", {"AA": [7], "BB": [8], "CC": [9]}),
            mbo("R", instrument=8, flags=snapshot),
            mbo(instrument=8, flags=snapshot),
            mbo(instrument=7, flags=snapshot, order=1),
            mbo(instrument=7, flags=snapshot, order=2),
            mbo(instrument=9),
            mbo(instrument=9, flags=snapshot),
        )
    )
    cells = np.concatenate(list(feed.batches()))
    made = [(int(cell["instrument"]), chr(cell["action"])) for cell in cells]
    assert made == [(2, "R"), (2, "A"), (1, "R"), (1, "A"), (1, "A"), (3, "A"), (3, "R"), (3, "A")]
    assert (cells["flags"] & int(Flag.SYNTHETIC)).astype(bool).tolist() == [at in (2, 6) for at in range(8)]
    assert feed.inserted_clears == 2


def test_ids_of_one_symbol_are_one_instrument(save: Save) -> None:
    feed = DbnFeed(save(metadata("mbo", {"AA": [7, 3], "BB": [5]}), *(mbo(instrument=n) for n in (3, 5, 7))))
    assert [item.symbol for item in feed.instruments] == ["AA", "BB"]
    assert [item.id for item in feed.instruments] == [1, 2]
    assert np.concatenate(list(feed.batches()))["instrument"].tolist() == [1, 2, 1]


def test_an_instrument_without_a_mapping(save: Save) -> None:
    path = save(metadata("mbo", {"AA": [7]}), mbo(), mbo(instrument=99))
    with pytest.raises(DecodeError, match="instrument 99"):
        list(DbnFeed(path).batches())
    feed = DbnFeed(save(metadata("mbo"), mbo(instrument=99), mbo(instrument=4)))
    assert [(item.id, item.symbol) for item in feed.instruments] == [(1, "4"), (2, "99")]
    assert np.concatenate(list(feed.batches()))["instrument"].tolist() == [2, 1]


@pytest.mark.parametrize(
    ("prices", "tick"),
    [
        ([250_000_000 * n for n in range(100, 140)], 250_000_000),
        ([10**9, 2 * 10**9], 10_000_000),  # too few to tell
        ([15_625_000 * n for n in range(1, 4)], 625_000),  # too few, and not in cents
        ([UNDEFINED], 10_000_000),
    ],
)
def test_the_tick_is_seen_in_the_prices(save: Save, prices: list[int], tick: int) -> None:
    feed = DbnFeed(save(metadata("mbo", {"AA": [7]}), *(mbo(price=price) for price in prices)))
    assert feed.instruments[0].tick_size == tick


def test_a_quote_with_a_trade(save: Save) -> None:
    cells = read(
        save(metadata("mbp-1", {"AA": [7]}), mbp(1, [(99, 101, 5, 6)], "T", price=101), mbp(1, [(99, 102, 5, 7)]))
    )
    assert cells["kind"].tolist() == [Kind.QUOTE, Kind.QUOTE, Kind.TRADE, Kind.QUOTE, Kind.QUOTE]
    assert cells["cells"].tolist() == [2, 0, 1, 2, 0]
    assert cells["price"].tolist() == [99, 101, 101, 99, 102]
    assert cells["size"].tolist() == [5, 6, 3, 5, 7]
    assert (cells["flags"] & int(Flag.LAST)).astype(bool).tolist() == [False, False, True, True, True]
    assert chr(cells["side"][2]) == "A"


def test_ten_levels_become_what_changed(save: Save) -> None:
    nothing = (UNDEFINED, UNDEFINED, 0, 0)
    one = [(99, 101, 5, 6), (98, 102, 7, 8), *[nothing] * 8]
    two = [(98, 101, 7, 9), (97, 102, 1, 8), *[nothing] * 8]
    cells = read(
        save(metadata("mbp-10", {"AA": [7]}), mbp(10, one), mbp(10, two), mbp(10, two, "T", price=101), mbp(10, two))
    )
    said = [(chr(c["action"]), chr(c["side"]), int(c["price"]), int(c["size"]), int(c["depth"])) for c in cells]
    assert said == [
        ("R", "N", UNDEFINED, 0, 0),
        ("A", "B", 99, 5, 0),
        ("A", "B", 98, 7, 1),
        ("A", "A", 101, 6, 0),
        ("A", "A", 102, 8, 1),
        ("C", "B", 99, 0, 0),
        ("A", "B", 97, 1, 1),
        ("M", "A", 101, 9, 0),
        ("T", "A", 101, 3, 0),
        ("N", "N", UNDEFINED, 0, 0),
    ]
    lasts = np.flatnonzero(cells["flags"] & int(Flag.LAST))
    assert lasts.tolist() == [4, 7, 8, 9]
    assert cells["kind"][8] == Kind.TRADE


def test_send_times_behind_the_records(save: Save) -> None:
    cells = read(save(metadata("mbo", {"AA": [7]}, ts_out=True), *(mbo(order=n, tail=bytes(8)) for n in (1, 2, 3))))
    assert cells["order_id"].tolist() == [1, 2, 3]


def test_compressed_in_several_frames(save: Save, tmp_path: Path) -> None:
    plain = save(metadata("mbo", {"AA": [7]}), *(mbo(order=n) for n in range(1, 40)))
    data = plain.read_bytes()
    compressor = zstandard.ZstdCompressor()
    framed = tmp_path / "framed.dbn.zst"
    framed.write_bytes(b"".join(compressor.compress(data[at : at + 100]) for at in range(0, len(data), 100)))
    assert (read(framed) == read(plain)).all()


def test_every_cut_is_noticed(save: Save, tmp_path: Path) -> None:
    head = metadata("mbo", {"AA": [7]})
    data = save(head, *(mbo(order=n) for n in range(1, 6))).read_bytes()
    path = tmp_path / "cut.dbn"
    for end in range(len(data)):
        path.write_bytes(data[:end])
        whole = (end - len(head)) // 56
        if end >= len(head) and (end - len(head)) % 56 == 0:
            assert len(read(path)) == whole
            continue
        got: list[Cells] = []
        with pytest.raises(DecodeError) as caught:
            got.extend(DbnFeed(path).batches())
        assert sum(map(len, got)) == max(whole, 0)
        expected = len(head) + whole * 56 if end > len(head) else (end if end >= 3 else 0)
        assert caught.value.position == f"byte {expected}"


def test_every_cut_of_a_compressed_file_is_noticed(save: Save, tmp_path: Path) -> None:
    orders = [mbo(order=n * 7919, price=n * 10**9, at=n) for n in range(1, 400)]
    data = save(metadata("mbo", {"AA": [7]}), *orders, compress=True).read_bytes()
    path = tmp_path / "cut.dbn.zst"
    for end in range(0, len(data), 37):
        path.write_bytes(data[:end])
        with pytest.raises(DecodeError) as caught:
            list(DbnFeed(path).batches())
        assert caught.value.position.startswith("byte ")


def test_flipped_bytes_of_a_compressed_file(save: Save, tmp_path: Path) -> None:
    plain = save(metadata("mbo", {"AA": [7]}), *(mbo(order=n) for n in range(1, 200))).read_bytes()
    data = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(plain))
    path = tmp_path / "flipped.dbn.zst"
    for at in range(8, len(data), 5):
        data[at] ^= 0x10
        path.write_bytes(data)
        data[at] ^= 0x10
        with pytest.raises(DecodeError):
            list(DbnFeed(path).batches())


def test_what_is_no_record(save: Save) -> None:
    head = metadata("mbo", {"AA": [7]})
    for bad in (bytes(56), b"\x0e\xf0" + bytes(54), b"\x10" + mbo()[1:] + bytes(8)):
        feed = DbnFeed(save(head, mbo(), mbo(), bad))
        got: list[Cells] = []
        with pytest.raises(DecodeError, match="no DBN record") as caught:
            got.extend(feed.batches())
        assert caught.value.position == f"byte {len(head) + 112}"
        assert sum(map(len, got)) == 2


@pytest.mark.parametrize(
    ("data", "position", "complaint"),
    [
        (b"", "byte 0", "empty"),
        (b"PAR1" + bytes(20), "byte 0", "begins with"),
        (b"DBN\x09" + bytes(20), "byte 3", "version 9"),
        (b"DBN\x03\xff\xff\xff\xff", "byte 4", "metadata of"),
        (b"DBN\x03\x10\x00\x00\x00abc", "byte 11", "inside its metadata"),
        (b"DBN\x03\x04\x00\x00\x00abcd", "byte 8", "metadata is damaged"),
    ],
)
def test_what_is_no_dbn(save: Save, data: bytes, position: str, complaint: str) -> None:
    with pytest.raises(DecodeError, match=complaint) as caught:
        DbnFeed(save(data))
    assert caught.value.position == position
    assert caught.value.subject == "day.dbn"


def test_missing_and_too_many_files(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        DbnFeed(tmp_path / "none.dbn")
    with pytest.raises(UsageError, match="one file"):
        DbnFeed([tmp_path, tmp_path])


def test_the_check_notices_a_feed_that_decodes_wrongly(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(metadata("mbo", {"AA": [7]}), mbo(order=1, price=10**9), mbo(order=2, price=2 * 10**9, size=3))
    assert check_dbn(path)["mismatches"] == 0
    whole = DbnFeed.batches

    def spoilt(feed: DbnFeed) -> object:
        for cells in whole(feed):
            cells = cells.copy()
            cells["size"][-1] += 1
            yield cells

    monkeypatch.setattr(DbnFeed, "batches", spoilt)
    report = check_dbn(path)
    assert report["mismatches"] == 1
    assert "AA: the books differ" in str(report["first_mismatch"])
