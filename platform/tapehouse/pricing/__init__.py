"""Option models, implied volatility, volatility surfaces and chains, in deterministic arithmetic."""

from tapehouse.pricing.black_scholes import Greeks, black_price, greeks, price
from tapehouse.pricing.canonical import digest, restore, snapshot
from tapehouse.pricing.chain import (
    Chain,
    atm_volatility,
    define_option,
    make_chain,
    on_option_quote,
    option_pool,
    volatility,
)
from tapehouse.pricing.implied_volatility import implied_volatility
from tapehouse.pricing.projection import SurfaceProjection
from tapehouse.pricing.surface import YEAR_NS, Surface, make_surface
from tapehouse.pricing.valuation import Value, chain_delta, net_delta, price_chain, value_option

__all__ = [
    "YEAR_NS",
    "Chain",
    "Greeks",
    "Surface",
    "SurfaceProjection",
    "Value",
    "atm_volatility",
    "black_price",
    "chain_delta",
    "define_option",
    "digest",
    "greeks",
    "implied_volatility",
    "make_chain",
    "make_surface",
    "net_delta",
    "on_option_quote",
    "option_pool",
    "price",
    "price_chain",
    "restore",
    "snapshot",
    "value_option",
    "volatility",
]
