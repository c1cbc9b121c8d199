"""The compiled loops that the benchmark of pricing runs.

`terms` has rows of spot, strike, years, rate, carry, volatility, sign.
"""

from __future__ import annotations

from tapehouse.app.bench.histogram import record_value
from tapehouse.core.cycles import fenced_cycles
from tapehouse.core.detmath import exp
from tapehouse.core.kernel import Array, Float, Int, State, kernel
from tapehouse.pricing import greeks, implied_volatility, price, value_option


@kernel(inline=True)
def _price(terms: Array, at: Int, out: Array) -> None:
    sign = 1 if terms[at, 6] > 0.0 else -1
    out[at] = price(terms[at, 0], terms[at, 1], terms[at, 2], terms[at, 3], terms[at, 4], terms[at, 5], sign)


@kernel(inline=True)
def _greeks(terms: Array, at: Int, out: Array) -> None:
    sign = 1 if terms[at, 6] > 0.0 else -1
    found = greeks(terms[at, 0], terms[at, 1], terms[at, 2], terms[at, 3], terms[at, 4], terms[at, 5], sign)
    out[at, 0] = found.price
    out[at, 1] = found.delta
    out[at, 2] = found.gamma
    out[at, 3] = found.vega
    out[at, 4] = found.theta
    out[at, 5] = found.rho
    out[at, 6] = found.carry_rho


@kernel(inline=True)
def _implied(terms: Array, at: Int, out: Array) -> None:
    """`out` holds the price, and then the volatility."""
    years = terms[at, 2]
    forward = terms[at, 0] * exp(terms[at, 4] * years)
    sign = 1 if terms[at, 6] > 0.0 else -1
    out[at] = implied_volatility(out[at], forward, terms[at, 1], years, exp(-terms[at, 3] * years), sign)[1]


@kernel()
def price_all(terms: Array, out: Array) -> None:
    """Price every option."""
    for at in range(terms.shape[0]):
        _price(terms, at, out)


@kernel()
def price_timed(terms: Array, out: Array, overhead: Int, histogram: Array) -> None:
    """The same, each option between two fenced readings."""
    for at in range(terms.shape[0]):
        before = fenced_cycles()
        _price(terms, at, out)
        record_value(histogram, fenced_cycles() - before - overhead)


@kernel()
def greeks_all(terms: Array, out: Array) -> None:
    """Price and Greeks of every option."""
    for at in range(terms.shape[0]):
        _greeks(terms, at, out)


@kernel()
def greeks_timed(terms: Array, out: Array, overhead: Int, histogram: Array) -> None:
    """The same, each option between two fenced readings."""
    for at in range(terms.shape[0]):
        before = fenced_cycles()
        _greeks(terms, at, out)
        record_value(histogram, fenced_cycles() - before - overhead)


@kernel()
def implied_all(terms: Array, out: Array) -> None:
    """Replace every price by its implied volatility."""
    for at in range(terms.shape[0]):
        _implied(terms, at, out)


@kernel()
def implied_timed(terms: Array, out: Array, overhead: Int, histogram: Array) -> None:
    """The same, each option between two fenced readings."""
    for at in range(terms.shape[0]):
        before = fenced_cycles()
        _implied(terms, at, out)
        record_value(histogram, fenced_cycles() - before - overhead)


@kernel()
def _value(chain: State, option: Int, now_ns: Int) -> Float:
    """All that a valuation gives in one number, so that nothing of it can be left out; 0.0 where there is none."""
    value, volatility = value_option(chain, option, 0.0, now_ns)
    if volatility == 0.0:
        return 0.0
    return 1.0 + abs(value.price + value.delta + value.gamma + value.vega + value.theta)


@kernel()
def value_all(chain: State, now_ns: Int, rounds: Int) -> Int:
    """Value every option of a chain, `rounds` times; returns how many valuations there were."""
    priced = 0
    for _ in range(rounds):
        for option in range(chain.options.shape[0]):
            priced += _value(chain, option, now_ns) > 0.0
    return priced


@kernel()
def value_timed(chain: State, now_ns: Int, rounds: Int, overhead: Int, histogram: Array) -> Int:
    """The same, each option between two fenced readings."""
    priced = 0
    for _ in range(rounds):
        for option in range(chain.options.shape[0]):
            before = fenced_cycles()
            priced += _value(chain, option, now_ns) > 0.0
            record_value(histogram, fenced_cycles() - before - overhead)
    return priced
