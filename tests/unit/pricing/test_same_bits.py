"""A priced and implied chain has pinned bits, on this CPU, on a generic one, and whatever the C library does."""

from __future__ import annotations

import numpy as np
import pytest

from tapehouse.core import UNDEFINED
from tapehouse.pricing import YEAR_NS, define_option, digest, make_chain, on_option_quote, price_chain
from tests.support.other_cpus import OTHERS, words_of

NOW = 1_600_000_000_000_000_000
# BLAKE3 of the chain below: change it only together with a new digest version of every tape.
DIGEST = "eba78e2c7b15d7bcfd3708ce07a6a719a4e621b0a52123b249b204d32fbd4edf"


def chain_digest() -> str:
    """Eight expiries of 25 strikes, half of them implied, priced on their own forwards and then on a common one."""
    chain = make_chain(1, 400)
    for slot in range(400):
        expiry, strike, right = slot // 50, slot // 2 % 25, "CP"[slot % 2]
        define_option(
            chain,
            slot,
            underlying=0,
            strike=60.0 + 3.25 * strike,
            expiry_ns=NOW + (expiry + 1) ** 2 * YEAR_NS // 40,
            right=right,
            price_unit=1e-9,
        )
    words = np.full((3, 8), UNDEFINED, np.int64)
    for slot in range(400):
        expiry, strike = slot // 50, slot // 2 % 25
        words[:, 1] = NOW + slot
        words[2, 0] = 100_000_000_000 + 137_000_000 * expiry
        words[2, 4] = 200_000_000 + 9_000_000 * strike - 4_000_000 * expiry if slot % 4 < 2 else UNDEFINED
        words[0, 4] = words[1, 4] = 300_000_000 + 23_456_789 * (25 - strike) * (expiry + 1)
        on_option_quote(chain, slot, words, 0)
    assert chain.counters[0] > 250
    assert price_chain(chain, 0, 0.0, NOW + 1000) == 400
    first = digest(chain).hex()
    assert price_chain(chain, 0, 98.7, NOW + 2000) == 400
    return first[:32] + digest(chain).hex()[:32]


def test_the_bits_are_the_pinned_ones() -> None:
    assert chain_digest() == DIGEST


@pytest.mark.parametrize("environment", OTHERS.values(), ids=OTHERS.keys())
def test_the_bits_are_the_same_on_other_cpus(environment: dict[str, str]) -> None:
    """`test_detmath` holds the controls that these settings do change the code that runs."""
    assert words_of("tests.unit.pricing.test_same_bits", environment=environment) == [DIGEST]


if __name__ == "__main__":
    print(chain_digest())
