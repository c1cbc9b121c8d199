"""Records whose every byte follows from their number and place, to send through a ring and judge at the other end.

A record says in `sequence` which one it is and in `order_id` at which ring index its first cell stands, so a reader
that begins anywhere knows what must come. All other words are mixed from number, cell and column; a cell that is old,
torn, moved or doubled differs from what is expected. What is bad is also counted in an application word of the ring, so
that a reader's death does not hide it.

Run as a program it is one of the two processes: `produce` or `consume`, told by a JSON object on the command line, and
it answers with one on standard output.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tapehouse.core.atomics import array_address, load, store_release
from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.market import CELLS_MAX
from tapehouse.ring import Ring
from tapehouse.ring.kernels import (
    append,
    append_bulk,
    append_cell,
    fits,
    head_address,
    publish,
    readable,
    record_cells,
    release,
    tail_address,
    wait_for_room,
    wait_readable,
)
from tapehouse.ring.layout import APPLICATION, HEAD, TAIL

PROJECT = Path(__file__).resolve().parents[2]
BAD_WORDS = 63  # the application word
BULK_ROWS = 2048
SPINS, NAPS, NAP_US = 20_000, 20, 50  # of one wait; between waits Python looks around
STALLS_MAX = 20_000  # waits in a row with nothing to do: then the peer is taken for gone


@kernel(inline=True)
def mix(value: Int) -> Int:
    """A bijection that spreads every bit."""
    value = (value ^ (value >> 29)) * -4658895280553007687
    return value ^ (value >> 32)


@kernel(inline=True)
def length_of(number: Int, cells_max: Int) -> Int:
    """How many cells a record has: mostly few, up to `cells_max`."""
    if cells_max == 1:
        return 1
    drawn = mix(number) & 0xFFFFFF
    return 1 + drawn % (cells_max if drawn & 0x700000 == 0 else min(cells_max, 4))


@kernel(inline=True)
def word_of(number: Int, index: Int, cell: Int, column: Int, cells_max: Int) -> Int:
    """The word that must stand there; `index` is that of the record's first cell."""
    if column == 6:
        length = length_of(number, cells_max) if cell == 0 else 0
        return (mix(number + 77) & 0x00FFFFFFFFFFFFFF) | (length << 56)
    if column == 7:
        return mix(number + 99)
    if cell == 0 and column == 2:
        return number
    if cell == 0 and column == 3:
        return index
    return mix(number * 2048 + cell * 8 + column)


@kernel(inline=True)
def fill(rows: Array, row: Int, number: Int, index: Int, cells_max: Int) -> Int:
    """Write one record into rows: its length."""
    length = length_of(number, cells_max)
    for cell in range(length):
        for column in range(8):
            rows[row + cell, column] = word_of(number, index, cell, column, cells_max)
    return length


@kernel()
def produce_records(ring: Int, rows: Array, number: Int, end: Int, cells_max: Int) -> Int:
    """Append records one by one until the ring is full: the next number."""
    while number < end:
        count = fill(rows, 0, number, load(ring + HEAD), cells_max)
        if append(ring, rows, 0, count) != 0:
            break
        number += 1
    return number


@kernel()
def produce_cells(ring: Int, rows: Array, number: Int, end: Int, cells_max: Int) -> Int:
    """The same for records of one cell from registers."""
    while number < end:
        i = load(ring + HEAD)
        w0, w1, w4, w5 = (
            word_of(number, i, 0, 0, 1),
            word_of(number, i, 0, 1, 1),
            word_of(number, i, 0, 4, 1),
            word_of(number, i, 0, 5, 1),
        )
        if append_cell(ring, w0, w1, number, i, w4, w5, word_of(number, i, 0, 6, 1), word_of(number, i, 0, 7, 1)) != 0:
            break
        number += 1
    return number


@kernel()
def produce_bulk(ring: Int, rows: Array, number: Int, end: Int, cells_max: Int) -> Int:
    """The same in batches of whole records."""
    while number < end:
        filled, head, first = 0, load(ring + HEAD), number
        while number < end and filled + length_of(number, cells_max) <= rows.shape[0]:
            filled += fill(rows, filled, number, head + filled, cells_max)
            number += 1
        written = append_bulk(ring, rows, 0, filled)
        if written < filled:
            row = 0
            number = first
            while row < written:
                row += length_of(number, cells_max)
                number += 1
            break
    return number


@kernel()
def produce_broken(ring: Int, rows: Array, number: Int, end: Int, cells_max: Int) -> Int:
    """The control: publishes the head before the cells are there, and writes them word by word."""
    while number < end:
        count = fill(rows, 0, number, load(ring + HEAD), cells_max)
        if not fits(ring, count):
            break
        place = head_address(ring)
        publish(ring, count)
        for word in range(count * 8):
            store_release(place + word * 8, load(array_address(rows) + word * 8))
        number += 1
    return number


PRODUCERS = {"cell": produce_cells, "record": produce_records, "bulk": produce_bulk, "broken": produce_broken}


@kernel()
def judge(ring: Int, state: Array, cells: Int, cells_max: Int) -> None:
    """Compare `cells` readable cells, word by word, and release each record once it is judged.

    state: 0 the next number, -1 where the first record tells; 1 bad words; 2 records; 3 number of the first bad one.
    """
    index = load(ring + TAIL)
    end = index + cells
    while index < end:
        place = tail_address(ring)
        number = load(place + 16) if state[0] < 0 else state[0]
        count = length_of(number, cells_max)
        bad = 1 if record_cells(place) != count else 0
        for cell in range(count):
            for column in range(8):
                if load(place + cell * 64 + column * 8) != word_of(number, index, cell, column, cells_max):
                    bad += 1
        if bad:
            store_release(ring + APPLICATION + 8 * BAD_WORDS, load(ring + APPLICATION + 8 * BAD_WORDS) + bad)
            if state[1] == 0:
                state[3] = number
        state[1] += bad
        state[0] = number + 1
        state[2] += 1
        index += count
        release(ring, count)


@kernel()
def discard(ring: Int, cells: Int) -> None:
    """Release what is readable, in one step."""
    release(ring, cells)


def produce(request: dict[str, Any]) -> dict[str, Any]:
    """Send records `first` to `end`, waiting where the ring is full."""
    directory = Path(request["directory"])
    kernel_of, cells_max = PRODUCERS[request["way"]], request["cells_max"]
    rows = np.zeros((BULK_ROWS, 8), np.int64)
    with Ring.produce(request["name"], directory=directory) as ring:
        print("attached", file=sys.stderr, flush=True)
        number, stalls = request["first"], 0
        while number < request["end"]:
            reached = int(kernel_of(ring.address, rows, number, request["end"], cells_max))
            stalls = stalls + 1 if reached == number else 0
            if stalls > STALLS_MAX:
                return {"error": "nobody drains the ring", "number": number}
            number = reached
            if number < request["end"]:
                wait_for_room(ring.address, min(ring.cells, CELLS_MAX), SPINS, NAPS, NAP_US)
        return {"number": number, "head": ring.head}


def consume(request: dict[str, Any]) -> dict[str, Any]:
    """Judge everything until the producer closes the ring, or `bad_max` bad words are found."""
    with Ring.consume(request["name"], directory=Path(request["directory"])) as ring:
        print("attached", file=sys.stderr, flush=True)
        state = np.array([-1, 0, 0, -1], np.int64)
        stalls = 0
        while not ring.closed and state[1] <= request["bad_max"]:
            cells = wait_readable(ring.address, SPINS, NAPS, NAP_US)
            stalls = 0 if cells else stalls + 1
            if stalls > STALLS_MAX:
                return {"error": "nobody fills the ring", "number": int(state[0])}
            if request["verify"]:
                judge(ring.address, state, readable(ring.address), request["cells_max"])
            else:
                discard(ring.address, readable(ring.address))
        return {
            **dict(zip(("number", "bad", "records", "first_bad"), state.tolist(), strict=True)),
            "head": ring.head,
            "tail": ring.tail,
        }


def start(
    role: str,
    name: str,
    directory: Path,
    *,
    way: str = "cell",
    first: int = 0,
    end: int = 0,
    cells_max: int = 1,
    verify: bool = True,
    bad_max: int = 0,
) -> subprocess.Popen[str]:
    """Run one of the two as a process; it says `attached` on standard error once it has its role."""
    request = {
        "name": name,
        "directory": str(directory),
        "way": way,
        "first": first,
        "end": end,
        "cells_max": cells_max,
        "verify": verify,
        "bad_max": bad_max,
    }
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.support.ring_traffic", role, json.dumps(request)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    said = child.stderr.readline()
    if said.strip() != "attached":
        rest = said + child.stderr.read()
        child.kill()
        child.wait()
        raise AssertionError(f"the {role} did not come up: {rest}")
    return child


def finish(child: subprocess.Popen[str], *, timeout_s: float = 240) -> dict[str, Any]:
    """What the process answers."""
    try:
        answer, errors = child.communicate(timeout=timeout_s)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 0, errors
    result: dict[str, Any] = json.loads(answer)
    return result


if __name__ == "__main__":
    role, request = sys.argv[1], json.loads(sys.argv[2])
    print(json.dumps(produce(request) if role == "produce" else consume(request)))
