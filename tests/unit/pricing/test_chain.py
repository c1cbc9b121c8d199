"""What one option quote does to a chain, case by case."""

from __future__ import annotations

import numpy as np
import pytest

from tapehouse.core import UNDEFINED, DataError, IntegrityError, InvariantError
from tapehouse.pricing import (
    YEAR_NS,
    Chain,
    atm_volatility,
    black_price,
    chain_delta,
    define_option,
    digest,
    greeks,
    make_chain,
    net_delta,
    on_option_quote,
    price_chain,
    restore,
    snapshot,
    volatility,
)
from tapehouse.pricing import chain as statuses

NOW = 1_600_000_000_000_000_000
UNIT = 1e-9


def record(
    *, forward: float = 0.0, mark_volatility: float = 0.0, bid: float = 0.0, ask: float = 0.0, now: int = NOW
) -> np.ndarray:
    """An OPTION_QUOTE record's words; 0.0 stands for undefined."""
    words = np.zeros((3, 8), np.int64)
    words[:, 1] = now
    words[0, 4] = round(bid / UNIT) if bid else UNDEFINED
    words[1, 4] = round(ask / UNIT) if ask else UNDEFINED
    words[2, :6] = UNDEFINED
    if forward:
        words[2, 0] = round(forward / UNIT)
    if mark_volatility:
        words[2, 4] = round(mark_volatility * 1e9)
    return words


def one_option(right: str = "C", strike: float = 100.0, *, inverse: bool = False) -> Chain:
    """A chain with option 0 on underlying 0, one year from NOW."""
    chain = make_chain(2, 8)
    define_option(
        chain, 0, underlying=0, strike=strike, expiry_ns=NOW + YEAR_NS, right=right, price_unit=UNIT, inverse=inverse
    )
    return chain


def test_a_mark_volatility_becomes_the_node() -> None:
    chain = one_option()
    assert on_option_quote(chain, 0, record(forward=100.0, mark_volatility=0.25), 0) == statuses.APPLIED
    assert volatility(chain, 0, 100.0, 100.0, 1.0) == 0.25
    assert atm_volatility(chain, 0, NOW) == 0.25
    assert chain.counters[statuses.APPLIED] == 1


def test_before_any_quote_everything_is_zero() -> None:
    chain = one_option()
    assert volatility(chain, 0, 100.0, 100.0, 1.0) == 0.0
    assert volatility(chain, 1, 100.0, 100.0, 1.0) == 0.0
    assert atm_volatility(chain, 0, NOW) == 0.0
    assert price_chain(chain, 0, 0.0, NOW) == 0
    assert price_chain(chain, 1, 100.0, NOW) == 0
    assert chain_delta(chain, 0) == 0.0


def test_without_a_mark_volatility_the_middle_price_implies_it() -> None:
    chain = one_option(strike=110.0)
    fair = black_price(100.0, 110.0, 1.0, 0.3, 1)
    status = on_option_quote(chain, 0, record(forward=100.0, bid=fair - 0.1, ask=fair + 0.1), 0)
    assert status == statuses.APPLIED
    assert volatility(chain, 0, 100.0, 110.0, 1.0) == pytest.approx(0.3, abs=1e-9)


def test_an_inverse_premium_is_a_multiple_of_the_forward() -> None:
    chain = one_option(strike=110.0, inverse=True)
    fair = black_price(100.0, 110.0, 1.0, 0.3, 1) / 100.0
    assert on_option_quote(chain, 0, record(forward=100.0, bid=fair, ask=fair), 0) == statuses.APPLIED
    assert volatility(chain, 0, 100.0, 110.0, 1.0) == pytest.approx(0.3, abs=1e-7)
    price_chain(chain, 0, 0.0, NOW)
    assert chain.price[0] == pytest.approx(fair, rel=1e-7)


@pytest.mark.parametrize(
    ("right", "quote", "status"),
    [
        ("C", record(forward=100.0), statuses.NO_VOLATILITY),
        ("C", record(forward=100.0, bid=5.0), statuses.NO_VOLATILITY),
        ("C", record(forward=100.0, bid=5.0, ask=4.0), statuses.NO_VOLATILITY),
        ("C", record(bid=4.0, ask=5.0), statuses.NO_FORWARD),
        ("C", record(forward=100.0, mark_volatility=0.2, now=NOW + YEAR_NS), statuses.EXPIRED),
        ("C", record(forward=100.0, bid=101.0, ask=102.0), statuses.NO_SOLUTION),
        ("P", record(forward=80.0, bid=19.0, ask=19.5), statuses.NO_SOLUTION),
        ("C", record(forward=100.0, bid=4.0, ask=5.0)[:2], statuses.BAD_RECORD),
    ],
)
def test_a_quote_that_says_nothing_leaves_the_node_and_is_counted(right: str, quote: np.ndarray, status: int) -> None:
    chain = one_option(right)
    assert on_option_quote(chain, 0, quote, 0) == status
    assert chain.surface.nodes["volatility"][0] == 0.0
    assert chain.counters[status] == chain.counters.sum() == 1


@pytest.mark.parametrize("option", [-1, 3, 8])
def test_an_undefined_slot_is_refused(option: int) -> None:
    chain = one_option()
    assert on_option_quote(chain, option, record(), 0) == statuses.UNKNOWN_OPTION


def test_the_in_the_money_side_gives_way_to_the_other_where_both_are_listed() -> None:
    chain = one_option("C", strike=80.0)
    call = record(forward=100.0, bid=21.0, ask=22.0)
    assert on_option_quote(chain, 0, call, 0) == statuses.APPLIED  # The only one of its strike.
    define_option(chain, 1, underlying=0, strike=80.0, expiry_ns=NOW + YEAR_NS, right="P", price_unit=UNIT)
    assert on_option_quote(chain, 0, call, 0) == statuses.OTHER_SIDE
    assert on_option_quote(chain, 1, record(forward=100.0, bid=1.0, ask=2.0), 0) == statuses.APPLIED


def test_times_never_run_backwards() -> None:
    chain = one_option()
    on_option_quote(chain, 0, record(forward=100.0, mark_volatility=0.2, now=NOW + YEAR_NS), 0)
    assert on_option_quote(chain, 0, record(forward=100.0, mark_volatility=0.2), 0) == statuses.EXPIRED


def test_expired_options_are_priced_at_zero() -> None:
    chain = one_option()
    on_option_quote(chain, 0, record(forward=100.0, mark_volatility=0.2), 0)
    assert price_chain(chain, 0, 0.0, NOW) == 1
    assert chain_delta(chain, 0) > 0.5
    assert price_chain(chain, 0, 0.0, NOW + YEAR_NS) == 0
    assert chain.price[0] == chain_delta(chain, 0) == 0.0
    assert atm_volatility(chain, 0, NOW + YEAR_NS) == 0.0


def test_a_given_forward_moves_the_smile_with_it() -> None:
    chain = make_chain(1, 2)
    for slot, strike in enumerate((100.0, 110.0)):
        define_option(chain, slot, underlying=0, strike=strike, expiry_ns=NOW + YEAR_NS, right="C", price_unit=UNIT)
    on_option_quote(chain, 0, record(forward=100.0, mark_volatility=0.2), 0)
    on_option_quote(chain, 1, record(forward=100.0, mark_volatility=0.4), 0)
    assert price_chain(chain, 0, 110.0, NOW) == 2
    assert chain.volatility[1] == pytest.approx(0.2, rel=1e-12)  # 110 is at the money now.
    assert chain.price[1] == pytest.approx(black_price(110.0, 110.0, 1.0, 0.2, 1), rel=1e-12)


def test_a_given_forward_serves_expiries_that_have_none() -> None:
    chain = one_option()
    on_option_quote(chain, 0, record(mark_volatility=0.2), 0)
    assert price_chain(chain, 0, 0.0, NOW) == 0
    assert price_chain(chain, 0, 100.0, NOW) == 1
    assert on_option_quote(chain, 0, record(bid=8.0, ask=9.0), 0) == statuses.APPLIED


def test_deltas_add_up_over_one_underlying_only() -> None:
    chain = make_chain(2, 4)
    for slot, (underlying, right) in enumerate([(0, "C"), (1, "C"), (0, "P")]):
        define_option(
            chain, slot, underlying=underlying, strike=100.0, expiry_ns=NOW + YEAR_NS, right=right, price_unit=UNIT
        )
        on_option_quote(chain, slot, record(forward=100.0, mark_volatility=0.2), 0)
        price_chain(chain, underlying, 0.0, NOW)
    call = greeks(100.0, 100.0, 1.0, 0.0, 0.0, 0.2, 1).delta
    assert chain_delta(chain, 1) == call
    assert chain_delta(chain, 0) == pytest.approx(2 * call - 1, abs=1e-15)
    assert net_delta(chain, 0, np.array([3.0, 100.0, 0.0, 0.0])) == pytest.approx(3 * call)


def test_a_definition_may_be_repeated_but_not_changed() -> None:
    chain = one_option()
    before = snapshot(chain)
    for right, failing in (("C", False), ("P", True)):
        arguments = {"underlying": 0, "strike": 100.0, "expiry_ns": NOW + YEAR_NS, "price_unit": UNIT}
        if failing:
            with pytest.raises(DataError, match="another option"):
                define_option(chain, 0, right=right, **arguments)  # type: ignore[arg-type]
        else:
            define_option(chain, 0, right=right, **arguments)  # type: ignore[arg-type]
    assert snapshot(chain) == before


@pytest.mark.parametrize(
    "changed",
    [{"right": "X"}, {"strike": 0.0}, {"strike": float("nan")}, {"expiry_ns": 0}, {"price_unit": -1.0}],
)
def test_a_senseless_definition_is_refused(changed: dict[str, object]) -> None:
    arguments = {"underlying": 0, "strike": 1.0, "expiry_ns": NOW, "right": "C", "price_unit": UNIT, **changed}
    with pytest.raises(DataError):
        define_option(make_chain(1, 1), 0, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(("option", "underlying"), [(8, 0), (-1, 0), (0, 2)])
def test_slots_outside_the_chain_are_our_bug(option: int, underlying: int) -> None:
    with pytest.raises(InvariantError):
        define_option(
            make_chain(2, 8), option, underlying=underlying, strike=1.0, expiry_ns=NOW, right="C", price_unit=UNIT
        )


# Snapshots.


def test_a_snapshot_does_not_depend_on_capacity() -> None:
    small, large = make_chain(1, 2), make_chain(9, 40)
    for chain in (small, large):
        define_option(chain, 1, underlying=0, strike=100.0, expiry_ns=NOW + YEAR_NS, right="C", price_unit=UNIT)
        on_option_quote(chain, 1, record(forward=100.0, mark_volatility=0.2), 0)
    assert snapshot(small) == snapshot(large)
    assert digest(small) == digest(large)


def test_restoring_overwrites_whatever_was_there() -> None:
    used = one_option()
    on_option_quote(used, 0, record(forward=100.0, mark_volatility=0.2), 0)
    empty = snapshot(make_chain(1, 1))
    restore(used, empty)
    assert snapshot(used) == empty
    assert volatility(used, 0, 100.0, 100.0, 1.0) == 0.0


def test_damage_is_found() -> None:
    good = snapshot(one_option())
    chain = make_chain(2, 8)
    for bad in (b"", good[:-1], good + b"\0", b"XXXX" + good[4:], good[:4] + b"\2" + good[5:]):
        with pytest.raises(IntegrityError):
            restore(chain, bad)
    with pytest.raises(IntegrityError, match="does not fit"):
        restore(make_chain(1, 0), good)


def test_a_row_number_out_of_range_is_found() -> None:
    chain = one_option()
    for table, field in (
        (chain.options, "node"),
        (chain.options, "following"),
        (chain.options, "underlying"),
        (chain.surface.nodes, "expiry"),
        (chain.surface.nodes, "option"),
        (chain.surface.expiries, "first"),
        (chain.surface.expiries, "count"),
        (chain.surface.expiries, "underlying"),
        (chain.surface.underlyings, "count"),
    ):
        kept = int(table[field][0])
        table[field][0] = 5
        damaged = snapshot(chain)
        table[field][0] = kept
        with pytest.raises(IntegrityError):
            restore(make_chain(9, 9), damaged)


def test_a_list_that_runs_in_a_circle_is_found() -> None:
    chain = one_option()
    chain.options["following"][0] = 0
    with pytest.raises(IntegrityError):
        restore(make_chain(2, 8), snapshot(chain))
