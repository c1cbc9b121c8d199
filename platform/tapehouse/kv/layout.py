"""Where everything of a compiled view lies: the words of a row, of the state and of an answer, and a block's bytes.

A view is four arrays, so that a call of a kernel is cheap:

- `rows` (n, 8) int64: one cache line a key, in segments of equal size that are hash tables of their own;
- `directory` int64: by the first bits of a hash, the segment of rows that holds it (segment << 8 | local depth);
- `arena` uint8: blocks of a key and its value, in segments that are filled from their start and freed whole;
- `state` int64: counters, the epoch and the number of keys of each slot, an account of each arena segment, the fill of
  each row segment.

A block is 8 bytes of hash, 4 of key length, 4 of value length, the key, the value, and what fills up to 8.
"""

from __future__ import annotations

from tapehouse.kv.slots import SLOTS

# A row. HASH is 0 where the row is free; LENGTHS is key bytes << 32 | value bytes; LOCATION is sequence << 12 | index
# of the entry that holds the value in this shard's log, NOWHERE where none does; MARKS are bits.
ROW_WORDS = 8
HASH, AT, LENGTHS, REVISION, LOCATION, EXPIRY, MARKS, SLOT = range(ROW_WORDS)
USED = 1  # read since the cleaner last came by
EVICTED = 2  # the block holds the key alone
NOWHERE = -1

# An answer: OLD_BYTES is -1 where nothing is to be answered; OLD_AT is the value's place in the arena, or ~location
# where it was evicted; the last two are the entry's own: its place in the body, its key's hash.
ANSWER_WORDS = 6
STATUS, ANSWERED_REVISION, OLD_BYTES, OLD_AT, ENTRY_AT, ENTRY_HASH = range(ANSWER_WORDS)

BLOCK_HEAD_BYTES = 16
SPARE_BYTES = 8  # that a block may take beyond its entry: a sum's digits, and filling up
KEPT_BYTES = 64  # a value as short as this is never evicted: its place would cost as much as it does
LOCAL_DEPTH_BITS = 8
HASH_BITS = 63

# The state's counters.
(
    NOW,
    SEQUENCE,
    KEYS,
    SEED,
    HASH_MASK,
    ROW_BITS,  # of rows in a segment, as a power of two; so are those of the arena's bytes
    DEPTH,
    DEPTH_MAX,
    ROW_SEGMENTS,
    ROW_SEGMENTS_MAX,
    FILLS_FROM,
    ARENA_BITS,
    ARENA_SEGMENTS,  # that the array has
    ARENA_USED,  # segments that are in use
    CURRENT,
    BUMP,
    BUDGET,  # bytes of rows and arena together
    LIVE_BYTES,  # of blocks that a row points to
    FIXED_BYTES,  # of them, what eviction cannot take
    EVICTED_KEYS,
    EVICTIONS,
    RESTORED,
    HITS,
    MISSES,  # of a value that was evicted
    ABSENT,  # of a key that is not there
    CLEAN_SEGMENT,
    CLEAN_AT,
    CLEAN_EVICTS,
    CLEAN_KEEPS,  # bytes of values that may still get their second chance in this segment
    HAND,
    CLEANED_BYTES,
    SWEEP_AT,
    SWEPT,
    ERROR_AT,
    FROZEN_FIRST,  # a run of slots that the shard holds still, and one whose rows come: `moves`; LAST is -1 for none
    FROZEN_LAST,
    FROZEN_EPOCH,
    FROZEN_UNTIL,
    FROZEN_SINCE,
    FROZEN_WRITER,  # as an int64, so are digests
    COMING_FIRST,
    COMING_LAST,
    COMING_EPOCH,
    COMING_WRITER,
    COMING_COUNT,
    COMING_DIGEST,
    PINNED,  # a moment of the view is being written: no byte that its rows point to may change
) = range(47)
EPOCHS_FROM = 64
KEYS_FROM = EPOCHS_FROM + SLOTS  # of each slot: how many rows it has
ACCOUNTS_FROM = KEYS_FROM + SLOTS  # of the arena's segments, ACCOUNT_WORDS each
ACCOUNT_WORDS = 5
LIVE, EVICTABLE, END, TAKEN, HELD = range(ACCOUNT_WORDS)  # HELD by a pinned moment

# Why a kernel stopped.
(
    DONE,
    CUT_SHORT,
    DOES_NOT_ADD_UP,
    TOO_LONG,
    UNKNOWN_KIND,
    WRONG_VALUE,
    WRONG_COUNT,
    WRONG_SLOTS,
    WRONG_BATCH,
    OVER_BUDGET,
    NO_ROOM,
) = range(11)
