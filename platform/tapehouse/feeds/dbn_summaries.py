"""DBN's bars, statistics and imbalances as cells: what somebody summed up, which readers find and no machine folds.

Their kinds are 128 and above, so machines skip them. A bar is known at its end: its `ts_recv` is the begin of the
interval and the interval's length, so that a replay tells nothing before its time. See docs/formats/cell.md for what
their extensions hold.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tapehouse.core.units import NS_PER_SECOND, UNDEFINED
from tapehouse.market import Action, Cells, Flag, Kind, Side, empty_cells, from_words, words

STATISTICS, IMBALANCE = 24, 20
BAR_SECONDS = {32: 1, 33: 60, 34: 3600, 35: 86_400, 36: 86_400}  # ohlcv-1s, -1m, -1h, -1d, -eod
SUMMARY_BYTES = {
    **dict.fromkeys(BAR_SECONDS, (56,)),
    STATISTICS: (64, 80),  # of versions 1 and 2, and of 3
    IMBALANCE: (112,),
}
_UNDEFINED_QUANTITY = 2**31 - 1  # of versions 1 and 2
_EXTENSION_WORDS = 6

_HEADER = {"publisher": ("<u2", 2), "instrument": ("<u4", 4), "ts_event": ("<i8", 8)}
_BAR = {
    "open": ("<i8", 16),
    "high": ("<i8", 24),
    "low": ("<i8", 32),
    "close": ("<i8", 40),
    "volume": ("<i8", 48),
}
_STATISTIC = {"ts_recv": ("<i8", 16), "ts_ref": ("<i8", 24), "price": ("<i8", 32)}
_STATISTIC_SHORT = {"quantity": ("<i4", 40), "sequence": ("<u4", 44), "type": ("<u2", 52), "update": ("u1", 56)}
_STATISTIC_LONG = {"quantity": ("<i8", 40), "sequence": ("<u4", 48), "type": ("<u2", 56), "update": ("u1", 60)}
_IMBALANCE = {
    "ts_recv": ("<i8", 16),
    "ref_price": ("<i8", 24),
    "auction_time": ("<i8", 32),
    "cont_book_clr_price": ("<i8", 40),
    "auct_interest_clr_price": ("<i8", 48),
    "ssr_filling_price": ("<i8", 56),
    "ind_match_price": ("<i8", 64),
    "upper_collar": ("<i8", 72),
    "lower_collar": ("<i8", 80),
    "paired_qty": ("<u4", 88),
    "total_imbalance_qty": ("<u4", 92),
    "market_imbalance_qty": ("<u4", 96),
    "unpaired_qty": ("<i4", 100),
    "auction_type": ("u1", 104),
    "side": ("u1", 105),
    "auction_status": ("u1", 106),
    "freeze_status": ("u1", 107),
    "num_extensions": ("u1", 108),
    "unpaired_side": ("u1", 109),
    "significant_imbalance": ("u1", 110),
}
_SHARED = ("cont_book_clr_price", "auct_interest_clr_price", "ssr_filling_price", "ind_match_price", "upper_collar")
_QUANTITIES = ("paired_qty", "market_imbalance_qty", "unpaired_qty")

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]


def summary_cells(run: Bytes, rtype: int) -> tuple[Cells, Ints]:
    """A run of records of one of these types, shape (n, record bytes), as first cells and what their extensions own.

    Returns:
        First cells, shape (n,), with DBN's instrument ids and times as the records have them; and words, shape
        (n, 6 for each extension).
    """
    if rtype in BAR_SECONDS:
        return _bars(_read(run, _BAR), BAR_SECONDS[rtype])
    if rtype == IMBALANCE:
        return _imbalances(_read(run, _IMBALANCE))
    short = run.shape[1] < SUMMARY_BYTES[STATISTICS][1]  # 64 bytes, and 8 more where a send time follows
    return _statistics(_read(run, {**_STATISTIC, **(_STATISTIC_SHORT if short else _STATISTIC_LONG)}), short=short)


def extended(firsts: Cells, owned: Ints) -> Cells:
    """Records of first cells and what their extensions own."""
    extensions = owned.shape[1] // _EXTENSION_WORDS
    records = np.empty((len(firsts), 1 + extensions, 8), np.int64)
    records[:, 0] = words(firsts)
    records[:, 1:, :_EXTENSION_WORDS] = owned.reshape(len(firsts), extensions, _EXTENSION_WORDS)
    records[:, 1:, _EXTENSION_WORDS:] = records[:, :1, _EXTENSION_WORDS:]
    cells = from_words(records.reshape(-1, 8))
    cells["cells"].reshape(len(firsts), -1)[:, 1:] = 0
    return cells


def _read(run: Bytes, fields: dict[str, tuple[str, int]]) -> npt.NDArray[Any]:
    places = {**_HEADER, **fields}
    dtype = np.dtype(
        {
            "names": list(places),
            "formats": [form for form, _ in places.values()],
            "offsets": [offset for _, offset in places.values()],
            "itemsize": run.shape[1],
        }
    )
    return run.reshape(-1).view(dtype)


def _firsts(records: npt.NDArray[Any], kind: Kind, extensions: int) -> Cells:
    cells = empty_cells(len(records))
    for name in ("ts_event", "instrument"):
        cells[name] = records[name]
    cells["source"], cells["kind"], cells["cells"] = records["publisher"], kind, 1 + extensions
    cells["action"], cells["side"], cells["flags"] = Action.NONE, Side.NONE, Flag.LAST
    return cells


def _bars(records: npt.NDArray[Any], seconds: int) -> tuple[Cells, Ints]:
    cells = _firsts(records, Kind.BAR, 1)
    cells["ts_recv"] = records["ts_event"] + seconds * NS_PER_SECOND
    cells["price"], cells["size"], cells["count"] = records["close"], records["volume"], seconds
    owned = np.zeros((len(records), _EXTENSION_WORDS), np.int64)
    for column, name in enumerate(("open", "high", "low", "close")):
        owned[:, column] = records[name]
    return cells, owned


def _statistics(records: npt.NDArray[Any], *, short: bool) -> tuple[Cells, Ints]:
    cells = _firsts(records, Kind.STATISTIC, 1)
    cells["ts_recv"], cells["sequence"], cells["price"] = records["ts_recv"], records["sequence"], records["price"]
    quantity = records["quantity"].astype(np.int64)
    cells["size"] = np.where(quantity == _UNDEFINED_QUANTITY, UNDEFINED, quantity) if short else quantity
    cells["count"] = records["type"].astype(np.uint32) | records["update"].astype(np.uint32) << 16
    owned = np.zeros((len(records), _EXTENSION_WORDS), np.int64)
    owned[:, 0] = records["ts_ref"]
    return cells, owned


def _imbalances(records: npt.NDArray[Any]) -> tuple[Cells, Ints]:
    cells = _firsts(records, Kind.IMBALANCE, 2)
    cells["ts_recv"], cells["price"] = records["ts_recv"], records["ref_price"]
    cells["size"], cells["side"] = records["total_imbalance_qty"], records["side"]
    cells["count"] = sum(
        records[name].astype(np.uint32) << 8 * byte
        for byte, name in enumerate(("auction_type", "auction_status", "freeze_status", "num_extensions"))
    )
    owned = np.zeros((len(records), 2 * _EXTENSION_WORDS), np.int64)
    owned[:, 0] = records["auction_time"]
    for column, name in enumerate(_SHARED):
        owned[:, 1 + column] = records[name]
    owned[:, 6] = records["lower_collar"]
    for column, name in enumerate(_QUANTITIES):
        owned[:, 7 + column] = records[name]
    owned[:, 10] = records["unpaired_side"] | records["significant_imbalance"].astype(np.int64) << 8
    return cells, owned
