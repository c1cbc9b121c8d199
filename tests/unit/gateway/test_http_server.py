"""HTTP over real sockets, on a KV in memory: what each request does, and what it answers."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import Mapping
from pathlib import Path

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from prometheus_client.parser import text_string_to_metric_families

from tapehouse.app.kv_gateway import tls_context
from tapehouse.gateway.http_routes import HISTORY_MAX, OPERATIONS, SCAN_MAX
from tapehouse.kv.entries import KEY_BYTES_MAX, VALUE_BYTES_MAX
from tapehouse.kv.levels import Level
from tapehouse.kv.reference import Stored
from tests.support.http_world import WAIT_S, serving


class Positions:
    """One derived key."""

    prefixes: Mapping[bytes, str] = {b"positions/": "tapehouse send"}

    async def get(self, key: bytes, level: Level) -> Stored | None:
        return Stored(b"1", 0, 0)

    async def scan(self, prefix: bytes, level: Level, *, after: bytes | None, limit: int) -> list[tuple[bytes, Stored]]:
        return [(b"positions/a", Stored(b"1", 0, 0))]


async def test_put_get_delete() -> None:
    async with serving() as world:
        put = await world.ask("POST", "/key", {"k": "v"})
        assert put.status == 200
        (row,) = put.json["results"]
        assert (put.json["applied"], row["key"], row["status"]) == (1, "k", "applied")
        got = await world.ask("GET", "/key/k")
        assert got.status == 200
        assert got.json == {"key": "k", "value": "v", "revision": row["revision"], "expires_ms": None}
        assert got.headers["ETag"] == f'"{row["revision"]}"'
        assert (await world.ask("HEAD", "/key/k")).body == b""
        assert (await world.ask("GET", "/key/k", If_None_Match=got.headers["ETag"])).status == 304
        gone = await world.ask("DELETE", "/key/k")
        assert (gone.status, gone.json["status"]) == (200, "applied")
        none = await world.ask("GET", "/key/k")
        assert (none.status, none.json["code"]) == (404, "no-such-key")
        assert none.headers["Content-Type"] == "application/problem+json"
        assert (await world.ask("DELETE", "/key/k")).status == 404


async def test_conditions() -> None:
    async with serving() as world:
        first = (await world.ask("POST", "/key?if_absent", {"k": "1"})).json["results"][0]
        again = await world.ask("POST", "/key?if_absent=true", {"k": "2"})
        assert (again.status, again.json["results"][0]["status"]) == (412, "present")
        second = await world.ask("POST", f"/key?revision={first['revision']}", {"k": "2"})
        assert second.status == 200
        late = await world.ask("POST", f"/key?revision={first['revision']}", {"k": "3"})
        assert late.status == 412
        assert late.json["results"][0] == {
            "key": "k", "status": "changed", "revision": second.json["results"][0]["revision"]
        }  # fmt: skip
        tag = (await world.ask("GET", "/key/k")).headers["ETag"]
        third = await world.ask("PUT", "/key/k", b"3", If_Match=tag)
        assert (third.status, third.json["status"]) == (200, "applied")
        assert (await world.ask("PUT", "/key/k", b"4", If_Match=tag)).status == 412
        assert (await world.ask("PUT", "/key/k", b"4", If_None_Match="*")).status == 412
        assert (await world.ask("PUT", "/key/other?if_present=true", b"4")).json["status"] == "absent"
        assert (await world.ask("DELETE", f"/key/k?revision={first['revision']}")).status == 412
        assert (await world.ask("DELETE", "/key/k", If_Match=third.headers["ETag"])).status == 200


async def test_ttl() -> None:
    async with serving() as world:
        await world.ask("POST", "/key?ttl=90", {"k": "v"})
        first = (await world.ask("GET", "/key/k")).json["expires_ms"]
        assert first is not None
        await world.ask("POST", "/key?keep_ttl", {"k": "w"})
        assert (await world.ask("GET", "/key/k")).json["expires_ms"] == first
        await world.ask("POST", "/key?ttl=2h", {"k": "x"})
        assert (await world.ask("GET", "/key/k")).json["expires_ms"] > first + 3_600_000
        await world.ask("PUT", "/key/short?ttl=1ns", b"v")
        await world.ask("PUT", "/key/next", b"v")  # The log's time goes on with it.
        assert (await world.ask("GET", "/key/short")).status == 404
        assert (await world.ask("POST", "/key?ttl=0", {"k": "v"})).status == 400
        assert (await world.ask("POST", "/key?ttl=soon", {"k": "v"})).status == 400


async def test_bytes_that_are_no_text() -> None:
    raw = b"\x00\xff/%\n"
    async with serving() as world:
        put = await world.ask("PUT", "/key/%00%ff/%25%0a", raw)
        assert base64.b64decode(put.json["key_base64"]) == raw
        told = (await world.ask("GET", "/key/%00%ff/%25%0a")).json
        assert base64.b64decode(told["value_base64"]) == raw
        as_is = await world.ask("GET", "/key/%00%ff/%25%0a", Accept="application/octet-stream")
        assert (as_is.body, as_is.headers["Content-Type"]) == (raw, "application/octet-stream")
        pairs = {base64.b64encode(b"\xfe").decode(): base64.b64encode(raw).decode()}
        assert (await world.ask("POST", "/key?encoding=base64", pairs)).status == 200
        page = (await world.ask("GET", "/keys?encoding=base64")).json
        assert [base64.b64decode(row["key_base64"]) for row in page["keys"]] == [raw, b"\xfe"]
        assert (await world.ask("GET", "/keys?prefix=%fe")).json["keys"][0]["value_base64"]
        bad = await world.ask("POST", "/key", b'{"k": "\xff"}')
        assert (bad.status, bad.json["detail"]) == (400, "the body is no UTF-8: byte 7 is 0xff")
        assert "encoding=base64" in bad.json["hint"]
        half = await world.ask("POST", "/key", b'{"k": "\\ud800"}')
        assert half.status == 400
        assert "surrogate" in half.json["detail"]


@pytest.mark.parametrize(
    ("method", "path", "body", "said"),
    [
        ("POST", "/key", b"{", "no JSON"),
        ("POST", "/key", b"[1]", "no JSON object"),
        ("POST", "/key", b"{}", "0 keys"),
        ("POST", "/key", b'{"k": 1}', "no string"),
        ("POST", "/key", b'{"k": "1", "k": "2"}', "twice"),
        ("POST", "/key", b"[" * 200_000, "nested"),
        ("POST", "/key", b'{"k": NaN}', "NaN"),
        ("POST", "/key?encoding=base64", b'{"k!": "v"}', "no base64"),
        ("POST", "/key?encoding=utf16", b'{"k": "v"}', "no encoding"),
        ("POST", "/key?ttl=1&keep_ttl=1", b'{"k": "v"}', "together"),
        ("POST", "/key?ttl=1&ttl=2", b'{"k": "v"}', "twice"),
        ("POST", "/key?tll=1", b'{"k": "v"}', "no parameter 'tll'"),
        ("POST", "/key?revision=1", b'{"a": "1", "b": "2"}', "several keys"),
        ("POST", "/key?revision=-1", b'{"a": "1"}', "the parameter revision"),
        ("POST", "/key?if_absent=perhaps", b'{"a": "1"}', "if_absent"),
        ("POST", "/key", b'{"' + b"k" * (KEY_BYTES_MAX + 1) + b'": "v"}', "a key of"),
        ("POST", "/key", b'{"\\u0000tapehouse/x": "v"}', "the KV's own"),
        ("POST", "/key?atomic", b'{"a": "1", "b": "2"}', "several slots"),
        ("GET", "/key/%zz", None, "hexadecimal"),
        ("GET", "/key/" + "k" * (KEY_BYTES_MAX + 1), None, "a key of"),
        ("GET", "/key/k?level=sometimes", None, "no read level"),
        ("GET", "/key/k?level=linearizable&max_staleness=1", None, "max_staleness"),
        ("GET", "/key/k?session=nonsense", None, "no session token"),
        ("GET", "/key/k?level=eventual&session=", None, "a session and"),
        ("GET", f"/keys?limit={SCAN_MAX + 1}", None, "the parameter limit"),
        ("GET", f"/history/k?limit={HISTORY_MAX + 1}", None, "the parameter limit"),
        ("DELETE", "/key/k", b"body", "takes no body"),
    ],
)
async def test_mistakes_are_told_and_nothing_is_done(method: str, path: str, body: bytes | None, said: str) -> None:
    async with serving() as world:
        told = await world.ask(method, path, body)
        assert told.status == 400, told.body
        assert said in told.json["detail"]
        assert told.json["outcome"] == "none"
        assert (await world.ask("GET", "/keys")).json == {"keys": [], "more": False}


async def test_paths_methods_and_sizes() -> None:
    async with serving() as world:
        assert (await world.ask("GET", "/nothing")).json["code"] == "no-such-path"
        wrong = await world.ask("PATCH", "/key/k", b"v")
        assert (wrong.status, wrong.headers["Allow"]) == (405, "GET, PUT, DELETE, HEAD")
        assert (await world.ask("PUT", "/key/k", bytes(VALUE_BYTES_MAX))).status == 200
        assert len((await world.ask("GET", "/key/k", Accept="application/octet-stream")).body) == VALUE_BYTES_MAX
        large = await world.ask("PUT", "/key/k", bytes(VALUE_BYTES_MAX + 1))
        assert (large.status, large.json["code"]) == (413, "too-large")
        assert (await world.ask("POST", "/key", {"k": "v" * (VALUE_BYTES_MAX + 1)})).status == 413
        packed = await world.ask("POST", "/key", b"\x1f\x8b", Content_Encoding="gzip")
        assert packed.status == 415
        assert (await world.ask("POST", "/key")).status in (400, 411)
        assert (await world.ask("GET", "/key/k")).json["value"].startswith("\0")


async def test_several_keys_and_a_batch() -> None:
    async with serving(shards=2) as world:
        many = {f"k{number}": str(number) for number in range(50)}
        done = await world.ask("POST", "/key", many)
        assert (done.status, done.json["applied"]) == (200, 50)
        some = await world.ask("POST", "/key?if_absent=1", {"k1": "x", "new": "y"})
        assert (some.status, [row["status"] for row in some.json["results"]]) == (412, ["present", "applied"])
        batch = await world.ask("POST", "/key?atomic", {"{b}1": "1", "{b}2": "2"})
        assert (batch.status, batch.json["applied"]) == (200, 2)
        none = await world.ask("POST", "/key?atomic&if_absent", {"{b}2": "3", "{b}3": "3"})
        assert (none.status, [row["status"] for row in none.json["results"]]) == (412, ["present", "refused"])
        assert (await world.ask("GET", "/key/%7bb%7d3")).status == 404


async def test_levels_and_sessions() -> None:
    async with serving(shards=2) as world:
        put = (await world.ask("POST", "/key", {"k": "v", "l": "w"})).json
        got = await world.ask("GET", f"/key/k?session={put['session']}")
        assert got.json["session"] == got.headers["Tapehouse-Session"]
        by_header = await world.ask("GET", "/key/l", Tapehouse_Session=put["session"])
        assert by_header.json["value"] == "w"
        for level in ("level=eventual", "level=eventual&max_staleness=500ms", "level=linearizable", "level=session"):
            assert (await world.ask("GET", f"/key/k?{level}")).json["value"] == "v"
        more = await world.ask("PUT", "/key/k", b"x", Tapehouse_Session=put["session"])
        assert len(more.json["session"].split(".")) == 2, "what was seen of the other shard is kept"
        page = (await world.ask("GET", f"/keys?session={more.json['session']}")).json
        assert [row["value"] for row in page["keys"]] == ["x", "w"]
        assert page["session"]


async def test_derived_keys_are_read_and_refused_to_writers(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as world:
        monkeypatch.setattr(world.kv, "_derived", Positions())
        monkeypatch.setattr(world.kv, "derived_prefixes", (b"positions/",))
        assert (await world.ask("GET", "/key/positions/a")).json["value"] == "1"
        assert len((await world.ask("GET", "/keys?prefix=positions/")).json["keys"]) == 1
        for method, path in (
            ("PUT", "/key/positions/a"),
            ("DELETE", "/key/positions/a"),
            ("GET", "/history/positions/a"),
        ):
            told = await world.ask(method, path, b"v" if method == "PUT" else None)
            assert (told.status, told.json["code"]) == (403, "read-only")
        both = await world.ask("POST", "/key", {"positions/a": "2", "own": "v"})
        assert [row["status"] for row in both.json["results"]] == ["failed", "applied"]
        assert (both.status, both.json["results"][0]["error"]["outcome"]) == (403, "none")
        assert (await world.ask("GET", "/watch?prefix=positions/")).status == 403


async def test_pages() -> None:
    async with serving(shards=2) as world:
        await world.ask("POST", "/key", {f"p/{number:03}": str(number) for number in range(300)} | {"q": "no"})
        path, found = "/keys?prefix=p/&limit=140&level=eventual", []
        for _ in range(3):
            page = (await world.ask("GET", path)).json
            found += [row["value"] for row in page["keys"]]
            path = page.get("next", "")
        assert found == [str(number) for number in range(300)]
        assert page["more"] is False
        large = {f"l{number}": "v" * 500_000 for number in range(4)}
        for part in range(6):
            await world.ask("POST", "/key", {f"{key}.{part}": value for key, value in large.items()})
        page = (await world.ask("GET", "/keys?prefix=l")).json
        assert len(page["keys"]) == 24, "one portion of values may pass the bound of a page"


async def test_history() -> None:
    async with serving() as world:
        for value in (b"1", b"2", b"3"):
            await world.ask("PUT", "/key/k", value)
        await world.ask("DELETE", "/key/k")
        told = (await world.ask("GET", "/history/k?limit=3")).json
        assert [row["value"] for row in told["versions"]] == ["2", "3", None]
        assert [int(row["revision"]) > 0 for row in told["versions"]] == [True, True, False]


async def test_watch_and_come_back() -> None:
    async with serving(shards=2) as world:
        url = f"http://127.0.0.1:{world.port}/watch?prefix=w"
        async with asyncio.timeout(WAIT_S):
            async with world.http.get(url) as stream:
                assert stream.headers["Content-Type"].startswith("text/event-stream")
                assert b"event: hello" in await stream.content.readuntil(b"\n\n")
                await world.ask("POST", "/key", {"w1": "1", "no": "0"})
                event = (await stream.content.readuntil(b"\n\n")).decode().strip().splitlines()
                assert event[1] == "event: put"
                assert json.loads(event[2].removeprefix("data: "))["value"] == "1"
                assert world.server.traffic.watching == 1
            await world.until(lambda: world.server.traffic.watching == 0)
            await world.ask("PUT", "/key/w2?ttl=60", b"2")
            await world.ask("DELETE", "/key/w1")
            async with world.http.get(url, headers={"Last-Event-ID": event[0].removeprefix("id: ")}) as stream:
                kinds = []
                while not kinds or kinds[-1] != ("w1", "delete"):
                    lines = (await stream.content.readuntil(b"\n\n")).decode().strip().splitlines()
                    named = dict(line.split(": ", 1) for line in lines)
                    if named["event"] != "hello":
                        kinds.append((json.loads(named["data"])["key"], named["event"]))
                assert {("w2", "put"), ("w1", "delete")} <= set(kinds), "nothing is missed"


async def test_status_readiness_and_leaders() -> None:
    async with serving(shards=2) as world:
        await world.ask("POST", "/key", {"k": "v"})
        status = (await world.ask("GET", "/status")).json
        assert (status["ready"], status["reasons"], status["faults"], status["keys"]) == (True, [], {}, 1)
        assert [shard["lag"] for shard in status["shards"]] == [0, 0]
        assert all(shard["position"] > 0 for shard in status["shards"])
        assert status["connections"]["http"]["connected"] >= 1
        assert status["rebalance"] == {"wanted_shards": 2, "slots_left": 0, "slots_of_nobody": 0, "mover": ""}
        assert (await world.ask("GET", "/readyz")).json == {"ready": True, "reasons": []}
        assert (await world.ask("GET", "/livez")).status == 200
        leaders = (await world.ask("GET", "/leader")).json["shards"]
        assert [(row["stream"], row["leader"]) for row in leaders] == [("KV_0", "n0"), ("KV_1", "n1")]
        page = await world.ask("GET", "/")
        assert page.headers["Content-Type"].startswith("text/html")
        assert b"KV_1" in page.body


async def test_metrics() -> None:
    async with serving() as world:
        for _ in range(3):
            await world.ask("POST", "/key", {"k": "v"})
            await world.ask("GET", "/key/k")
        text = (await world.ask("GET", "/metrics")).body.decode()
        families = {family.name: family for family in text_string_to_metric_families(text)}
        values = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in families.values()
            for sample in family.samples
        }
        assert families["tapehouse_kv_keys"].type == "gauge"
        assert values["tapehouse_kv_read_hits_total", (("shard", "0"),)] == 3
        assert values["tapehouse_kv_read_hit_ratio", (("shard", "0"),)] == 1
        assert values["tapehouse_kv_http_requests_total", (("operation", "get"), ("status", "200"))] == 3
        assert values["tapehouse_kv_frame_entries_count", ()] >= 6
        buckets = [s.value for s in families["tapehouse_kv_http_request_seconds"].samples if s.labels.get("le")]
        assert max(buckets) == 3
        told = (await world.ask("GET", "/metrics.json")).json
        assert told["tapehouse_kv_read_hits_total"] == [{"shard": "0", "value": 3}]
        assert set(told) >= {family.removesuffix("_total") for family in families if family in told}


async def test_the_description_is_valid_openapi_and_whole() -> None:
    async with serving() as world:
        told = (await world.ask("GET", "/openapi.json")).json
        OpenAPIV31SpecValidator(told).validate()
        found = {(method.upper(), path) for path, methods in told["paths"].items() for method in methods}
        assert found == {(operation.method, operation.path) for operation in OPERATIONS}
        told["paths"]["/key"]["post"]["responses"] = {"200": {}}
        assert list(OpenAPIV31SpecValidator(told).iter_errors()), "the check can fail"


async def test_a_token() -> None:
    async with serving(token="secret") as world:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
            refused = await world.ask("POST", "/key", {"k": "v"}, **headers)
            assert (refused.status, refused.json["code"]) == (401, "unauthorized")
            assert refused.headers["WWW-Authenticate"].startswith("Bearer")
        assert (await world.ask("GET", "/nothing")).status == 401
        assert (await world.ask("GET", "/readyz")).status == 200
        assert (await world.ask("POST", "/key", {"k": "v"}, Authorization="Bearer secret")).status == 200
        assert (await world.ask("GET", "/key/k", Authorization="bearer secret", Host="kv.example")).status == 200


async def test_pages_of_other_origins_are_kept_out() -> None:
    async with serving() as world:
        crossed = await world.ask("POST", "/key", {"k": "v"}, Origin="https://evil.example")
        assert (crossed.status, crossed.json["code"]) == (403, "cross-origin")
        rebound = await world.ask("GET", "/keys", Host="evil.example")
        assert (rebound.status, rebound.json["code"]) == (421, "no-such-host")
        assert (await world.ask("GET", "/keys", Host="localhost:11000")).json["keys"] == []
        own = await world.ask("GET", "/keys", Host="localhost:1", Origin="http://localhost:1")
        assert own.status == 200


async def test_tls(certificate: tuple[Path, Path]) -> None:
    async with serving(tls=tls_context(*certificate)) as world:
        large = "v" * VALUE_BYTES_MAX
        assert (await world.ask("POST", "/key", {"k": large})).status == 200
        trusts = ssl.create_default_context(cafile=str(certificate[0]))
        async with world.http.get(f"https://127.0.0.1:{world.port}/key/k", ssl=trusts) as answer:
            assert (await answer.json())["value"] == large
        reader, writer = await world.raw()
        writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"live" not in await asyncio.wait_for(reader.read(), WAIT_S)
