"""The published page of commands, and what the table says, are one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tapehouse.gateway.command_page import command_page
from tapehouse.gateway.resp_commands import COMMANDS, NUMBERS, key_places

PAGE = Path(__file__).resolve().parents[3] / "docs" / "kv-commands.md"


def test_the_page_is_the_table() -> None:
    assert PAGE.read_text() == command_page(), "write it anew: Path('docs/kv-commands.md').write_text(command_page())"


def test_every_command_is_on_it_once() -> None:
    for command in COMMANDS:
        assert (
            sum(
                line.startswith((f"| `{command.name} ", f"| `{command.name}`"))
                for line in PAGE.read_text().splitlines()
            )
            == 1
        )


@pytest.mark.parametrize(
    ("name", "count", "places"),
    [
        ("GET", 2, [1]),
        ("MSET", 7, [1, 3, 5]),
        ("DEL", 4, [1, 2, 3]),
        ("SET", 5, [1]),
        ("PING", 1, []),
        ("MGET", 2, [1]),
    ],
)
def test_which_arguments_are_keys(name: str, count: int, places: list[int]) -> None:
    assert list(key_places(COMMANDS[NUMBERS[name] - 1], count)) == places
