"""redis-py and redis-benchmark, as they are, against a gateway process on a cluster of three."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from tapehouse.bus import Cluster
from tests.integration.test_cli_kv_serve import WAIT_S, gateway, port_of, tool
from tests.support.cli import Shell

KEYS = 300
RECONNECTS_MAX = 20
RECONNECT_PAUSE_S = 0.1
BENCHMARKS = {"PING_INLINE": "ping", "SET": "set", "GET": "get", "INCR": "incr", "MSET (10 keys)": "mset"}


@pytest.fixture(scope="module")
def port(kv_cluster3: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """One gateway for the module; redis-benchmark's keys are its own."""
    with gateway(Shell(tmp_path_factory.mktemp("redis-py")), kv_cluster3) as told:
        yield port_of(told)


def client(port: int, **options: Any) -> redis.Redis:
    return redis.Redis(port=port, socket_timeout=WAIT_S, **options)


@pytest.fixture(params=[2, 3])
def kv(port: int, request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    """A client of each protocol, whose keys are gone at the end."""
    with client(port, protocol=request.param, decode_responses=True) as one:
        yield one
        one.delete("a", "b", "c", "n", *one.scan_iter(match="many:*", count=1_000))


def test_strings_conditions_and_numbers(kv: redis.Redis) -> None:
    assert kv.ping() is True
    assert kv.set("a", "1") is True
    assert kv.get("a") == "1"
    assert kv.get("none") is None
    assert kv.set("a", "2", nx=True) is None
    assert kv.set("b", "2", xx=True) is None
    assert kv.set("a", "2", get=True) == "1"
    assert kv.getset("a", "3") == "2"
    assert kv.setnx("b", "1") is True
    assert kv.mset({"a": "x", "b": "ü", "c": ""}) is True
    assert kv.mget(["a", "none", "b", "c"]) == ["x", None, "ü", ""]
    assert kv.exists("a", "b", "none") == 2
    assert kv.type("a") == "string"
    assert kv.getdel("a") == "x"
    assert kv.delete("a", "b") == 1
    assert kv.unlink("c") == 1
    assert [kv.incr("n"), kv.incr("n", 41), kv.decr("n", 2), kv.incrby("n", 1)] == [1, 42, 40, 41]
    kv.set("b", "no")
    with pytest.raises(redis.ResponseError, match="not an integer"):
        kv.incr("b")


@pytest.mark.filterwarnings("ignore:Call to deprecated")
def test_expiries(kv: redis.Redis) -> None:
    assert kv.set("a", "1", ex=100) is True
    assert 98 <= int(kv.ttl("a")) <= 100
    assert kv.set("a", "2", keepttl=True) is True
    assert 90_000 < int(kv.pttl("a")) <= 100_000
    assert kv.persist("a") is True
    assert kv.ttl("a") == -1
    assert kv.ttl("none") == -2
    assert kv.expire("a", 50) is True
    assert kv.expire("none", 50) is False
    assert kv.pexpire("a", 5_000) is True
    assert kv.setex("b", 20, "x") is True
    assert kv.psetex("c", 20_000, "x") is True
    assert min(int(kv.ttl(key)) for key in ("a", "b", "c")) > 2
    assert kv.set("c", "gone", px=1) is True
    assert kv.expireat("b", 1) is True  # Long ago: it is deleted.
    assert kv.get("b") is None


def test_pipelines_and_scans(kv: redis.Redis) -> None:
    with kv.pipeline(transaction=False) as pipeline:
        for number in range(KEYS):
            pipeline.set(f"many:{number:04}", number)
        pipeline.get("many:0007").incr("n", 5).get("n").ttl("many:0001")
        answers = pipeline.execute()
    assert answers == [True] * KEYS + ["7", 5, "5", -1]
    found = list(kv.scan_iter(match="many:*", count=64))
    assert found == [f"many:{number:04}" for number in range(KEYS)]
    assert set(kv.scan_iter(match="many:000[0-4]")) == {f"many:000{number}" for number in range(5)}
    with kv.pipeline(transaction=False) as pipeline:
        pipeline.set("a", "no number").incr("a").get("a")
        told = pipeline.execute(raise_on_error=False)
    assert isinstance(told[1], redis.ResponseError)
    assert [told[0], told[2]] == [True, "no number"]


def test_bytes_are_kept(port: int) -> None:
    every = bytes(range(256))
    with client(port) as kv:
        assert kv.set(every, every * 100) is True
        assert kv.get(every) == every * 100
        assert kv.mget([every]) == [every * 100]
        assert kv.delete(every) == 1


def test_about_the_connection(port: int) -> None:
    with client(port, protocol=3, client_name="desk", decode_responses=True, health_check_interval=1) as kv:
        assert kv.client_getname() == "desk"
        assert kv.echo("x") == "x"
        assert int(kv.client_id()) > 0
        assert kv.info()["redis_mode"] == "standalone"
        assert kv.config_get("save") == {"save": ""}
        assert int(kv.dbsize()) >= 0
        assert "set" in kv.command()
        assert kv.execute_command("READLEVEL", "eventual", 1_000) in ("OK", True)
        connection = kv.connection_pool.get_connection()
        connection.next_health_check = 0  # So that the next command asks first whether the server is well.
        connection.send_command("ECHO", "well")
        assert connection.read_response() == "well"
        kv.connection_pool.release(connection)


def test_what_is_not_there_is_an_error_of_redis(port: int) -> None:
    with client(port, decode_responses=True) as kv:
        with pytest.raises(redis.ResponseError, match="unknown command"):
            kv.hset("h", "f", "1")
        with pytest.raises(redis.ResponseError, match="unknown command"), kv.pipeline(transaction=True) as pipeline:
            pipeline.set("a", "1").execute()
        assert kv.ping() is True, "and the client goes on"


async def test_the_async_client(port: int) -> None:
    async with redis.asyncio.Redis(port=port, decode_responses=True, protocol=3) as kv:
        assert await kv.set("async", "1", ex=60) is True
        async with kv.pipeline(transaction=False) as pipeline:
            for _ in range(50):
                pipeline.incr("async")
            assert await pipeline.execute() == list(range(2, 52))
        assert await kv.get("async") == "51"
        assert [key async for key in kv.scan_iter(match="async*")] == ["async"]
        assert await kv.delete("async") == 1


def test_a_client_finds_a_gateway_that_came_back(kv_cluster3: Cluster, tmp_path: Path) -> None:
    shell = Shell(tmp_path / "home")
    with gateway(shell, kv_cluster3) as told:
        retry = Retry(ConstantBackoff(RECONNECT_PAUSE_S), RECONNECTS_MAX)
        kv = client(port_of(told), decode_responses=True, retry=retry)
        assert kv.set("kept", "1") is True
    with pytest.raises(redis.ConnectionError):
        client(port_of(told), retry=Retry(ConstantBackoff(0), 0)).ping()
    with gateway(shell, kv_cluster3, port=port_of(told)):
        assert kv.get("kept") == "1", "the same client, whose connection was closed meanwhile"
        assert kv.delete("kept") == 1
        kv.close()


@pytest.mark.skipif(not shutil.which("redis-benchmark"), reason="redis-benchmark is not installed")
@pytest.mark.parametrize(("clients", "pipeline"), [(1, 1), (50, 1), (20, 32)])
def test_redis_benchmark(port: int, clients: int, pipeline: int) -> None:
    told = {"resp": f"127.0.0.1:{port}"}
    words = ["-t", ",".join(BENCHMARKS.values()), "-n", "640" if clients > 1 else "60", "-c", str(clients)]
    out = tool("redis-benchmark", told, *words, "-P", str(pipeline), "-d", "128", "-r", "100", "--csv")
    names = {line.split(",")[0].strip('"') for line in out.splitlines()[1:]}
    assert names >= BENCHMARKS.keys()
    with client(port) as kv:
        found = list(kv.scan_iter(match="key:*", count=1_000))
        assert 0 < len(found) <= 100
        assert {len(value) for value in kv.mget(found)} == {128}
