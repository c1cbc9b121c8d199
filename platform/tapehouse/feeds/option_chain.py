"""A seeded option chain on any feed: quotes of options that no venue sent, so that every source can drive pricing.

The feed's own records pass through untouched. Behind them come option quotes, flagged SYNTHETIC: one option after the
other, one quote for so many records, each priced on the feed's own reference price. The chain depends on the feed's
cells and the seed alone, not on how they were split into batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from tapehouse.core.errors import MissingError, UsageError
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.feeds import option_quotes
from tapehouse.feeds.option_quotes import CELLS_PER_QUOTE
from tapehouse.feeds.packing import BATCH_CELLS_MAX
from tapehouse.feeds.port import Feed
from tapehouse.feeds.random_integers import below, new_random
from tapehouse.market import Cells, Instrument, from_words, words

RECORDS_PER_QUOTE = 32
PEEK_CELLS_MAX = 4_000_000  # how far to look for a first price
EXPIRIES = 3
STRIKES_EACH_SIDE = 3
STRIKE_STEP_PERCENT = 2  # of the reference, at least
DAYS_TO_EXPIRY_MIN = 7
CLOSE_HOUR = 16  # in New York
_STREAM = 0x0C4A  # which stream of the seed is the chain's
_STEPS = (10, 25, 50)


class SeededChain:
    """A feed with an option chain on one of its instruments.

    Args:
        feed: Any feed that can be read more than once.
        seed: Of the smile, sizes and open interest.
        underlying: The feed's instrument id; None for the first that is no option.
        records_per_quote: How many of the feed's records come for one quote.

    `chain` is empty where the feed shows no price of the underlying.

    Raises:
        UsageError: There is no such underlying, or `records_per_quote` is not positive.
    """

    def __init__(
        self, feed: Feed, seed: int = 7, *, underlying: int | None = None, records_per_quote: int = RECORDS_PER_QUOTE
    ) -> None:
        if records_per_quote < 1:
            raise UsageError(f"one quote for {records_per_quote} records cannot be", hint="1 or more")
        self.feed = feed
        self._seed = seed
        self._every = records_per_quote
        self._underlying = _pick(feed.instruments, underlying)
        self._chain: tuple[Instrument, ...] | None = None

    @property
    def name(self) -> str:
        """The feed's."""
        return self.feed.name

    @property
    def chain(self) -> tuple[Instrument, ...]:
        """The options, by expiry, strike and right; reads the feed up to its first price."""
        if self._chain is None:
            self._chain = self._make_chain()
        return self._chain

    @property
    def instruments(self) -> tuple[Instrument, ...]:
        """The feed's, then the options."""
        return (*self.feed.instruments, *self.chain)

    @property
    def cells_estimate(self) -> int | None:
        """The feed's and the quotes'."""
        cells = self.feed.cells_estimate
        return None if cells is None else cells + cells // self._every * CELLS_PER_QUOTE

    def batches(self) -> Iterator[Cells]:
        """The feed's cells with quotes among them; each call is a new pass.

        Raises:
            DecodeError: As the feed does.
        """
        state = self._new_state()
        used = np.zeros(1, np.int64)
        for cells in self.feed.batches():
            batch = words(cells)
            row = 0
            while row < len(batch):
                out = np.empty((BATCH_CELLS_MAX, 8), np.int64)
                row = option_quotes.insert_quotes(state, self._underlying.id, self._every, batch, row, out, used)
                yield from_words(out[: used[0]])

    def _new_state(self) -> option_quotes.Chain:
        random = new_random(self._seed, _STREAM)
        smile = np.array(
            [
                (18_000 + below(random, 8_000)) / 1e6,  # 18 to 22 % at the money
                (70_000 + below(random, 20_000)) / 1e6,
                (-650 + below(random, 300)) / 1e3,
                (150 + below(random, 100)) / 1e3,
                0.006,
            ],
            np.float64,
        )
        terms = np.zeros((len(self.chain), 6), np.int64)
        for row, option in enumerate(self.chain):
            interest = 10 * below(random, 2_000)
            is_put = option.right == "P"
            terms[row] = (option.id, option.strike, option.expiry_ns, is_put, option.tick_size, interest)
        return option_quotes.Chain(terms, smile, np.zeros(8, np.int64), random)

    def _make_chain(self) -> tuple[Instrument, ...]:
        found = self._first_price()
        if found is None:
            return ()
        reference, time_ns = found
        step = _strike_step(reference)
        centre = (reference + step // 2) // step * step
        strikes = [centre + step * place for place in range(-STRIKES_EACH_SIDE, STRIKES_EACH_SIDE + 1)]
        base = self._underlying
        number = max(instrument.id for instrument in self.feed.instruments)
        options = []
        for day, expiry_ns in _expiries(time_ns):
            for strike in strikes:
                for right in "CP":
                    number += 1
                    options.append(
                        Instrument(
                            id=number,
                            symbol=f"{base.symbol} {day:%y%m%d}{right}{base.price(strike).normalize():f}",
                            venue=base.venue,
                            asset_class="option",
                            price_exponent=base.price_exponent,
                            tick_size=max(10 ** max(-2 - base.price_exponent, 0), 1),
                            currency=base.currency,
                            currency_exponent=base.currency_exponent,
                            multiplier=100,
                            underlying=base.id,
                            strike=strike,
                            expiry_ns=expiry_ns,
                            right=right,
                        )
                    )
        return tuple(options)

    def _first_price(self) -> tuple[int, int] | None:
        """The underlying's first reference price and its time."""
        tracker = np.zeros(8, np.int64)
        seen = 0
        for cells in self.feed.batches():
            row = option_quotes.first_reference(tracker, words(cells), self._underlying.id)
            if row >= 0:
                return int(tracker[option_quotes.REFERENCE]), int(cells["ts_recv"][row])
            seen += len(cells)
            if seen > PEEK_CELLS_MAX:
                break
        return None


def _pick(instruments: tuple[Instrument, ...], wanted: int | None) -> Instrument:
    for instrument in instruments:
        if instrument.id == wanted or (wanted is None and instrument.asset_class != "option"):
            return instrument
    raise UsageError(
        f"the feed has no instrument {wanted}" if wanted else "the feed has nothing that options could be hung upon"
    )


def _strike_step(reference: int) -> int:
    """A round step of about two percent of the reference, in price units; at least 1."""
    least = max(reference * STRIKE_STEP_PERCENT // 100, 1)
    scale = 1
    while True:  # ends because `scale` grows past `least`
        for step in _STEPS:
            if step * scale >= least * 10:
                return max(step * scale // 10, 1)
        scale *= 10


def _expiries(time_ns: int) -> list[tuple[date, int]]:
    """The next third Fridays with their closing times, UTC ns."""
    try:
        zone = ZoneInfo("America/New_York")
    except ZoneInfoNotFoundError as error:
        raise MissingError("the time zone America/New_York is not known here", hint="install tzdata") from error
    today = datetime.fromtimestamp(time_ns // NS_PER_SECOND, UTC).date()
    month = date(today.year, today.month, 1)
    days: list[tuple[date, int]] = []
    while len(days) < EXPIRIES:
        friday = month + timedelta(days=(4 - month.weekday()) % 7 + 14)
        if friday >= today + timedelta(days=DAYS_TO_EXPIRY_MIN):
            close = datetime(friday.year, friday.month, friday.day, CLOSE_HOUR, tzinfo=zone)
            days.append((friday, int(close.timestamp()) * NS_PER_SECOND))
        month = (month + timedelta(days=32)).replace(day=1)
    return days
