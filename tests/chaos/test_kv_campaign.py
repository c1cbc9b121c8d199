"""Gateway processes on clusters of three and five, with everything that may go wrong, one fault after another."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import pytest

from tapehouse.bus import Cluster
from tests.support.clusters import free_config
from tests.support.kv_campaign import (
    Fault,
    Field,
    field_of,
    record,
    require_promises,
    require_served_promises,
)
from tests.support.partitions import parted_cluster

pytestmark = pytest.mark.chaos

SEED = 20_261_122
CLIENTS = 12
CALLS = 100
GATEWAYS = 3


async def kill_the_minority(field: Field) -> None:
    """As many brokers at once as the cluster can spare."""
    await field.kill_brokers((len(field.cluster.state.nodes) - 1) // 2)


FAULTS: tuple[Fault, ...] = (
    kill_the_minority, Field.stop_broker, Field.step_down, Field.kill_gateway, Field.stop_gateway, Field.cut_off,
    Field.deafen, Field.silence,
)  # fmt: skip


async def test_a_leader_that_is_parted_from_the_others(tmp_path: Path) -> None:
    """It goes on serving the gateways that are connected to it, and another one leads."""
    path = tmp_path / "kv.jsonl"
    async with (
        parted_cluster(tmp_path / "nats", nodes=3) as cluster,
        field_of(cluster, tmp_path, gateways=GATEWAYS, base=0) as field,
    ):
        faults = (Field.part_broker, Field.part_broker)
        operations = await record(field, path, clients=CLIENTS, calls=CALLS, seed=SEED, faults=faults)
        await require_promises(field, path, operations)


@pytest.mark.parametrize(("nodes", "seed"), [(3, SEED), (3, SEED + 1), (5, SEED + 2)])
async def test_every_fault(nodes: int, seed: int, tmp_path: Path) -> None:
    print(f"seed {seed}")
    path = tmp_path / "kv.jsonl"
    order = list(FAULTS)
    random.Random(seed).shuffle(order)
    with Cluster(free_config(tmp_path / "nats", nodes=nodes)) as cluster:
        async with field_of(cluster, tmp_path, gateways=GATEWAYS, base=0) as field:
            operations = await record(field, path, clients=CLIENTS, calls=CALLS, seed=seed, faults=order)
            await require_promises(field, path, operations)


async def test_every_fault_under_the_gateway_itself(tmp_path: Path) -> None:
    """`tapehouse kv serve`, asked over RESP: no revisions, so no sessions and conditions."""
    path = tmp_path / "kv.jsonl"
    kinds = ("linearizable", "linearizable", "eventual", "put", "put", "delete")
    with Cluster(free_config(tmp_path / "nats", nodes=3)) as cluster:
        async with field_of(cluster, tmp_path, gateways=2, base=0, is_served=True) as field:
            operations = await record(field, path, clients=8, calls=CALLS, seed=SEED, faults=FAULTS, kinds=kinds)
            await require_served_promises(field, path, operations)


async def test_rebalances_that_are_killed_and_go_on(tmp_path: Path) -> None:
    """More shards, one, several again, while gateways are killed and leaders change; keys move with their revisions."""
    path = tmp_path / "kv.jsonl"
    faults: tuple[Fault, ...] = (
        partial(Field.rebalance, shards=5), Field.kill_gateway, partial(Field.rebalance, shards=1), Field.step_down,
        partial(Field.rebalance, shards=3),
    )  # fmt: skip
    with Cluster(free_config(tmp_path / "nats", nodes=3)) as cluster:
        async with field_of(cluster, tmp_path, gateways=GATEWAYS, base=0) as field:
            operations = await record(field, path, clients=CLIENTS, calls=CALLS, seed=SEED, faults=faults)
            print(f"movers killed after so many slots: {field.killed_movers}")
            assert field.killed_movers, "no mover was killed in the midst of its work"
            await require_promises(field, path, operations)
