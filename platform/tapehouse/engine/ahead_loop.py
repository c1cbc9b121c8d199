"""The compiled loop of `ahead` mode: feed rings -> journal -> engine -> decided records, with no Python in it.

One turn takes what one feed ring holds, whole records up to BURST_CELLS, writes it to the journal with the tape's
instrument ids, folds it there in place with the engine's loop, and sends on what was decided. It returns to Python at
a record that Python must act on, and when it is told to stop. Everything that it must remember stands in `control`, so
the caller acts and calls again.

A crash between any two instructions loses and doubles nothing: the journal is published before the feed is released,
and what is about to be published is noted in the journal's own words first, so a successor knows whether a feed's last
burst is in it.
"""

from __future__ import annotations

from tapehouse.core.atomics import array_address, copy_cell, load, load_acquire, nap, pause, store, store_release
from tapehouse.core.cycles import cycles
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.core.reference import refer
from tapehouse.desk.state import OUT_ROWS, SYMBOL_IDS_MAX
from tapehouse.engine.journal import TAKEN_CELLS, TAKEN_HEAD, TAKEN_SOURCE, word_address
from tapehouse.engine.loop import DONE, OUTPUT_FULL, run
from tapehouse.engine.sequencer import DESK_SOURCE
from tapehouse.market import CELL_BYTES, Kind
from tapehouse.ring.kernels import (
    append_bulk,
    append_cell_or_drop,
    fits,
    head_address,
    publish,
    readable,
    release,
    tail_address,
)
from tapehouse.ring.layout import CELLS, HEAD, TAIL

# Why the loop returned, beside the reasons of `engine.loop`.
STOPPED, FENCED_OFF, FEED_SPEAKS, UNDECLARED, TORN_RECORD = range(32, 37)
_JOURNAL_FULL = 37

FEEDS_MAX = 16
NAP_WITHHELD_US = 100
BURST_CELLS = 256  # of one feed before the next one is looked at; a record has 255 at most

# Entries of `control`.
(
    STOP,  # set from another thread. 1: return when all is sent on; 2: return also where it cannot be
    JOURNAL,  # address
    BASE,  # TAPE ordinal of the journal's index 0
    FOLDED,  # journal index through which the engine has folded
    SENT,  # journal index through which everything decided has been sent on
    TURN,  # 1: a Python strategy has just answered for the record at FOLDED
    FEEDS,  # how many
    NEXT,  # the feed to be looked at next
    FEED,  # the one that the loop returned for
    DECIDED,  # address of the ring to the publisher of EVENTS
    ORDERS,  # address of the ring of outgoing orders, 0 for none
    STAGES,  # address of the ring of stage timings, 0 for none
    FENCED,  # address of the journal's word that says that another writer has taken over
    BURST_AT,  # the burst under way: its journal index, its cells (0: none), and when it was taken, journaled, decided
    BURST_COUNT,
    TAKEN_AT,
    JOURNALED_AT,
    DECIDED_AT,
    SPINS,  # turns without work after which every further one naps
    NAP_US,  # 0: never nap
    FULL_TURNS,  # turns in which the journal had no room
    STALLED_TURNS,  # turns in which a ring of outputs had no room
    GAPS,  # address of the ring that is told when the loop was away while nothing was to do, 0 for none
    GAP_COUNTS,  # of the cycle counter, above which it was away
    TURNED_AT,  # the counter when the loop was last known to have the core
    DEADLINE,  # the counter beyond which no order leaves; 0 for none, set from another thread
    WITHHELD_TURNS,  # turns in which orders waited for the deadline to be moved on
) = range(27)
CONTROLS = 27

# Columns of `feeds`.
ADDRESS, SOURCE = range(2)
FEED_COLUMNS = 2

_RAW = int(Kind.RAW)
_FIRST_SPOKEN, _LAST_SPOKEN = int(Kind.ORDER), int(Kind.DEFINITION)  # ORDER, FILL, COMMAND, EVENT, DEFINITION
_EPOCH = int(Kind.EPOCH)
_DESK = DESK_SOURCE << 32
_LOW = 0xFFFFFFFF
_KIND_AND_CELLS = ~((1 << 48) - 1)
_STAGE_SMALL = (1 << 56) | (_RAW << 48)


@kernel()
def _take(control: Array, feeds: Array, maps: Array, feed: Int) -> tuple[Int, Int]:
    """Write one burst of a feed to the journal, publish it, and release it: its cells, and why it is none.

    A definition, or what is not for a feed to say, ends a burst; at its head it is told. The desk's own ring may say
    everything.
    """
    ring = feeds[feed, ADDRESS]
    journal = control[JOURNAL]
    available = readable(ring)
    source = tail_address(ring)
    origin = feeds[feed, SOURCE] << 32
    target = head_address(journal)
    count = 0
    why = DONE
    while count < available and count < BURST_CELLS:
        small = load(source + count * CELL_BYTES + 48)
        length = (small >> 56) & 255
        kind = (small >> 48) & 255
        if length == 0 or count + length > available:
            why = TORN_RECORD
            break
        if origin != _DESK and (_FIRST_SPOKEN <= kind <= _LAST_SPOKEN or kind == _EPOCH):
            why = FEED_SPEAKS
            break
        if not fits(journal, count + length):
            why = _JOURNAL_FULL
            break
        instrument = small & _LOW
        if instrument != 0 and origin != _DESK:
            if instrument >= SYMBOL_IDS_MAX or maps[feed, instrument] == 0:
                why = UNDECLARED
                break
            instrument = maps[feed, instrument]
        common = origin | instrument
        for at in range(count, count + length):
            copy_cell(target + at * CELL_BYTES, source + at * CELL_BYTES)
            place = target + at * CELL_BYTES + 48
            store(place, (load(place) & _KIND_AND_CELLS) | common)
        count += length
    if count == 0:
        return 0, why
    store_release(word_address(journal, TAKEN_HEAD), load(journal + HEAD) + count)
    store_release(word_address(journal, TAKEN_SOURCE), feeds[feed, SOURCE])
    store_release(word_address(journal, TAKEN_CELLS), load(ring + TAIL) + count)
    publish(journal, count)
    release(ring, count)
    return count, DONE


@kernel()
def _send(control: Array, counters: Array, out: Array) -> Int:
    """Send on what was decided, to every ring or to none of them: 1 where all is sent."""
    rows = counters[OUT_ROWS]
    if rows != 0:
        decided, orders = control[DECIDED], control[ORDERS]
        if not fits(decided, rows) or (orders != 0 and not fits(orders, rows)):
            return 0
        if orders != 0:
            append_bulk(orders, out, 0, rows)
        append_bulk(decided, out, 0, rows)
        counters[OUT_ROWS] = 0
    store_release(array_address(control) + SENT * 8, control[FOLDED])
    return 1


@kernel(inline=True)
def _note_stages(control: Array) -> None:
    """Write when the burst under way passed each stage, beside the cells; dropped and counted where nobody reads."""
    append_cell_or_drop(
        control[STAGES], control[TAKEN_AT], control[JOURNALED_AT], control[DECIDED_AT], cycles(),
        control[BASE] + control[BURST_AT], control[BURST_COUNT], _STAGE_SMALL, control[FEED],
    )  # fmt: skip


@kernel(inline=True)
def _note_gap(control: Array, now: Int) -> None:
    """Tell where a turn without work took so long that somebody else must have had the core."""
    before = control[TURNED_AT]
    control[TURNED_AT] = now
    if before != 0 and now - before > control[GAP_COUNTS]:
        append_cell_or_drop(control[GAPS], before, now, 0, 0, 0, 0, _STAGE_SMALL, 0)


@kernel()
def advance(
    control: Array, feeds: Array, maps: Array, slots: Array, desk: State, books: State, chain: State, routes: State,
    scratch: State, strategy: State, parameters: Array, memory: Array, calls: Int, out: Array, powers: Array,
) -> Int:  # fmt: skip
    """Run until Python must act; return why, a reason of `engine.loop` or of this module.

    Args:
        feeds: Shape (FEEDS_MAX, FEED_COLUMNS) int64; the first `control[FEEDS]` are looked at in turn.
        maps: Shape (FEEDS_MAX, SYMBOL_IDS_MAX) int64: the tape's id of each feed's instrument ids, 0 for none.
        slots: The journal's cells as words, both mappings: shape (2 x capacity, 8).
        desk: This and what follows as `engine.loop.run` takes it.
    """
    journal = control[JOURNAL]
    mask = load(journal + CELLS) - 1
    stop = array_address(control) + STOP * 8
    deadline = array_address(control) + DEADLINE * 8
    state = refer(desk), refer(books), refer(chain), refer(routes), refer(scratch)
    turns = 0
    while True:
        if load_acquire(control[FENCED]) != 0:
            return FENCED_OFF
        turns += 1
        if turns > control[SPINS] and control[NAP_US] != 0:
            nap(control[NAP_US])
        if desk.counters[OUT_ROWS] != 0 and control[ORDERS] != 0:
            last = load_acquire(deadline)
            if last != 0 and cycles() - last > 0:
                if load_acquire(stop) > 1:
                    return STOPPED
                control[WITHHELD_TURNS] += 1
                nap(NAP_WITHHELD_US)
                continue
        if _send(control, desk.counters, out) == 0:
            if load_acquire(stop) > 1:
                return STOPPED
            control[STALLED_TURNS] += 1
            pause()
            continue
        at = control[FOLDED]
        head = load(journal + HEAD)
        if at < head:
            row = at & mask
            ended, why = run(
                slots, row, row + head - at, control[BASE] + at - row, control[TURN], state[0], state[1],
                state[2], state[3], state[4], strategy, parameters, memory, calls, out, powers,
            )  # fmt: skip
            turns = 0
            control[TURN] = 0
            control[FOLDED] = at + ended - row
            if why == DONE:
                control[DECIDED_AT] = cycles()
            elif why != OUTPUT_FULL:
                return why
            continue
        if control[BURST_COUNT] != 0:
            if control[STAGES] != 0:
                _note_stages(control)
            if control[GAPS] != 0:
                _note_gap(control, control[TAKEN_AT])
                control[TURNED_AT] = cycles()
            control[BURST_COUNT] = 0
        if load_acquire(stop) != 0:  # Here, where all that is in the journal is decided upon and sent on.
            return STOPPED
        taken = 0
        for _ in range(control[FEEDS]):
            feed = control[NEXT]
            control[NEXT] = feed + 1 if feed + 1 < control[FEEDS] else 0
            if readable(feeds[feed, ADDRESS]) == 0:
                continue
            control[TAKEN_AT] = cycles()
            index = load(journal + HEAD)
            count, why = _take(control, feeds, maps, feed)
            control[FEED] = feed
            if count != 0:
                control[BURST_AT] = index
                control[BURST_COUNT] = count
                control[JOURNALED_AT] = cycles()
                turns = 0
                taken = count
                break
            if why != _JOURNAL_FULL:
                return why
            control[FULL_TURNS] += 1
        if taken != 0:  # Decide at once: a pause is 15 to 50 ns.
            continue
        if control[GAPS] != 0:
            _note_gap(control, cycles())
        pause()
