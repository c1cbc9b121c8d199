"""The grid, its interpolation and the priced chain against slow dictionaries and the textbook formula."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapehouse.core import UNDEFINED
from tapehouse.pricing import (
    YEAR_NS,
    Chain,
    atm_volatility,
    chain_delta,
    define_option,
    greeks,
    make_chain,
    on_option_quote,
    price_chain,
    restore,
    snapshot,
    value_option,
    volatility,
)
from tapehouse.pricing.surface import EXPIRIES, NODES

NOW = 1_600_000_000_000_000_000
DAY_NS = 86_400 * 10**9
UNIT = 1e-9
UNDERLYINGS, OPTIONS = 3, 64


@dataclass
class SlowExpiry:
    """One smile as a dictionary."""

    forward: float = 0.0
    nodes: dict[float, float] = field(default_factory=dict)

    def volatility(self, k: float) -> float:
        """Linear in variance between the quoted neighbours, flat beyond."""
        if self.forward == 0.0:
            return 0.0
        y = k + math.log(self.forward)
        quoted = sorted((math.log(strike), vol) for strike, vol in self.nodes.items() if vol > 0)
        below = [node for node in quoted if node[0] <= y]
        above = [node for node in quoted if node[0] > y]
        if not below or not above:
            return below[-1][1] if below else (above[0][1] if above else 0.0)
        (y1, vol1), (y2, vol2) = below[-1], above[0]
        return math.sqrt(vol1**2 + (vol2**2 - vol1**2) * (y - y1) / (y2 - y1))


@dataclass
class SlowSurface:
    """Expiries by time, smiles by strike."""

    expiries: dict[int, SlowExpiry] = field(default_factory=dict)

    def volatility(self, k: float, years: float, now: int) -> float:
        """Linear in total variance between the living neighbours, flat beyond."""
        living = sorted(
            ((expiry - now) / YEAR_NS, smile.volatility(k))
            for expiry, smile in self.expiries.items()
            if expiry > now and smile.volatility(k) > 0
        )
        if not living:
            return 0.0
        below = [point for point in living if point[0] < years]
        above = [point for point in living if point[0] >= years]
        if not below or not above:
            return below[-1][1] if below else above[0][1]
        (t1, vol1), (t2, vol2) = below[-1], above[0]
        variance = vol1**2 * t1 + (vol2**2 * t2 - vol1**2 * t1) * (years - t1) / (t2 - t1)
        return math.sqrt(variance / years)


options = st.tuples(
    st.integers(0, UNDERLYINGS - 1),
    st.sampled_from([1, 7, 30, 90, 365]),  # days
    st.sampled_from([50.0, 80.0, 90.0, 95.0, 100.0, 105.0, 120.0, 300.0]),
    st.sampled_from("CP"),
)
definitions = st.lists(options, min_size=1, max_size=OPTIONS, unique=True)
quotes = st.lists(
    st.tuples(
        st.integers(0, OPTIONS - 1),
        st.sampled_from([0.0, 90.0, 100.0, 103.7]),
        st.sampled_from([0.0, 0.1, 0.25, 0.8]),
        st.integers(0, 10),  # days that pass
    ),
    max_size=60,
)


def quote_words(forward: float, vol: float, now: int) -> np.ndarray:
    words = np.full((3, 8), UNDEFINED, np.int64)
    words[:, 1] = now
    if forward:
        words[2, 0] = round(forward / UNIT)
    if vol:
        words[2, 4] = round(vol * 1e9)
    return words


def build(
    defined: list[tuple[int, int, float, str]], quoted: list[tuple[int, float, float, int]]
) -> tuple[Chain, dict[int, SlowSurface], int]:
    """The same definitions and quotes told to the chain and to the dictionaries."""
    chain = make_chain(UNDERLYINGS, OPTIONS)
    slow = {slot: SlowSurface() for slot in range(UNDERLYINGS)}
    for slot, (underlying, days, strike, right) in enumerate(defined):
        expiry = NOW + days * DAY_NS
        define_option(chain, slot, underlying=underlying, strike=strike, expiry_ns=expiry, right=right, price_unit=UNIT)
        slow[underlying].expiries.setdefault(expiry, SlowExpiry()).nodes.setdefault(strike, 0.0)
    now = NOW
    for number, forward, vol, days in quoted:
        slot = number % len(defined)
        underlying, expiry_days, strike, _ = defined[slot]
        now += days * DAY_NS // 4
        on_option_quote(chain, slot, quote_words(forward, vol, now), 0)
        expiry = NOW + expiry_days * DAY_NS
        smile = slow[underlying].expiries[expiry]
        smile.forward = round(forward / UNIT) * UNIT or smile.forward
        if vol and expiry > now:
            smile.nodes[strike] = vol
    return chain, slow, now


@settings(deadline=None, max_examples=80)
@given(definitions)
def test_the_grid_is_sorted_however_it_was_defined(defined: list[tuple[int, int, float, str]]) -> None:
    chain, slow, _ = build(defined, [])
    surface = chain.surface
    expiries = surface.expiries[: surface.counts[EXPIRIES]]
    nodes = surface.nodes[: surface.counts[NODES]]
    expected = [(slot, expiry) for slot in range(UNDERLYINGS) for expiry in sorted(slow[slot].expiries)]
    assert list(zip(expiries["underlying"].tolist(), expiries["expiry_ns"].tolist(), strict=True)) == expected
    strikes = [sorted(slow[slot].expiries[expiry].nodes) for slot, expiry in expected]
    assert nodes["strike"].tolist() == [strike for smile in strikes for strike in smile]
    assert expiries["count"].tolist() == [len(smile) for smile in strikes]
    assert expiries["first"].tolist() == (np.cumsum(expiries["count"]) - expiries["count"]).tolist()
    for slot, (underlying, days, strike, right) in enumerate(defined):
        node = nodes[int(chain.options["node"][slot])]
        assert node["strike"] == strike
        assert expiries[int(node["expiry"])]["expiry_ns"] == NOW + days * DAY_NS
        assert expiries[int(node["expiry"])]["underlying"] == underlying
        assert chain.options["sign"][slot] == (1 if right == "C" else -1)


@settings(deadline=None, max_examples=120)
@given(
    definitions,
    quotes,
    st.integers(0, UNDERLYINGS - 1),
    st.floats(30.0, 500.0),
    st.floats(50.0, 200.0),
    st.floats(0.001, 2.0),
)
def test_interpolation_is_the_slow_one(
    defined: list[tuple[int, int, float, str]],
    quoted: list[tuple[int, float, float, int]],
    underlying: int,
    strike: float,
    forward: float,
    years: float,
) -> None:
    chain, slow, now = build(defined, quoted)
    expected = slow[underlying].volatility(math.log(strike / forward), years, now)
    assert volatility(chain, underlying, forward, strike, years) == pytest.approx(expected, rel=1e-9)
    at_the_money = [
        vol for e, smile in sorted(slow[underlying].expiries.items()) if e > now and (vol := smile.volatility(0.0)) > 0
    ]
    found = atm_volatility(chain, underlying, now)
    assert found == pytest.approx(at_the_money[0] if at_the_money else 0.0, rel=1e-9)


def test_the_slow_surface_is_no_flat_one() -> None:
    """The control: between two nodes and two expiries neither neighbour's value comes out."""
    defined = [(0, days, strike, "C") for days in (30, 90) for strike in (90.0, 120.0)]
    quoted = [(slot, 100.0, vol, 0) for slot, vol in enumerate((0.1, 0.25, 0.25, 0.8))]
    chain, slow, now = build(defined, quoted)
    found = volatility(chain, 0, 100.0, 105.0, 60 / 365)
    assert found == pytest.approx(slow[0].volatility(math.log(1.05), 60 / 365, now), rel=1e-12)
    assert all(abs(found - vol) > 0.01 for vol in (0.1, 0.25, 0.8))


@settings(deadline=None, max_examples=80)
@given(definitions, quotes)
def test_nodes_are_met_exactly(
    defined: list[tuple[int, int, float, str]], quoted: list[tuple[int, float, float, int]]
) -> None:
    chain, slow, now = build(defined, quoted)
    for underlying, surface in slow.items():
        for expiry, smile in surface.expiries.items():
            for strike, vol in smile.nodes.items():
                if vol > 0 and smile.forward > 0 and expiry > now:
                    found = volatility(chain, underlying, smile.forward, strike, (expiry - now) / YEAR_NS)
                    assert found == pytest.approx(vol, rel=1e-12)


@settings(deadline=None, max_examples=80)
@given(definitions, quotes, st.sampled_from([0.0, 97.0, 100.0]))
def test_the_priced_chain_is_the_formula_bit_for_bit(
    defined: list[tuple[int, int, float, str]], quoted: list[tuple[int, float, float, int]], forward: float
) -> None:
    chain, slow, now = build(defined, quoted)
    for underlying in range(UNDERLYINGS):
        priced = price_chain(chain, underlying, forward, now)
        total = 0
        deltas = []
        for slot, (owner, days, strike, right) in enumerate(defined):
            if owner != underlying:
                continue
            smile = slow[owner].expiries[NOW + days * DAY_NS]
            used = forward or smile.forward
            vol = float(chain.volatility[slot])
            got = (chain.price[slot], chain.delta[slot], chain.gamma[slot], chain.vega[slot], chain.theta[slot])
            anchored = SlowExpiry(smile.forward or used, smile.nodes)
            living = NOW + days * DAY_NS > now and used > 0
            expected = anchored.volatility(math.log(strike / used)) if living else 0.0
            assert vol == pytest.approx(expected, rel=1e-9)
            value, same_vol = value_option(chain, slot, forward, now)
            assert (*got, vol) == (*value, same_vol)
            if vol > 0:
                years = (NOW + days * DAY_NS - now) * (1.0 / YEAR_NS)
                assert got == greeks(used, strike, years, 0.0, 0.0, vol, 1 if right == "C" else -1)[:5]
                total += 1
            else:
                assert got == (0.0,) * 5
            deltas.append(float(chain.delta[slot]))
        assert priced == total
        assert chain_delta(chain, underlying) == pytest.approx(math.fsum(deltas), abs=1e-12)


@settings(deadline=None, max_examples=80)
@given(definitions, quotes, quotes)
def test_a_restored_chain_goes_on_alike(
    defined: list[tuple[int, int, float, str]],
    before: list[tuple[int, float, float, int]],
    after: list[tuple[int, float, float, int]],
) -> None:
    chain, _, now = build(defined, before)
    price_chain(chain, 0, 100.0, now)
    other = make_chain(UNDERLYINGS + 2, OPTIONS + 7)
    restore(other, snapshot(chain))
    assert snapshot(other) == snapshot(chain)
    late = (2, 200, 77.0, "P")  # A definition after the restore must find its place too.
    for each in (chain, other):
        if len(defined) < OPTIONS:
            define_option(
                each,
                len(defined),
                underlying=late[0],
                strike=late[2],
                expiry_ns=NOW + late[1] * DAY_NS,
                right=late[3],
                price_unit=UNIT,
            )
        for number, forward, vol, _ in after:
            on_option_quote(each, number % len(defined), quote_words(forward, vol, now), 0)
        for underlying in range(UNDERLYINGS):
            price_chain(each, underlying, 0.0, now)
    assert snapshot(other) == snapshot(chain)
