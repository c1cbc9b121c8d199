"""Applying the entries of one frame to a view, in one compiled call; `reference.py` says what must come of it."""

from __future__ import annotations

from typing import Any

from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.kv.arena import VALUE_MASK, account, allocate, block_bytes, make_room, write_head
from tapehouse.kv.entries import BATCH_MAX, ENTRY_BYTES, EPOCH_SHIFT, INDEX_BITS, OWN_VALUES, EntryFlag, Op, Status
from tapehouse.kv.integers import add_integers, integer_bytes, parse_integer, write_integer
from tapehouse.kv.layout import (
    ANSWERED_REVISION,
    AT,
    BLOCK_HEAD_BYTES,
    COMING_COUNT,
    COMING_DIGEST,
    DONE,
    ENTRY_AT,
    ENTRY_HASH,
    EPOCHS_FROM,
    EVICTED,
    EXPIRY,
    HASH,
    KEYS_FROM,
    LENGTHS,
    LOCATION,
    MARKS,
    NO_ROOM,
    NOW,
    NOWHERE,
    OLD_AT,
    OLD_BYTES,
    PINNED,
    REVISION,
    SEQUENCE,
    SLOT,
    SPARE_BYTES,
    STATUS,
)
from tapehouse.kv.moving import (
    freeze,
    give,
    is_frozen,
    may_copy,
    may_forget,
    own_copied,
    own_new,
    receive,
    row_digest,
)
from tapehouse.kv.table import find, free_row, remove
from tapehouse.kv.validate import BATCH, OWN, key_bytes_of, op_of, validate, value_word
from tapehouse.kv.words import copy_bytes, same_bytes, slot_at, word_at

PUT, DELETE, EXPIRE, ADD, BARRIER = int(Op.PUT), int(Op.DELETE), int(Op.EXPIRE), int(Op.ADD), int(Op.BARRIER)
IF_ABSENT, IF_PRESENT = int(EntryFlag.IF_ABSENT), int(EntryFlag.IF_PRESENT)
IF_REVISION, KEEP_EXPIRY, RETURN_OLD = (
    int(EntryFlag.IF_REVISION), int(EntryFlag.KEEP_EXPIRY), int(EntryFlag.RETURN_OLD)
)  # fmt: skip
APPLIED, ABSENT, PRESENT, CHANGED = int(Status.APPLIED), int(Status.ABSENT), int(Status.PRESENT), int(Status.CHANGED)
NOT_AN_INTEGER, OVERFLOW = int(Status.NOT_AN_INTEGER), int(Status.OVERFLOW)
NOT_OWNED, FROZEN, OTHER_MOVE = int(Status.NOT_OWNED), int(Status.FROZEN), int(Status.OTHER_MOVE)
REFUSED, BAD_BATCH = int(Status.REFUSED), int(Status.BAD_BATCH)
COPY, FORGET, FREEZE, GIVE, RECEIVE = int(Op.COPY), int(Op.FORGET), int(Op.FREEZE), int(Op.GIVE), int(Op.RECEIVE)
_NEW_BYTES = OWN_VALUES[0]


@kernel(inline=True)
def is_living(rows: Array, row: Int, now: Int) -> Any:
    """Whether there is a row and it has not expired."""
    return row >= 0 and not (rows[row, EXPIRY] != 0 and rows[row, EXPIRY] <= now)


@kernel()
def _sum(rows: Array, arena: Array, body: Array, at: Int, row: Int, living: Int) -> Any:
    """(status, sum) of an ADD."""
    ok, start = True, 0
    if living:
        size = rows[row, LENGTHS] & VALUE_MASK
        if rows[row, MARKS] & EVICTED:  # Longer than any integer.
            ok = False
        else:
            ok, start = parse_integer(arena, rows[row, AT] + BLOCK_HEAD_BYTES + (rows[row, LENGTHS] >> 32), size)
    if not ok:
        return NOT_AN_INTEGER, 0
    fits, total = add_integers(start, value_word(body, at))
    return (APPLIED if fits else OVERFLOW), total


@kernel()
def _judge(rows: Array, arena: Array, state: Array, body: Array, at: Int, row: Int, slot: Int) -> Any:
    """Whether an entry can be applied now, or why not; the first reason in this order."""
    if state[EPOCHS_FROM + slot] < 0:
        return NOT_OWNED
    if is_frozen(state, slot):
        return FROZEN
    head = word_at(body, at)
    op, flags = op_of(head), head >> 40 & 255
    living = is_living(rows, row, state[NOW])
    if flags & IF_REVISION and word_at(body, at + 24) != (rows[row, REVISION] if living else 0):
        return CHANGED
    if flags & IF_ABSENT and living:
        return PRESENT
    if (op == DELETE or op == EXPIRE or flags & IF_PRESENT) and not living:
        return ABSENT
    if op == ADD:
        status, _ = _sum(rows, arena, body, at, row, living)
        return status
    return APPLIED


@kernel(inline=True)
def _revision(state: Array, slot: Int, index: Int) -> Any:
    """Of the change that the entry at `index` makes."""
    return state[EPOCHS_FROM + slot] << EPOCH_SHIFT | state[SEQUENCE] << INDEX_BITS | index


@kernel(inline=True)
def place_value(
    rows: Array, directory: Array, arena: Array, state: Array,
    hashed: Int, row: Int, slot: Int,
    key: Array, key_at: Int, key_bytes: Int, value_bytes: Int, location: Int, in_place: Int,
) -> Any:  # fmt: skip
    """The row of a key with a block for a value of this length, which the caller writes; -1 where there is no room.

    Args:
        row: As `find` gave it.
        in_place: Whether a block of the same size may be written over.
    """
    size = block_bytes(key_bytes, value_bytes)
    if row < 0:
        row = free_row(rows, directory, state, hashed)
        if row < 0:
            return -1
        rows[row, HASH], rows[row, SLOT] = hashed, slot
        state[KEYS_FROM + slot] += 1
        at = allocate(state, size)
    else:
        account(rows, state, row, -1)
        at = rows[row, AT]
        held = block_bytes(key_bytes, rows[row, LENGTHS] & VALUE_MASK)
        if not in_place or held != size or rows[row, MARKS] & EVICTED:
            at = allocate(state, size)
    if at < 0:
        return -1
    write_head(arena, at, hashed, key_bytes, value_bytes)
    copy_bytes(arena, at + BLOCK_HEAD_BYTES, key, key_at, key_bytes)
    rows[row, AT] = at
    rows[row, LENGTHS] = key_bytes << 32 | value_bytes
    rows[row, LOCATION] = location
    rows[row, MARKS] = 0
    account(rows, state, row, 1)
    return row


@kernel()
def _store(
    rows: Array, directory: Array, arena: Array, state: Array, body: Array, at: Int, index: Int,
    hashed: Int, row: Int, slot: Int, in_place: Int,
) -> Any:  # fmt: skip
    """Do what a PUT or an ADD says; its revision, or -1 where there is no room."""
    head = word_at(body, at)
    op, flags, key_bytes = op_of(head), head >> 40 & 255, key_bytes_of(head)
    living = is_living(rows, row, state[NOW])
    total = 0
    location = state[SEQUENCE] << INDEX_BITS | index
    value_bytes = word_at(body, at + 8) & VALUE_MASK
    expiry = word_at(body, at + 16)
    if op == ADD:
        _, total = _sum(rows, arena, body, at, row, living)
        value_bytes = integer_bytes(total)
        location = NOWHERE
    if op == ADD or flags & KEEP_EXPIRY:
        expiry = rows[row, EXPIRY] if living else 0
    key_at = at + ENTRY_BYTES
    row = place_value(
        rows, directory, arena, state, hashed, row, slot, body, key_at, key_bytes, value_bytes, location, in_place
    )
    if row < 0:
        return -1
    value_at = rows[row, AT] + BLOCK_HEAD_BYTES + key_bytes
    if op == ADD:
        write_integer(arena, value_at, value_bytes, total)
    else:
        copy_bytes(arena, value_at, body, key_at + key_bytes, value_bytes)
    rows[row, EXPIRY] = expiry
    rows[row, REVISION] = _revision(state, slot, index)
    return rows[row, REVISION]


@kernel(inline=True)
def answer(answers: Array, index: Int, status: Int, revision: Int) -> None:
    """An answer without an old value."""
    answers[index, STATUS] = status
    answers[index, ANSWERED_REVISION] = revision
    answers[index, OLD_BYTES] = -1
    answers[index, OLD_AT] = 0


@kernel()
def _apply_keyed(
    rows: Array, directory: Array, arena: Array, state: Array, answers: Array, body: Array, index: Int, in_place: Int
) -> Any:
    """Apply a PUT, DELETE, EXPIRE or ADD and answer it; False where there is no room."""
    at, hashed = answers[index, ENTRY_AT], answers[index, ENTRY_HASH]
    head = word_at(body, at)
    op, key_bytes, key_at = op_of(head), key_bytes_of(head), at + ENTRY_BYTES
    slot = slot_at(body, key_at, key_bytes)
    row = find(rows, directory, arena, state, hashed, body, key_at, key_bytes)
    living = is_living(rows, row, state[NOW])
    status = _judge(rows, arena, state, body, at, row, slot)
    answer(answers, index, status, rows[row, REVISION] if living else 0)
    if living and (head >> 40) & RETURN_OLD:
        answers[index, OLD_BYTES] = rows[row, LENGTHS] & VALUE_MASK
        if rows[row, MARKS] & EVICTED:
            answers[index, OLD_AT] = ~rows[row, LOCATION]
        else:
            answers[index, OLD_AT] = rows[row, AT] + BLOCK_HEAD_BYTES + key_bytes
    if status != APPLIED:
        return True
    if op == DELETE:
        account(rows, state, row, -1)
        remove(rows, state, row)
        answers[index, ANSWERED_REVISION] = _revision(state, slot, index)
    elif op == EXPIRE:
        rows[row, EXPIRY] = word_at(body, at + 16)
        if not is_living(rows, row, state[NOW]):
            answers[index, ANSWERED_REVISION] = 0
    else:
        revision = _store(rows, directory, arena, state, body, at, index, hashed, row, slot, in_place)
        answers[index, ANSWERED_REVISION] = revision
        return revision >= 0
    return True


@kernel()
def _is_bad_batch(answers: Array, body: Array, first: Int, count: Int) -> Any:
    """Whether a batch is none: too long, a kind that has no key, a key twice, keys of several slots."""
    if count > BATCH_MAX:
        return True
    shared = -1
    for index in range(first, first + count):
        at = answers[index, ENTRY_AT]
        head = word_at(body, at)
        size = key_bytes_of(head)
        if op_of(head) > ADD:
            return True
        slot = slot_at(body, at + ENTRY_BYTES, size)
        if shared >= 0 and slot != shared:
            return True
        shared = slot
        for other in range(first, index):
            if answers[other, ENTRY_HASH] == answers[index, ENTRY_HASH]:
                there = answers[other, ENTRY_AT]
                equal = key_bytes_of(word_at(body, there)) == size
                if equal and same_bytes(body, there + ENTRY_BYTES, body, at + ENTRY_BYTES, size):
                    return True
    return False


@kernel()
def _judge_batch(
    rows: Array, directory: Array, arena: Array, state: Array, answers: Array, body: Array, first: Int, count: Int
) -> Any:
    """Judge a batch's entries; whether all can be applied. Where not, each is answered."""
    all_apply = True
    for index in range(first, first + count):
        at = answers[index, ENTRY_AT]
        size = key_bytes_of(word_at(body, at))
        slot = slot_at(body, at + ENTRY_BYTES, size)
        row = find(rows, directory, arena, state, answers[index, ENTRY_HASH], body, at + ENTRY_BYTES, size)
        status = _judge(rows, arena, state, body, at, row, slot)
        all_apply = all_apply and status == APPLIED
        revision = rows[row, REVISION] if is_living(rows, row, state[NOW]) else 0
        answer(answers, index, REFUSED if status == APPLIED else status, revision)
    return all_apply


@kernel()
def _apply_batch(
    rows: Array, directory: Array, arena: Array, state: Array, answers: Array, body: Array, index: Int, in_place: Int
) -> Any:
    """Apply the batch that the entry at `index` announces, or none of it; False where there is no room."""
    count = value_word(body, answers[index, ENTRY_AT])
    if _is_bad_batch(answers, body, index + 1, count):
        for bad in range(index, index + 1 + count):
            answer(answers, bad, BAD_BATCH, 0)
        return True
    if not _judge_batch(rows, directory, arena, state, answers, body, index + 1, count):
        answer(answers, index, REFUSED, 0)
        return True
    at = answers[index + 1, ENTRY_AT]
    slot = slot_at(body, at + ENTRY_BYTES, key_bytes_of(word_at(body, at)))
    answer(answers, index, APPLIED, _revision(state, slot, index))
    for each in range(index + 1, index + 1 + count):
        if not _apply_keyed(rows, directory, arena, state, answers, body, each, in_place):
            return False
    return True


@kernel()
def _copy(
    rows: Array, directory: Array, arena: Array, state: Array, answers: Array,
    body: Array, index: Int, in_place: Int, writer: Int,
) -> Any:  # fmt: skip
    """Take a row over from another shard as it was there; False where there is no room."""
    at, hashed = answers[index, ENTRY_AT], answers[index, ENTRY_HASH]
    key_bytes, key_at = key_bytes_of(word_at(body, at)), at + ENTRY_BYTES
    value_bytes, expiry, revision = word_at(body, at + 8) & VALUE_MASK, word_at(body, at + 16), word_at(body, at + 24)
    slot = slot_at(body, key_at, key_bytes)
    if not may_copy(state, slot, revision, writer):
        answer(answers, index, OTHER_MOVE, 0)
        return True
    row = find(rows, directory, arena, state, hashed, body, key_at, key_bytes)
    location = state[SEQUENCE] << INDEX_BITS | index
    row = place_value(
        rows, directory, arena, state, hashed, row, slot, body, key_at, key_bytes, value_bytes, location, in_place
    )
    if row < 0:
        return False
    copy_bytes(arena, rows[row, AT] + BLOCK_HEAD_BYTES + key_bytes, body, key_at + key_bytes, value_bytes)
    rows[row, EXPIRY], rows[row, REVISION] = expiry, revision
    state[COMING_COUNT] += 1
    state[COMING_DIGEST] += row_digest(body, key_at, key_bytes, value_bytes, expiry, revision)
    answer(answers, index, APPLIED, revision)
    return True


@kernel()
def _forget(
    rows: Array, directory: Array, arena: Array, state: Array, answers: Array, body: Array, index: Int, writer: Int
) -> None:
    """Drop a row of a slot that is not owned."""
    at, hashed = answers[index, ENTRY_AT], answers[index, ENTRY_HASH]
    key_bytes, key_at = key_bytes_of(word_at(body, at)), at + ENTRY_BYTES
    if not may_forget(state, slot_at(body, key_at, key_bytes), value_word(body, at), writer):
        answer(answers, index, OTHER_MOVE, 0)
        return
    row = find(rows, directory, arena, state, hashed, body, key_at, key_bytes)
    if row >= 0:
        account(rows, state, row, -1)
        remove(rows, state, row)
    answer(answers, index, APPLIED, 0)


@kernel()
def _apply_run(state: Array, answers: Array, body: Array, index: Int, writer: Int) -> None:
    """Do what an entry says that concerns a run of slots."""
    at = answers[index, ENTRY_AT]
    op, time, run = op_of(word_at(body, at)), word_at(body, at + 16), value_word(body, at)
    status, revision = APPLIED, 0
    if op == FREEZE:
        status, revision = freeze(state, run, time, writer)
    elif op == GIVE:
        status = give(state, run, writer)
    elif op == RECEIVE:
        status = receive(state, run, writer)
    elif word_at(body, at + 8) & VALUE_MASK == _NEW_BYTES:
        own_new(state, run)
    else:
        said = at + ENTRY_BYTES + key_bytes_of(word_at(body, at)) + _NEW_BYTES
        status = own_copied(state, run, word_at(body, said), word_at(body, said + 8), time, writer)
    answer(answers, index, status, revision)


@kernel()
def apply_entries(
    rows: Array, directory: Array, arena: Array, state: Array, answers: Array,
    body: Array, size: Int, count: Int, sequence: Int, now: Int, verdict: Int, writer: Int,
) -> Any:  # fmt: skip
    """Apply a frame's entries in their order, an answer for each into `answers`.

    Args:
        body: The entries, `size` bytes; uint8, read-only.
        sequence: Of the frame in its log.
        now: The machine's time from this frame on, UTC ns.
        verdict: APPLIED; or the status that all entries get instead of being applied.
        writer: Whose frame it is, as an int64.

    Returns:
        DONE, or why nothing was done (ERROR_AT says where). Only NO_ROOM can come in the midst of it.
    """
    wrong = validate(rows, directory, state, answers, body, size, count)
    if wrong != DONE:
        return wrong
    if verdict != APPLIED:
        state[SEQUENCE] = sequence
        for index in range(count):
            answer(answers, index, verdict, 0)
        return DONE
    wrong = make_room(rows, directory, arena, state, size + count * SPARE_BYTES)
    if wrong != DONE:
        return wrong
    state[SEQUENCE], state[NOW] = sequence, now
    in_place = state[PINNED] == 0
    # An old value is answered by its place in the arena, so it must not be written over.
    for index in range(count):
        if word_at(body, answers[index, ENTRY_AT]) >> 40 & RETURN_OLD:
            in_place = False
    index = 0
    while index < count:
        at = answers[index, ENTRY_AT]
        op = op_of(word_at(body, at))
        ok = True
        if op == BATCH:
            ok = _apply_batch(rows, directory, arena, state, answers, body, index, in_place)
            index += value_word(body, at)
        elif op == BARRIER:
            answer(answers, index, APPLIED, 0)
        elif op == COPY:
            ok = _copy(rows, directory, arena, state, answers, body, index, in_place, writer)
        elif op == FORGET:
            _forget(rows, directory, arena, state, answers, body, index, writer)
        elif op >= OWN:
            _apply_run(state, answers, body, index, writer)
        else:
            ok = _apply_keyed(rows, directory, arena, state, answers, body, index, in_place)
        if not ok:
            return NO_ROOM
        index += 1
    return DONE
