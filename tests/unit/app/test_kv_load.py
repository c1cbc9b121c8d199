"""The load generator against gateways that tell the truth, and against some that do not."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapehouse.app.bench.histogram import COUNT
from tapehouse.app.kv_gateway import tls_context
from tapehouse.app.kv_load.campaign import run_load
from tapehouse.app.kv_load.check import End, LevelName, ReadChecker, Wrong
from tapehouse.app.kv_load.link import Doors, client_tls, read_addresses
from tapehouse.app.kv_load.plan import Load
from tapehouse.app.kv_load.replies import ErrorReply, ReplyReader, request
from tapehouse.app.kv_load.report import LoadReport
from tapehouse.app.kv_load.values import VALUE_BYTES_MIN, ValueMaker, filling_bytes, read_value
from tapehouse.core.clock import SystemClock
from tapehouse.core.errors import BusUnavailableError, DecodeError, MissingError, UsageError
from tests.support.lying_gateway import LyingGateway

LOAD: dict[str, Any] = {
    "connections": 4, "requests": 600, "warm_up": 60, "read_ratio": 0.6, "hotspot": 0.3, "hot_keys": 2, "keys": 20,
    "value_bytes": 64, "pipeline": 4, "rate": None, "seed": 3, "level": "linearizable",
}  # fmt: skip
MAKER = ValueMaker(run=7, value_bytes=64, filling=bytes(range(256)) * 300)


async def load(gateway: LyingGateway, *, stop: asyncio.Event | None = None, **options: Any) -> LoadReport:
    asked = Load(**LOAD | options)
    async with gateway.open() as port:
        return await run_load(
            asked, Doors(addresses=(("127.0.0.1", port),)), clock=SystemClock(), stop=stop or asyncio.Event(),
            progress=lambda *_: None,
        )  # fmt: skip


def checker(level: LevelName = "linearizable") -> ReadChecker:
    return ReadChecker(run=7, level=level, keys=4, writes_max=100)


def value(number: int, *, connection: int = 0, key: int = 0, maker: ValueMaker = MAKER) -> bytes:
    return maker.make(connection=connection, key=key, number=number)


def write(judge: ReadChecker, *, connection: int = 0, key: int = 0) -> bytes:
    """A write from its beginning to its end."""
    number = judge.begin_write(connection, key)
    judge.end_write(number, End.DONE)
    return value(number, connection=connection, key=key)


def found(judge: ReadChecker) -> set[Wrong]:
    return {what for what, count in judge.verdict.counts.items() if count}


def test_a_value_says_who_wrote_it_and_any_flipped_bit_is_found() -> None:
    made = value(9, connection=3, key=2)
    written = read_value(made)
    assert (written.connection, written.key, written.number, written.run, len(made)) == (3, 2, 9, 7, 64)
    for bit in range(8 * len(made)):
        flipped = bytearray(made)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DecodeError):
            read_value(bytes(flipped))
    for cut in range(len(made)):
        with pytest.raises(DecodeError):
            read_value(made[:cut])
    assert len(filling_bytes(64) * b"x") > 64
    with pytest.raises(UsageError, match="at least 40"):
        ValueMaker(run=1, value_bytes=VALUE_BYTES_MIN - 1, filling=b"")


def test_what_was_overwritten_before_a_linearizable_read_is_stale() -> None:
    judge = checker()
    old = write(judge)
    early = judge.begin_read(0)
    new = write(judge, connection=1)
    judge.end_read(2, 0, old, early)  # It began before.
    assert judge.verdict.violations == 0
    judge.end_read(2, 0, old, judge.begin_read(0))
    assert found(judge) == {Wrong.STALE}
    assert judge.verdict.examples[0].told == "write 0 of connection 0 was overwritten by write 1"
    judge.end_read(2, 0, new, judge.begin_read(0))
    assert judge.verdict.violations == 1


def test_of_writes_at_the_same_time_either_may_stay() -> None:
    judge = checker()
    one, other = judge.begin_write(0, 0), judge.begin_write(1, 0)
    for number in (one, other):
        judge.end_write(number, End.DONE)
    for number in (one, other, one):
        judge.end_read(2, 0, value(number, connection=number), judge.begin_read(0))
    assert judge.verdict.violations == 0


def test_a_read_that_was_answered_holds_for_later_ones() -> None:
    judge = checker()
    old = write(judge)
    pending = judge.begin_write(1, 0)
    judge.end_read(2, 0, value(pending, connection=1), judge.begin_read(0))  # It took effect, though nobody said so.
    judge.end_read(3, 0, old, judge.begin_read(0))
    assert found(judge) == {Wrong.STALE}


def test_a_session_never_goes_back_and_others_may_lag() -> None:
    judge = checker("session")
    old = write(judge)
    new = write(judge, connection=1)
    judge.end_read(2, 0, old, judge.begin_read(0))
    assert judge.verdict.violations == 0
    judge.end_read(1, 0, old, judge.begin_read(0))  # Its own write was overwritten by itself.
    assert found(judge) == {Wrong.WENT_BACK}
    judge.end_read(2, 0, new, judge.begin_read(0))
    judge.end_read(2, 0, old, judge.begin_read(0))
    assert judge.verdict.counts[Wrong.WENT_BACK] == 2
    judge.forget(2)
    judge.end_read(2, 0, old, judge.begin_read(0))
    judge.end_read(3, 0, None, judge.begin_read(0))
    assert (judge.verdict.violations, judge.verdict.absent) == (2, 1)
    judge.end_read(1, 0, None, judge.begin_read(0))
    assert found(judge) == {Wrong.WENT_BACK, Wrong.LOST}


def test_what_is_wrong_at_every_level() -> None:
    judge = checker("eventual")
    old, new = write(judge), write(judge)
    judge.end_read(1, 0, old, judge.begin_read(0))
    judge.end_read(1, 0, None, judge.begin_read(0))
    assert (judge.verdict.violations, judge.verdict.absent) == (0, 1)
    refused = judge.begin_write(0, 0)
    judge.end_write(refused, End.REFUSED)
    foreign = ValueMaker(run=8, value_bytes=64, filling=bytes(100_000))
    wrong = {
        Wrong.CORRUPT: new[:-1] + b"x", Wrong.OTHER_KEY: value(0, key=1), Wrong.FOREIGN: value(0, maker=foreign),
        Wrong.NEVER_WRITTEN: value(50), Wrong.REFUSED: value(refused),
    }  # fmt: skip
    for what, given in wrong.items():
        before = judge.verdict.counts[what]
        judge.end_read(1, 0, given, judge.begin_read(0))
        assert judge.verdict.counts[what] == before + 1, what
    unknown = judge.begin_write(0, 0)
    judge.end_write(unknown, End.UNKNOWN)
    judge.end_read(1, 0, value(unknown), judge.begin_read(0))
    read_first = judge.begin_write(0, 0)
    judge.end_read(1, 0, value(read_first), judge.begin_read(0))
    assert judge.verdict.violations == len(wrong)
    judge.end_write(read_first, End.REFUSED)
    assert judge.verdict.counts[Wrong.REFUSED] == 2


def test_replies_are_the_same_however_they_are_cut() -> None:
    stream = b"+OK\r\n$-1\r\n:-7\r\n-BUSY no\r\n$3\r\na\r\n\r\n*2\r\n$1\r\nx\r\n*1\r\n:2\r\n_\r\n$0\r\n\r\n"
    whole = [b"OK", None, -7, ErrorReply("BUSY no"), b"a\r\n", [b"x", [2]], None, b""]
    assert ReplyReader().feed(stream) == whole
    for size in range(1, len(stream)):
        reader = ReplyReader()
        cut = [reply for at in range(0, len(stream), size) for reply in reader.feed(stream[at : at + size])]
        assert cut == whole, size
    for bad in (b"?\r\n", b"$x\r\n", b"$-2\r\n", b"$1\r\nabc", b":\r\n", b"*-2\r\n", b"*1\r\n" * 9, b"+" * 70_000):
        with pytest.raises(DecodeError):
            ReplyReader().feed(bad)
    assert request(b"GET", b"") == b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n"


def test_a_plan_follows_from_its_seed_and_keeps_its_shares() -> None:
    plan = Load(**LOAD | {"requests": 20_001, "keys": 1_000, "hot_keys": 10, "hotspot": 0.25, "read_ratio": 0.7})
    asked = [list(plan.asked(which, is_warm_up=False)) for which in range(4)]
    assert [len(each) for each in asked] == [5_001, 5_000, 5_000, 5_000]
    assert asked[1] == list(plan.asked(1, is_warm_up=False)) != asked[2]
    assert asked[1][:15] != list(plan.asked(1, is_warm_up=True))
    rows = np.array([row for each in asked for row in each])
    assert abs(rows[:, 0].mean() - 0.7) < 0.02
    assert abs((rows[:, 1] < 10).mean() - 0.2575) < 0.02
    assert sorted(key for which in range(4) for _, key in plan.first_writes(which)) == list(range(1_000))


@pytest.mark.parametrize(
    "wrong",
    [{"connections": 0}, {"read_ratio": 1.5}, {"hotspot": -0.1}, {"hot_keys": 21}, {"pipeline": 0}, {"rate": 0.0},
     {"requests": 0}, {"keys": 0}, {"value_bytes": 8}],
)  # fmt: skip
async def test_what_is_no_load_is_told(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        await load(LyingGateway(), **wrong)


@pytest.mark.parametrize("text", ["", "host", "host:", ":6380", "h:0", "h:70000", "h:1," * 70])
def test_what_is_no_address_is_told(text: str) -> None:
    with pytest.raises(UsageError):
        read_addresses(text)


@pytest.mark.parametrize("level", ["eventual", "session", "linearizable"])
async def test_an_honest_gateway_passes(level: str) -> None:
    gateway = LyingGateway()
    report = await load(gateway, level=level)
    told = report.as_json()
    assert (report.is_sound, told["errors"], told["interrupted"]) == (True, {}, False)
    assert report.phase.reads.due[COUNT] + report.phase.writes.due[COUNT] == told["requests"] == 600
    assert told["check"]["reads"] == gateway.heard.count(b"GET") > 300
    assert gateway.heard.count(b"SET") == 20 + 660 - gateway.heard.count(b"GET")
    assert told["server"] == {"tapehouse_version": "0.0.0"}
    assert gateway.values == {}, "what a load wrote it removes"
    histogram = told["operations"]["read"]["histogram_us"]
    assert sum(count for _, count in histogram) == told["operations"]["read"]["requests"]
    assert histogram[-1][0] >= told["operations"]["read"]["latency_us"]["most"]
    assert len(report.rows()) == 3


async def test_each_lie_is_found_and_named() -> None:
    def stale(_: bytes, values: list[bytes]) -> bytes | None:
        return values[-2 if len(values) > 1 else -1] if values else None

    def torn(_: bytes, values: list[bytes]) -> bytes:
        return values[-1][:32] + values[0][32:] if len(values) > 3 else values[-1]

    given: list[bytes] = []

    def of_any_key(_: bytes, values: list[bytes]) -> bytes:
        given.append(values[-1])
        return given[0]

    mixed = {"level": "eventual", "requests": 200}
    for lie, what, options in (
        (stale, Wrong.STALE, {}),
        (stale, Wrong.WENT_BACK, {"level": "session"}),
        (lambda _, values: None if len(values) > 2 else values[-1], Wrong.LOST, {}),
        (torn, Wrong.CORRUPT, mixed),
        (of_any_key, Wrong.OTHER_KEY, mixed),
    ):
        gateway = LyingGateway(lie)
        report = await load(gateway, **options)
        assert report.verdict.counts[what] > 0, what
        assert report.as_json()["check"]["examples"][0]["kind"] == what.value
    honest_at_eventual = await load(LyingGateway(stale), level="eventual")
    assert honest_at_eventual.is_sound
    refusing = await load(LyingGateway(refuse=lambda number: number % 5 == 0), level="eventual")
    assert refusing.verdict.counts[Wrong.REFUSED] > 0
    assert refusing.phase.errors["BUSY"] > 0


async def test_a_lost_connection_is_counted_and_made_again() -> None:
    gateway = LyingGateway(cut=300)
    report = await load(gateway)
    assert report.is_sound
    assert 0 < report.phase.errors["LOST"] <= LOAD["pipeline"]
    assert (report.phase.reconnects, report.phase.done) == (1, 600)


async def test_an_interrupted_load_reports_what_it_measured() -> None:
    stop = asyncio.Event()

    def lie(_: bytes, values: list[bytes]) -> bytes | None:
        if gateway.requests > 400:
            stop.set()
        return values[-1]

    gateway = LyingGateway(lie)
    report = await load(gateway, stop=stop, requests=1_000_000)
    assert report.interrupted
    assert 0 < report.phase.done < 1_000_000
    assert gateway.values == {}


async def test_a_schedule_charges_a_stall_to_all_that_was_due() -> None:
    gateway = LyingGateway(stall={100: 0.3})
    report = await load(gateway, connections=1, pipeline=1, rate=1_000.0, requests=200, warm_up=0, keys=2)
    reads = report.phase.reads
    slow = [sum(words[2_000:COUNT]) for words in (reads.due, reads.sent)]  # buckets of some ms and above
    assert slow[0] > 10 * max(slow[1], 1), "all that waited for its turn, not the one request alone"
    assert report.seconds > 0.19


async def test_nobody_there_and_nobody_who_lets_us_in() -> None:
    with pytest.raises(BusUnavailableError, match="is a gateway there"):
        await run_load(
            Load(**LOAD), Doors(addresses=(("127.0.0.1", 1),)), clock=SystemClock(), stop=asyncio.Event(),
            progress=lambda *_: None,
        )  # fmt: skip


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that signed itself, and its key."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=kv", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


async def test_tls_is_spoken_where_the_certificate_is_trusted(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = certificate
    asked = Load(**LOAD | {"requests": 40})

    async def report(port: int, *, ca: Path | None, token: str = "") -> LoadReport:
        doors = Doors(addresses=(("127.0.0.1", port),), tls=client_tls(True, ca), token=token)
        return await run_load(asked, doors, clock=SystemClock(), stop=asyncio.Event(), progress=lambda *_: None)

    gateway = LyingGateway()
    async with gateway.open(tls_context(cert, key)) as port:
        assert (await report(port, ca=cert, token="word")).phase.done == 40
        assert b"AUTH" in gateway.heard
        with pytest.raises(UsageError, match="no TLS with it"):
            await report(port, ca=None)
    with pytest.raises(MissingError):
        client_tls(True, tmp_path / "none")
    with pytest.raises(UsageError, match="no certificate"):
        client_tls(True, key)
