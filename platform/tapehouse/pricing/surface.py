"""The volatility surface: per underlying a grid of expiries, per expiry the strikes, per strike one volatility.

The grid is ragged (each expiry has its own strikes) and grows as options are defined: three tables sorted by
(underlying, expiry, strike), each row naming the first row and the number of rows below it, so a lookup is two binary
searches over contiguous memory. A node without a volatility yet is skipped.

Between nodes total variance w = sigma² T is bilinear: along a smile in log-moneyness k = ln(K/F), between expiries in
T at constant k. Total variance is what the option price depends on; in k because smiles move with the forward;
linear in T because then the variance between two expiries is spread evenly, and no calendar arbitrage arises between
nodes that have none. Beyond the outer nodes the volatility itself is flat, in both directions: never extrapolated.

Source: J. Gatheral, "The Volatility Surface" (2006), on total variance at constant log-moneyness.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tapehouse.core.detmath import log, sqrt
from tapehouse.core.kernel import Float, Int, State, kernel

YEAR_NS = 365 * 86_400 * 1_000_000_000  # the day count: ACT/365 fixed
_YEARS_PER_NS = 1.0 / YEAR_NS

UNDERLYING = np.dtype([("first", "<i8"), ("count", "<i8"), ("forward", "<f8")])  # expiries; 0.0: no forward
EXPIRY = np.dtype(
    [
        ("underlying", "<i8"),
        ("expiry_ns", "<i8"),
        ("first", "<i8"),  # node
        ("count", "<i8"),
        ("forward", "<f8"),  # its last quoted forward, 0.0 before
        ("log_forward", "<f8"),
    ]
)
NODE = np.dtype(
    [
        ("expiry", "<i8"),  # row in expiries
        ("option", "<i8"),  # the last option defined here
        ("strike", "<f8"),
        ("log_strike", "<f8"),
        ("volatility", "<f8"),  # per year, 0.0: none yet
    ]
)
EXPIRIES, NODES, CLOCK = 0, 1, 2  # entries of `counts`

Table = npt.NDArray[Any]


class Surface(NamedTuple):
    """The grids of all underlyings; prices in the currency of the strike.

    Args:
        underlyings: Shape (underlyings,), dtype UNDERLYING, by slot.
        expiries: Shape (options,), dtype EXPIRY, sorted by (underlying, expiry_ns).
        nodes: Shape (options,), dtype NODE, sorted by (expiry, strike).
        counts: Rows used of expiries and nodes, and the latest time seen, UTC ns.
    """

    underlyings: Table
    expiries: Table
    nodes: Table
    counts: npt.NDArray[np.int64]


def make_surface(underlyings: int, options: int) -> Surface:
    """An empty surface; each option may need an expiry and a node of its own."""
    return Surface(
        np.zeros(underlyings, UNDERLYING), np.zeros(options, EXPIRY), np.zeros(options, NODE), np.zeros(3, np.int64)
    )


@kernel()
def years_until(expiry_ns: Int, now_ns: Int) -> Float:
    """ACT/365 fixed; negative when it is past."""
    return (expiry_ns - now_ns) * _YEARS_PER_NS


@kernel()
def insert_node(surface: State, underlying: Int, expiry_ns: Int, strike: Float) -> tuple[Int, Int]:
    """The node of (underlying, expiry, strike) and whether it is new: then all rows from it on have moved up by one.

    The caller has made sure that there is a free row in both tables.
    """
    owner = surface.underlyings[underlying]
    expiries = surface.expiries
    nodes = surface.nodes
    at = owner.first
    end = owner.first + owner.count
    while at < end and expiries[at].expiry_ns < expiry_ns:
        at += 1
    if at == end or expiries[at].expiry_ns != expiry_ns:
        used = surface.counts[EXPIRIES]
        first = expiries[at].first if at < used else surface.counts[NODES]
        for row in range(used, at, -1):
            expiries[row] = expiries[row - 1]
        for row in range(first, surface.counts[NODES]):
            nodes[row].expiry += 1
        fresh = expiries[at]
        fresh.underlying = underlying
        fresh.expiry_ns = expiry_ns
        fresh.first = first
        fresh.count = 0
        fresh.forward = 0.0
        fresh.log_forward = 0.0
        owner.count += 1
        for slot in range(underlying + 1, surface.underlyings.shape[0]):
            surface.underlyings[slot].first += 1
        surface.counts[EXPIRIES] += 1
    expiry = expiries[at]
    node = expiry.first
    end = expiry.first + expiry.count
    while node < end and nodes[node].strike < strike:
        node += 1
    if node < end and nodes[node].strike == strike:
        return node, 0
    for row in range(surface.counts[NODES], node, -1):
        nodes[row] = nodes[row - 1]
    created = nodes[node]
    created.expiry = at
    created.option = -1
    created.strike = strike
    created.log_strike = log(strike)
    created.volatility = 0.0
    expiry.count += 1
    surface.counts[NODES] += 1
    for row in range(at + 1, surface.counts[EXPIRIES]):
        expiries[row].first += 1
    return node, 1


@kernel()
def set_forward(surface: State, underlying: Int, forward: Float) -> None:
    """The forward of those expiries that have none of their own; must be positive."""
    surface.underlyings[underlying].forward = forward


@kernel()
def set_expiry_forward(surface: State, expiry: Int, forward: Float) -> None:
    """The forward to one expiry (a row of `expiries`); must be positive."""
    row = surface.expiries[expiry]
    if row.forward != forward:
        row.forward = forward
        row.log_forward = log(forward)


@kernel()
def forward_of(surface: State, expiry: Int) -> Float:
    """The forward to one expiry: its own, else the underlying's, else 0.0."""
    row = surface.expiries[expiry]
    return row.forward if row.forward > 0.0 else surface.underlyings[row.underlying].forward


@kernel()
def smile_between(surface: State, first: Int, end: Int, above: Int, log_strike: Float) -> Float:
    """The smile over nodes first to end at a log strike; `above` is the first node beyond it; 0.0: no volatilities."""
    nodes = surface.nodes
    low = above - 1
    while low >= first and nodes[low].volatility <= 0.0:
        low -= 1
    high = above
    while high < end and nodes[high].volatility <= 0.0:
        high += 1
    if low < first:
        return nodes[high].volatility if high < end else 0.0
    below = nodes[low]
    if high == end or below.log_strike == log_strike:
        return below.volatility
    beyond = nodes[high]
    weight = (log_strike - below.log_strike) / (beyond.log_strike - below.log_strike)
    return sqrt(
        (1.0 - weight) * (below.volatility * below.volatility) + weight * (beyond.volatility * beyond.volatility)
    )


@kernel()
def smile(surface: State, expiry: Int, log_strike: Float) -> Float:
    """The volatility of one expiry at a log strike, interpolated in variance; 0.0 where no node has one yet."""
    row = surface.expiries[expiry]
    low = row.first
    end = row.first + row.count
    high = end
    while low < high:
        middle = (low + high) >> 1
        if surface.nodes[middle].log_strike <= log_strike:
            low = middle + 1
        else:
            high = middle
    return smile_between(surface, row.first, end, low, log_strike)


@kernel()
def smile_at_moneyness(surface: State, expiry: Int, moneyness: Float) -> Float:
    """The volatility of one expiry at k = ln(K/F); 0.0 without volatilities or without a forward."""
    row = surface.expiries[expiry]
    if row.forward > 0.0:
        return smile(surface, expiry, moneyness + row.log_forward)
    forward = surface.underlyings[row.underlying].forward
    return smile(surface, expiry, moneyness + log(forward)) if forward > 0.0 else 0.0


@kernel()
def surface_volatility(surface: State, underlying: Int, moneyness: Float, years: Float, now_ns: Int) -> Float:
    """The volatility at k = ln(K/F) and a time to expiry, seen at `now_ns`; 0.0 where no living expiry has any."""
    owner = surface.underlyings[underlying]
    end = owner.first + owner.count
    low = owner.first
    high = end
    while low < high:
        middle = (low + high) >> 1
        time = years_until(surface.expiries[middle].expiry_ns, now_ns)
        if time <= 0.0 or time < years:
            low = middle + 1
        else:
            high = middle
    after = low
    late = 0.0
    while after < end:
        late = smile_at_moneyness(surface, after, moneyness)
        if late > 0.0:
            break
        after += 1
    late_years = years_until(surface.expiries[after].expiry_ns, now_ns) if after < end else 0.0
    if after < end and late_years <= years:
        return late
    before = low - 1
    early = 0.0
    early_years = 0.0
    while before >= owner.first:
        early_years = years_until(surface.expiries[before].expiry_ns, now_ns)
        if early_years <= 0.0:
            break
        early = smile_at_moneyness(surface, before, moneyness)
        if early > 0.0:
            break
        before -= 1
    if early <= 0.0:
        return late
    if after == end:
        return early
    weight = (years - early_years) / (late_years - early_years)
    variance = (1.0 - weight) * (early * early * early_years) + weight * (late * late * late_years)
    return sqrt(variance / years)


@kernel()
def nearest_volatility(surface: State, underlying: Int, now_ns: Int) -> Float:
    """The at-the-money volatility of the nearest living expiry that has one; 0.0 where none has."""
    owner = surface.underlyings[underlying]
    for expiry in range(owner.first, owner.first + owner.count):
        if surface.expiries[expiry].expiry_ns > now_ns:
            found = smile_at_moneyness(surface, expiry, 0.0)
            if found > 0.0:
                return found
    return 0.0
