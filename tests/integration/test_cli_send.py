"""What docs/trading.md shows: commands of every kind sent to a desk on a real broker, and the tape proved after it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import Shell, processes_of

GOLD = {"symbol": "GOLD", "venue": "internal", "tick_size": "0.5", "multiplier": 10}


@pytest.fixture
def shell(tmp_path: Path) -> Any:
    """A user with an empty home; whatever a test leaves running is a failure."""
    shell = Shell(tmp_path / "home")
    yield shell
    left = processes_of(tmp_path)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, left


def test_a_desk_is_commanded(shell: Shell) -> None:
    def send(kind: str, body: dict[str, Any], *more: str) -> dict[str, Any]:
        told: dict[str, Any] = shell.inside.run("send", kind, json.dumps(body), *more, "--json", code=None).json
        return told

    shell.json("up", "--nodes", 1, "--profile", "fast", "--port", 0)
    try:
        registered = send("instrument.register", GOLD)
        assert (registered["outcome"], registered["instrument"]) == ("accepted", 1)
        assert "tick_size" in send("instrument.register", {**GOLD, "tick_size": "1"})["reason"]
        order = {"instrument": "GOLD", "side": "buy", "price": "10.5", "size": "2", "account": "alice", "tag": "first"}
        first = send("order.submit", order, "--client", "docs", "--number", "1")
        assert (first["outcome"], first["tag"], first["number"]) == ("accepted", "first", 1)
        again = send("order.submit", order, "--client", "docs", "--number", "1")
        assert (again["outcome"], again["first"], again["order_id"]) == ("repeated", "accepted", first["order_id"])
        assert send("risk.set_limits", {"account": "alice", "order_size": 5})["outcome"] == "accepted"
        assert "size is not" in send("order.submit", {**order, "size": "6"})["reason"]
        assert send("strategy.stop", {})["outcome"] == "accepted"
        assert send("cash.book", {"account": "alice", "currency": "USD", "amount": "1000"})["outcome"] == "accepted"
        killed = send("kill.switch", {"scope": "all"})
        assert (killed["outcome"], killed["count"]) == ("accepted", 1)
        assert send("order.submit", order)["reason"] == "kill switch is on"
        assert send("kill.switch", {"scope": "all", "on": False})["outcome"] == "accepted"
        assert send("desk.ping", {})["position"] > killed["position"]
        assert shell.inside.json("prove", "--tape", "main")["equal"]
    finally:
        shell.json("down")
