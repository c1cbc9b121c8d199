"""Pricing a chain on its own surface: one option, or all of an underlying's with what calls and puts share done once.

Black's formula on the forward, undiscounted; time to expiry ACT/365 fixed; every bit deterministic, so a strategy may
decide on these numbers.
"""

from __future__ import annotations

from typing import NamedTuple

from tapehouse.core.detmath import log, sqrt
from tapehouse.core.kernel import Array, Float, Int, State, kernel
from tapehouse.pricing.black_scholes import Terms, black_terms, not_negative, probability
from tapehouse.pricing.surface import forward_of, set_forward, smile, smile_between, years_until


class Value(NamedTuple):
    """One option's value: see `Chain`."""

    price: float
    delta: float
    gamma: float
    vega: float
    theta: float


@kernel()
def _value(
    forward: Float, strike: Float, sign: Int, inverse: Int, root: Float, deviation: Float, vol: Float, terms: State
) -> Value:
    """One option from the terms that calls and puts of a node share; `root` is the square root of the years."""
    first = probability(terms.tail1, sign * terms.d1)
    worth = not_negative(sign * (forward * first - strike * probability(terms.tail2, sign * terms.d2)))
    bend = forward * terms.density
    return Value(
        worth / forward if inverse != 0 else worth,
        sign * first,
        terms.density / (forward * deviation),
        bend * root,
        -0.5 * bend * vol / root,
    )


@kernel()
def _store(chain: State, option: Int, value: State, vol: Float) -> None:
    chain.price[option] = value.price
    chain.delta[option] = value.delta
    chain.gamma[option] = value.gamma
    chain.vega[option] = value.vega
    chain.theta[option] = value.theta
    chain.volatility[option] = vol


@kernel()
def value_option(chain: State, option: Int, forward: Float, now_ns: Int) -> tuple[Value, Float]:
    """One option on the surface, without storing anything: (value, volatility), all 0.0 where it cannot be priced.

    Args:
        forward: To use instead of the expiry's own; 0.0 for its own.
    """
    nothing = Value(0.0, 0.0, 0.0, 0.0, 0.0)
    row = chain.options[option]
    surface = chain.surface
    if row.sign == 0:
        return nothing, 0.0
    node = surface.nodes[row.node]
    expiry = surface.expiries[node.expiry]
    years = years_until(row.expiry_ns, now_ns)
    used = forward if forward > 0.0 else forward_of(surface, node.expiry)
    if years <= 0.0 or used <= 0.0:
        return nothing, 0.0
    shift = expiry.log_forward - log(used) if forward > 0.0 and expiry.forward > 0.0 else 0.0
    vol = smile(surface, node.expiry, node.log_strike + shift)
    if vol <= 0.0:
        return nothing, 0.0
    root = sqrt(years)
    deviation = vol * root
    terms = black_terms(used, row.strike, deviation)
    return _value(used, row.strike, row.sign, row.inverse, root, deviation, vol, terms), vol


@kernel()
def _price_expiry(chain: State, expiry: Int, forward: Float, now_ns: Int) -> Int:
    """Price the options of one expiry; see `price_chain`."""
    surface = chain.surface
    nodes = surface.nodes
    row = surface.expiries[expiry]
    years = years_until(row.expiry_ns, now_ns)
    used = forward if forward > 0.0 else forward_of(surface, expiry)
    living = years > 0.0 and used > 0.0
    root = sqrt(years) if living else 0.0
    shift = row.log_forward - log(used) if living and forward > 0.0 and row.forward > 0.0 else 0.0
    end = row.first + row.count
    above = row.first
    priced = 0
    for at in range(row.first, end):
        node = nodes[at]
        vol = 0.0
        if living:
            log_strike = node.log_strike + shift
            while above < end and nodes[above].log_strike <= log_strike:
                above += 1
            vol = smile_between(surface, row.first, end, above, log_strike)
        deviation = vol * root
        terms = black_terms(used, node.strike, deviation) if vol > 0.0 else Terms(0.0, 0.0, 0.0, 0.0, 0.0)
        option = node.option
        while option >= 0:
            quoted = chain.options[option]
            if vol > 0.0:
                value = _value(used, node.strike, quoted.sign, quoted.inverse, root, deviation, vol, terms)
                _store(chain, option, value, vol)
                priced += 1
            else:
                _store(chain, option, Value(0.0, 0.0, 0.0, 0.0, 0.0), 0.0)
            option = quoted.following
    return priced


@kernel()
def price_chain(chain: State, underlying: Int, forward: Float, now_ns: Int) -> Int:
    """Price every option of an underlying into the chain's arrays; returns how many could be priced.

    Args:
        forward: One forward for all expiries, along which the smiles move (sticky moneyness); 0.0 for each expiry's
            own. A positive one is remembered for the expiries that have no quoted forward.
        now_ns: Time to expiry counts from here.

    delta and gamma are by the forward; vega by a volatility of 1.00; theta by calendar time, per year. An option that
    cannot be priced (expired, no forward, no volatility at its expiry) gets zeros.
    """
    if forward > 0.0:
        set_forward(chain.surface, underlying, forward)
    owner = chain.surface.underlyings[underlying]
    priced = 0
    for expiry in range(owner.first, owner.first + owner.count):
        priced += _price_expiry(chain, expiry, forward, now_ns)
    return priced


@kernel()
def _node_range(surface: State, underlying: Int) -> tuple[Int, Int]:
    """The nodes of an underlying: first and end."""
    owner = surface.underlyings[underlying]
    if owner.count == 0:
        return 0, 0
    last = surface.expiries[owner.first + owner.count - 1]
    return surface.expiries[owner.first].first, last.first + last.count


@kernel()
def chain_delta(chain: State, underlying: Int) -> Float:
    """The sum of the deltas of an underlying's options, one of each, as last priced."""
    first, end = _node_range(chain.surface, underlying)
    total = 0.0
    for at in range(first, end):
        option = chain.surface.nodes[at].option
        while option >= 0:
            total += chain.delta[option]
            option = chain.options[option].following
    return total


@kernel()
def net_delta(chain: State, underlying: Int, sizes: Array) -> Float:
    """The delta of a holding, as last priced, in units of the forward.

    Args:
        sizes: Shape (options,): contracts held by option slot, negative where short, times their multiplier.
    """
    first, end = _node_range(chain.surface, underlying)
    total = 0.0
    for at in range(first, end):
        option = chain.surface.nodes[at].option
        while option >= 0:
            total += chain.delta[option] * sizes[option]
            option = chain.options[option].following
    return total
