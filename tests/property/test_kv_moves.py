"""Slots on their way: the compiled machine against the one in plain Python, on any order of a move's steps."""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.kv import moves
from tapehouse.kv.entries import Entry, Op, encode_entry, revision_of
from tapehouse.kv.moves import row_digest
from tapehouse.kv.moving import copied_digest
from tapehouse.kv.slots import SLOTS, slot_of
from tapehouse.kv.snapshot import read_snapshot, write_snapshot
from tapehouse.kv.view import Evicted
from tests.support.kv_streams import DiffersError, Pair, own, random_frame, random_keys, tiny_view

SEEDS = st.integers(0, 2**64 - 1)
LOG_ID = bytes(range(16))
_U64 = (1 << 64) - 1


class Moves:
    """Random steps of moves beside random writes, of three writers."""

    def __init__(self, rng: Random, pair: Pair) -> None:
        self.rng = rng
        self.pair = pair
        self.keys = random_keys(rng, 6)
        self.slots = sorted({slot_of(key) for key in self.keys})
        self.numbers = dict.fromkeys((1, 2**64 - 3, 3), 0)
        self.now = 10
        self.done: dict[str, int] = {}

    def feed(self, entries: list[Entry], writer: int = 0) -> None:
        writer = writer or self.rng.choice(list(self.numbers))
        self.now += self.rng.randrange(3)
        self.numbers[writer] += 1
        self.pair.feed(entries, writer=writer, number=self.numbers[writer], time=self.now)
        for entry, row in zip(entries, self.pair.view._answers, strict=False):
            name = f"{entry.op.name} {int(row[0])}"
            self.done[name] = self.done.get(name, 0) + 1

    def run(self) -> tuple[int, int]:
        """A run of slots: often one that is moving, else around those of the keys."""
        known = [move for move in (self.pair.oracle.frozen, self.pair.oracle.coming) if move]
        if known and self.rng.random() < 0.6:
            move = self.rng.choice(known)
            return move.first, move.last
        first = self.rng.choice(self.slots)
        return first, min(SLOTS - 1, first + self.rng.choice((0, 0, 2_000, 9_000)))

    def epoch(self) -> int:
        known = [move.epoch for move in (self.pair.oracle.frozen, self.pair.oracle.coming) if move]
        return self.rng.choice([*known, *known, *known, 0, 1, 2, 3, 4, 5, 6])

    def mover(self) -> int:
        known = [move.writer for move in (self.pair.oracle.frozen, self.pair.oracle.coming) if move]
        return self.rng.choice(known) if known and self.rng.random() < 0.8 else 0

    def row(self) -> Entry:
        rng = self.rng
        revision = rng.choice((revision_of(rng.randrange(4), rng.randrange(40), rng.randrange(9)), 2**63, 0))
        value = rng.randbytes(rng.randrange(120))
        return moves.copy(rng.choice(self.keys), value, expiry=rng.choice((0, self.now + 5, -3)), revision=revision)

    def own(self) -> Entry:
        coming = self.pair.oracle.coming
        if coming is None or self.rng.random() < 0.2:
            return moves.own_copied(*self.run(), self.epoch(), count=0, digest=0, time=0)
        wrong = self.rng.choice((0, 0, 0, 0, 1))
        time = self.rng.choice((0, self.now + 40))
        said = {"count": coming.count + wrong, "digest": (coming.digest + self.rng.choice((0, wrong))) & _U64}
        return moves.own_copied(coming.first, coming.last, coming.epoch, time=time, **said)

    def give(self) -> Entry:
        frozen = self.pair.oracle.frozen
        if frozen and self.rng.random() < 0.8:
            return moves.give(frozen.first, frozen.last, frozen.epoch)
        return moves.give(*self.run(), self.epoch())

    def forget(self) -> Entry:
        key = self.rng.choice(self.keys)
        held = self.pair.oracle.epochs[slot_of(key)] if self.rng.random() < 0.8 else self.rng.randrange(-4, 3)
        return moves.forget(key, held)

    def step(self) -> None:
        rng = self.rng
        kind = rng.choice(("write", "write", "freeze", "give", "receive", "copy", "copy", "own", "forget", "own_new"))
        if kind == "write":
            self.feed(random_frame(rng, self.keys, 90, self.now, rng.randrange(1, 6)))
        elif kind == "freeze":
            self.feed([moves.freeze(*self.run(), self.epoch(), rng.choice((0, self.now + 12)))], self.mover())
        elif kind == "give":
            self.feed([self.give()], self.mover())
        elif kind == "receive":
            self.feed([moves.receive(*self.run(), self.epoch())], self.mover())
        elif kind == "copy":
            self.feed([self.row() for _ in range(rng.randrange(1, 5))], self.mover())
        elif kind == "own":
            self.feed([self.own(), *random_frame(rng, self.keys, 40, self.now, 2)], self.mover())
        elif kind == "forget":
            self.feed([self.forget() for _ in range(3)], self.mover())
        else:
            self.feed([own(*self.run(), rng.randrange(2))])

    def keep(self) -> None:
        """Go on from a snapshot."""
        with tempfile.TemporaryDirectory() as place:
            write_snapshot(Path(place) / "one", self.pair.view.moment(), LOG_ID)
            self.pair.view = read_snapshot(Path(place) / "one", LOG_ID, lambda: tiny_view(seed=3))


def counted(pair: Pair) -> None:
    """The number of keys of each slot is what a walk over them finds."""
    keys = pair.view.keys_of(0, SLOTS - 1)
    living = dict(pair.view.scan(b""))
    counts, sizes = pair.view.keys_by_slot(), pair.view.bytes_by_slot()
    for slot in {slot_of(key) for key in keys}:
        mine = [key for key in keys if slot_of(key) == slot]
        assert counts[slot] == len(mine) == len(pair.view.keys_of(slot, slot))
        held = [living[key] for key in mine if key in living]
        values = sum(each.bytes if isinstance(each, Evicted) else len(each.value) for each in held)
        assert sizes[slot] >= sum(map(len, mine)) + values
        assert len(held) < len(mine) or sizes[slot] == sum(map(len, mine)) + values
    assert counts.sum() == len(keys)
    assert living.keys() <= set(keys)


@settings(deadline=None, max_examples=60)
@given(SEEDS)
def test_any_order_of_steps_comes_to_the_same(seed: int) -> None:
    rng = Random(seed)
    pair = Pair(tiny_view(seed=seed))
    day = Moves(rng, pair)
    day.feed([own(0, 9_000, 1)])
    for _ in range(60):
        day.step()
        if rng.random() < 0.05:
            day.keep()
        if rng.random() < 0.1:
            pair.view.sweep(200)
    assert (pair.view.frozen, pair.view.coming) == (pair.oracle.frozen, pair.oracle.coming)
    pair.compare()
    counted(pair)


def test_the_steps_are_met_with_both_ends() -> None:
    """The streams above are worth something: every step is applied, and refused, in them."""
    done: dict[str, int] = {}
    for seed in range(40):
        day = Moves(Random(seed), Pair(tiny_view(seed=seed)))
        day.feed([own(0, 9_000, 1)])
        for _ in range(60):
            day.step()
        for name, times in day.done.items():
            done[name] = done.get(name, 0) + times
    wanted = {"FREEZE 0", "FREEZE 6", "GIVE 0", "GIVE 12", "RECEIVE 0", "RECEIVE 12", "COPY 0", "COPY 12", "OWN 0",
              "OWN 12", "FORGET 0", "FORGET 12", "PUT 7", "PUT 0", "PUT 6"}  # fmt: skip
    assert wanted <= {name for name, times in done.items() if times > 5}, done


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=40), st.integers(-(2**63), 2**63 - 1),
                          st.integers(0, 2**64 - 1)), max_size=4))  # fmt: skip
def test_a_rows_digest_is_the_same_compiled(rows: list[tuple[bytes, bytes, int, int]]) -> None:
    body = b"".join(encode_entry(moves.copy(*row[:2], expiry=row[2], revision=row[3])) for row in rows)
    assert copied_digest(body) == sum(row_digest(*row) for row in rows) & _U64


def feed_wrong(pair: Pair, right: Entry, wrong: Entry) -> None:
    pair.feed([right], writer=1, number=2, time=1, fed=[wrong])
    pair.compare()


# Controls: what is wrong is caught.


@pytest.mark.parametrize("change", [{"value": b"w"}, {"revision": 1 << 48}, {"expiry": 7}, {"key": b"{t}b"}])
def test_control_a_row_that_was_copied_wrong_is_caught(change: dict[str, object]) -> None:
    pair = Pair(tiny_view())
    good: dict[str, object] = {"key": b"{t}a", "value": b"v", "expiry": 0, "revision": 2 << 48}
    slot = slot_of(b"{t}a")
    pair.feed([moves.receive(slot, slot, 5)], writer=1, number=1, time=1)
    right, wrong = (Entry(op=Op.COPY, **{**good, **part}) for part in ({}, change))  # type: ignore[arg-type]
    with pytest.raises(DiffersError):
        feed_wrong(pair, right, wrong)
