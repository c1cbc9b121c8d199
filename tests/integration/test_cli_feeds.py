"""`tapehouse feeds`: formats listed, and real files held against the truth that they carry."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tapehouse.cli.main import run
from tests.support.cli import ESH4, Shell, excerpt, written

# What that day's book is at its end, by the exchange's own sequence; the exact prices as they stand in the line.
ESH4_TRUTH = {
    "records": 68_792,
    "instruments": 1,
    "mismatches": 0,
    "symbol": "ESH4",
    "bid_levels": 922,
    "ask_levels": 565,
    "best_bid": Decimal("4810.00"),
    "best_ask": Decimal("4810.25"),
    "best_bid_size": 22,
    "best_ask_size": 28,
    "sequence": 59_585,
}


def called(*arguments: object) -> tuple[int, str, str]:
    """The same command without a process of its own."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


def test_the_formats(tmp_path: Path) -> None:
    listed: Any = Shell(tmp_path).json("feeds", "list")
    assert {item["name"] for item in listed} >= {"lobster", "dbn", "generated"}
    assert all(item["description"] and item["checked_by"] for item in listed)
    shown = Shell(tmp_path).run("feeds", "list").out
    assert all(item["name"] in shown for item in listed)


def test_a_lobster_pair_is_what_it_says(market_data: Path, tmp_path: Path) -> None:
    files = excerpt(market_data)
    told: Any = Shell(tmp_path).json("feeds", "check", "lobster", *files)
    assert told.pop("records_per_s") > 0
    assert told == {
        "format": "lobster",
        "rows": 999,
        "compared": 999,
        "mismatches": 0,
        "first_mismatch": None,
        "cells": 1_244,
        "revealed": 318,
    }
    again = json.loads(called("feeds", "check", "lobster", *reversed(files), "--json")[1])
    assert {**told, "records_per_s": again["records_per_s"]} == again, "in any order"
    code, shown, _ = called("feeds", "check", "lobster", *files)
    assert code == 0
    lines = dict(line.split() for line in shown.splitlines())
    assert (lines["format"], lines["rows"], lines["mismatches"], lines["revealed"]) == ("lobster", "999", "0", "318")


def test_a_lobster_zip(market_data: Path) -> None:
    archive = market_data / "lobster" / "LOBSTER_SampleFile_AMZN_2012-06-21_1.zip"
    code, out, _ = called("feeds", "check", "lobster", archive, "--json")
    told = json.loads(out)
    named = ["format", "rows", "compared", "mismatches", "first_mismatch", "cells", "records_per_s", "revealed"]
    assert list(told) == named
    assert (code, told["rows"], told["mismatches"]) == (0, 57_515, 0)


@pytest.mark.parametrize(("row", "column"), [(500, 1), (2, 4), (998, 39)])
def test_one_changed_digit_is_found(market_data: Path, tmp_path: Path, row: int, column: int) -> None:
    message, book = excerpt(market_data)
    lines = book.read_bytes().splitlines(keepends=True)
    cells = lines[row].rstrip().split(b",")
    cells[column] = cells[column][:-1] + (b"1" if cells[column][-1:] != b"1" else b"2")
    lines[row] = b",".join(cells) + b"\n"
    files = written(tmp_path / "changed", {message.name: message.read_bytes(), book.name: b"".join(lines)})
    code, out, err = called("feeds", "check", "lobster", *files, "--json")
    told = json.loads(out)
    assert (code, err) == (1, "")
    assert told["rows"] == told["compared"] == 999
    assert told["first_mismatch"].startswith(f"line {row + 1}")
    assert 0 < told["mismatches"] <= 2, "the row itself, and at most the one that follows from it"
    code, shown, _ = called("feeds", "check", "lobster", *files)
    assert code == 1
    assert f"line {row + 1}" in next(line for line in shown.splitlines() if line.startswith("first_mismatch")), shown


def test_a_dbn_day_ends_in_the_book_that_is_known(market_data: Path, tmp_path: Path) -> None:
    done = Shell(tmp_path).run("feeds", "check", "dbn", market_data / ESH4, "--json")
    (line,) = done.out.splitlines()
    told = json.loads(line, parse_float=Decimal)
    assert {name: told[name] for name in ESH4_TRUTH} == ESH4_TRUTH
    assert '"best_bid": 4810.00,' in line, "every digit that the price has"


def test_a_shorter_dbn_file_is_told_apart(market_data: Path, tmp_path: Path) -> None:
    """The control: the numbers follow the file, and a file that ends inside a record is none."""
    whole = zstandard.ZstdDecompressor().stream_reader((market_data / ESH4).read_bytes()).read()
    (half,) = written(tmp_path / "half", {"esh4.dbn": whole[: len(whole) - 56 * 10_000]})
    code, out, _ = called("feeds", "check", "dbn", half, "--json")
    told = json.loads(out, parse_float=Decimal)
    assert (code, told["mismatches"]) == (0, 0), "a file that ends between records is whole to its reader"
    assert told["records"] == ESH4_TRUTH["records"] - 10_000  # type: ignore[operator]
    assert {name for name in ESH4_TRUTH if told[name] != ESH4_TRUTH[name]} >= {"sequence", "bid_levels", "ask_levels"}
    (torn,) = written(tmp_path / "torn", {"esh4.dbn": whole[:-20]})
    code, _, err = called("feeds", "check", "dbn", torn, "--json")
    assert code == 4
    assert "esh4.dbn, byte " in err
