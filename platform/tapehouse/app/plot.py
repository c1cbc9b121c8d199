"""One picture of a session: the price with our fills on it, the position, and the profit marked to the last trade."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tapehouse.core.errors import MissingError, UsageError
from tapehouse.log import Log, decode_frame
from tapehouse.market import FILL_EXTENSION, Action, Cells, Instrument, Kind, Side

POINTS_MAX = 20_000  # drawn of one line
INK, MUTED, BUY_INK, SELL_INK, LINE = "#1b2733", "#7a8794", "#0b7a75", "#c8553d", "#3366aa"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLines:
    """What is drawn; times are UTC ns, prices and profit in currency."""

    instrument: Instrument
    trade_times: npt.NDArray[np.int64]
    trade_prices: npt.NDArray[np.float64]
    fill_times: npt.NDArray[np.int64]
    fill_prices: npt.NDArray[np.float64]
    fill_buys: npt.NDArray[np.bool_]
    positions: npt.NDArray[np.int64]
    profits: npt.NDArray[np.float64]


async def collect(tape: Log, instrument: Instrument, outputs: Cells) -> SessionLines:
    """The lines of one instrument, from its tape and the decisions of a session."""
    times: list[npt.NDArray[np.int64]] = []
    prices: list[npt.NDArray[np.int64]] = []
    extent = await tape.extent()
    async for message in tape.read(extent.first):
        _, cells = decode_frame(message.payload)
        traded = (cells["kind"] == Kind.TRADE) | ((cells["kind"] == Kind.MBO) & (cells["action"] == Action.TRADE))
        hits = cells[traded & (cells["instrument"] == instrument.id) & (cells["cells"] > 0)]
        times.append(hits["ts_recv"])
        prices.append(hits["price"])
    trade_times = np.concatenate(times) if times else np.zeros(0, np.int64)
    fixed = np.concatenate(prices) if prices else np.zeros(0, np.int64)
    unit = np.float64(f"1e{instrument.price_exponent}")
    at = np.flatnonzero(
        (outputs["kind"] == Kind.FILL) & (outputs["cells"] > 0) & (outputs["instrument"] == instrument.id)
    )
    extensions = outputs[at + 1].view(FILL_EXTENSION)
    ours = extensions["client"] == 0
    fills, extensions = outputs[at][ours], extensions[ours]
    last = np.searchsorted(trade_times, fills["ts_recv"], side="right") - 1
    marks = fixed[np.maximum(last, 0)] * unit if len(fixed) else fills["price"] * unit
    cash = extensions["cash"] * float(f"1e{instrument.currency_exponent}")
    return SessionLines(
        instrument=instrument,
        trade_times=trade_times,
        trade_prices=fixed * unit,
        fill_times=fills["ts_recv"],
        fill_prices=fills["price"] * unit,
        fill_buys=fills["side"] == Side.BID,
        positions=extensions["position"],
        profits=cash + extensions["position"] * marks,
    )


def check_picture(path: Path) -> None:
    """Look, before a long run, whether a picture can be drawn and written there.

    Raises:
        UsageError: It is no name of a PNG.
        MissingError: There is no such directory, it cannot be written, or matplotlib is not installed.
    """
    directory = path.absolute().parent
    if path.suffix.lower() != ".png":
        raise UsageError("pictures are PNG", subject=str(path), hint="a name that ends in .png")
    if path.is_dir():
        raise MissingError("it is a directory", subject=str(path), hint="name a file")
    if not directory.is_dir():
        raise MissingError("there is no such directory", subject=str(directory), hint="make it, or name another")
    if not os.access(directory, os.W_OK):
        raise MissingError("the directory cannot be written", subject=str(directory), hint="check its owner and mode")
    if find_spec("matplotlib") is None:
        raise MissingError("plots need matplotlib", hint="pip install 'tapehouse[demo]'")


def draw(lines: SessionLines, path: Path, *, title: str) -> None:
    """Write the PNG, whole or not at all.

    Raises:
        MissingError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib import dates
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingError("plots need matplotlib", hint="pip install 'tapehouse[demo]'") from error
    figure = Figure(figsize=(11, 7), dpi=110, layout="constrained", facecolor="white")
    price, position, profit = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1, 1.4))
    step = max(1, len(lines.trade_times) // POINTS_MAX)
    shown = lines.trade_times[::step].astype("datetime64[ns]")
    price.plot(shown, lines.trade_prices[::step], color=LINE, linewidth=0.8, label="trades")
    fill_times = lines.fill_times.astype("datetime64[ns]")
    for buys, ink, mark, label in ((True, BUY_INK, "^", "we bought"), (False, SELL_INK, "v", "we sold")):
        chosen = lines.fill_buys == buys
        price.scatter(fill_times[chosen], lines.fill_prices[chosen], s=9, c=ink, marker=mark, label=label, alpha=0.7)
    price.set_ylabel(f"{lines.instrument.symbol}, {lines.instrument.currency}")
    price.legend(loc="upper left", frameon=False, ncols=3)
    position.step(fill_times, lines.positions, where="post", color=INK, linewidth=0.8)
    position.axhline(0, color=MUTED, linewidth=0.5)
    position.set_ylabel("position")
    profit.plot(fill_times, lines.profits, color=INK, linewidth=0.9)
    profit.axhline(0, color=MUTED, linewidth=0.5)
    profit.set_ylabel(f"profit, {lines.instrument.currency}")
    profit.set_xlabel("engine time, UTC")
    formatter: Any = dates.DateFormatter
    profit.xaxis.set_major_formatter(formatter("%H:%M", tz="UTC"))
    for axes in (price, position, profit):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.15)
    figure.suptitle(title, color=INK, x=0.01, ha="left", fontsize=12)
    write_picture(figure, path)


def write_picture(figure: Any, path: Path) -> None:
    """Write a matplotlib figure as PNG, whole or not at all; raises MissingError where it cannot be written."""
    image = io.BytesIO()
    figure.savefig(image, format="png")
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(image.getvalue())
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise MissingError(f"the picture cannot be written: {error.strerror}", subject=str(path)) from error
