"""The compiled loop: cell -> book -> paper exchange -> pricing -> strategy -> risk -> decision.

It runs over a batch of cells and stops where Python must act: at a slow record (definition, command, epoch), at a
Python strategy's turn, at a full output, or at a record that breaks a rule. The caller acts and calls again with the
row that it returned. Everything it changes is in the arrays that it is given.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tapehouse.book import (
    Status,
    apply_record,
    best_price,
    best_size,
    level_size,
    set_confidence,
    set_level,
    told_confidence,
)
from tapehouse.book.layout import CONFIDENCE
from tapehouse.book.layout import TICK as BOOK_TICK
from tapehouse.book.resting import find_order, first_order, level_of, order_after, order_row
from tapehouse.core.kernel import Array, Int, State, kernel
from tapehouse.core.reference import never_inline, refer
from tapehouse.core.units import UNDEFINED
from tapehouse.desk import (
    BUY,
    SELL,
    cancel_side,
    catch_up,
    crosses,
    follow_up,
    on_liquidity,
    on_trade,
    shrink_level,
    shrink_queues,
    submit,
)
from tapehouse.desk.bulk import Bulk, make_bulk, on_order
from tapehouse.desk.kernels import works_on_paper
from tapehouse.desk.state import (
    CASH,
    ID_BASE,
    INDEX,
    INSTRUMENT_ID,
    INSTRUMENTS_MAX,
    LAST_TRADE,
    LOT,
    NEXT_DUE,
    NOW,
    OPEN_BUY,
    ORDER_ACCOUNT,
    ORDER_PRICE,
    ORDINAL,
    OUT_ROWS,
    OVERFLOWS,
    POSITION,
    SYMBOL_IDS_MAX,
    TICK,
    UNFINISHED,
    UNSETTLED,
    UNSETTLED_SLOTS,
)
from tapehouse.desk.working import left_of
from tapehouse.engine.sequencer import DESK_SOURCE
from tapehouse.engine.strategy import (
    CANCEL_SIDE,
    INTENT_COLUMNS,
    INTENT_KIND,
    INTENT_PRICE,
    INTENT_SIDE,
    INTENT_SIZE,
    INTENT_TIME_IN_FORCE,
    INTENTS_MAX,
    NUMBER_CHAIN_DELTA,
    NUMBER_VOLATILITY,
    NUMBERS,
    SUBMIT,
    VIEW_ASK,
    VIEW_ASK_SIZE,
    VIEW_BID,
    VIEW_BID_SIZE,
    VIEW_CASH,
    VIEW_CONFIDENCE,
    VIEW_ENTRIES,
    VIEW_INSTRUMENT,
    VIEW_LAST_TRADE,
    VIEW_LOT,
    VIEW_NOW,
    VIEW_ORDINAL,
    VIEW_OWN_ASK,
    VIEW_OWN_ASK_LEFT,
    VIEW_OWN_BID,
    VIEW_OWN_BID_LEFT,
    VIEW_POSITION,
    VIEW_SLOT,
    VIEW_TICK,
    WAKE,
    strategy_kernel,
)
from tapehouse.market import KIND_SKIPPED_FROM, Action, Confidence, Flag, Kind, Side
from tapehouse.pricing import atm_volatility, chain_delta, on_option_quote, price_chain

# Why the loop returned.
(
    DONE,
    SLOW_RECORD,
    STRATEGY_TURN,
    OUTPUT_FULL,
    UNKNOWN_KIND,
    UNDEFINED_INSTRUMENT,
    BAD_RECORD,
    BAD_INTENTS,
    MONEY_OVERFLOW,
    WAKE_TURN,  # as STRATEGY_TURN, before the record is applied
    WAKES_FULL,  # as OUTPUT_FULL, between wakes
) = range(11)
# How the loop is entered again at a record.
ANEW, APPLIED, WOKEN = range(3)  # from its beginning, after the strategy's turn on it, after wakes before it

# Rows that one record may produce at most, but for what is due before it, which stops where `out` is full: its own
# 4,096 records, those of the last order among them (2,004, and as many reduce-only orders shrunk), and the end of every
# order that an instrument has room for.
OUTPUT_MARGIN = 32_768
STRATEGY_ACCOUNT = 0
PRICE_INTERVAL_NS = 1_000_000_000  # of engine time, between two pricings of a whole chain

_MBO, _MBP, _QUOTE, _TRADE = int(Kind.MBO), int(Kind.MBP), int(Kind.QUOTE), int(Kind.TRADE)
_STATUS, _OPTION_QUOTE, _CLOCK, _GAP, _RAW = (
    int(Kind.STATUS), int(Kind.OPTION_QUOTE), int(Kind.CLOCK), int(Kind.GAP), int(Kind.RAW),
)  # fmt: skip
_ORDER = int(Kind.ORDER)
_COMMAND, _DEFINITION, _EPOCH = int(Kind.COMMAND), int(Kind.DEFINITION), int(Kind.EPOCH)
_TRADE_ACTION, _CLEAR_ACTION = int(Action.TRADE), int(Action.CLEAR)
_CANCEL_ACTION, _MODIFY_ACTION = int(Action.CANCEL), int(Action.MODIFY)
_OK = int(Status.OK)
_BID = int(Side.BID)
_LAST, _SNAPSHOT = int(Flag.LAST), int(Flag.SNAPSHOT)
_UNDEFINED = UNDEFINED
_DESK = DESK_SOURCE
_GOOD = int(Confidence.GOOD)
SOURCES = 1 << 16  # a cell's `source` is below

# Of `calls`, how the strategy is called: add up what holds.
IN_PYTHON = 1  # the loop stops with STRATEGY_TURN instead of calling it
NOT_IN_GAPS = 2  # it is not called for an instrument whose book is not GOOD
NOT_AT_ALL = 4  # it was stopped


class Routes(NamedTuple):
    """Where an instrument id leads, and what was last shown to the strategy."""

    slots: npt.NDArray[np.int64]  # (SYMBOL_IDS_MAX,): book slot of an id, -1 for none
    options: npt.NDArray[np.int64]  # (SYMBOL_IDS_MAX,): option of an id, -1 for none
    tops: npt.NDArray[np.int64]  # (INSTRUMENTS_MAX, 4): bid, bid size, ask, ask size of the last call
    quotes: npt.NDArray[np.int64]  # (INSTRUMENTS_MAX, 2): the bid and ask that the last QUOTE record set
    priced: npt.NDArray[np.int64]  # (INSTRUMENTS_MAX,): engine time of the chain's last pricing
    numbers: npt.NDArray[np.float64]  # (INSTRUMENTS_MAX, NUMBERS): the chain's numbers at that time
    underlyings: npt.NDArray[np.int64]  # (SYMBOL_IDS_MAX,): book slot under an option id, -1 for none
    units: npt.NDArray[np.float64]  # (INSTRUMENTS_MAX,): currency of one price unit of a slot
    sources: npt.NDArray[np.int64]  # (INSTRUMENTS_MAX,): the feed that declared a slot's instrument last, 0 unknown
    wakes: npt.NDArray[np.int64]  # (INSTRUMENTS_MAX + 1,): when a slot's strategy is due; the last is the earliest
    bulk: Bulk  # who sent orders in frames, and what they were told


class Scratch(NamedTuple):
    """Working space; nothing in it outlives a call."""

    seen: npt.NDArray[np.int64]  # the strategy's view
    numbers: npt.NDArray[np.float64]
    intents: npt.NDArray[np.int64]
    ladder: npt.NDArray[np.int64]


def make_routes() -> Routes:
    """No instrument leads anywhere yet."""
    return Routes(
        slots=np.full(SYMBOL_IDS_MAX, -1, np.int64),
        options=np.full(SYMBOL_IDS_MAX, -1, np.int64),
        tops=np.full((INSTRUMENTS_MAX, 4), UNDEFINED, np.int64),
        quotes=np.full((INSTRUMENTS_MAX, 2), UNDEFINED, np.int64),
        priced=np.zeros(INSTRUMENTS_MAX, np.int64),
        numbers=np.zeros((INSTRUMENTS_MAX, NUMBERS), np.float64),
        underlyings=np.full(SYMBOL_IDS_MAX, -1, np.int64),
        units=np.zeros(INSTRUMENTS_MAX, np.float64),
        sources=np.zeros(INSTRUMENTS_MAX, np.int64),
        wakes=np.full(INSTRUMENTS_MAX + 1, UNDEFINED, np.int64),
        bulk=make_bulk(),
    )


def make_scratch() -> Scratch:
    """Fresh working space."""
    return Scratch(
        seen=np.zeros(VIEW_ENTRIES, np.int64),
        numbers=np.zeros(NUMBERS, np.float64),
        intents=np.zeros((INTENTS_MAX, INTENT_COLUMNS), np.int64),
        ladder=np.zeros((2, 8), np.int64),
    )


@kernel(inline=True)
def _book_record(desk: State, books: State, out: Array, powers: Array, words: Array, row: Int, slot: Int) -> None:
    """An MBO or MBP record: trades first, then the book, then what the change means for our resting orders.

    A book that is cleared or told anew says nothing of the queues: they keep their length until it is whole again.
    Levels are looked up only where the record can matter to our orders: while every queue is known to fit its level,
    an order that was added lengthens none, and a level that was stated can have shortened that one alone.
    """
    packed = words[row, 7]
    action = packed & 255
    side = (packed >> 8) & 255
    price = words[row, 4]
    if action == _TRADE_ACTION:
        on_trade(desk, books, out, powers, slot, price, words[row, 5], side)
        return
    busy = works_on_paper(desk, slot)
    which = BUY if side == _BID else SELL
    retold = action == _CLEAR_ACTION or (packed >> 16) & _SNAPSHOT != 0
    lookup = busy and (retold or desk.settled[slot] == 0 or crosses(desk, slot, which, price) != 0)
    before = level_size(books, slot, which, price) if lookup else 0
    leaves = action == _CANCEL_ACTION or action == _MODIFY_ACTION
    left_side, left_price = which, price
    if busy and leaves:
        entry = find_order(books, slot, words[row, 3])
        if entry >= 0:
            left_side, left_price = level_of(books, slot, order_row(books, entry))
    status = apply_record(books, slot, words, row)
    if not busy:
        return
    if lookup:
        after = level_size(books, slot, which, price)
        if after > before:
            on_liquidity(desk, books, out, powers, slot, which, price, after - before)
    if retold:
        desk.settled[slot] = 0
    elif desk.settled[slot] == 0 or status != _OK:
        shrink_queues(desk, books, slot)
    elif (words[row, 6] >> 48) & 255 == _MBP:
        shrink_level(desk, books, slot, which, price)
    elif leaves:
        shrink_level(desk, books, slot, left_side, left_price)


@kernel()
def _quote_record(
    desk: State, books: State, routes: State, out: Array, powers: Array, words: Array, row: Int, slot: Int
) -> None:
    """A QUOTE record replaces the one level of each side that the last one set; new size may meet our orders."""
    quotes = routes.quotes[slot]
    for which in range(2):
        price = words[row + which, 4]
        size = words[row + which, 5]
        lookup = crosses(desk, slot, which, price) != 0
        before = level_size(books, slot, which, price) if lookup else 0
        if quotes[which] != _UNDEFINED and quotes[which] != price:
            set_level(books, slot, which, quotes[which], 0)
        quotes[which] = price
        if price != _UNDEFINED:
            set_level(books, slot, which, price, size)
        if lookup:
            after = level_size(books, slot, which, price)
            if after > before:
                on_liquidity(desk, books, out, powers, slot, which, price, after - before)
    if works_on_paper(desk, slot):
        shrink_queues(desk, books, slot)


@kernel(inline=True)
def _top_moved(books: State, routes: State, slot: Int) -> Int:
    """1 where the best prices or sizes differ from what the strategy saw last; they are noted."""
    top = routes.tops[slot]
    bid = best_price(books, slot, BUY)
    ask = best_price(books, slot, SELL)
    bid_size = best_size(books, slot, BUY)
    ask_size = best_size(books, slot, SELL)
    if bid == top[0] and bid_size == top[1] and ask == top[2] and ask_size == top[3]:
        return 0
    top[0] = bid
    top[1] = bid_size
    top[2] = ask
    top[3] = ask_size
    return 1


@kernel(inline=True)
def own_top(desk: State, slot: Int, side: Int) -> tuple[Int, Int]:
    """The best price at which the strategy's own orders rest on a side, and what is left of all of them there."""
    price, left = _UNDEFINED, 0
    working = desk.accounts[STRATEGY_ACCOUNT, slot, OPEN_BUY + side]
    row = first_order(desk.own, slot, side)
    while row != 0 and left < working:
        if desk.orders[row, ORDER_ACCOUNT] == STRATEGY_ACCOUNT:
            left += left_of(desk, row)
            if price == _UNDEFINED:
                price = desk.orders[row, ORDER_PRICE]
        row = order_after(desk.own, slot, side, row)
    return price, left


@kernel()
def fill_view(desk: State, books: State, routes: State, scratch: State, slot: Int) -> None:
    """Write what the strategy sees of one instrument into the scratch."""
    view = scratch.seen
    top = routes.tops[slot]
    contract = desk.instruments[slot]
    view[VIEW_NOW] = desk.counters[NOW]
    view[VIEW_ORDINAL] = desk.counters[ORDINAL]
    view[VIEW_SLOT] = slot
    view[VIEW_INSTRUMENT] = contract[INSTRUMENT_ID]
    view[VIEW_BID] = top[0]
    view[VIEW_BID_SIZE] = top[1]
    view[VIEW_ASK] = top[2]
    view[VIEW_ASK_SIZE] = top[3]
    view[VIEW_LAST_TRADE] = contract[LAST_TRADE]
    view[VIEW_TICK] = contract[TICK]
    view[VIEW_LOT] = contract[LOT]
    view[VIEW_POSITION] = desk.accounts[STRATEGY_ACCOUNT, slot, POSITION]
    view[VIEW_CASH] = desk.accounts[STRATEGY_ACCOUNT, slot, CASH]
    view[VIEW_CONFIDENCE] = books.slots[slot, CONFIDENCE]
    view[VIEW_OWN_BID], view[VIEW_OWN_BID_LEFT] = own_top(desk, slot, BUY)
    view[VIEW_OWN_ASK], view[VIEW_OWN_ASK_LEFT] = own_top(desk, slot, SELL)
    scratch.numbers[NUMBER_VOLATILITY] = routes.numbers[slot, NUMBER_VOLATILITY]
    scratch.numbers[NUMBER_CHAIN_DELTA] = routes.numbers[slot, NUMBER_CHAIN_DELTA]


@kernel()
def set_wake(wakes: Array, slot: Int, due: Int) -> None:
    """Note when a slot's strategy is due, UNDEFINED for never; the earliest of all comes last."""
    wakes[slot] = due
    earliest = _UNDEFINED
    for other in range(INSTRUMENTS_MAX):
        earliest = min(earliest, wakes[other])
    wakes[INSTRUMENTS_MAX] = earliest


@kernel()
def _take_wake(desk: State, books: State, wakes: Array, calls: Int) -> Int:
    """The lowest slot whose strategy is due by now, its wake taken; -1 where none is."""
    for slot in range(INSTRUMENTS_MAX):
        if wakes[slot] > desk.counters[NOW]:
            continue
        if calls & NOT_IN_GAPS == 0 or books.slots[slot, CONFIDENCE] == _GOOD:  # Else it stays due until the gap ends.
            set_wake(wakes, slot, _UNDEFINED)
            return slot
    return -1


@kernel()
def act(
    desk: State, books: State, routes: State, scratch: State, out: Array, powers: Array, slot: Int, count: Int
) -> None:
    """Carry out the first `count` intents of the scratch, 0 to INTENTS_MAX, in order."""
    _act(refer(desk), refer(books), refer(routes), refer(scratch), out, powers, slot, count)


@kernel()
def _act(
    desk: State, books: State, routes: State, scratch: State, out: Array, powers: Array, slot: Int, count: Int
) -> None:
    """`act`, of references."""
    never_inline()
    for at in range(count):
        intent = scratch.intents[at]
        side = BUY if intent[INTENT_SIDE] == BUY else SELL
        if intent[INTENT_KIND] == SUBMIT:
            submit(
                desk, books, scratch.ladder, out, powers, slot, STRATEGY_ACCOUNT, side, intent[INTENT_PRICE],
                intent[INTENT_SIZE], intent[INTENT_TIME_IN_FORCE], 0,
            )  # fmt: skip
        elif intent[INTENT_KIND] == CANCEL_SIDE:
            cancel_side(desk, out, slot, STRATEGY_ACCOUNT, side)
        elif intent[INTENT_KIND] == WAKE:  # Never at this input again: a strategy that wakes itself must let time pass.
            set_wake(routes.wakes, slot, max(intent[INTENT_PRICE], desk.counters[NOW] + 1))


@kernel()
def _option_record(desk: State, chain: State, routes: State, words: Array, row: Int, instrument: Int) -> None:
    """An OPTION_QUOTE record: its node of the surface moves; about once a second the whole chain is priced anew."""
    on_option_quote(chain, routes.options[instrument], words, row)
    slot = routes.underlyings[instrument]
    if slot < 0:
        return
    now = desk.counters[NOW]
    top = routes.tops[slot]
    bid = top[0]
    ask = top[2]
    if now - routes.priced[slot] < PRICE_INTERVAL_NS or bid == _UNDEFINED or ask == _UNDEFINED:
        return
    routes.priced[slot] = now
    forward = 0.5 * np.float64(bid + ask) * routes.units[slot]
    price_chain(chain, slot, forward, now)
    routes.numbers[slot, NUMBER_VOLATILITY] = atm_volatility(chain, slot, now)
    routes.numbers[slot, NUMBER_CHAIN_DELTA] = chain_delta(chain, slot)


@kernel()
def _gap_record(books: State, routes: State, words: Array, row: Int, instrument: Int) -> None:
    """A GAP record: what one book is worth, or with instrument 0 all books that its source feeds.

    A book whose feed the tape does not name is taken for everybody's: it may be this source that is missing.
    """
    packed = words[row, 7]
    confidence = told_confidence(packed & 255, (packed >> 24) & 255)
    if instrument != 0:
        if instrument < SYMBOL_IDS_MAX and routes.slots[instrument] >= 0:
            set_confidence(books, routes.slots[instrument], confidence)
        return
    source = (words[row, 6] >> 32) & 0xFFFF
    for slot in range(routes.sources.shape[0]):
        of_source = source == 0 or routes.sources[slot] == 0 or routes.sources[slot] == source
        if of_source and books.slots[slot, BOOK_TICK] != 0:
            set_confidence(books, slot, confidence)


@kernel()
def _raw_record(routes: State, words: Array, row: Int, instrument: Int) -> None:
    """A RAW record of the sequencer says which feed declared an instrument, in `size`; all others say nothing here."""
    source = words[row, 5]
    if (words[row, 6] >> 32) & 0xFFFF != _DESK or not 0 < source < SOURCES or instrument >= SYMBOL_IDS_MAX:
        return
    if routes.slots[instrument] >= 0:
        routes.sources[routes.slots[instrument]] = source


@kernel()
def run(
    words: Array, start: Int, end: Int, first_ordinal: Int, strategy_turn: Int, desk: State, books: State,
    chain: State, routes: State, scratch: State, strategy: State, parameters: Array, memory: Array,
    calls: Int, out: Array, powers: Array,
) -> tuple[Int, Int]:  # fmt: skip
    """Run over the rows of `words` from `start` to before `end`; return (row, why).

    Args:
        words: Shape (n, 8) int64; the rows to run over are whole records.
        first_ordinal: Of row 0.
        strategy_turn: How the record at `start` is entered: ANEW, or where the loop stopped in it. APPLIED after a
            STRATEGY_TURN was answered; WOKEN after a WAKE_TURN was, or after WAKES_FULL.
        strategy: What `strategy_kernel` returned.
        calls: How the strategy is called: IN_PYTHON, NOT_IN_GAPS, NOT_AT_ALL, their sum or 0.

    The row returned is the next to run for DONE and OUTPUT_FULL, and the record concerned for every other reason.
    A loop that calls this for every burst refers to the state before it begins, so that each call is cheap.
    """
    ended: tuple[Int, Int] = _run(
        words, start, end, first_ordinal, strategy_turn, refer(desk), refer(books), refer(chain), refer(routes),
        refer(scratch), strategy, parameters, memory, calls, out, powers,
    )  # fmt: skip
    return ended


@kernel()
def _run(
    words: Array, start: Int, end: Int, first_ordinal: Int, strategy_turn: Int, desk: State, books: State,
    chain: State, routes: State, scratch: State, strategy: State, parameters: Array, memory: Array,
    calls: Int, out: Array, powers: Array,
) -> tuple[Int, Int]:  # fmt: skip
    """`run`, of references."""
    never_inline()
    n = min(end, words.shape[0])
    counters = desk.counters
    limit = out.shape[0] - OUTPUT_MARGIN
    row = start
    entry = strategy_turn
    if entry != ANEW and counters[OVERFLOWS] != 0:
        return row, MONEY_OVERFLOW
    if entry == APPLIED:
        row += (words[row, 6] >> 56) & 255
        entry = ANEW
    while row < n:
        if counters[OUT_ROWS] > limit:
            return row, WAKES_FULL if entry == WOKEN else OUTPUT_FULL
        small = words[row, 6]
        length = (small >> 56) & 255
        kind = (small >> 48) & 255
        if length == 0 or row + length > n:
            return row, BAD_RECORD
        if entry != WOKEN:
            counters[ORDINAL] = first_ordinal + row
            if counters[UNFINISHED] == 0:
                counters[INDEX] = 0
                counters[ID_BASE] = 0
            counters[UNFINISHED] = 0
            if words[row, 1] > counters[NOW]:
                counters[NOW] = words[row, 1]
            if counters[NOW] >= counters[NEXT_DUE] or counters[UNSETTLED_SLOTS] != 0:
                more = catch_up(desk, books, scratch.ladder, out, powers, limit)
                if counters[OVERFLOWS] != 0:
                    return row, MONEY_OVERFLOW
                if more != 0 or counters[OUT_ROWS] > limit:
                    counters[UNFINISHED] = 1
                    return row, OUTPUT_FULL
        entry = ANEW
        while routes.wakes[INSTRUMENTS_MAX] <= counters[NOW] and calls & NOT_AT_ALL == 0:
            woken = _take_wake(desk, books, routes.wakes, calls)
            if woken < 0:
                break
            fill_view(desk, books, routes, scratch, woken)
            if calls & IN_PYTHON != 0:
                return row, WAKE_TURN
            scratch.intents[:] = 0
            count = strategy(scratch.seen, scratch.numbers, parameters, memory, scratch.intents)
            if count < 0 or count > INTENTS_MAX:
                return row, BAD_INTENTS
            act(desk, books, routes, scratch, out, powers, woken, count)
            if counters[OVERFLOWS] != 0:
                return row, MONEY_OVERFLOW
            if counters[OUT_ROWS] > limit:
                return row, WAKES_FULL
        if kind == _COMMAND or kind == _DEFINITION or kind == _EPOCH:
            return row, SLOW_RECORD
        instrument = small & 0xFFFFFFFF
        if kind == _OPTION_QUOTE:
            if instrument >= SYMBOL_IDS_MAX or routes.options[instrument] < 0:
                return row, UNDEFINED_INSTRUMENT
            if length < 3:
                return row, BAD_RECORD
            _option_record(desk, chain, routes, words, row, instrument)
        elif kind == _MBO or kind == _MBP or kind == _TRADE or kind == _QUOTE:
            if instrument >= SYMBOL_IDS_MAX or routes.slots[instrument] < 0:
                return row, UNDEFINED_INSTRUMENT
            slot = routes.slots[instrument]
            if kind == _TRADE:
                on_trade(desk, books, out, powers, slot, words[row, 4], words[row, 5], (words[row, 7] >> 8) & 255)
            elif kind == _QUOTE:
                if length < 2:
                    return row, BAD_RECORD
                _quote_record(desk, books, routes, out, powers, words, row, slot)
            else:
                _book_record(desk, books, out, powers, words, row, slot)
            if desk.instruments[slot, UNSETTLED] != 0:
                follow_up(desk, books, scratch.ladder, out, powers, slot, 0)
            flags = (words[row, 7] >> 16) & 255
            if flags & _LAST != 0 and flags & _SNAPSHOT == 0 and _top_moved(books, routes, slot) != 0:
                if calls & NOT_IN_GAPS != 0 and books.slots[slot, CONFIDENCE] != _GOOD:
                    routes.tops[slot] = _UNDEFINED  # Nothing was shown: the first event after the gap is.
                elif calls & NOT_AT_ALL == 0:
                    fill_view(desk, books, routes, scratch, slot)
                    if calls & IN_PYTHON != 0:
                        return row, STRATEGY_TURN
                    scratch.intents[:] = 0  # What an earlier turn left here is in no snapshot.
                    count = strategy(scratch.seen, scratch.numbers, parameters, memory, scratch.intents)
                    if count < 0 or count > INTENTS_MAX:
                        return row, BAD_INTENTS
                    act(desk, books, routes, scratch, out, powers, slot, count)
            if counters[OVERFLOWS] != 0:
                return row, MONEY_OVERFLOW
        elif kind == _GAP:
            _gap_record(books, routes, words, row, instrument)
        elif kind == _RAW:
            _raw_record(routes, words, row, instrument)
        elif kind == _ORDER and (small >> 32) & 0xFFFF == _DESK:
            if length < 2:
                return row, BAD_RECORD
            on_order(desk, books, routes.bulk, routes.slots, scratch.ladder, out, powers, words, row)
            if counters[OVERFLOWS] != 0:
                return row, MONEY_OVERFLOW
        elif kind != _STATUS and kind != _CLOCK and kind < KIND_SKIPPED_FROM:
            return row, UNKNOWN_KIND
        row += length
    return row, DONE


@strategy_kernel
def idle(view: Array, numbers: Array, parameters: Array, memory: Array, intents: Array) -> Int:
    """The strategy that never acts; stands in where a Python strategy decides."""
    return 0
