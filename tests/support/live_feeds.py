"""A feed server and a recorder as processes of their own, and what came out of the ring between them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tapehouse.core.units import from_fixed
from tapehouse.market import Cells, Instrument, Kind, empty_cells, read_definition, records_of
from tapehouse.ring import Ring, RingConsumer
from tests.support.cli import WAIT_S, Shell

STOP_S = 30.0


def free_ports(count: int) -> list[int]:
    """UDP ports of this machine that nobody has."""
    opened = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
    for one in opened:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in opened]
    for one in opened:
        one.close()
    return ports


def started(shell: Shell, *arguments: object) -> tuple[subprocess.Popen[str], list[str]]:
    """A command that says `ready` when it is, and what it said before."""
    child = shell.start(*arguments)
    assert child.stdout is not None
    said: list[str] = []
    for line in child.stdout:
        if line.strip() == "ready":
            return child, said
        said.append(line.strip())
    assert child.stderr is not None
    error = child.stderr.read()
    child.wait()
    raise AssertionError(f"{arguments} ended with {child.returncode}: {said} {error}")


def stopped(child: subprocess.Popen[str], *, interrupt: bool = True) -> Any:
    """End it with Ctrl-C (or wait for its own end); the JSON of its last line."""
    if interrupt:
        child.send_signal(signal.SIGINT)
    try:
        out, err = child.communicate(timeout=STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        out, err = child.communicate()
        raise AssertionError(f"it did not end\n{out}\n{err}") from None
    assert child.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def ended(*children: subprocess.Popen[str]) -> None:
    """Whatever happened, none of them is left."""
    for child in children:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()


class Drain:
    """The other end of a ring: everything that was recorded so far."""

    def __init__(self, name: str, directory: Path) -> None:
        self._ring: RingConsumer = Ring.consume(name, directory=directory)
        self._parts: list[Cells] = []
        self._consumed = 0

    def close(self) -> None:
        """Give the role back."""
        self._ring.close()

    def take(self) -> int:
        """Take what is there; how many cells."""
        cells = self._ring.readable()
        if len(cells):
            self._parts.append(cells.copy())
            self._ring.release(len(cells))
        return len(cells)

    def until(self, condition: Callable[[Cells], bool], message: str) -> Cells:
        """Take cells until what came satisfies a condition."""
        deadline = time.monotonic() + WAIT_S
        while True:
            self._ring.wait()
            if self.take() and condition(self.cells):
                return self.cells
            assert time.monotonic() < deadline, f"{message}: {gaps_of(self.cells)} after {len(self.cells)} cells"

    def until_quiet(self, condition: Callable[[Cells], bool], message: str) -> Cells:
        """The same, but the condition is looked at only where nothing new came: it may be a slow one."""
        deadline = time.monotonic() + WAIT_S
        while True:
            if not self._ring.wait() and not self.take() and condition(self.cells):
                return self.cells
            self.take()
            assert time.monotonic() < deadline, f"{message}: {gaps_of(self.cells)} after {len(self.cells)} cells"

    @property
    def cells(self) -> Cells:
        """Everything that came."""
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts)]
        return self._parts[0] if self._parts else empty_cells(0)


def instruments_of(cells: Cells) -> dict[int, Instrument]:
    """What the definitions among cells define; every other cell's instrument must be defined before it."""
    found: dict[int, Instrument] = {}
    seen = set()
    for at, record in records_of(cells, Kind.DEFINITION):
        seen |= set(np.unique(cells["instrument"][:at]).tolist()) - {0}
        assert seen <= set(found), f"cells of {seen - set(found)} before their definition"
        instrument = read_definition(record)
        found[instrument.id] = instrument
    assert set(np.unique(cells["instrument"]).tolist()) - {0} <= set(found)
    return found


def gaps_of(cells: Cells) -> list[tuple[int, int, int, int, int, int]]:
    """Cause, confidence, last sequence, following, missing and instrument of every GAP record."""
    found = cells[cells["kind"] == Kind.GAP]
    columns = ("action", "depth", "sequence", "order_id", "count", "instrument")
    return [tuple(int(row[column]) for column in columns) for row in found]  # type: ignore[misc]


def trades_of(cells: Cells) -> list[tuple[int, ...]]:
    """Instrument, sequence, price, size and side of every trade."""
    found = cells[cells["kind"] == Kind.TRADE]
    return [tuple(int(row[name]) for name in ("instrument", "sequence", "price", "size", "side")) for row in found]


def book_of(cells: Cells, instrument: int, levels: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The best levels of a book by price at the end, as its cells tell them: bids and asks, best first."""
    sides: dict[int, dict[int, int]] = {ord("B"): {}, ord("A"): {}}
    wanted = cells[cells["instrument"] == instrument]
    for row in wanted[(wanted["kind"] == Kind.MBP) | (wanted["kind"] == Kind.MBO)]:
        if row["action"] == ord("R"):
            sides = {ord("B"): {}, ord("A"): {}}
        elif row["size"]:
            sides[int(row["side"])][int(row["price"])] = int(row["size"])
        else:
            sides[int(row["side"])].pop(int(row["price"]), None)
    bids, asks = sides[ord("B")], sides[ord("A")]
    return sorted(bids.items(), reverse=True)[:levels], sorted(asks.items())[:levels]


class Market:
    """What cells say at their end, by symbol and in decimals: the best levels of each book, and every trade."""

    LEVELS = 20

    def __init__(self, cells: Cells) -> None:
        self.books = {}
        self.trades = {}
        for number, instrument in instruments_of(cells).items():
            bids, asks = book_of(cells, number, self.LEVELS)
            exponents = instrument.price_exponent, instrument.size_exponent
            if bids or asks:
                self.books[instrument.symbol] = [
                    [(from_fixed(price, exponents[0]), from_fixed(size, exponents[1])) for price, size in side]
                    for side in (bids, asks)
                ]
            trades = [row for row in trades_of(cells) if row[0] == number]
            if trades:
                self.trades[instrument.symbol] = [
                    (sequence, from_fixed(price, exponents[0]), from_fixed(size, exponents[1]), side)
                    for _, sequence, price, size, side in trades
                ]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Market) and (self.books, self.trades) == (other.books, other.trades)

    def __hash__(self) -> int:
        raise TypeError("a market is no key")
