"""`tapehouse analytics` and `tapehouse bars` over a real file: tables, JSON, CSV, Parquet and the picture."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from tapehouse.cli.main import run
from tests.support.cli import Shell, excerpt

AMZN = "lobster/LOBSTER_SampleFile_AMZN_2012-06-21_5.zip"


@pytest.fixture
def source(market_data: Path) -> list[str]:
    """The arguments that name the file."""
    return ["--source", "lobster", str(market_data / AMZN)]


def test_analytics_of_a_file(source: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    picture, csv, parquet = (tmp_path / f"a.{kind}" for kind in ("png", "csv", "parquet"))
    files = ["--csv", str(csv), "--parquet", str(parquet), "--plot", str(picture)]
    hour = ["--from-time", "2012-06-21T14:00:00Z", "--to-time", "2012-06-21T15:00:00Z"]
    part = ["--every", "1m", "--sample", "1s", *hour]
    assert run(["analytics", *source, *part, *files]) == 0
    assert "60 rows" in capsys.readouterr().out
    table = pl.read_parquet(parquet)
    assert len(table) == len(pl.read_csv(csv)) == 60
    assert set(table["symbol"]) == {"AMZN"}
    assert table["complete"].all()
    assert (table["spread_fixed"] > 0).all()
    assert ((table["microprice"] > table["bid"]) & (table["microprice"] < table["ask"])).all()
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.parquet", "a.png"]
    assert run(["analytics", *source, *part, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["mid"] for row in rows] == table["mid"].to_list()
    assert run(["analytics", *source, *part]) == 0
    assert "2012-06-21 14:00:00" in capsys.readouterr().out


def test_bars_of_a_file(source: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bars", *source, "--by", "volume", "--size", "10000", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(row["volume_fixed"] >= 10_000 for row in rows[:-1])
    assert not rows[-1]["complete"]
    assert run(["bars", *source, "--size", "1h", "--parquet", str(tmp_path / "bars.parquet")]) == 0
    hours = pl.read_parquet(tmp_path / "bars.parquet")
    assert len(hours) == 7
    assert hours["volume_fixed"].sum() == sum(row["volume_fixed"] for row in rows)


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (("analytics",), 2, "name a tape, or files and their format"),
        (("bars", "--tape", "x", "--source", "lobster"), 2, "name a tape, or files and their format"),
        (("bars", "--tape", "x", "--size", "5"), 2, "'5' is no span of time"),
        (("bars", "--tape", "x", "--by", "tick", "--size", "many"), 2, "bars by tick of 'many'"),
        (("analytics", "--tape", "x", "--every", "0s"), 2, "'0s' is no span that can be"),
        (("analytics", "--tape", "x", "--json", "--csv", "a.csv"), 2, "JSON, or a file, not both"),
        (("analytics", "--tape", "x", "--csv", "/nowhere/a.csv"), 3, "there is no such directory"),
        (("analytics", "--tape", "x", "--plot", "a.jpg"), 2, "pictures are PNG"),
        (("analytics", "--source", "lobster", "nowhere.zip"), 3, "nowhere.zip"),
        (("bars", "--tape", "x", "--from-time", "2012-06-21"), 2, "has no time zone"),
    ],
)
def test_what_cannot_be_is_one_line(
    arguments: tuple[str, ...], code: int, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(list(arguments)) == code
    said = capsys.readouterr()
    assert problem in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_an_instrument_that_is_not_there(source: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bars", *source, "--instrument", "MSFT"]) == 3
    assert "no instrument 'MSFT' (there are AMZN)" in capsys.readouterr().err


def test_a_tape_its_backup_and_its_files_give_the_same(tmp_path: Path, market_data: Path) -> None:
    shell, files = Shell(tmp_path / "home"), excerpt(market_data)
    store = f"file://{tmp_path / 'store'}"
    ways = {"analytics": ("--every", "10s"), "bars": ("--by", "tick", "--size", 20)}
    with shell.cluster():
        inside = shell.inside
        inside.json("record", "lobster", *files, "--tape", "aapl", "--strategy", "watcher")
        inside.json("dr", "backup", store, "--tape", "aapl")
        for command, options in ways.items():
            of_files = inside.json(command, "--source", "lobster", *files, *options)
            of_tape = inside.json(command, "--tape", "aapl", "--instrument", "AAPL", *options)
            assert of_tape == inside.json(command, "--tape", "aapl", "--instrument", "AAPL", *options, "--store", store)
            whole = [row for row in of_files if row["complete"]]
            assert whole == [row for row in of_tape if row["complete"]][: len(whole)]
            assert len(whole) > 3
        assert "there is no such tape" in inside.refused("bars", "--tape", "nothing", code=3)
