"""Sources of market data, one module per format, decoded to cells; the heavy ones are imported when first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tapehouse.feeds.checking import Check
from tapehouse.feeds.formats import FORMATS, Format, SourceOptions, check_source, open_feed
from tapehouse.feeds.port import Feed

if TYPE_CHECKING:
    from tapehouse.feeds.dbn import DbnFeed
    from tapehouse.feeds.dbn_check import check_dbn
    from tapehouse.feeds.generated import GeneratedDay
    from tapehouse.feeds.lobster import LobsterFeed
    from tapehouse.feeds.lobster_check import LobsterCheck
    from tapehouse.feeds.lobster_check import check as check_lobster
    from tapehouse.feeds.option_chain import SeededChain

__all__ = [
    "FORMATS",
    "Check",
    "DbnFeed",
    "Feed",
    "Format",
    "GeneratedDay",
    "LobsterCheck",
    "LobsterFeed",
    "SeededChain",
    "SourceOptions",
    "check_dbn",
    "check_lobster",
    "check_source",
    "open_feed",
]

_LAZY = {
    "DbnFeed": ("dbn", "DbnFeed"),
    "GeneratedDay": ("generated", "GeneratedDay"),
    "LobsterCheck": ("lobster_check", "LobsterCheck"),
    "LobsterFeed": ("lobster", "LobsterFeed"),
    "SeededChain": ("option_chain", "SeededChain"),
    "check_dbn": ("dbn_check", "check_dbn"),
    "check_lobster": ("lobster_check", "check"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LAZY[name]
    return getattr(import_module(f"tapehouse.feeds.{module}"), attribute)
