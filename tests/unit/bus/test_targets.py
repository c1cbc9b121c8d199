"""Who names the broker, and in which order."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tapehouse.bus import state as files
from tapehouse.bus.process import identify
from tapehouse.bus.targets import resolve_target
from tapehouse.core import BusUnavailableError, MissingError, UsageError


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No broker named by the environment; configuration below a directory of this test."""
    for name in ("NATS_URL", "NATS_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TAPEHOUSE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    contexts = tmp_path / "nats" / "context"
    contexts.mkdir(parents=True)
    (tmp_path / "home" / "cluster").mkdir(parents=True)
    return contexts


def run_here() -> None:
    """A state file whose only process is this one."""
    node = files.NodeState(name="n0", process=identify(os.getpid()), client_port=1, monitor_port=2, route_port=3)
    files.save_state(files.default_directory(), files.ClusterState(profile="fast", detached=True, nodes=(node,)))


def test_nothing_named_and_nothing_runs() -> None:
    with pytest.raises(BusUnavailableError, match="tapehouse up"):
        resolve_target()


def test_the_embedded_cluster_comes_last() -> None:
    run_here()
    target = resolve_target()
    assert target.urls == ("nats://127.0.0.1:1",)
    assert target.monitors == (("127.0.0.1", 2),)
    assert target.nodes == 1


def test_a_stale_state_file_is_no_cluster() -> None:
    run_here()
    path = files.default_directory() / files.STATE_FILE
    raw = json.loads(path.read_text())
    raw["nodes"][0]["process"]["start_ticks"] += 1
    path.write_text(json.dumps(raw))
    with pytest.raises(BusUnavailableError, match="no cluster runs here"):
        resolve_target()


def test_the_order(monkeypatch: pytest.MonkeyPatch, bare: Path) -> None:
    run_here()
    (bare / "prod.json").write_text(json.dumps({"url": "nats://prod:4222", "user": "u", "password": "p"}))
    monkeypatch.setenv("NATS_CONTEXT", "prod")
    target = resolve_target()
    assert target.urls == ("nats://prod:4222",)
    assert target.options == {"user": "u", "password": "p"}
    assert target.nodes is None
    monkeypatch.setenv("NATS_URL", "nats://a:1, nats://b:2")
    assert resolve_target().urls == ("nats://a:1", "nats://b:2")
    assert resolve_target(context="prod").urls == ("nats://prod:4222",)
    assert resolve_target("tls://c").urls == ("tls://c",)
    assert resolve_target(["nats://d", "e:5"]).monitors == (("d", 8222), ("e", 8222))


def test_a_context_selected_for_another_program_is_not_taken(bare: Path) -> None:
    (bare / "prod.json").write_text(json.dumps({"url": "nats://prod:4222"}))
    (bare.parent / "context.txt").write_text("prod")
    with pytest.raises(BusUnavailableError):
        resolve_target()


def test_contexts_that_are_wrong(bare: Path) -> None:
    with pytest.raises(MissingError, match="nats context ls"):
        resolve_target(context="none")
    (bare / "bad.json").write_text("{")
    with pytest.raises(UsageError, match="cannot be read"):
        resolve_target(context="bad")
    (bare / "list.json").write_text("[]")
    with pytest.raises(UsageError, match="no JSON object"):
        resolve_target(context="list")
    (bare / "creds.json").write_text(json.dumps({"creds": "/nowhere/user.creds"}))
    with pytest.raises(MissingError, match=r"user\.creds"):
        resolve_target(context="creds")


@pytest.mark.parametrize("url", ["http://x", "nats://", "nats://x:port", "nats://x:0", "nats://x:99999"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(UsageError, match="NATS URL"):
        resolve_target(url)
