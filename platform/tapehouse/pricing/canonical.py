"""A chain as canonical bytes, and back.

A 24-byte head (magic, format version, four row counts, all little-endian), then the used rows of every table in the
order of `_tables`. Capacity is no part of it: equal chains of different capacity give equal bytes.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from tapehouse.core import IntegrityError
from tapehouse.pricing.chain import Chain
from tapehouse.pricing.surface import EXPIRIES, NODES

_HEAD = struct.Struct("<4sIIIII")
_MAGIC = b"THOC"
_VERSION = 1
_HINT = "refold the log"


def _tables(chain: Chain, underlyings: int, expiries: int, nodes: int, options: int) -> list[npt.NDArray[Any]]:
    """The used rows of every table."""
    results = (chain.price, chain.delta, chain.gamma, chain.vega, chain.theta, chain.volatility)
    return [
        chain.surface.counts,
        chain.counters,
        chain.surface.underlyings[:underlyings],
        chain.surface.expiries[:expiries],
        chain.surface.nodes[:nodes],
        chain.options[:options],
        *(result[:options] for result in results),
    ]


def _used(flags: npt.NDArray[np.bool_]) -> int:
    """Rows up to the last used one."""
    hits = np.flatnonzero(flags)
    return int(hits[-1]) + 1 if len(hits) else 0


def snapshot(chain: Chain) -> bytes:
    """The whole state of a chain."""
    owners = chain.surface.underlyings
    rows = (
        _used((owners["count"] > 0) | (owners["forward"] > 0)),
        int(chain.surface.counts[EXPIRIES]),
        int(chain.surface.counts[NODES]),
        _used(chain.options["sign"] != 0),
    )
    return _HEAD.pack(_MAGIC, _VERSION, *rows) + b"".join(table.tobytes() for table in _tables(chain, *rows))


def restore(chain: Chain, data: bytes) -> None:
    """Make a chain the one whose `snapshot` this is, in place, whatever it held.

    Raises:
        IntegrityError: These bytes are no chain, or need more room than this chain has; the chain is unchanged.
    """
    if len(data) < _HEAD.size:
        raise IntegrityError("an option chain's snapshot is too short", hint=_HINT)
    magic, version, *rows = _HEAD.unpack_from(data)
    if magic != _MAGIC or version != _VERSION:
        raise IntegrityError("these bytes are no option chain of version 1", hint=_HINT)
    underlyings, expiries, nodes, options = rows
    room = (len(chain.surface.underlyings), len(chain.options))
    if underlyings > room[0] or max(expiries, nodes, options) > room[1]:
        raise IntegrityError(
            f"a chain of {underlyings} underlyings and {options} options does not fit {room[0]} and {room[1]}",
            hint="make the chain larger",
        )
    targets = _tables(chain, *rows)
    if len(data) != _HEAD.size + sum(table.nbytes for table in targets):
        raise IntegrityError("an option chain's snapshot has the wrong length", hint=_HINT)
    sources = []
    at = _HEAD.size
    for table in targets:
        sources.append(np.frombuffer(data, table.dtype, len(table), at))
        at += table.nbytes
    if not _consistent(sources, rows):
        raise IntegrityError("an option chain's snapshot is damaged", hint=_HINT)
    surface = chain.surface
    for array in (*surface, *chain[1:]):
        array[...] = np.zeros((), array.dtype)
    surface.underlyings["first"][underlyings:] = expiries
    for table, source in zip(targets, sources, strict=True):
        table[...] = source


def _consistent(sources: list[npt.NDArray[Any]], rows: list[int]) -> bool:
    """Whether every row number leads to a row and no list runs in a circle, so that every kernel stays and ends."""
    counts, _, owners, expiries, nodes, options = sources[:6]
    defined = options[options["sign"] != 0]
    led_to = np.concatenate((nodes["option"], defined["following"][defined["following"] >= 0]))

    def within(values: npt.NDArray[Any], low: int, end: int) -> bool:
        return bool(((values >= low) & (values < end)).all())

    def tiles(table: npt.NDArray[Any], total: int) -> bool:
        """Each row's children begin where those of the row above end, and there are `total` in all."""
        ends = np.cumsum(table["count"])
        starts = ends - table["count"]
        whole = int(ends[-1]) if len(ends) else 0
        return whole == total and bool((table["count"] >= 0).all()) and bool((table["first"] == starts).all())

    return (
        counts[EXPIRIES] == rows[1]
        and counts[NODES] == rows[2]
        and tiles(owners, rows[1])
        and tiles(expiries, rows[2])
        and within(expiries["underlying"], 0, rows[0])
        and within(nodes["expiry"], 0, rows[1])
        and within(defined["node"], 0, rows[2])
        and within(defined["underlying"], 0, rows[0])
        and np.array_equal(np.sort(led_to), np.flatnonzero(options["sign"]))  # each option from one place alone
    )


def digest(chain: Chain) -> bytes:
    """32 bytes that two equal chains share: BLAKE3 of the snapshot."""
    return blake3(snapshot(chain)).digest()
