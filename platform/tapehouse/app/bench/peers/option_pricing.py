"""European options by vollib or QuantLib, one call from Python at a time.

Called with one argument of JSON: `terms` (a .npy of shape (n, 7): spot, strike, years, rate, carry, volatility, sign;
the carry is the rate), `prices` (n), `library`, `what` (price, greeks or implied), `repeat`.
"""

import json
import sys
import time
from importlib.metadata import version
from typing import Any

try:
    import numpy as np
except ImportError:
    sys.exit(3)


def vollib_work(what: str) -> Any:
    from vollib.black_scholes import black_scholes
    from vollib.black_scholes.greeks import analytical
    from vollib.black_scholes.implied_volatility import implied_volatility

    def price(row: Any, worth: float) -> Any:
        spot, strike, years, rate, _, volatility, sign = row
        return black_scholes("c" if sign > 0 else "p", spot, strike, years, rate, volatility)

    def greeks(row: Any, worth: float) -> Any:
        spot, strike, years, rate, _, volatility, sign = row
        told = ("c" if sign > 0 else "p", spot, strike, years, rate, volatility)
        for name in ("delta", "gamma", "vega", "theta", "rho"):
            getattr(analytical, name)(*told)
        return black_scholes(*told)

    def implied(row: Any, worth: float) -> Any:
        spot, strike, years, rate, _, _, sign = row
        return implied_volatility(worth, spot, strike, years, rate, "c" if sign > 0 else "p")

    return {"price": price, "greeks": greeks, "implied": implied}[what]


def quantlib_work(what: str) -> Any:
    import QuantLib

    right = {1.0: QuantLib.Option.Call, -1.0: QuantLib.Option.Put}

    def calculator(row: Any) -> Any:
        spot, strike, years, rate, _, volatility, sign = row
        discount = np.exp(-rate * years).item()
        payoff = QuantLib.PlainVanillaPayoff(right[sign], strike)
        return QuantLib.BlackCalculator(payoff, spot / discount, volatility * years**0.5, discount)

    def price(row: Any, worth: float) -> Any:
        return calculator(row).value()

    def greeks(row: Any, worth: float) -> Any:
        spot, years = row[0], row[2]
        made = calculator(row)
        made.delta(spot), made.gamma(spot), made.vega(years), made.theta(spot, years), made.rho(years)
        return made.value()

    def implied(row: Any, worth: float) -> Any:
        spot, strike, years, rate, _, _, sign = row
        discount = np.exp(-rate * years).item()
        deviation = QuantLib.blackFormulaImpliedStdDevLiRS(right[sign], strike, spot / discount, worth, discount)
        return deviation / years**0.5

    return {"price": price, "greeks": greeks, "implied": implied}[what]


def accepts(work: Any, row: Any, worth: float) -> bool:
    """Whether the library finds a volatility at all; its exceptions have no common base."""
    try:
        work(row, worth)
    except Exception:
        return False
    return True


def main() -> None:
    told = json.loads(sys.argv[1])
    rows = np.load(told["terms"]).tolist()
    prices = np.load(told["prices"]).tolist()
    try:
        work = {"vollib": vollib_work, "QuantLib": quantlib_work}[told["library"]](told["what"])
    except ImportError:
        sys.exit(3)
    refused = 0
    if told["what"] == "implied":  # Where rounding left no time value, a library may refuse: it is not asked then.
        kept = [(row, worth) for row, worth in zip(rows, prices, strict=True) if accepts(work, row, worth)]
        refused = len(rows) - len(kept)
        rows, prices = [row for row, _ in kept], [worth for _, worth in kept]
    spent, values = [], [work(row, worth) for row, worth in zip(rows, prices, strict=True)]
    for _ in range(told["repeat"]):
        start = time.perf_counter_ns()
        values = [work(row, worth) for row, worth in zip(rows, prices, strict=True)]
        spent.append((time.perf_counter_ns() - start) / len(rows))
    answer = {"version": version(told["library"]), "ns": spent, "refused": refused}
    print(json.dumps({**answer, "values": [float(value) for value in values]}))


main()
