"""The venues that can be recorded live: their sessions and where their public APIs are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from tapehouse.core.errors import UsageError
from tapehouse.feeds.session import Endpoint, VenueSession
from tapehouse.market.instrument_file import load_instruments


@dataclass(frozen=True, slots=True, kw_only=True)
class _Venue:
    """A module of `feeds` with ENDPOINTS, and the name of its session class there.

    Args:
        market: What is taken where none is said; empty where the venue has but one.
        endpoint_by_market: ENDPOINTS is by market; else it has one entry, of an empty name.
        session_by_market: The session is told the market.
    """

    module: str
    session: str
    market: str = ""
    endpoint_by_market: bool = False
    session_by_market: bool = False


_VENUES = {
    "binance": _Venue(
        module="venue_binance",
        session="BinanceSession",
        market="spot",
        endpoint_by_market=True,
        session_by_market=True,
    ),
    "bitget": _Venue(module="venue_bitget", session="BitgetSession", market="SPOT", session_by_market=True),
    "bybit": _Venue(module="venue_bybit", session="BybitSession", market="spot", endpoint_by_market=True),
    "coinbase": _Venue(
        module="venue_coinbase",
        session="CoinbaseSession",
        market="level2",
        endpoint_by_market=True,
        session_by_market=True,
    ),
    "deribit": _Venue(module="venue_deribit", session="DeribitSession"),
    "kraken": _Venue(module="venue_kraken", session="KrakenSession"),
    "okx": _Venue(module="venue_okx", session="OkxSession"),
}


def open_session(
    venue: str,
    symbols: tuple[str, ...],
    *,
    market: str | None = None,
    stale_ns: int,
    instruments: Path | None = None,
) -> tuple[VenueSession, Endpoint]:
    """A fresh session for some symbols, and the venue's own endpoint.

    Raises:
        UsageError: There is no such venue or market, or no symbol.
        MissingError, DataError: Of the file of instruments.
    """
    if venue not in _VENUES:
        raise UsageError(f"{venue} cannot be recorded live", hint=f"one of itch, {', '.join(_VENUES)}")
    if not symbols:
        raise UsageError("no symbol to subscribe to", subject=venue, hint="name one or more as the venue spells them")
    found = _VENUES[venue]
    if market is not None and not found.market:
        raise UsageError(f"{venue} has no markets to choose from", hint="leave --market out")
    module = import_module(f"tapehouse.feeds.{found.module}")
    chosen = market or found.market
    endpoints: dict[str, Endpoint] = module.ENDPOINTS
    if found.endpoint_by_market and chosen not in endpoints:
        raise UsageError(f"{venue} has no market {chosen!r}", hint=f"one of {', '.join(endpoints)}")
    declared = {} if instruments is None else {item.symbol: item for item in load_instruments(instruments)}
    options: dict[str, Any] = {"market": chosen} if found.session_by_market else {}
    session: VenueSession = getattr(module, found.session)(symbols, stale_ns=stale_ns, instruments=declared, **options)
    return session, endpoints[chosen if found.endpoint_by_market else ""]


def redirected(endpoint: Endpoint, url: str | None, rest: str | None) -> Endpoint:
    """An endpoint elsewhere: what a URL leaves out is as the venue has it; the REST API is where the websocket is."""
    websocket = endpoint.websocket
    if url is not None:
        given, own = urlsplit(url), urlsplit(endpoint.websocket)
        bare = given.path in ("", "/") and not given.query
        websocket = urlunsplit(given._replace(path=own.path, query=own.query)) if bare else url
        if rest is None and endpoint.rest:
            scheme = "https" if given.scheme == "wss" else "http"
            rest = urlunsplit((scheme, given.netloc, urlsplit(endpoint.rest).path, "", ""))
    return replace(endpoint, websocket=websocket, rest=(rest or endpoint.rest).rstrip("/"))
