"""The table `parked`, and `tapehouse parked list` and `show` over it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tapehouse.cli.main import run
from tapehouse.client import AsyncClient
from tapehouse.engine import parking
from tapehouse.market import Kind
from tapehouse.query import QuerySession
from tests.support.bench import level, trade
from tests.support.memory_platform import MemoryPlatform
from tests.support.taped_bench import TapedBench

ORDER = {"instrument": "ALFA", "side": "buy", "price": "0.98", "size": "5"}


def send_garbage(bench: TapedBench, payload: bytes) -> int:
    at = bench.ordinal
    bench.send_bytes(payload, f"cmds:{bench.commands}", f"cmds:{bench.commands}")
    return at


@pytest.fixture
def day(monkeypatch: pytest.MonkeyPatch) -> tuple[TapedBench, list[int]]:
    """Four parked commands, of which one fell out and one was dropped, and a skipped record; their positions."""
    monkeypatch.setattr(parking, "PARKED_MAX", 3)
    bench = TapedBench()
    bench.feed(level("buy", 99, 20), level("sell", 101, 20))
    places = [send_garbage(bench, b"\xff\x00" * 20), send_garbage(bench, b"[1]"), bench.ordinal]
    bench.send("order.shout", client="al", number=7, **ORDER)
    places.append(send_garbage(bench, b"{}"))
    bench.send("parked.drop", position=places[1])
    bench.send("desk.poison", policy="park")
    places.append(bench.ordinal)
    bench.feed(trade(0, 99, 1, instrument=9))
    return bench, places


async def test_the_table_has_a_row_an_input_and_says_what_became_of_it(day: tuple[TapedBench, list[int]]) -> None:
    bench, places = day
    with QuerySession(**await bench.logs()) as session:
        rows = (await session.table("parked")).to_dicts()
    assert [row["position"] for row in rows] == places
    assert [row["state"] for row in rows] == ["fallen out", "dropped", "parked", "parked", "skipped"]
    assert [row["input"] for row in rows] == ["command"] * 4 + ["record"]
    assert [row["settled"] is None for row in rows] == [False, False, True, True, True]
    shouted = rows[2]
    assert (shouted["type"], shouted["version"], shouted["client"], shouted["number"]) == ("order.shout", 1, "al", 7)
    assert "unknown type 'order.shout'" in shouted["reason"]
    assert (rows[0]["type"], rows[0]["client"], rows[0]["number"], rows[0]["bytes"]) == (None, None, None, 40)
    assert (rows[4]["kind"], rows[4]["bytes"], rows[4]["hash"]) == (int(Kind.TRADE), 64, None)


@pytest.fixture
def opened(day: tuple[TapedBench, list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    async def open_client(nats: str | None = None, **more: Any) -> AsyncClient:
        logs = await day[0].logs()
        return AsyncClient(MemoryPlatform("day", logs["tape"], logs["events"]))

    monkeypatch.setattr(AsyncClient, "open", open_client)


def test_list_shows_what_is_parked(
    opened: None, day: tuple[TapedBench, list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    places = day[1]
    assert run(["parked", "list", "--tape", "day", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["position"] for row in rows] == [places[0], *places[2:]]
    assert run(["parked", "list", "--tape", "day", "--all"]) == 0
    said = capsys.readouterr().out
    assert "order.shout" in said
    assert "1 fallen out, 1 dropped, 2 parked, 1 skipped" in said


def test_show_prints_json_or_hex(
    opened: None, day: tuple[TapedBench, list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    places = day[1]
    assert run(["parked", "show", str(places[2]), "--tape", "day"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["type"], shown["client"], shown["body"]) == ("order.shout", "al", ORDER)
    assert run(["parked", "show", str(places[0]), "--tape", "day"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"00000  {' '.join(['ff00ff00'] * 8)}", "00020  ff00ff00 ff00ff00"]
    assert run(["parked", "show", str(places[4]), "--tape", "day", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["hex"]) == 128
    assert run(["parked", "show", "1", "--tape", "day"]) == 3
    assert "nothing was parked at 1" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("replay",), ("drop",), ("replay", "5", "--all")])
def test_replay_and_drop_want_positions_or_all(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["parked", *arguments]) == 2
    assert "positions or --all" in capsys.readouterr().err
