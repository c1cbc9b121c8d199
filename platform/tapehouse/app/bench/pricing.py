"""Option pricing: value and Greeks, a volatility looked up on a surface, implied volatility; batches and single calls.

Every figure is of random but plausible options from a fixed seed; the peers price the very same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tapehouse.app.bench import pricing_loops as loops
from tapehouse.app.bench.material import SEED
from tapehouse.app.bench.measure import Goal, Measure, Peer, measure
from tapehouse.app.bench.peer import answered
from tapehouse.app.bench.registry import Options
from tapehouse.app.bench.timer import middle, new_histogram
from tapehouse.core.check import check
from tapehouse.market import Kind
from tapehouse.pricing import (
    YEAR_NS,
    Chain,
    define_option,
    greeks,
    implied_volatility,
    make_chain,
    on_option_quote,
    price,
    value_option,
)

OPTIONS = 100_000
CALLS = 50_000  # from Python
PEER_OPTIONS = 2_000
EXPIRIES, STRIKES = 8, 60
NOW_NS = 1_767_623_400_000_000_000
PEERS = ("vollib", "QuantLib")
AGREES = 1e-9  # of the spot: a peer that prices something else is no peer

Floats = npt.NDArray[np.float64]


def run(options: Options) -> Iterator[Measure]:
    """Batches first, then single calls, then the surface."""
    count = options.count(OPTIONS, 500)
    terms = make_terms(count)
    prices = np.zeros(count)
    loops.price_all(terms, prices)
    yield from _batches(options, terms, prices)
    yield from _calls(options, terms, prices)
    yield from _surface(options)


def make_terms(count: int) -> Floats:
    """Shape (count, 7): spot, strike, years, rate, carry, volatility, sign."""
    chance = np.random.default_rng(SEED)
    terms = np.empty((count, 7))
    terms[:, 0] = 100.0
    terms[:, 1] = 100.0 * np.exp(chance.uniform(-0.3, 0.3, count))
    terms[:, 2] = chance.uniform(0.02, 2.0, count)
    terms[:, 3] = chance.uniform(0.0, 0.05, count)
    terms[:, 4] = terms[:, 3]
    terms[:, 5] = chance.uniform(0.1, 0.8, count)
    terms[:, 6] = chance.choice((-1.0, 1.0), count)
    return terms


def _batches(options: Options, terms: Floats, prices: Floats) -> Iterator[Measure]:
    """A loop in one kernel, with single options between fences beside it."""
    count = len(terms)
    subjects = [
        ("price", "price", loops.price_all, loops.price_timed, prices, None),
        ("price + 6 Greeks", "greeks", loops.greeks_all, loops.greeks_timed, np.zeros((count, 7)), None),
        ("implied volatility", "implied", loops.implied_all, loops.implied_timed, prices.copy(), 250.0),
    ]
    for name, key, loop, timed, out, bound in subjects:
        options.on_step(f"{name}, batch")
        loop(terms, out)
        values, spreads = [], []
        for _ in range(options.repeat):
            if key == "implied":
                out[:] = prices
            values.append(options.timer.ns_each(partial(loop, terms, out), count))
            histogram = new_histogram()
            if key == "implied":
                out[:] = prices
            timed(terms, out, options.timer.overhead, histogram)
            spreads.append(options.timer.spread(histogram))
        goals = (Goal(at_most=bound),) if bound is not None else ()
        note = f"{count:,} options in a loop; percentiles of single ones between fences"
        peers = _peers(options, key, terms, prices)
        yield measure(f"{name}, batch", "ns", values, goals=goals, peers=peers, note=note, **middle(spreads))


def _peers(options: Options, key: str, terms: Floats, prices: Floats) -> tuple[Peer, ...]:
    """What each peer needs an option, one call at a time: the only way that they have."""
    found = []
    few = terms[:PEER_OPTIONS]
    for name in PEERS:
        options.on_step(f"{key} of the peer {name}")
        told = {"terms": few, "prices": prices[: len(few)]}
        answer = options.peers.ask("option_pricing", told, library=name, what=key, repeat=options.repeat)
        if answer is not None and key == "price":
            worst = float(np.abs(np.array(answer["values"]) - prices[: len(few)]).max()) / 100.0
            check(worst <= AGREES, f"its prices differ from ours by {worst:g} of the spot", subject=f"peer {name}")
        note = f"{len(few):,} single calls from Python"
        if answer is not None and answer["refused"]:
            note += f" less {answer['refused']:,} that it refuses"
        found.append(answered(name, answer, "ns", note))
    return tuple(found)


def _calls(options: Options, terms: Floats, prices: Floats) -> Iterator[Measure]:
    """One call from CPython."""
    calls = options.count(CALLS, 200)
    spot, strike, years, rate, carry, volatility, _ = terms[0].tolist()
    worth = float(price(spot, strike, years, rate, carry, volatility, 1))
    forward, discount = spot * float(np.exp(carry * years)), float(np.exp(-rate * years))
    subjects: list[tuple[str, Callable[..., Any], tuple[float, ...]]] = [
        ("price", price, (spot, strike, years, rate, carry, volatility, 1)),
        ("price + 6 Greeks", greeks, (spot, strike, years, rate, carry, volatility, 1)),
        ("implied volatility", implied_volatility, (worth, forward, strike, years, discount, 1)),
    ]
    for name, function, arguments in subjects:
        yield _one_call(options, name, function, arguments, calls)


def _one_call(
    options: Options, name: str, function: Callable[..., Any], arguments: tuple[Any, ...], calls: int
) -> Measure:
    options.on_step(f"{name}, one call from CPython")
    function(*arguments)

    def many() -> None:
        for _ in range(calls):
            function(*arguments)

    values = [options.timer.ns_each(many, calls) for _ in range(options.repeat)]
    goals = (Goal(at_most=500.0),) if name.startswith("volatility") else ()
    note = "the loop of Python included"
    return measure(f"{name}, one call from CPython", "ns", values, goals=goals, note=note)


def make_surface_chain() -> Chain:
    """A chain of calls and puts whose surface has a plausible smile."""
    chain = make_chain(1, 2 * EXPIRIES * STRIKES)
    option = 0
    for expiry in range(EXPIRIES):
        years = (expiry + 1) / 8.0
        for at in range(STRIKES):
            strike = 70.0 + at
            for right in "CP":
                expiry_ns = NOW_NS + int(years * YEAR_NS)
                define_option(
                    chain, option, underlying=0, strike=strike, expiry_ns=expiry_ns, right=right, price_unit=1e-9
                )
                skew = float(np.log(strike / 100.0))
                volatility = 0.2 - 0.1 * skew + 0.3 * skew * skew
                worth = price(100.0, strike, years, 0.0, 0.0, volatility, 1 if right == "C" else -1)
                on_option_quote(chain, option, _quote(float(worth), volatility), 0)
                option += 1
    return chain


def _quote(worth: float, volatility: float) -> npt.NDArray[np.int64]:
    """An option quote: bid, ask, and the venue's own volatilities."""
    cells = np.zeros((3, 8), np.int64)
    price_units, nine = int(worth * 1e9), int(volatility * 1e9)
    cells[:, 6] = (int(Kind.OPTION_QUOTE) << 48) | 1
    cells[0, 6] |= 3 << 56
    cells[:2, :2] = NOW_NS
    cells[:2, 4] = max(price_units - 1000, 1), price_units + 1000
    cells[:2, 5] = 10
    cells[2, :6] = int(100e9), price_units, nine, nine, nine, 0
    return cells


def _surface(options: Options) -> Iterator[Measure]:
    """A volatility from the surface, then price and Greeks with it."""
    chain = make_surface_chain()
    rounds = options.count(100, 1)
    each = len(chain.options)
    options.on_step("volatility lookup + price + Greeks")
    priced = loops.value_all(chain, NOW_NS, 1)
    check(priced == each, f"{priced} of {each} options could be priced", subject="surface")
    values, spreads = [], []
    loops.value_timed(chain, NOW_NS, 0, options.timer.overhead, new_histogram())
    for _ in range(options.repeat):
        values.append(options.timer.ns_each(partial(loops.value_all, chain, NOW_NS, rounds), rounds * each))
        histogram = new_histogram()
        loops.value_timed(chain, NOW_NS, rounds, options.timer.overhead, histogram)
        spreads.append(options.timer.spread(histogram))
    name = "volatility lookup + price + 4 Greeks"
    note = f"{EXPIRIES} expiries of {STRIKES} strikes, calls and puts; percentiles of single ones between fences"
    yield measure(f"{name}, batch", "ns", values, goals=(Goal(at_most=100.0),), note=note, **middle(spreads))
    yield _one_call(options, name, value_option, (chain, 17, 0.0, NOW_NS), options.count(CALLS, 200))
