"""Random frames for a KV, and a compiled view beside its oracle that both are given them."""

from __future__ import annotations

from random import Random
from typing import Any

from tapehouse.core.errors import InvariantError
from tapehouse.kv.entries import Answer, Entry, Op, encode_entry, read_entries, slots_value
from tapehouse.kv.reference import ReferenceView, Stored, given
from tapehouse.kv.view import Evicted, View, ViewAnswer

ALL_SLOTS = Entry(op=Op.OWN, value=slots_value(0, 16_383, 1))
NUMBERS = (
    b"0",
    b"-7",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"9223372036854775808",
    b"-0",
    b"01",
    b"--5",
    b"-",
)


class DiffersError(InvariantError):
    """The view is not what its oracle is."""


def tiny_view(**settings: Any) -> View:
    """A view so small that its segments split, its cleaner works and values are evicted."""
    return View(**({"budget_bytes": 16 << 13, "row_bits": 4, "arena_bits": 13} | settings))


class Pair:
    """A view and its oracle; every answer is compared, and what was evicted is read from the log that they were fed."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.oracle = ReferenceView()
        self.log: dict[int, list[Entry]] = {}
        self.sequence = 0

    def feed(
        self, entries: list[Entry], *, writer: int, number: int, time: int, fed: list[Entry] | None = None
    ) -> None:
        """Give a frame to both; `fed` is what the view is given instead, for controls."""
        self.sequence += 1
        self.log[self.sequence] = entries
        body = b"".join(encode_entry(entry) for entry in fed or entries)
        place = {"writer": writer, "number": number, "time": time, "sequence": self.sequence}
        expected = self.oracle.apply(read_entries(b"".join(map(encode_entry, entries)), len(entries)), **place)
        answers = self.view.answers(self.view.apply(memoryview(body), len(entries), **place))
        self._same("answers", [self._plain(answer) for answer in answers], expected)

    def give_away(self, first: int, last: int) -> None:
        """Have both give away the slots of a run that they own."""
        for slot in range(first, last + 1):
            if self.oracle.epochs[slot] >= 0:
                self.oracle.epochs[slot] = given(self.oracle.epochs[slot])
        self.view.set_machine(
            now=self.oracle.now, sequence=self.sequence, epochs=self.oracle.epochs, writers=self.oracle.writers
        )

    def value_of(self, evicted: Evicted) -> bytes:
        """What the log says."""
        return self.log[evicted.sequence][evicted.index].value

    def read(self, key: bytes, now: int, restore: bool) -> None:
        """Read a key of both, and put its value back where it was evicted."""
        held = self.view.get(key, now)
        self._same(f"get {key!r}", self._stored(held), self.oracle.get(key, now))
        if restore and isinstance(held, Evicted):
            value = self.value_of(held)
            self._same("a wrong length", self.view.restore_value(key, held, value + b"x"), False)
            self._same("restored", self.view.restore_value(key, held, value), True)
            self._same("restored twice", self.view.restore_value(key, held, value), False)
            self._same(f"get {key!r}", self.view.get(key, now), self.oracle.get(key, now))

    def scan(self, prefix: bytes, after: bytes | None, limit: int) -> None:
        """Scan both."""
        found = [(key, self._stored(held)) for key, held in self.view.scan(prefix, after=after, limit=limit)]
        self._same("scan", found, self.oracle.scan(prefix, after=after, limit=limit))

    def compare(self) -> None:
        """Compare the whole state, and that the view's own accounts add up."""
        self._same("digest", self.view.digest(self.value_of), self.oracle.digest())
        check_accounts(self.view)

    def _stored(self, held: Stored | Evicted | None) -> Stored | None:
        if not isinstance(held, Evicted):
            return held
        value = self.value_of(held)
        self._same("length", held.bytes, len(value))
        return Stored(value, held.revision, held.expiry)

    def _plain(self, answer: ViewAnswer) -> Answer:
        old = self.value_of(answer.old) if isinstance(answer.old, Evicted) else answer.old
        return Answer(status=answer.status, revision=answer.revision, old=old)

    def _same(self, what: str, got: Any, expected: Any) -> None:
        if got != expected:
            raise DiffersError(f"{what}: {got!r} instead of {expected!r}", position=f"sequence {self.sequence}")


def check_accounts(view: View) -> None:
    """What a view counts as it goes, against a count of its rows."""
    from tapehouse.kv import layout

    state, live, fixed, keys, evicted = view._state, 0, 0, 0, 0
    per_segment: dict[int, int] = {}
    for row in view._rows[view._rows[:, 0] != 0].tolist():
        key, value = row[layout.LENGTHS] >> 32, row[layout.LENGTHS] & 0xFFFF_FFFF
        bare, whole = (16 + key + 7) // 8 * 8, (16 + key + value + 7) // 8 * 8
        gone = bool(row[layout.MARKS] & layout.EVICTED)
        size = bare if gone else whole
        can_leave = value > layout.KEPT_BYTES and row[layout.LOCATION] >= 0
        live, keys, evicted = live + size, keys + 1, evicted + gone
        fixed += bare if can_leave else size
        segment = row[layout.AT] >> state.item(layout.ARENA_BITS)
        per_segment[segment] = per_segment.get(segment, 0) + size
    counted = [state.item(at) for at in (layout.LIVE_BYTES, layout.FIXED_BYTES, layout.KEYS, layout.EVICTED_KEYS)]
    used = 0
    for segment in range(state.item(layout.ARENA_SEGMENTS)):
        at = layout.ACCOUNTS_FROM + segment * layout.ACCOUNT_WORDS
        used += state.item(at + layout.TAKEN)
        if state.item(at + layout.LIVE) != per_segment.get(segment, 0):
            raise DiffersError(f"segment {segment} counts {state.item(at + layout.LIVE)} live bytes")
    if counted != [live, fixed, keys, evicted] or used != state.item(layout.ARENA_USED):
        raise DiffersError(f"counted {counted}, there are {[live, fixed, keys, evicted]}")


def random_entry(rng: Random, keys: list[bytes], value_bytes: int, now: int) -> Entry:
    """One entry on one of these keys."""
    key = rng.choice(keys)
    op = rng.choices((Op.PUT, Op.DELETE, Op.EXPIRE, Op.ADD, Op.BARRIER), (60, 12, 8, 15, 5))[0]
    flags = rng.choice((0, 0, 0, 1, 2, 4, 8, 16, 16, rng.randrange(32)))
    expiry = rng.choice((0, 0, 0, now + rng.randrange(1, 30), now - 1))
    revision = rng.choice((0, 1 << 48 | rng.randrange(1, 40) << 12 | rng.randrange(8)))
    value = b""
    if op is Op.PUT:
        value = rng.choice(NUMBERS) if rng.random() < 0.3 else rng.randbytes(rng.randrange(value_bytes + 1))
    elif op is Op.ADD:
        value = rng.choice((1, -1, rng.randrange(-(2**63), 2**63))).to_bytes(8, "little", signed=True)
    return Entry(
        op=op, key=b"" if op is Op.BARRIER else key, value=value, flags=flags, expiry=expiry, revision=revision
    )


def random_frame(rng: Random, keys: list[bytes], value_bytes: int, now: int, entries: int) -> list[Entry]:
    """Entries, some of them in batches, good and bad."""
    frame: list[Entry] = []
    while len(frame) < entries:
        if rng.random() < 0.1:
            tagged = [key for key in keys if key.startswith(b"{t}")] if rng.random() < 0.8 else keys
            size = rng.randrange(1, 6)
            chosen = rng.sample(tagged, min(size, len(tagged))) if rng.random() < 0.9 else rng.choices(tagged, k=size)
            frame.append(Entry(op=Op.BATCH, value=len(chosen).to_bytes(4, "little")))
            frame += [random_entry(rng, [key], value_bytes, now) for key in chosen]
        elif rng.random() < 0.05:
            frame.append(own(*random_slots(rng), rng.randrange(5)))
        else:
            frame.append(random_entry(rng, keys, value_bytes, now))
    return frame


def own(first: int, last: int, epoch: int) -> Entry:
    """The shard owns slots."""
    return Entry(op=Op.OWN, value=slots_value(first, last, epoch))


def random_slots(rng: Random) -> tuple[int, int]:
    """The first and the last slot of a run."""
    first, last = sorted((rng.randrange(16_384), rng.randrange(16_384)))
    return first, last


def random_keys(rng: Random, count: int) -> list[bytes]:
    """Keys of all lengths, the empty one among them, some of one slot."""
    return [b"", *(b"{t}%d" % at for at in range(6)), *(rng.randbytes(rng.randrange(1, 24)) for _ in range(count))]


def run_stream(rng: Random, pair: Pair, *, frames: int, keys: int, value_bytes: int, long_values: int = 0) -> None:
    """Feed a pair random frames of three gateways, some twice, some out of turn, and read between them.

    Args:
        value_bytes: At most, of a value.
        long_values: Puts of that length between two frames.
    """
    names = random_keys(rng, keys)
    numbers = dict.fromkeys(range(1, 4), 0)
    pair.feed([ALL_SLOTS] if rng.random() < 0.8 else [Entry(op=Op.OWN, value=slots_value(0, 9_000, 3))],
              writer=9, number=1, time=5)  # fmt: skip
    now = 10
    for number in range(1, frames + 1):
        now += rng.randrange(-2, 6)
        writer = rng.randrange(1, 4)
        step = rng.choice((1,) * 12 + (0, 2))
        frame = random_frame(rng, names, value_bytes, now, rng.randrange(1, 13))
        pair.feed(frame, writer=writer, number=numbers[writer] + step, time=now)
        numbers[writer] += step == 1
        if long_values:
            puts = [
                Entry(op=Op.PUT, key=rng.choice(names), value=rng.randbytes(value_bytes)) for _ in range(long_values)
            ]
            pair.feed(puts, writer=8, number=number, time=now)
        if rng.random() < 0.1:
            pair.give_away(*random_slots(rng))
        for key in rng.sample(names, 3):
            pair.read(key, now + rng.randrange(-3, 10), restore=rng.random() < 0.5)
        if rng.random() < 0.2:
            pair.view.sweep(rng.randrange(1, 200))
        if rng.random() < 0.1:
            pair.scan(
                rng.choice((b"", b"{t", rng.randbytes(1))), rng.choice((None, b"", rng.choice(names))), rng.randrange(4)
            )
    pair.compare()
