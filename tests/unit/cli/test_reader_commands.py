"""What `send`, `kv get` and `sql` refuse or show without any broker."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from tapehouse.cli.cmd_sql import json_value
from tapehouse.cli.main import run
from tapehouse.desk.commands import COMMANDS


class Terminal(io.StringIO):
    """A person's, who types nothing."""

    def isatty(self) -> bool:
        return True


ORDER = {"instrument": "AAPL", "side": "buy", "price": "184.50", "size": 100}


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (("send", "order.submit", "{"), 4, "the body: no JSON"),
        (("send", "order.submit", "[]"), 4, "the body: no JSON object"),
        (
            ("send", "order.submit", json.dumps({**ORDER, "price": 0})),
            4,
            "order.submit: price: Input should be",
        ),
        (("send", "order.submit", json.dumps({**ORDER, "colour": 1})), 4, "order.submit: colour: "),
        (("send", "order.invent", "{}"), 4, "unknown type 'order.invent' (known: account.configure, account.kill, "),
        (("send",), 2, "a command has a type and a body (see tapehouse send --list)"),
        (("send", "order.submit"), 2, "the body is missing (see tapehouse send --list)"),
        (("sql",), 2, "a query is missing (see tapehouse sql --help)"),
        (("send", "order.submit", json.dumps(ORDER), "--number", "3"), 2, "--number says nothing without --client"),
        (("send", "order.submit", json.dumps(ORDER), "--client", "c" * 65), 4, "client: String should have at most 64"),
        (("kv", "get", "position/x", "--at", "1"), 2, "position/x: only projections are read at a moment"),
        (("kv", "put", "k"), 2, "one value is needed (VALUE, - for standard input, or --file FILE)"),
        (("kv", "put", "k", "v", "--if-absent", "--if-revision", "1"), 2, "two conditions"),
        (("kv", "scan", "--limit", "0"), 2, "0 keys"),
        (("kv", "load", "--connect", "nowhere"), 2, "'nowhere' is no host:port"),
        (("sql", "SELECT 1", "--csv", "--json"), 2, "CSV or JSON, not both"),
        (("sql", "SELECT 1", "--limit", "-1"), 2, "a limit of -1 rows"),
        (("sql", "--limit", "-1", "SELECT 1"), 2, "a limit of -1 rows"),
        (("sql", "--cvs", "SELECT 1"), 2, "--cvs"),
        (("send", "--nmber", "3", "order.submit", "{}"), 2, "--nmber"),
    ],
)
def test_a_wrong_call_is_one_line_and_a_code(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    problem: str,
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal())
    assert run(list(arguments)) == code
    said = capsys.readouterr()
    assert problem in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_the_body_may_come_from_standard_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"side": 1}'))
    assert run(["send", "order.submit"]) == 4
    assert "order.submit: instrument: Field required" in capsys.readouterr().err


def test_the_types_of_commands_are_listed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["send", "--list"]) == 0
    said = capsys.readouterr().out
    for name in COMMANDS.names():
        assert f"{name}: " in said
    assert '"gtc" or "day" or "gtd" or "ioc" or "fok", gtc unless said; of a market order ioc' in said
    assert "no fields: send '{}'" in said
    assert run(["send", "kill.switch", "--list"]) == 0
    assert "order.submit" not in capsys.readouterr().out
    assert run(["send", "--list", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == set(COMMANDS.names())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime(2026, 1, 5, 14, 30, 0, 1000, tzinfo=UTC), "2026-01-05T14:30:00.001000Z"),
        (float("nan"), None),
        (float("inf"), None),
        (1.5, 1.5),
        (Decimal("1.10"), "1.10"),
        ({"a": [float("nan"), b"\x01"]}, {"a": [None, "01"]}),
        (timedelta(seconds=1), "0:00:01"),
        (None, None),
        (True, True),
    ],
)
def test_results_become_plain_json(value: Any, expected: Any) -> None:
    assert json_value(value) == expected
