"""A KV view's snapshot stays readable for ever, and no damage to it passes.

`python -m tests.golden.test_kv_snapshot_format` made the files; it is run by hand for a *new* version.
"""

from __future__ import annotations

import json
from dataclasses import astuple
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tapehouse.core.errors import DataError, DecodeError, IntegrityError, MissingError
from tapehouse.kv import moves
from tapehouse.kv.entries import Entry, Op, encode_entry
from tapehouse.kv.reference import given
from tapehouse.kv.snapshot import HEADER_BYTES, read_snapshot, write_snapshot
from tapehouse.kv.view import BudgetError, Evicted, View
from tests.support.kv_streams import ALL_SLOTS, Pair, run_stream, tiny_view

FOLDER = Path(__file__).parent / "formats"
NAME = "kv-snapshot-v1"
LOG_ID = bytes(range(16))
REFUSALS = (DataError, IntegrityError)


def golden_pair() -> Pair:
    """A view with expiries, sums, several gateways and evicted values."""
    pair = Pair(tiny_view(budget_bytes=16 << 13))
    pair.feed([ALL_SLOTS], writer=2, number=1, time=100)
    for number in range(1, 41):
        puts = [Entry(op=Op.PUT, key=b"k%d/%d" % (number, at), value=b"%d." % number * 150) for at in range(6)]
        pair.feed(puts, writer=1, number=number, time=100 + number)
    for number in range(41, 44):
        gone = [Entry(op=Op.DELETE, key=b"k%d/%d" % (number - 40, at)) for at in range(6)]
        pair.feed(gone, writer=1, number=number, time=200)
    short = [
        Entry(op=Op.ADD, key=b"sum", value=(41).to_bytes(8, "little")),
        Entry(op=Op.PUT, key=b"", value=b"the empty key", expiry=10**18),
        Entry(op=Op.PUT, key=b"gone", expiry=150),
        Entry(op=Op.PUT, key="schlüssel".encode(), value=b""),
    ]
    pair.feed(short, writer=3, number=1, time=300)
    return pair


def given_pair() -> Pair:
    """The same, and slots that were given away."""
    pair = golden_pair()
    pair.give_away(5, 5)
    pair.give_away(100, 16_000)
    return pair


def moving_pair() -> Pair:
    """The same, with a run of slots held still and another one whose rows come."""
    pair = given_pair()
    pair.feed([moves.freeze(20, 90, 4, 10**18), moves.receive(100, 16_000, 4)], writer=2**64 - 2, number=1, time=400)
    pair.feed([moves.copy(b"k9/1", b"row", expiry=0, revision=1 << 48)], writer=2**64 - 2, number=2, time=400)
    return pair


PAIRS = {NAME: golden_pair, "kv-snapshot-v2": given_pair, "kv-snapshot-v3": moving_pair}


def meaning(view: View) -> dict[str, Any]:
    """What a view holds, ready for JSON."""
    away = [slot for slot, epoch in enumerate(view.epochs) if epoch == given(1)]
    rows = {}
    for key, held in [(b"", view.get(b"")), *view.scan(b"")]:
        assert held is not None
        where = [held.sequence, held.index, held.bytes] if isinstance(held, Evicted) else held.value.hex()
        rows[key.hex()] = [where, held.revision, held.expiry]
    return {
        "sequence": view.sequence, "now": view.now, "owned": sum(epoch == 1 for epoch in view.epochs),
        "writers": {str(writer): list(last) for writer, last in sorted(view.writers.items())}, "rows": rows,
        **({"frozen": list(astuple(view.frozen))} if view.frozen else {}),
        **({"coming": list(astuple(view.coming))} if view.coming else {}),
        **({"given away": [min(away), max(away), len(away)]} if away else {}),
    }  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_the_committed_file_is_read(name: str) -> None:
    view = read_snapshot(FOLDER / f"{name}.bin", LOG_ID, tiny_view)
    found = meaning(view)
    assert found == json.loads((FOLDER / f"{name}.json").read_text())
    assert view.metrics().evicted_keys > 0


@pytest.mark.parametrize("name", PAIRS)
def test_equal_states_have_the_committed_bytes(name: str, tmp_path: Path) -> None:
    write_snapshot(tmp_path / "view", PAIRS[name]().view.moment(), LOG_ID)
    assert (tmp_path / "view").read_bytes() == (FOLDER / f"{name}.bin").read_bytes()


def test_a_view_goes_on_from_its_snapshot(tmp_path: Path) -> None:
    """Under another seed, with smaller segments and a sweep before: the same bytes, and the same from there on."""
    pair = Pair(tiny_view(seed=1))
    run_stream(Random(5), pair, frames=60, keys=40, value_bytes=200, long_values=3)
    write_snapshot(tmp_path / "one", pair.view.moment(), LOG_ID)
    pair.view = read_snapshot(tmp_path / "one", LOG_ID, lambda: tiny_view(seed=99, row_bits=6))
    pair.compare()
    for _ in range(20):
        pair.view.sweep(500)
    write_snapshot(tmp_path / "two", pair.view.moment(), LOG_ID)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    puts = [Entry(op=Op.PUT, key=b"%d" % at, value=bytes(700)) for at in range(10)]
    for number in range(1, 20):
        pair.feed(puts, writer=77, number=number, time=2_000 + number)
    pair.compare()


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    pair = Pair(tiny_view())
    pair.feed([ALL_SLOTS, Entry(op=Op.PUT, key=b"k", value=b"value")], writer=1, number=1, time=1)
    write_snapshot(tmp_path / "view", pair.view.moment(), LOG_ID)
    whole = (tmp_path / "view").read_bytes()
    for at in range(len(whole)):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << at % 8
        (tmp_path / "flipped").write_bytes(flipped)
        with pytest.raises(REFUSALS, match="flipped"):
            read_snapshot(tmp_path / "flipped", LOG_ID, tiny_view)
    for size in range(len(whole)):
        (tmp_path / "torn").write_bytes(whole[:size])
        with pytest.raises(REFUSALS, match="torn"):
            read_snapshot(tmp_path / "torn", LOG_ID, tiny_view)
    (tmp_path / "longer").write_bytes(whole + b"\0")
    with pytest.raises(IntegrityError):
        read_snapshot(tmp_path / "longer", LOG_ID, tiny_view)


def test_damage_is_named(tmp_path: Path) -> None:
    whole = bytearray((FOLDER / f"{NAME}.bin").read_bytes())
    whole[-1] ^= 1
    (tmp_path / "view").write_bytes(whole)
    with pytest.raises(IntegrityError, match=r"chunk 1 is damaged \(put the file aside"):
        read_snapshot(tmp_path / "view", LOG_ID, tiny_view)
    whole[4] = 4
    (tmp_path / "view").write_bytes(whole)
    with pytest.raises(DecodeError, match="version 4 is unknown"):
        read_snapshot(tmp_path / "view", LOG_ID, tiny_view)
    with pytest.raises(IntegrityError, match="another branch"):
        read_snapshot(FOLDER / f"{NAME}.bin", bytes(16), tiny_view)
    with pytest.raises(MissingError):
        read_snapshot(tmp_path / "none", LOG_ID, tiny_view)


def test_the_old_snapshot_stands_where_a_new_one_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="cannot be written"):
        write_snapshot(tmp_path / "nowhere" / "view", tiny_view().moment(), LOG_ID)


def fill(pair: Pair) -> None:
    for number in range(2, 3_000):
        pair.feed([Entry(op=Op.PUT, key=b"%d" % number)], writer=1, number=number, time=1)


def test_keys_beyond_the_budget_stop_the_view_and_name_the_setting() -> None:
    pair = Pair(tiny_view())
    pair.feed([ALL_SLOTS], writer=1, number=1, time=1)
    with pytest.raises(BudgetError, match="raise budget_bytes"):
        fill(pair)
    before = pair.view.digest(), pair.view.metrics()
    assert pair.view.metrics().keys > 100
    body = encode_entry(Entry(op=Op.PUT, key=b"one more"))
    with pytest.raises(BudgetError):
        pair.view.apply(body, 1, writer=1, number=pair.sequence, time=1, sequence=pair.sequence)
    assert (pair.view.digest(), pair.view.metrics()) == before


def main() -> None:
    """Write the files, where there are none."""
    name = list(PAIRS)[-1]
    path = FOLDER / f"{name}.bin"
    assert not path.exists(), "golden files are never rewritten"
    view = PAIRS[name]().view
    write_snapshot(path, view.moment(), LOG_ID)
    path.with_suffix(".json").write_text(json.dumps(meaning(view), indent=1) + "\n")
    print(path, path.stat().st_size, HEADER_BYTES)


if __name__ == "__main__":
    main()
