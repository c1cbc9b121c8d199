"""LOBSTER's messages in the vocabulary of cells, and what is said about files that are not as they should be."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tapehouse.core import UNDEFINED, DecodeError, MissingError, UsageError, parse_time_ns
from tapehouse.feeds import LobsterFeed
from tapehouse.feeds.csv_rows import ROWS_PER_BLOCK
from tapehouse.market import Action, Cells, Flag, Kind

STEM = "TEST_2012-06-21_34200000_57600000"
MIDNIGHT = "2012-06-21T04:00:00Z"
NO_ASK, NO_BID = "9999999999,0", "-9999999999,0"

Write = Callable[..., list[Path]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_files(messages: list[str], book: list[str], levels: int = 1, stem: str = STEM) -> list[Path]:
        paths = [tmp_path / f"{stem}_{role}_{levels}.csv" for role in ("message", "orderbook")]
        for path, lines in zip(paths, (messages, book), strict=True):
            path.write_text("".join(line + "\n" for line in lines))
        return paths

    return write_files


def events(cells: Cells) -> list[tuple[str, str, str, int, int, int]]:
    """Kind, action, side, order id, price in LOBSTER's unit, size, after the seed."""
    after = cells[(cells["flags"] & int(Flag.SNAPSHOT)) == 0]
    return [
        (
            Kind(int(cell["kind"])).name,
            chr(cell["action"]),
            chr(cell["side"]),
            int(cell["order_id"]),
            int(cell["price"]) // 100_000,
            int(cell["size"]),
        )
        for cell in after
    ]


def read(paths: list[Path]) -> Cells:
    return np.concatenate(list(LobsterFeed(paths).batches()))


def test_every_type_of_message(write: Write) -> None:
    book = "1000200,500,1000000,300"
    cells = read(
        write(
            [
                "34200,1,7,100,1000000,1",
                "34200.1,1,8,50,1000000,1",
                "34200.2,2,8,20,1000000,1",
                "34200.3,4,7,60,1000000,1",
                "34200.4,4,99,100,1000200,-1",
                "34200.5,5,0,5,1000100,-1",
                "34200.6,6,-1,900,1000100,-1",
                "34200.7,3,8,30,1000000,1",
            ],
            [
                book,
                "1000200,500,1000000,350",
                "1000200,500,1000000,330",
                "1000200,500,1000000,270",
                "1000200,400,1000000,270",
                "1000200,400,1000000,270",
                "1000200,400,1000000,270",
                "1000200,400,1000000,240",
            ],
        )
    )
    assert events(cells) == [
        ("MBO", "A", "B", 7, 1_000_000, 100),
        ("MBO", "A", "B", 8, 1_000_000, 50),
        ("MBO", "C", "B", 8, 1_000_000, 20),
        ("MBO", "T", "A", 0, 1_000_000, 60),  # a seller hit a resting bid
        ("MBO", "F", "B", 7, 1_000_000, 60),
        ("MBO", "C", "B", 7, 1_000_000, 60),
        ("MBO", "T", "B", 0, 1_000_200, 100),
        ("MBO", "F", "A", 99, 1_000_200, 100),
        ("MBO", "C", "A", 99, 1_000_200, 100),
        ("MBO", "T", "B", 0, 1_000_100, 5),
        ("TRADE", "T", "N", 0, 1_000_100, 900),
        ("MBO", "C", "B", 8, 1_000_000, 30),
    ]
    lasts = cells["sequence"][(cells["flags"] & int(Flag.LAST)) != 0]
    assert lasts.tolist() == list(range(1, 9))
    assert (cells["instrument"] == 1).all()
    assert cells["ts_event"][-1] == parse_time_ns(MIDNIGHT) + 34_200_700_000_000


def test_the_first_row_is_seeded_as_it_was_before_its_message(write: Write) -> None:
    cells = read(
        write(
            ["34200,3,5,40,1000000,1"],
            ["1000300,10,999900,70,1000400,20,-9999999999,0"],
            levels=2,
        )
    )
    assert (cells["action"][0], cells["kind"][0], cells["price"][0]) == (Action.CLEAR, Kind.MBO, UNDEFINED)
    seed = cells[1:-1]
    assert set(seed["flags"].tolist()) == {int(Flag.SNAPSHOT | Flag.BY_PRICE)}
    assert sorted(zip(seed["price"].tolist(), seed["size"].tolist(), strict=True)) == [
        (99_990_000_000, 70),
        (100_000_000_000, 40),  # gone after the message
        (100_030_000_000, 10),
        (100_040_000_000, 20),
    ]
    assert events(cells) == [("MBO", "C", "B", 5, 1_000_000, 40)]


def test_halts_become_status(write: Write) -> None:
    book = ["1000200,500,1000000,300"] * 3
    cells = read(write(["1,7,0,0,-1,-1", "2,7,0,0,0,-1", "3,7,0,0,1,-1"], book))
    status = cells[cells["kind"] == Kind.STATUS]
    assert status["count"].tolist() == [8, 3, 7]  # DBN: halted, quoting, trading
    assert (status["flags"] == Flag.LAST).all()
    assert (status["price"] == UNDEFINED).all()


def test_empty_sides(write: Write) -> None:
    cells = read(
        write(
            ["1,1,1,10,1000000,1", "2,1,2,20,1000100,-1", "3,3,1,10,1000000,1", "4,4,2,20,1000100,-1"],
            [
                f"{NO_ASK},1000000,10",
                "1000100,20,1000000,10",
                f"1000100,20,{NO_BID}",
                f"{NO_ASK},{NO_BID}",
            ],
        )
    )
    assert not (cells["kind"] == Kind.MBP).any()  # the messages explain it all
    assert [event[1] for event in events(cells)] == ["A", "A", "C", "T", "F", "C"]


def test_a_revealed_level_and_a_stale_one(write: Write) -> None:
    feed = LobsterFeed(
        write(
            ["1,3,1,10,1000000,1", "2,1,5,10,1000100,1", "3,3,5,10,1000100,1"],
            [
                "1001000,5,999900,70",  # 999900 was out of view until now
                "1001000,5,1000100,10",  # and is so again,
                "1001000,5,999800,30",  # where it went away unseen
            ],
        )
    )
    cells = np.concatenate(list(feed.batches()))
    assert events(cells) == [
        ("MBO", "C", "B", 1, 1_000_000, 10),
        ("MBO", "A", "B", 5, 1_000_100, 10),
        ("MBO", "C", "B", 5, 1_000_100, 10),
        ("MBP", "C", "B", 0, 999_900, 0),
        ("MBP", "A", "B", 0, 999_800, 30),
    ]
    assert (feed.revealed_levels, feed.stale_levels, feed.restated_levels, feed.unknown_orders) == (1, 1, 0, 1)
    assert (cells["flags"][cells["kind"] == Kind.MBP][-2:] & int(Flag.BY_PRICE) != 0).all()


def test_a_level_that_was_out_of_view_is_stated_anew_when_it_shrinks(write: Write) -> None:
    feed = LobsterFeed(
        write(
            ["1,1,1,10,1000000,1", "2,1,2,10,1000100,1", "3,3,2,10,1000100,1", "4,2,9,4,1000000,1"],
            ["1001000,5,1000000,10", "1001000,5,1000100,10", "1001000,5,1000000,10", "1001000,5,1000000,6"],
        )
    )
    cells = np.concatenate(list(feed.batches()))
    assert events(cells)[-3:] == [
        ("MBO", "C", "B", 9, 1_000_000, 4),
        ("MBP", "C", "B", 0, 1_000_000, 0),
        ("MBP", "A", "B", 0, 1_000_000, 6),
    ]
    assert feed.restated_levels == 1


def test_name_instrument_and_winter_time(write: Write) -> None:
    feed = LobsterFeed(write(["1,1,1,1,100,1"], [f"{NO_ASK},100,1"], stem="BRK.A_2012-12-21_1_2"))
    assert feed.name == "lobster-brk-a-2012-12-21"
    (instrument,) = feed.instruments
    assert (instrument.id, instrument.symbol, instrument.venue, instrument.tick_size) == (1, "BRK.A", "XNAS", 10**7)
    assert (instrument.price_exponent, instrument.size_exponent, feed.levels) == (-9, 0, 1)
    (cells,) = feed.batches()
    assert cells["ts_recv"][0] == parse_time_ns("2012-12-21T05:00:01Z")
    assert feed.cells_estimate is not None


@pytest.mark.parametrize(
    ("message", "row", "complaint"),
    [
        ("2,8,1,10,1000000,1", "1000200,5,1000000,10", "type"),
        ("2,1,1,10,1000000,2", "1000200,5,1000000,10", "direction"),
        ("2,1,1,0,1000000,1", "1000200,5,1000000,10", "size"),
        ("2,1,1,10,-5,1", "1000200,5,1000000,10", "price"),
        ("2,7,0,0,2,-1", "1000200,5,1000000,10", "halt"),
        ("0,1,1,10,1000000,1", "1000200,5,1000000,10", "backwards"),
        ("2,1,1,10,1000000,1", "1000200,0,1000000,10", "ordered"),
        ("2,1,1,10,1000000,1", "1000200,5,-9999999999,10", "ordered"),
        ("2,1,1,10,1000000", "1000200,5,1000000,10", "5 columns where 6"),
        ("2,1,1,10,1000000,1,1", "1000200,5,1000000,10", "7 columns where 6"),
        ("2,1,one,10,1000000,1", "1000200,5,1000000,10", "column 3 is no number"),
        ("2,1,1,10,1000000,1", "1000200,5,1000000", "3 columns where 4"),
        ("2,1,1,12345678901234567890,1000000,1", "1000200,5,1000000,10", "too many digits"),
    ],
)
def test_a_bad_line_is_named_and_what_came_before_stands(write: Write, message: str, row: str, complaint: str) -> None:
    good = ["1,1,7,5,1000200,-1"]
    feed = LobsterFeed(write([*good, message], ["1000200,5,1000000,10", row]))
    got: list[Cells] = []
    with pytest.raises(DecodeError, match=complaint) as caught:
        got.extend(feed.batches())
    assert caught.value.position == "line 2"
    assert caught.value.subject.startswith("TEST_2012-06-21")
    assert np.concatenate(got)["sequence"].tolist() == [1] * 3


def test_a_cut_off_last_line(write: Write) -> None:
    paths = write(["1,1,7,5,1000200,-1", "2,1,8,5,1000200,-1"], ["1000200,5,1000000,10", "1000200,10,1000000,10"])
    paths[1].write_bytes(paths[1].read_bytes()[:-6])
    with pytest.raises(DecodeError, match="columns where 4") as caught:
        list(LobsterFeed(paths).batches())
    assert caught.value.position == "line 2"
    assert "cut off" in caught.value.hint


def test_one_file_shorter_than_the_other(write: Write) -> None:
    n = ROWS_PER_BLOCK + 3
    messages = [f"{at},5,0,1,1000100,1" for at in range(n)]
    paths = write(messages, ["1000200,5,1000000,10"] * (n - 2))
    got: list[Cells] = []
    with pytest.raises(DecodeError, match="goes on") as caught:
        got.extend(LobsterFeed(paths).batches())
    assert got[-1]["sequence"][-1] == n - 2
    assert caught.value.position == f"line {n - 1}"
    assert caught.value.subject.endswith("orderbook_1.csv")


def test_empty_missing_and_misnamed_files(write: Write, tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match="empty"):
        list(LobsterFeed(write([], [])).batches())
    with pytest.raises(MissingError, match="no such file"):
        LobsterFeed([tmp_path / "none.zip"])
    for name in ("notes.csv", "TEST_2012-13-41_1_2_message_1.csv"):
        (tmp_path / name).write_text("1\n")
        with pytest.raises(DecodeError, match="does not say"):
            LobsterFeed([tmp_path / name, tmp_path / name])
    with pytest.raises(UsageError, match="one or two files"):
        LobsterFeed([])


def test_files_that_do_not_belong_together(write: Write) -> None:
    first = write(["1,1,1,1,100,1"], ["1,1,1,1"])
    other = write(["1,1,1,1,100,1"], ["1,1,1,1"], stem="TEST_2012-06-22_34200000_57600000")
    with pytest.raises(DecodeError, match="different instruments or days"):
        LobsterFeed([first[0], other[1]])
    with pytest.raises(DecodeError, match="belong together"):
        LobsterFeed([first[0], other[0]])


def test_zips(write: Write, tmp_path: Path) -> None:
    paths = write(["1,1,7,5,1000200,-1"], ["1000200,5,1000000,10"])
    expected = read(paths)
    archive = tmp_path / "day.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in reversed(paths):
            file.write(path, path.name)
        file.writestr("ReadMe.txt", "hello")
    assert (read([archive]) == expected).all()
    with zipfile.ZipFile(archive, "w") as file:
        file.write(paths[0], paths[0].name)
    with pytest.raises(DecodeError, match="here is message"):
        LobsterFeed([archive])
    archive.write_bytes(b"no zip at all")
    with pytest.raises(DecodeError, match="no zip"):
        LobsterFeed([archive])


def test_a_damaged_zip(write: Write, tmp_path: Path) -> None:
    lines = [f"{at},5,0,1,1000100,1" for at in range(50_000)]
    paths = write(lines, ["1000200,5,1000000,10"] * 50_000)
    archive = tmp_path / "day.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in paths:
            file.write(path, path.name)
    data = bytearray(archive.read_bytes())
    data[len(data) // 3] ^= 0x55
    archive.write_bytes(data)
    with pytest.raises(DecodeError) as caught:
        list(LobsterFeed([archive]).batches())
    assert caught.value.position.startswith("line ")
    assert caught.value.subject.startswith("day.zip/TEST")
