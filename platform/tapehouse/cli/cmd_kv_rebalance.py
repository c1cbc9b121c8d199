"""`tapehouse kv rebalance` and `tapehouse kv shards`: the replicated KV over more or fewer logs."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tapehouse.kv.mover import Progress

TELL_S = 1.0  # between two lines of progress
RUNS_SHOWN = 4  # of slots, in a table


def rebalance(*, shards: int, nats: str | None = None, home: Path | None = None, json: bool = False) -> int:
    """Spread the replicated KV over so many shards, more or fewer, while gateways serve it.

    Slots move in short runs; a write to one that is moving waits for some milliseconds. Gateways hear of it by
    themselves. Ctrl-C stops after the run that is moving; a rebalance that was stopped or killed goes on when it is
    started again, here or elsewhere. One mover works at a time; one that was killed is waited for 5 seconds.

    Examples:

        tapehouse kv rebalance --shards 8

        tapehouse kv rebalance --shards 4 --json

    Parameters
    ----------
    shards
        How many are to own slots: as many logs are added as are missing; what is emptied stays open, empty.
    nats
        The broker; else what the environment or the embedded cluster says.
    home
        Where the embedded cluster lives.
    json
        A line of JSON each second, and one at the end.
    """
    from tapehouse.app.kv_rebalance import rebalance_kv
    from tapehouse.cli.output import console, diagnostics, print_json, run_async, stop_signal

    teller = _Teller()

    def tell(progress: Progress) -> None:
        line = teller.told(progress)
        if line is None:
            return
        if json:
            print_json({**asdict(progress), **line})
        else:
            diagnostics.print(_text(progress, line), highlight=False, soft_wrap=True)

    async def run() -> Progress:
        stop = stop_signal()
        return await rebalance_kv(shards, nats=nats, home=home, tell=tell, should_stop=stop.is_set)

    done = run_async(run())
    if json:
        print_json({**asdict(done), **teller.rates(done)})
    elif done.is_done:
        told = f"{done.slots:,} slots moved" if done.slots else "nothing had to move"
        console.print(f"{shards} shards: {told}, {done.rows:,} rows copied", highlight=False, soft_wrap=True)
    else:
        console.print(
            f"stopped: {done.moved:,} of {done.slots:,} slots moved, the KV serves on; "
            f"go on with: tapehouse kv rebalance --shards {shards}", highlight=False, soft_wrap=True,
        )  # fmt: skip
    return 0 if done.is_done else 1


def shards(*, nats: str | None = None, home: Path | None = None, json: bool = False) -> int:
    """Which slots and how many keys each shard of the replicated KV has, and whether slots are on their way.

    Examples:

        tapehouse kv shards

        tapehouse kv shards --json

    Parameters
    ----------
    nats
        The broker; else what the environment or the embedded cluster says.
    home
        Where the embedded cluster lives.
    json
        One line of JSON.
    """
    from tapehouse.app.kv_rebalance import Sharing, open_existing_kv, sharing_of
    from tapehouse.cli.output import console, print_json, print_table, run_async

    async def read() -> Sharing:
        async with open_existing_kv(nats, home) as kv:
            return sharing_of(kv)

    found = run_async(read())
    if json:
        print_json(asdict(found))
        return 0
    print_table(
        "", ("shard", "slots", "keys", "which", "frozen"),
        [(one.shard, one.slots, one.keys, _runs(one.runs), _runs([one.frozen] if one.frozen else []))
         for one in found.shares],
    )  # fmt: skip
    if found.slots:
        who = f"{found.mover} moves them" if found.mover else "nobody moves them"
        console.print(
            f"{found.slots:,} slots have to move yet to {found.shards} shards, {found.homeless:,} of them belong to "
            f"nobody at this moment; {who}. Go on with: tapehouse kv rebalance --shards {found.shards}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    return 0


class _Teller:
    """Rates since the beginning, and whether it is time for another line."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._first = 0
        self._told = 0.0

    def told(self, progress: Progress) -> dict[str, float | None] | None:
        """What a line says beside the progress; None where the one before was told just now."""
        now = time.monotonic()
        if self._began is None:
            self._began, self._first = now, progress.moved
        elif now - self._told < TELL_S:
            return None
        self._told = now
        return self.rates(progress)

    def rates(self, progress: Progress) -> dict[str, float | None]:
        """Bytes a second, and the seconds that are left at this pace; None where nothing is known yet."""
        seconds = time.monotonic() - self._began if self._began is not None else 0.0
        moved = progress.moved - self._first
        left = seconds / moved * (progress.slots - progress.moved) if moved else None
        return {
            "bytes_per_s": round(progress.bytes / seconds, 1) if seconds else 0.0,
            "left_s": None if left is None else round(left, 1),
        }


def _text(progress: Progress, rates: dict[str, float | None]) -> str:
    left = "" if rates["left_s"] is None else f", about {rates['left_s']:,.0f} s left"
    speed = (rates["bytes_per_s"] or 0) / 1e6
    return f"{progress.moved:,} of {progress.slots:,} slots, {progress.rows:,} rows, {speed:,.1f} MB/s{left}"


def _runs(runs: list[tuple[int, int]]) -> str:
    shown = ", ".join(f"{first}-{last}" for first, last in runs[:RUNS_SHOWN])
    return shown + (f" and {len(runs) - RUNS_SHOWN} more runs" if len(runs) > RUNS_SHOWN else "")
