"""A watched day on a tape: both modes and replay agree, and a session can exclude what was doubtful."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tapehouse.app import replaying
from tapehouse.app.ahead import record_ahead
from tapehouse.app.gaps import gaps_of
from tapehouse.app.live import Logs, record
from tapehouse.app.replaying import ReplayResult, replay_tape
from tapehouse.app.watching import WatchedFeed
from tapehouse.cli.main import run
from tapehouse.core.errors import MissingError
from tapehouse.feeds import GeneratedDay
from tapehouse.market import Cause, Cells, Confidence, Kind, gap_record
from tapehouse.replay import Pace
from tests.support.ahead import CLOCK, options, refolded, sidecar
from tests.support.bench import cells_of, new_logs, quick_maker

STALE_NS = 20_000_000


class Disconnected:
    """A generated day whose handler was cut off for a fifth of it, and says so; books went on from what came."""

    def __init__(self) -> None:
        self._day = GeneratedDay(seed=7, cells=6_000)
        self.name, self.instruments, self.cells_estimate = self._day.name, self._day.instruments, None

    def batches(self) -> Iterator[Cells]:
        cells = np.concatenate(list(self._day.batches()))
        starts = np.flatnonzero(cells["cells"])
        lost, back = (int(starts[int(share * len(starts))]) for share in (0.4, 0.6))
        times = cells["ts_recv"][[lost, back]].tolist()
        yield cells[:lost]
        yield gap_record(Cause.DISCONNECTED, Confidence.SUSPECT, ts_recv=times[0], missing=9)
        yield cells[lost:back]
        yield gap_record(Cause.RETRANSMITTED, Confidence.GOOD, ts_recv=times[1])
        yield cells[back:]


def watched_day() -> WatchedFeed:
    return WatchedFeed(Disconnected(), crossed_after_ns=10**9, stale_after_ns=STALE_NS)


@asynccontextmanager
async def platform_of(logs: Logs) -> AsyncIterator[SimpleNamespace]:
    async def tape(name: str) -> object:
        return logs.tape

    yield SimpleNamespace(tape=tape)


async def test_both_modes_and_replay_decide_alike_on_a_day_with_gaps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated_logs, ahead_logs = new_logs(), new_logs()
    gated = await record(watched_day(), gated_logs, strategy=quick_maker(), clock=CLOCK)
    ahead = await record_ahead(
        "day", watched_day(), ahead_logs, strategy=quick_maker(), sidecar=sidecar(ahead_logs, tmp_path), clock=CLOCK,
        options=options(tmp_path),
    )  # fmt: skip
    assert gated.digests is not None
    assert ahead.digests is not None
    assert gated.digests.decisions == ahead.digests.decisions > 0
    tape = await cells_of(gated_logs.tape)
    gaps = tape[tape["kind"] == Kind.GAP]
    assert len(gaps) > 4
    assert set(gaps["source"].tolist()) == {1}
    assert set(gaps["instrument"].tolist()) <= {0, *tape["instrument"][tape["kind"] == Kind.DEFINITION].tolist()}
    for logs, report in ((gated_logs, gated), (ahead_logs, ahead)):
        engine, decided = await refolded(logs, quick_maker)
        assert engine.digests() == report.digests
        assert np.array_equal(await cells_of(logs.events), decided)

    monkeypatch.setattr(replaying, "open_platform", lambda *_, **__: platform_of(gated_logs))

    async def replayed(exclude_gaps: bool) -> ReplayResult:
        return await replay_tape(
            "day", pace=Pace(), strategy="maker", parameters='{"interval_ms": 50}', exclude_gaps=exclude_gaps
        )

    same, without, again = [await replayed(exclude) for exclude in (False, True, True)]
    assert same.report.digests == gated.digests
    assert without.report.digests == again.report.digests
    assert without.report.digests.decision != gated.digests.decision
    assert 0 < without.report.digests.decisions < gated.digests.decisions

    found = await gaps_of("day")
    assert found.cells == len(tape)
    assert {cause for row in found.rows for cause in row["causes"]} == {"stale", "disconnected"}
    wide = [row for row in found.rows if row["instrument"] is None]
    assert [(row["causes"], row["missing"], row["recovered_by"]) for row in wide] == [
        (["disconnected"], 9, "retransmitted"),
    ]  # fmt: skip
    assert found.open == len((await gaps_of("day", only_open=True)).rows)
    symbol = next(row["instrument"] for row in found.rows if row["instrument"])
    mine = [row for row in found.rows if row["instrument"] in (symbol, None)]
    assert (await gaps_of("day", instrument=symbol)).rows == mine
    with pytest.raises(MissingError, match="no instrument 'NOPE'"):
        await gaps_of("day", instrument="NOPE")


async def test_a_recording_of_a_watched_day_goes_on_where_it_stopped() -> None:
    logs, whole = new_logs(), new_logs()
    await record(watched_day(), whole, strategy=None, clock=CLOCK)
    first = watched_day()
    cut = np.concatenate(list(first.batches()))
    half = int(np.flatnonzero(cut["cells"])[len(cut) // 2])
    first.batches = lambda: iter([cut[:half]])  # type: ignore[method-assign]
    await record(first, logs, strategy=None, clock=CLOCK)
    report = await record(watched_day(), logs, strategy=None, clock=CLOCK)
    assert report.skipped_cells == half
    market = [cells[cells["source"] == 1] for cells in (await cells_of(logs.tape), await cells_of(whole.tape))]
    assert market[0].tobytes() == market[1].tobytes()


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("soon", "--stale-after: 'soon' is no time (write it as 500ms, 1s, 2min or 1h)"),
        ("1", "--stale-after: '1' is no time"),
        ("1xs", "--stale-after: '1xs' is no time"),
        ("-1s", "--stale-after: -1 seconds"),
        ("nans", "--stale-after: nan seconds"),
        ("1e30h", "--stale-after: 3.6e+33 seconds"),
    ],
)
@pytest.mark.parametrize("command", [("record", "generated"), ("feeds", "push", "generated", "--ring", "r")])
def test_a_time_that_is_none_is_refused(
    capsys: pytest.CaptureFixture[str], command: tuple[str, ...], said: str, problem: str
) -> None:
    assert run([*command, f"--stale-after={said}"]) == 2
    assert problem in capsys.readouterr().err
