"""What commands print: tables for people, one line for scripts, bars only on a terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys

import pytest
from rich.console import Console

from tapehouse.cli import output
from tapehouse.core import UsageError


def test_json_is_one_line_whatever_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"text": "two\nlines", "number": 2**63, "path": object}
    output.print_json(value)
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["number"] == 2**63


def test_a_table_shows_every_cell_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(output, "console", Console(file=shown, width=60))
    long = "x" * 90
    output.print_table("Title", ("name", "count", "note"), [("a", 1_234_567, long), ("b", 5, True)])
    text = shown.getvalue()
    assert "1,234,567" in text
    assert text.count("x") == 90, "what is long is folded, and never cut"
    assert "True" in text


def test_numbers_stand_to_the_right_and_short_words_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(output, "console", Console(file=shown, width=50))
    rows = [("from segments", 5, "a note that is long enough to be folded [more]"), ("live", "", ""), ("x", 1_000, "")]
    output.print_table("Title", ("path", "cells", "how"), rows)
    lines = shown.getvalue().splitlines()
    assert any("from segments" in line for line in lines)
    at = next(line.index("1,000") + 4 for line in lines if "1,000" in line)
    assert next(line for line in lines if "from segments" in line)[at] == "5", "in one column with what is missing"
    assert "[more]" in shown.getvalue(), "brackets are text"


def test_an_empty_table_has_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(output, "console", Console(file=shown, width=60))
    output.print_table("Title", ("one", "two"), [])
    assert "one" in shown.getvalue()


def _bar_on(console: Console, monkeypatch: pytest.MonkeyPatch, *, quiet: bool = False) -> None:
    monkeypatch.setattr(output, "diagnostics", console)
    with output.Bar("work", 100, quiet=quiet) as bar:
        for done in (1, 50, 100):
            bar.at(done)


def test_a_bar_is_silent_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    _bar_on(Console(file=shown), monkeypatch)
    assert shown.getvalue() == ""


def test_a_bar_shows_itself_on_a_terminal_unless_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the same bar on a terminal is not silent."""
    shown = io.StringIO()
    _bar_on(Console(file=shown, force_terminal=True, width=100), monkeypatch)
    assert "work" in shown.getvalue()
    shown = io.StringIO()
    _bar_on(Console(file=shown, force_terminal=True, width=100), monkeypatch, quiet=True)
    assert shown.getvalue() == ""


def test_a_bar_before_it_begins_takes_no_notice() -> None:
    output.Bar("work", 100).at(5)


def test_a_real_terminal_gets_the_bar_and_a_file_does_not() -> None:
    script = "from tapehouse.cli.output import Bar\nwith Bar('work', 2) as bar:\n    bar.at(1)\n    bar.at(2)\n"
    leader, follower = pty.openpty()
    subprocess.run([sys.executable, "-c", script], stderr=follower, check=True, timeout=60)
    os.close(follower)
    assert b"work" in os.read(leader, 65_536)
    os.close(leader)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == (b"", b"")


@pytest.mark.parametrize(("seconds", "nanoseconds"), [(0.0, 0), (1.5, 1_500_000_000), (1e9, 10**18)])
def test_seconds(seconds: float, nanoseconds: int) -> None:
    assert output.read_seconds(seconds, "--option") == nanoseconds


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), 1e10])
def test_no_seconds(seconds: float) -> None:
    with pytest.raises(UsageError, match="--option"):
        output.read_seconds(seconds, "--option")
