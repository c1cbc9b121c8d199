"""The compiled loops of the tick-to-order benchmark: a strategy that answers, a feed on a schedule, a loop that waits.

The feed's loop is also who receives the orders, so that one counter on one core has both ends of every latency. A tick
counts from the moment at which it was *due*: a feed that comes late, or that finds the ring full, makes the tick slow
instead of leaving it out.
"""

from __future__ import annotations

from tapehouse.app.bench.histogram import record_value
from tapehouse.core.atomics import load, pause, store_release
from tapehouse.core.cycles import cycles
from tapehouse.core.kernel import Array, Float, Int, kernel
from tapehouse.core.units import UNDEFINED
from tapehouse.engine.strategy import (
    BUY,
    INTENT_KIND,
    INTENT_PRICE,
    INTENT_SIDE,
    INTENT_SIZE,
    INTENT_TIME_IN_FORCE,
    IOC,
    SELL,
    SUBMIT,
    VIEW_ASK,
    VIEW_ASK_SIZE,
    VIEW_BID,
    VIEW_BID_SIZE,
    VIEW_LOT,
    VIEW_POSITION,
    strategy_kernel,
)
from tapehouse.market.cell import Kind
from tapehouse.ring.kernels import OK, append, readable, record_at, record_cells, release, tail_address
from tapehouse.ring.layout import HEAD, TAIL

# Entries of `state`; the first ones are given, the others found.
(
    FEED,  # addresses of rings
    ORDERS,
    DECIDED,
    STAGES,
    JOURNAL,
    ROW,  # of the lap's first tick
    TICKS,
    WARM,  # ticks at the beginning that are not recorded
    FIRST_ORDINAL,  # of the first tick's cell on the tape
    LEAD,  # counts from the call to the first tick
    LIMIT,  # counts from the first tick after which nobody waits any more
    GAP,  # counts that a turn may take before it counts as a gap
    SLOW,  # counts from which a tick is noted as slow
    STARTED,
    ENDED,
    SENT,  # ticks
    ANSWERED,
    MISSING,  # answers that were passed over
    WRONG,  # records that answer something else, or again
    BLOCKED,  # turns that found the feed's ring full
) = range(20)
STATE_WORDS = 20

# Rows of `histograms`, in counts.
TICK_TO_ORDER, ONE_WAY, JOURNALED, DECIDED_IN, SENT_IN, PATH = range(6)
HISTOGRAMS = 6

# Logs of spans: words 0 and 1 are how many there were and their sum, then pairs of counter readings.
LOG_PAIRS = 1 << 17
LOG_WORDS = 2 + 2 * LOG_PAIRS

REMEMBERED = 1 << 16  # ordinals whose sending is remembered, until their stage timings come
GIVE_BACK_TICKS = 256  # between two looks at the rings that nobody reads

_ORDER, _RAW = int(Kind.ORDER), int(Kind.RAW)
_UNDEFINED = UNDEFINED
_MASK = REMEMBERED - 1


@strategy_kernel
def answer(view: Array, numbers: Array, parameters: Array, memory: Array, intents: Array) -> Int:
    """Take one lot from the side with less size, at once or never; towards a flat position where there is one."""
    bid = view[VIEW_BID]
    ask = view[VIEW_ASK]
    if bid == _UNDEFINED or ask == _UNDEFINED or bid >= ask:
        return 0
    position = view[VIEW_POSITION]
    buys = view[VIEW_BID_SIZE] > view[VIEW_ASK_SIZE] if position == 0 else position < 0
    intents[0, INTENT_KIND] = SUBMIT
    intents[0, INTENT_SIDE] = BUY if buys else SELL
    intents[0, INTENT_PRICE] = ask if buys else bid
    intents[0, INTENT_SIZE] = view[VIEW_LOT]
    intents[0, INTENT_TIME_IN_FORCE] = IOC
    return 1


@kernel(inline=True)
def due_at(start: Int, period: Float, tick: Int) -> Int:
    """When a tick is due, by the schedule alone."""
    return start + int(tick * period)


@kernel(inline=True)
def note_span(log: Array, start: Int, end: Int) -> None:
    """Log a span; one for which there is no room is still counted and summed."""
    count = log[0]
    if 4 + 2 * count <= log.shape[0]:
        log[2 + 2 * count] = start
        log[3 + 2 * count] = end
    log[0] = count + 1
    log[1] += end - start


@kernel()
def spin(duration: Int, gap: Int, log: Array) -> Int:
    """Do nothing but look at the counter, and log every gap; returns how often it looked."""
    before = cycles()
    end = before + duration
    looks = 0
    while before < end:
        now = cycles()
        looks += 1
        if now - before > gap:
            note_span(log, before, now)
        before = now
    return looks


@kernel(inline=True)
def _give_back(ring: Int) -> None:
    """Free what nobody reads."""
    store_release(ring + TAIL, load(ring + HEAD))


@kernel(inline=True)
def _take_stage(state: Array, histograms: Array, sent: Array, sent_at: Array, answered: Array, gaps: Array) -> None:
    """Record the engine's timings of one burst, and log one that took longer than its records can have."""
    stages = state[STAGES]
    address = tail_address(stages)
    taken = load(address)
    journaled = load(address + 8)
    decided = load(address + 16)
    done = load(address + 24)
    ordinal = load(address + 32)
    count = load(address + 40)
    kind = (load(address + 48) >> 48) & 255
    release(stages, 1)
    if kind != _RAW:
        return
    if done - taken > state[GAP] * count:
        note_span(gaps, taken, done)
    place = ordinal & _MASK
    if sent[place] != ordinal:  # Before the recorded ticks, or too long ago.
        return
    record_value(histograms[ONE_WAY], taken - sent_at[place])
    if count == 1 and answered[place] == ordinal:
        record_value(histograms[JOURNALED], journaled - taken)
        record_value(histograms[DECIDED_IN], decided - journaled)
        record_value(histograms[SENT_IN], done - decided)
        record_value(histograms[PATH], done - taken)


@kernel(inline=True)
def _take_order(
    state: Array, period: Float, ticks: Array, ordinals: Array, histograms: Array, answered: Array, slow: Array,
    seen: Int, last: Int,
) -> Int:  # fmt: skip
    """Match one decided record with the tick that it must answer; returns the ordinal answered last."""
    orders = state[ORDERS]
    address = tail_address(orders)
    ordinal = load(address + 16)
    kind = (load(address + 48) >> 48) & 255
    release(orders, record_cells(address))
    if kind != _ORDER or ordinal == last:  # Fills, and what else became of the same order.
        return last
    at = state[ANSWERED] + state[MISSING]
    while at < ordinals.shape[0] and ordinals[at] < ordinal:
        state[MISSING] += 1
        at += 1
    if at == ordinals.shape[0] or ordinals[at] != ordinal:
        state[WRONG] += 1
        return last
    state[ANSWERED] += 1
    tick = ticks[at]
    if tick >= state[WARM]:
        due = due_at(state[STARTED], period, tick)
        record_value(histograms[TICK_TO_ORDER], seen - due)
        answered[ordinal & _MASK] = ordinal
        if seen - due > state[SLOW]:
            note_span(slow, due, seen)
    return ordinal


@kernel()
def feed_and_receive(
    state: Array, period: Float, words: Array, ticks: Array, ordinals: Array, histograms: Array, sent: Array,
    sent_at: Array, answered: Array, gaps: Array, engine_gaps: Array, slow: Array,
) -> None:  # fmt: skip
    """Put ticks into the feed's ring when they are due, and take the orders that come back, until all are there.

    Args:
        state: Shape (STATE_WORDS,).
        period: Counts between two ticks.
        words: Shape (n, 8): the lap of records that is sent again and again, from `state[ROW]` on.
        ticks: The ticks that must be answered, ascending.
        ordinals: The ordinal of each of these.
        histograms: Shape (HISTOGRAMS, histogram.WORDS).
        sent, sent_at, answered: Shape (REMEMBERED,): by ordinal: what was sent, when, and what was answered; first -1.
        gaps, engine_gaps, slow: Logs of spans: of this loop, of the engine's at work, of ticks from due to received.
    """
    feed = state[FEED]
    orders = state[ORDERS]
    count = state[TICKS]
    gap = state[GAP]
    row = state[ROW]
    ordinal = state[FIRST_ORDINAL]
    tick = 0
    last = -1
    looking = 0
    start = cycles() + state[LEAD]
    state[STARTED] = start
    due = start
    limit = start + state[LIMIT]
    before = cycles()
    while tick < count or state[ANSWERED] + state[MISSING] < ordinals.shape[0]:
        now = cycles()
        if now - before > gap:
            note_span(gaps, before, now)
        before = now
        if now > limit:
            break
        if now >= due and tick < count:
            length = record_at(words, row)
            if tick >= state[WARM]:
                sent[ordinal & _MASK] = ordinal
                sent_at[ordinal & _MASK] = now
            if append(feed, words, row, length) == OK:
                row += length
                if row >= words.shape[0]:
                    row = 0
                ordinal += length
                tick += 1
                due = due_at(start, period, tick)
                if tick & (GIVE_BACK_TICKS - 1) == 0:
                    _give_back(state[JOURNAL])
                    _give_back(state[DECIDED])
                    looking = 1
            else:
                state[BLOCKED] += 1
        if readable(orders) != 0:
            last = _take_order(state, period, ticks, ordinals, histograms, answered, slow, cycles(), last)
        elif looking != 0:
            looking = readable(state[STAGES])
            if looking != 0:
                _take_stage(state, histograms, sent, sent_at, answered, engine_gaps)
        else:
            pause()
    state[SENT] = tick
    state[ENDED] = cycles()
