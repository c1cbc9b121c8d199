"""Projections, queries and commands over a real broker: service, client and command line."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tapehouse.app import kv_service
from tapehouse.app.bootstrap import Platform, open_platform
from tapehouse.app.kv_service import KvService, NotServedError, ask_digests, ask_get, ask_items, serve_kv
from tapehouse.app.live import Logs, serve
from tapehouse.app.parked_stream import ParkedStream
from tapehouse.app.past import read_state_at
from tapehouse.app.projector import Projector
from tapehouse.bus import Cluster
from tapehouse.cli.main import run
from tapehouse.client import AsyncClient, connect
from tapehouse.core import SystemClock
from tapehouse.core.errors import BusUnavailableError, ConflictError, IntegrityError, MissingError, UsageError
from tapehouse.desk.commands import COMMANDS
from tapehouse.log import Envelope, FrameWriter, MemorySnapshots
from tapehouse.market import Cause, Confidence, gap_record
from tapehouse.query.books import Moment
from tapehouse.strategies.maker import maker
from tests.support.clusters import unique
from tests.support.desk_day import START, make_day, split


@dataclass(slots=True)
class Recorded:
    """A day on a broker."""

    platform: Platform
    name: str
    url: str

    async def projector(self) -> Projector:
        """A projector that has folded all of it."""
        projector = Projector(
            await self.platform.tape(self.name), await self.platform.events(self.name), MemorySnapshots()
        )
        await projector.open()
        await projector.run()
        return projector

    async def command_line(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
        """Run a command on this tape in a thread; its exit code and what it said."""
        capsys.readouterr()
        code = await asyncio.to_thread(run, [*arguments, "--tape", self.name, "--nats", self.url])
        said = capsys.readouterr()
        return code, said.out, said.err


@pytest.fixture
async def recorded(cluster1: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Recorded]:
    """A day on a tape of its own."""
    monkeypatch.setenv("TAPEHOUSE_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "400")
    day = await make_day(seed=3, records=600, commands=False)
    url, name = cluster1.urls[0], unique("readers")
    async with open_platform(url, home=tmp_path) as platform:
        for log, cells in (
            (await platform.tape(name, create=True), day.cells),
            (await platform.events(name, create=True), day.outputs),
        ):
            writer = await FrameWriter.open(log, writer=1)
            for start, end in split(cells, 400):
                await writer.append(cells[start:end])
        await platform.commands(name, create=True)
        yield Recorded(platform, name, url)


async def test_the_service_answers_as_the_projector_does(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    projector = await recorded.projector()
    bus, name = recorded.platform.bus, recorded.name
    with pytest.raises(NotServedError, match=f"tapehouse host --tape {name}"):
        await ask_get(bus, name, "prices/AAPL")
    async with await serve_kv(bus, name, projector):
        assert await ask_get(bus, name, "prices/AAPL") == projector.get("prices/AAPL")
        with pytest.raises(MissingError, match=r"nearest: .*prices/AAPL"):
            await ask_get(bus, name, "prices/APPL")
        assert await ask_digests(bus, name) == projector.digests()
        monkeypatch.setattr(kv_service, "PAGE_ITEMS_MAX", 7)
        for prefix in ("orders/", "positions/", "prices/", "surface/", "orders/1", "nothing/"):
            assert dict(await ask_items(bus, name, prefix)) == dict(projector.items(prefix))
        monkeypatch.setattr(kv_service, "PAGE_BYTES_MAX", 10)
        assert len(await ask_items(bus, name, "positions/")) == len(projector.items("positions/"))


async def test_a_read_waits_for_what_its_asker_has_heard(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    projector = await recorded.projector()
    bus, name, through = recorded.platform.bus, recorded.name, projector.position()["events"]
    monkeypatch.setattr(kv_service, "REACH_S", 0.01)
    async with await serve_kv(bus, name, projector):
        assert await ask_get(bus, name, "prices/AAPL", after=through) == projector.get("prices/AAPL")
        assert await ask_items(bus, name, "prices/", after=through)
        for ask in (ask_get(bus, name, "prices/AAPL", after=through + 1), ask_items(bus, name, "", after=through + 1)):
            with pytest.raises(BusUnavailableError, match=f"stand at sequence {through} of EVENTS, not {through + 1}"):
                await ask
        with pytest.raises(UsageError, match="after is -1"):
            await ask_get(bus, name, "prices/AAPL", after=-1)


async def test_the_pages_of_a_listing_are_of_one_state(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_service, "LISTINGS_MAX", 2)
    monkeypatch.setattr(kv_service, "PAGE_ITEMS_MAX", 3)
    service = KvService(await recorded.projector())

    async def page(prefix: str, **more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(await service.items(json.dumps({"prefix": prefix, **more}).encode()))
        return answer

    first = await page("orders/")
    assert first["more"]
    second = await page("orders/", skip=3, at=first["at"])
    assert not {key for key, _ in first["items"]} & {key for key, _ in second["items"]}
    await page("prices/")
    await page("positions/")
    with pytest.raises(ConflictError, match="no longer kept"):
        await page("orders/", skip=6, at=first["at"])
    with pytest.raises(UsageError):
        await page("orders/", skip=-1)
    with pytest.raises(UsageError):
        await service.get(b"{}")


async def test_the_client_reads_from_the_host_else_by_itself(recorded: Recorded) -> None:
    projector = await recorded.projector()
    async with await AsyncClient.open(recorded.url) as client:
        alone = await client.read("positions/", tape=recorded.name)
        assert not alone.served
        async with await serve_kv(recorded.platform.bus, recorded.name, projector):
            served = await client.read("positions/", tape=recorded.name)
        assert served.served
        assert served.value == alone.value == dict(projector.items("positions/"))
        trades = await client.trades("AAPL", tape=recorded.name)
        counted = await client.sql("SELECT count(*) FROM trades WHERE symbol = 'AAPL'", tape=recorded.name)
        assert counted.rows() == [(len(trades),)]
        with pytest.raises(MissingError):
            await client.sql("SELECT 1", tape="nowhere")


async def test_the_plain_client_connects_and_leaves(recorded: Recorded) -> None:
    def use() -> int:
        with connect(recorded.url) as client:
            return len(client.trades(tape=recorded.name))

    assert await asyncio.to_thread(use) > 0


async def test_a_projector_follows_and_a_damaged_log_stops_all_reads(recorded: Recorded) -> None:
    tape, events = await recorded.platform.tape(recorded.name), await recorded.platform.events(recorded.name)
    projector = Projector(tape, events, MemorySnapshots())
    await projector.open()
    task = asyncio.create_task(projector.run(follow=True))
    async with asyncio.timeout(60):
        await projector.until(tape=(await tape.extent()).last, events=(await events.extent()).last)
    whole = await recorded.projector()
    assert projector.digests() == whole.digests()
    writer = await FrameWriter.open(tape, writer=9)
    writer._log_id = bytes(16)
    day = await make_day(seed=3, records=20)
    sequence = await writer.append(day.cells[:2])
    with pytest.raises(IntegrityError, match="another log"):
        await asyncio.wait_for(projector.until(tape=sequence), 60)
    with pytest.raises(IntegrityError, match="another log"):
        await task
    with pytest.raises(IntegrityError, match="another log"):
        projector.get("prices/AAPL")


async def test_the_commands_kv_and_sql(recorded: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    projector = await recorded.projector()
    code, said, noted = await recorded.command_line(capsys, "kv", "get", "prices/AAPL", "--json")
    assert (code, json.loads(said)) == (0, projector.get("prices/AAPL"))
    assert "no host serves tape" in noted
    async with await serve_kv(recorded.platform.bus, recorded.name, projector):
        code, said, noted = await recorded.command_line(capsys, "kv", "get", "prices/")
    assert (code, noted) == (0, "")
    assert "prices/BTC-USD%2EP" in said
    code, said, noted = await recorded.command_line(capsys, "kv", "get", "prices/NOPE")
    assert code == 3
    assert "prices/NOPE: no such key (nearest: " in noted
    assert noted.count("\n") == 1
    code, _, noted = await recorded.command_line(capsys, "kv", "get", "price/AAPL")
    assert code == 3, "a key of the replicated KV, which may be there or not"
    assert "there is no KV yet" in noted or "price/AAPL: no such key" in noted


async def test_the_command_sql(recorded: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    query = "SELECT ordinal, ts, symbol, price, price / 0 AS wrong FROM trades ORDER BY ordinal"
    code, said, _ = await recorded.command_line(capsys, "sql", query, "--json", "--limit", "2")
    rows = json.loads(said)
    assert (code, len(rows)) == (0, 2)
    assert rows[0]["ts"].endswith("Z")
    assert rows[0]["wrong"] is None
    code, said, _ = await recorded.command_line(capsys, "sql", query, "--csv")
    assert code == 0
    assert said.splitlines()[0] == "ordinal,ts,symbol,price,wrong"
    code, said, _ = await recorded.command_line(capsys, "sql", query, "--limit", "1")
    assert code == 0
    assert "rows, of which 1 are shown" in said
    for wrong, expected in (("SELECT nope FROM trades", 2), ("SELECT CAST('x' AS INT)", 4)):
        code, said, noted = await recorded.command_line(capsys, "sql", wrong)
        assert (code, said, noted.count("\n")) == (expected, "", 1)


async def test_the_command_gaps(recorded: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = await recorded.command_line(capsys, "gaps", "--check")
    assert (code, said.startswith("0 spans of missing data in ")) == (0, True)
    now = START + 3600 * 10**9
    told = [
        (Cause.SEQUENCE, Confidence.SUSPECT, 1, 3),
        (Cause.SNAPSHOT, Confidence.GOOD, 1, 0),
        (Cause.STALE, Confidence.SUSPECT, 2, 0),
    ]
    writer = await FrameWriter.open(await recorded.platform.tape(recorded.name), writer=2)
    for at, (cause, worth, instrument, missing) in enumerate(told):
        ns = now + at * 1_500_000_000
        await writer.append(gap_record(cause, worth, ts_recv=ns, instrument=instrument, source=1, missing=missing))
    code, said, _ = await recorded.command_line(capsys, "gaps")
    assert code == 0
    first, second = (line.split() for line in said.splitlines() if "2026-01-05T15:30" in line)
    assert (first[0], first[-5:]) == ("AAPL", ["1.500", "s", "sequence", "3", "snapshot"])
    assert (second[0], second[-2:]) == ("BTC-USD.P", ["open", "stale"])
    code, said, _ = await recorded.command_line(capsys, "gaps", "--check", "--json")
    rows = json.loads(said)
    assert (code, [row["causes"] for row in rows]) == (1, [["sequence"], ["stale"]])
    assert rows[0]["duration_ns"] == rows[0]["end_ns"] - rows[0]["begin_ns"] == 1_500_000_000
    code, said, _ = await recorded.command_line(capsys, "gaps", "--check", "--json", "--instrument", "AAPL")
    assert (code, json.loads(said)) == (0, rows[:1])
    code, said, _ = await recorded.command_line(capsys, "gaps", "--open", "--json")
    assert (code, json.loads(said)) == (0, rows[1:])
    code, said, noted = await recorded.command_line(capsys, "gaps", "--instrument", "NOPE")
    assert (code, said, noted.count("\n")) == (3, "", 1)
    query = "SELECT symbol, causes, missing, recovered_by, open FROM gaps ORDER BY ordinal"
    code, said, _ = await recorded.command_line(capsys, "sql", query, "--json")
    assert [tuple(row.values()) for row in json.loads(said)] == [
        ("AAPL", "sequence", 3, "snapshot", False), ("BTC-USD.P", "stale", 0, None, True),
    ]  # fmt: skip


async def test_the_command_send(recorded: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    name, platform = recorded.name, recorded.platform
    logs = Logs(
        tape=await platform.tape(name), events=await platform.events(name), commands=await platform.commands(name)
    )
    ready = asyncio.Event()
    desk = asyncio.create_task(serve(logs, strategy=maker(interval_ms=20), clock=SystemClock(), on_ready=ready.set))
    try:
        async with asyncio.timeout(120):
            await ready.wait()
        body = json.dumps({"instrument": "AAPL", "side": "buy", "price": "184.50", "size": 100})
        arguments = ("send", "order.submit", body, "--client", "ops", "--number", "1", "--timeout", "60")
        code, said, _ = await recorded.command_line(capsys, *arguments, "--json")
        outcome = json.loads(said)
        assert (code, outcome["outcome"]) == (0, "accepted")
        code, said, _ = await recorded.command_line(capsys, *arguments)
        assert code == 0
        assert f"repeated (first accepted), order {outcome['order_id']}" in said
        code, said, _ = await recorded.command_line(
            capsys, "send", "order.cancel", '{"instrument":"AAPL","order_id":1}', "--timeout", "60"
        )
        assert code == 1
        assert "rejected, order 1: no such working order" in said
    finally:
        desk.cancel()
        with suppress(asyncio.CancelledError):
            await desk
    code, _, noted = await recorded.command_line(
        capsys, "send", "account.kill", '{"account":"manual"}', "--timeout", "0.2"
    )
    assert code == 3
    assert "is a host running?" in noted


async def test_the_commands_parked(
    recorded: Recorded, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A desk parks what it cannot understand; an upgraded one decides it; PARKED has the bytes."""
    name, platform = recorded.name, recorded.platform
    tape, events = await platform.tape(name), await platform.events(name)
    commands, parked = await platform.commands(name), await platform.parked()
    entry, ready = COMMANDS._types["account.kill"], asyncio.Event()
    newer = Envelope(
        id="newer", type="account.kill", version=entry.version + 1, client="al", number=1, correlation="newer", time=1,
        body={"account": "al"},
    ).encode()  # fmt: skip
    for payload in (b"\xff\x00", newer):
        await commands.append(payload, expected_last=None, subject=f"cmd.v1.{name}.any.thing")
    logs = Logs(tape=tape, events=events, commands=commands)
    desk = asyncio.create_task(serve(logs, strategy=maker(interval_ms=20), clock=SystemClock(), on_ready=ready.set))
    try:
        async with asyncio.timeout(120):
            await ready.wait()
        patient = ("--timeout", "60")
        assert (await recorded.command_line(capsys, "send", "desk.ping", "{}", *patient))[0] == 0
        rows = json.loads((await recorded.command_line(capsys, "parked", "list", "--json"))[1])
        garbage, early = (str(row["position"]) for row in rows)
        assert [row["type"] for row in rows] == [None, "account.kill"]
        assert "ff00" in (await recorded.command_line(capsys, "parked", "show", garbage))[1]
        code, said, _ = await recorded.command_line(capsys, "parked", "replay", early, *patient)
        assert code == 1
        assert "is newer than" in said
        monkeypatch.setitem(entry.upcasters, entry.version, lambda body: body)
        monkeypatch.setattr(entry, "version", entry.version + 1)
        code, said, _ = await recorded.command_line(capsys, "parked", "replay", early, *patient)
        assert code == 0
        assert f"{early}: accepted: decided again, accepted" in said
        assert (await recorded.command_line(capsys, "parked", "drop", "--all", *patient))[0] == 0
        assert "1 dropped, 1 replayed" in (await recorded.command_line(capsys, "parked", "list", "--all"))[1]
    finally:
        desk.cancel()
        with suppress(asyncio.CancelledError):
            await desk
    for _ in range(2):  # The second finds all of it there.
        await ParkedStream(name, tape, events, parked).run()
    told = [json.loads(message.payload) async for message in parked.read(1) if message.subject.endswith(f".{name}")]
    assert [base64.b64decode(each["data"]) for each in told] == [b"\xff\x00", newer]


async def test_the_past_of_a_projection_is_read_from_a_broker(
    recorded: Recorded, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without snapshots, and with: the same answers as in memory, and what a user sees of them."""
    tape, events = await recorded.platform.tape(recorded.name), await recorded.platform.events(recorded.name)
    end = await read_state_at(tape, events, None, name=recorded.name)
    cells = end.positions["tape"].next_ordinal
    when = (
        await read_state_at(tape, events, None, name=recorded.name, moment=Moment(ordinal=cells * 9 // 10))
    ).positions
    at = ("--at", str(when["tape"].ts_ns))
    code, alone, noted = await recorded.command_line(capsys, "kv", "get", "positions/", *at, "--json")
    assert code == 0
    assert "positions from an empty state" in noted
    code, said, _ = await recorded.command_line(capsys, "kv", "build", "--cells", "100", "--json")
    kept = json.loads(said)
    assert code == 0
    assert min(kept[source]["messages"] for source in ("tape", "events")) >= 4
    code, said, _ = await recorded.command_line(capsys, "kv", "build", "--cells", "100")
    assert code == 0
    assert f"{recorded.name}: events" in said
    code, quick, noted = await recorded.command_line(capsys, "kv", "get", "positions/", *at, "--json")
    assert (code, quick) == (0, alone)
    assert "positions from the snapshot at cell" in noted
    snaps = await recorded.platform.snaps()
    for ordinal in range(cells // 7, cells, cells // 7):
        moment = Moment(ordinal=ordinal)
        states = [await read_state_at(tape, events, some, name=recorded.name, moment=moment) for some in (snaps, None)]
        assert states[0].digests() == states[1].digests()
    assert None not in states[0].snapshots.values()
    async with await serve_kv(recorded.platform.bus, recorded.name, await recorded.projector()):
        code, served, _ = await recorded.command_line(capsys, "kv", "get", "positions/", *at, "--json")
        assert (code, served) == (0, alone)  # A host that serves the present is not asked for the past.
    for arguments, problem in (
        (("--at", "2001-01-01T00:00:00Z"), "the tape begins after 2001-01-01T00:00:00"),
        (("--at-ordinal", str(cells)), f"the tape has not come to cell {cells} (its cells are 0 to {cells - 1})"),
        (("--at", "yesterday"), "yesterday"),
        (("--at", "5", "--at-ordinal", "5"), "a time or an ordinal, not both"),
    ):
        code, said, noted = await recorded.command_line(capsys, "kv", "get", "orders/", *arguments)
        assert (code in (2, 3), said) == (True, "")
        assert problem in noted
        assert noted.count("\n") == 1
