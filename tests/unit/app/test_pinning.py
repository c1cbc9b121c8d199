"""Roles on cores: the line of configuration, what is refused, and what really happens to a thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapehouse.app import pinning
from tapehouse.core import MissingError, UsageError


@pytest.fixture
def eight_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    online = tmp_path / "online"
    online.write_text("0-3,5-8\n")
    monkeypatch.setattr(pinning, "_ONLINE", online)


@pytest.fixture
def unpinned() -> Iterator[frozenset[int]]:
    """What this thread may use, given back to it afterwards."""
    before = os.sched_getaffinity(0)
    yield frozenset(before)
    os.sched_setaffinity(0, before)


@pytest.mark.usefixtures("eight_cores")
def test_roles_and_their_cores() -> None:
    assert pinning.parse("") == {}
    assert pinning.parse("engine=1,sidecar=0") == {"engine": {1}, "sidecar": {0}}
    assert pinning.parse(" engine = 5-7 , feed=0+2 ,") == {"engine": {5, 6, 7}, "feed": {0, 2}}
    assert pinning.configured("engine=3", {pinning.VARIABLE: "engine=1"}) == {"engine": {3}}
    assert pinning.configured(None, {pinning.VARIABLE: "engine=1"}) == {"engine": {1}}
    assert pinning.configured(None, {}) == {}


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("engine=4", "engine: there is no core 4 .this machine has 0 to 8"),
        ("engine=7-9", "there is no core 9"),
        ("engine", "role engine has no core"),
        ("engine=", "role engine has no core"),
        ("engine=x", "'x' is no core"),
        ("engine=-1", "'-1' is no core"),
        ("engine=3-1", "'3-1' is no range"),
        ("engine=99999", "'99999' is no core"),
        ("motor=1", "there is no role 'motor' .engine, sidecar"),
        ("engine=2,3", "there is no role '3'"),
        ("engine=1,engine=2", "role engine is there twice"),
    ],
)
def test_what_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        pinning.parse(text)
    with pytest.raises(UsageError, match="--cpus"):
        pinning.configured(text)


def test_a_thread_runs_where_its_role_does(unpinned: frozenset[int]) -> None:
    core = max(unpinned)
    roles = pinning.parse(f"engine={core}")
    assert pinning.pin("sidecar", roles) is None
    assert os.sched_getaffinity(0) == unpinned
    assert pinning.pin("engine", roles) == {core}
    assert os.sched_getaffinity(0) == {core}
    inherited: list[set[int]] = []
    thread = threading.Thread(target=lambda: inherited.append(os.sched_getaffinity(0)))
    thread.start()
    thread.join()
    assert inherited == [{core}]


@pytest.mark.usefixtures("eight_cores", "unpinned")
def test_a_core_that_is_withheld(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int, __: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(pinning.os, "sched_setaffinity", refuse)
    with pytest.raises(MissingError, match=r"engine may not run on cores 5.6 .a container or cpuset"):
        pinning.pin("engine", pinning.parse("engine=5-6"))
    with pytest.raises(UsageError, match="no role 'motor'"):
        pinning.pin("motor", {})
    monkeypatch.setattr(pinning.os, "sched_setaffinity", lambda _, __: None)
    monkeypatch.setattr(pinning.os, "sched_getaffinity", lambda _: {5})
    with pytest.raises(MissingError, match="engine was not given core 6"):
        pinning.pin("engine", pinning.parse("engine=5-6"))


def test_a_machine_that_does_not_say_its_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pinning, "_ONLINE", tmp_path / "none")
    assert pinning.online_cores() == frozenset(range(os.cpu_count() or 1))
