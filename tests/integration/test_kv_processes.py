"""Gateway processes killed, stopped and cut off while clients call: a short history of each level, checked whole."""

from __future__ import annotations

from pathlib import Path

from tapehouse.bus import Cluster
from tests.support.clusters import unique
from tests.support.consistency import check_session
from tests.support.kv_campaign import Field, field_of, record, require_promises
from tests.support.linearizable import check_linearizable

SEED = 20_261_122
SHARD_NUMBERS = 2_000_000  # so that no other test has these streams
FAULTS = (Field.kill_gateway, Field.step_down, Field.cut_off)  # The brokers are shared, and not to be harmed.


def base_number() -> int:
    return SHARD_NUMBERS + int("".join(filter(str.isdigit, unique("1")))) * 10


async def test_a_short_history(cluster3: Cluster, tmp_path: Path) -> None:
    print(f"seed {SEED}")
    path = tmp_path / "kv.jsonl"
    async with field_of(cluster3, tmp_path, gateways=2, base=base_number()) as field:
        operations = await record(field, path, clients=4, calls=60, seed=SEED, faults=FAULTS)
        assert field.gateways[0].starts == 2
        assert sum(proxy.lost_bytes for proxy in field.proxies[0]) > 0
        await require_promises(field, path, operations)


async def test_control_a_flawed_gateway_is_found(cluster3: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "kv.jsonl"
    kinds = ("linearizable", "session", "put")
    async with field_of(cluster3, tmp_path, gateways=2, base=base_number(), shards=1, is_flawed=True) as field:
        operations = await record(field, path, clients=6, calls=80, seed=SEED, kinds=kinds)
    verdict = check_linearizable(path)
    assert verdict.result == "violation", str(verdict)
    sessions = [each for each in operations if each.level != "linearizable"]
    assert {finding.rule for finding in check_session(sessions)} >= {"own writes"}
