"""`tapehouse kv put`, `get`, `del`, `scan`, `watch`, `history` and `load` as a user runs them, on one real broker."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tapehouse.bus import Cluster
from tests.support.cli import Shell

WAIT_S = 60.0


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path / "home")


@pytest.mark.timeout(200)
def test_keys_by_hand_beside_a_gateway_under_load(shell: Shell, kv_cluster1: Cluster, tmp_path: Path) -> None:
    nats = ("--nats", kv_cluster1.urls[0])
    inside = shell.inside
    first = inside.json("kv", "put", "hand/a", "1", *nats)
    assert (first["applied"], first["key"]) == (True, "hand/a")
    assert inside.json("kv", "get", "hand/a", *nats) == {
        "key": "hand/a", "value": "1", "revision": first["revision"], "expires": None,
    }  # fmt: skip
    watching = shell.start("kv", "watch", "hand/", "--existing", "--count", 4, "--json", *nats)
    assert watching.stdout is not None
    assert json.loads(watching.stdout.readline())["op"] == "KEY"
    again = inside.json("kv", "put", "hand/a", "2", "--if-revision", first["revision"], *nats)
    assert again["revision"] > first["revision"]
    stale = inside.json("kv", "put", "hand/a", "3", "--if-revision", first["revision"], *nats, code=1)
    assert (stale["applied"], stale["status"], stale["revision"]) == (False, "changed", again["revision"])
    assert inside.json("kv", "put", "hand/a", "3", "--if-absent", *nats, code=1)["status"] == "present"
    raw = tmp_path / "raw"
    raw.write_bytes(b"\xff\x00")
    inside.json("kv", "put", "hand/raw", "--file", raw, "--ttl", 1_000, *nats)
    found = inside.json("kv", "scan", "hand/", *nats)
    assert [(row["key"], row.get("value"), row.get("value_base64")) for row in found] == [
        ("hand/a", "2", None), ("hand/raw", None, "/wA="),
    ]  # fmt: skip
    assert found[1]["expires"] is not None
    assert "there is no such key" in shell.inside.run("kv", "del", "hand/none", *nats, code=3).err
    assert inside.json("kv", "del", "hand/a", *nats)["applied"]
    assert "no such key" in inside.refused("kv", "get", "hand/a", *nats, code=3)
    versions = inside.json("kv", "history", "hand/a", *nats)
    assert [row["value"] for row in versions] == ["1", "2", None]
    assert "there never was such a key" in inside.refused("kv", "history", "hand/none", *nats, code=3)
    refused = inside.refused("kv", "put", "positions/x", "1", *nats, code=2)
    assert "positions/ is derived from a desk's logs and cannot be written (it changes by tapehouse send" in refused
    out, err = watching.communicate(timeout=WAIT_S)
    assert (watching.returncode, err) == (0, "")
    assert [json.loads(line)["op"] for line in out.splitlines()] == ["PUT", "PUT", "DELETE"]

    (tmp_path / "token").write_text("secret")
    token = ("--token-file", tmp_path / "token")
    serving = shell.start("kv", "serve", "--resp", 0, "--json", *nats, *token)
    try:
        assert serving.stdout is not None
        connect = ("--connect", json.loads(serving.stdout.readline())["resp"])
        load = ("kv", "load", *connect, "--requests", 400, "--keys", 30, "--threads", 4, "--pipeline", 4)
        report = tmp_path / "bench.json"
        told = inside.json(*load, *token, "--level", "session", "--output", report)
        assert (told["check"]["violations"], told["errors"], told["requests"]) == (0, {}, 400)
        assert told["check"]["reads"] > 200
        written = json.loads(report.read_text())
        assert sum(count for _, count in written["operations"]["read"]["histogram_us"]) > 200
        assert "400 requests in" in inside.run(*load, *token, "--rate", 2_000).out
        assert "NOAUTH" in inside.refused(*load, code=2)
        assert inside.json("kv", "scan", "load/", *nats) == []
        serving.send_signal(signal.SIGINT)
        serving.communicate(timeout=WAIT_S)
        assert "is a gateway there?" in inside.refused(*load, *token, code=3)
    finally:
        serving.kill()
        serving.wait()
