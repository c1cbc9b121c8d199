"""The option chain: what each option was last quoted at, and the volatility surface that the quotes make.

Options and underlyings live in slots that the caller allots. An option quote moves its node of the surface: the
venue's mark volatility where the quote has one, else the volatility implied by the middle of bid and ask, from the
out-of-the-money side of the strike (the other side's price is mostly intrinsic) unless only the other side is listed.
Prices are on forwards, undiscounted: tapes carry no interest rates. `valuation` prices the chain on its surface.

The premium of an *inverse* option (as crypto venues list them) is paid in the underlying: its quotes are multiples of
the forward and so are `price` and the quotes here, while delta to theta are those of its value in the strike's
currency, as such venues publish them.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tapehouse.core import UNDEFINED, DataError, check
from tapehouse.core.detmath import log
from tapehouse.core.kernel import Array, Float, Int, State, kernel
from tapehouse.core.pools import Pool
from tapehouse.pricing.implied_volatility import SOLVED, implied_volatility
from tapehouse.pricing.surface import (
    CLOCK,
    Surface,
    forward_of,
    insert_node,
    make_surface,
    nearest_volatility,
    set_expiry_forward,
    surface_volatility,
    years_until,
)

# What a quote did; `counters[status]` counts them.
APPLIED = 0  # its node took a volatility
NO_VOLATILITY = 1  # it has neither a mark volatility nor two sides
OTHER_SIDE = 2  # in the money, and the out-of-the-money option of the strike is listed
NO_FORWARD = 3  # nothing to imply from
EXPIRED = 4
NO_SOLUTION = 5  # the middle price is outside the no-arbitrage bounds
UNKNOWN_OPTION = 6  # no option is defined in that slot
BAD_RECORD = 7  # fewer than three rows left
STATUSES = 8

VOLATILITY_UNIT = 1e9  # volatilities on the tape count 1e-9
_UNDEFINED = UNDEFINED

OPTION = np.dtype(
    [
        ("sign", "<i8"),  # +1 call, -1 put, 0: nothing is defined in this slot
        ("underlying", "<i8"),
        ("node", "<i8"),
        ("following", "<i8"),  # the next option at the same node, -1 for none
        ("inverse", "<i8"),  # 1: the premium is paid in the underlying
        ("expiry_ns", "<i8"),
        ("strike", "<f8"),
        ("unit", "<f8"),  # of its prices on the tape
        # Of the last quote; 0.0 where it had none.
        ("bid", "<f8"),
        ("ask", "<f8"),
        ("mark", "<f8"),
        ("bid_volatility", "<f8"),
        ("ask_volatility", "<f8"),
        ("mark_volatility", "<f8"),
        ("open_interest", "<i8"),
        ("ts_recv", "<i8"),
    ]
)


class Chain(NamedTuple):
    """Quotes, surface and prices of all options; every array by option slot unless it says otherwise.

    Args:
        surface: The volatility surface, with the forwards.
        options: Dtype OPTION.
        price, delta, gamma, vega, theta, volatility: What the last pricing found: see `price_chain`; 0.0 where an
            option has not been priced, has expired, or has no surface to be priced on.
        counters: Shape (STATUSES,): quotes by status.
    """

    surface: Surface
    options: npt.NDArray[Any]
    price: npt.NDArray[np.float64]
    delta: npt.NDArray[np.float64]
    gamma: npt.NDArray[np.float64]
    vega: npt.NDArray[np.float64]
    theta: npt.NDArray[np.float64]
    volatility: npt.NDArray[np.float64]
    counters: npt.NDArray[np.int64]


def make_chain(underlyings: int, options: int) -> Chain:
    """An empty chain with room for so many underlyings and options."""
    price, delta, gamma, vega, theta, fitted = (np.zeros(options, np.float64) for _ in range(6))
    return Chain(
        surface=make_surface(underlyings, options),
        options=np.zeros(options, OPTION),
        price=price,
        delta=delta,
        gamma=gamma,
        vega=vega,
        theta=theta,
        volatility=fitted,
        counters=np.zeros(STATUSES, np.int64),
    )


def option_pool(chain: Chain) -> Pool:
    """The slots of defined options, which keep them for good; the surface's nodes and the results lie beside."""
    defined = int(np.count_nonzero(chain.options["sign"]))
    columns = (chain.price, chain.delta, chain.gamma, chain.vega, chain.theta, chain.volatility)
    return Pool(
        name="chain_options",
        used=defined,
        held=defined,
        capacity=len(chain.options),
        row_bytes=OPTION.itemsize + sum(column.itemsize for column in columns),
    )


def define_option(
    chain: Chain,
    option: int,
    *,
    underlying: int,
    strike: float,
    expiry_ns: int,
    right: str,
    price_unit: float,
    inverse: bool = False,
) -> None:
    """Give a slot its option; repeating a definition changes nothing.

    Args:
        option, underlying: Slots.
        strike: In the currency in which forwards are quoted, not in units of the tape.
        right: `C` or `P`.
        price_unit: The value of one unit of its prices on the tape, such as 1e-9.
        inverse: The premium is paid in the underlying.

    Raises:
        DataError: The definition makes no sense, or the slot has another option.
    """
    check(0 <= option < len(chain.options), f"option slot {option} is outside the chain's {len(chain.options)}")
    slots = len(chain.surface.underlyings)
    check(0 <= underlying < slots, f"underlying slot {underlying} is outside the chain's {slots}")
    subject = f"option slot {option}"
    if right not in ("C", "P"):
        raise DataError(f"{right!r} is no option right", subject=subject, hint="C for a call, P for a put")
    if not (strike > 0 and math.isfinite(strike)):
        raise DataError(f"a strike of {strike} cannot be priced", subject=subject)
    if not (price_unit > 0 and math.isfinite(price_unit)):
        raise DataError(f"a price unit of {price_unit} is none", subject=subject)
    if expiry_ns <= 0:
        raise DataError("an option needs an expiry", subject=subject, hint="set expiry_ns in its definition")
    sign = 1 if right == "C" else -1
    if not _define(chain, option, underlying, strike, expiry_ns, sign, price_unit, int(inverse)):
        raise DataError("the slot already has another option", subject=subject)


@kernel()
def _define(
    chain: State, option: Int, underlying: Int, strike: Float, expiry_ns: Int, sign: Int, unit: Float, inverse: Int
) -> Int:
    """Returns 0 where the slot has another option."""
    row = chain.options[option]
    if row.sign != 0:
        same = row.sign == sign and row.underlying == underlying and row.expiry_ns == expiry_ns
        return int(same and row.strike == strike and row.unit == unit and row.inverse == inverse)
    node, fresh = insert_node(chain.surface, underlying, expiry_ns, strike)
    if fresh != 0:
        for other in range(chain.options.shape[0]):
            if chain.options[other].sign != 0 and chain.options[other].node >= node:
                chain.options[other].node += 1
    row.sign = sign
    row.underlying = underlying
    row.node = node
    row.following = chain.surface.nodes[node].option
    row.inverse = inverse
    row.expiry_ns = expiry_ns
    row.strike = strike
    row.unit = unit
    chain.surface.nodes[node].option = option
    return 1


@kernel()
def _scaled(value: Int, unit: Float) -> Float:
    """A positive number of the tape as a float; 0.0 where it is undefined or not positive."""
    return value * unit if 0 < value < _UNDEFINED else 0.0


@kernel()
def _other_side_listed(chain: State, option: Int) -> Int:
    """1 if the same strike and expiry has an option of the other right."""
    row = chain.options[option]
    other = chain.surface.nodes[row.node].option
    while other >= 0:
        if chain.options[other].sign != row.sign:
            return 1
        other = chain.options[other].following
    return 0


@kernel()
def _imply(chain: State, option: Int, now_ns: Int) -> tuple[Int, Float]:
    """(status, volatility) of the middle of an option's two sides."""
    row = chain.options[option]
    if not (0.0 < row.bid <= row.ask):
        return NO_VOLATILITY, 0.0
    years = years_until(row.expiry_ns, now_ns)
    if years <= 0.0:
        return EXPIRED, 0.0
    forward = forward_of(chain.surface, chain.surface.nodes[row.node].expiry)
    if forward <= 0.0:
        return NO_FORWARD, 0.0
    if row.sign * (forward - row.strike) > 0.0 and _other_side_listed(chain, option) != 0:
        return OTHER_SIDE, 0.0
    premium = 0.5 * (row.bid + row.ask)
    if row.inverse != 0:
        premium *= forward
    status, found = implied_volatility(premium, forward, row.strike, years, 1.0, row.sign)
    return (APPLIED, found) if status == SOLVED and found > 0.0 else (NO_SOLUTION, 0.0)


@kernel()
def on_option_quote(chain: State, option: Int, words: Array, row: Int) -> Int:
    """Fold one OPTION_QUOTE record: its quote, its expiry's forward and its node of the surface.

    Args:
        option: Slot.
        words: Shape (n, 8) int64 cells.
        row: Of the record's first cell: bid cell, ask extension, OPTION_EXTENSION.

    Returns:
        A status, which is counted too; only APPLIED moved the node.
    """
    if option < 0 or option >= chain.options.shape[0] or chain.options[option].sign == 0:
        chain.counters[UNKNOWN_OPTION] += 1
        return UNKNOWN_OPTION
    if row + 2 >= words.shape[0]:
        chain.counters[BAD_RECORD] += 1
        return BAD_RECORD
    surface = chain.surface
    now_ns = max(surface.counts[CLOCK], words[row, 1])
    surface.counts[CLOCK] = now_ns
    quoted = chain.options[option]
    quoted.ts_recv = words[row, 1]
    quoted.bid = _scaled(words[row, 4], quoted.unit)
    quoted.ask = _scaled(words[row + 1, 4], quoted.unit)
    quoted.mark = _scaled(words[row + 2, 1], quoted.unit)
    quoted.bid_volatility = _scaled(words[row + 2, 2], 1.0) / VOLATILITY_UNIT
    quoted.ask_volatility = _scaled(words[row + 2, 3], 1.0) / VOLATILITY_UNIT
    quoted.mark_volatility = _scaled(words[row + 2, 4], 1.0) / VOLATILITY_UNIT
    interest = words[row + 2, 5]
    quoted.open_interest = interest if 0 < interest < _UNDEFINED else 0
    forward = _scaled(words[row + 2, 0], quoted.unit)
    node = surface.nodes[quoted.node]
    if forward > 0.0:
        set_expiry_forward(surface, node.expiry, forward)
    status = APPLIED
    found = quoted.mark_volatility
    if quoted.expiry_ns <= now_ns:
        status = EXPIRED
    elif found <= 0.0:
        status, found = _imply(chain, option, now_ns)
    if status == APPLIED:
        node.volatility = found
    chain.counters[status] += 1
    return status


@kernel()
def volatility(chain: State, underlying: Int, forward: Float, strike: Float, years: Float) -> Float:
    """The surface at a forward, a strike and a time to expiry, as of the latest quote; 0.0 where there is none yet."""
    if not (forward > 0.0 and strike > 0.0):
        return 0.0
    surface = chain.surface
    return surface_volatility(surface, underlying, log(strike / forward), years, surface.counts[CLOCK])


@kernel()
def atm_volatility(chain: State, underlying: Int, now_ns: Int) -> Float:
    """The at-the-money volatility of the nearest living expiry; 0.0 where there is no surface yet."""
    return nearest_volatility(chain.surface, underlying, now_ns)
