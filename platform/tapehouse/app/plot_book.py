"""One picture of a book over time: where its size stands, the mid through it, and the spread below."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tapehouse.app.plot import INK, LINE, MUTED, write_picture
from tapehouse.core.errors import MissingError, UsageError
from tapehouse.core.units import UNDEFINED
from tapehouse.query.analytics import AnalyticsBuilder

TIMES_MAX, PRICES_MAX = 1_500, 400  # cells of the picture
PRICES, SIZES = 0, 1  # columns of a ladder
SHOWN = (0.5, 99.5)  # percentiles of the prices of levels: a stub quote must not make the rest a line


@dataclass(frozen=True, slots=True, kw_only=True)
class BookLines:
    """What is drawn of one instrument.

    Args:
        times: UTC ns, one to a row.
        ladders: Shape (rows, 2, levels, 3): price, size and orders of the best bids and asks, in the tape's units.
        mids, spreads: In currency, NaN where there is none.
        price_unit, size_unit: What a unit of the ladder's prices and sizes is.
        tick: In price units.
    """

    symbol: str
    currency: str
    times: npt.NDArray[np.int64]
    ladders: npt.NDArray[np.int64]
    mids: npt.NDArray[np.float64]
    spreads: npt.NDArray[np.float64]
    price_unit: float
    size_unit: float
    tick: int


def heat(lines: BookLines) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The size at each price and time, NaN where nothing stands; times and prices at the edges of its cells.

    Raises:
        MissingError: No row has a level.
    """
    there = lines.ladders[:, :, :, PRICES] != UNDEFINED
    if not there.any():
        raise MissingError("there is nothing to draw: the book never had a level", subject=lines.symbol)
    rows = np.broadcast_to(np.arange(len(lines.times))[:, None, None], there.shape)[there]
    prices = lines.ladders[:, :, :, PRICES][there]
    sizes = lines.ladders[:, :, :, SIZES][there] * lines.size_unit
    low, high = (int(each) // lines.tick for each in np.percentile(prices, SHOWN))
    ticks = -(-(high - low + 3) // PRICES_MAX)  # of a cell of the picture: whole ones, or it would have stripes
    edges = (low - 1 + ticks * np.arange((high - low + 3) // ticks + 2)) * lines.tick - lines.tick // 2
    columns = min(TIMES_MAX, len(lines.times))
    image = np.zeros((len(edges) - 1, columns))
    at_price = np.searchsorted(edges, prices, side="right") - 1
    at_time = rows * columns // len(lines.times)
    inside = (at_price >= 0) & (at_price < len(image))
    np.maximum.at(image, (at_price[inside], at_time[inside]), sizes[inside])
    image[image == 0] = np.nan
    ends = np.linspace(float(lines.times[0]), float(max(lines.times[-1], lines.times[0] + 1)), columns + 1)
    return image, ends.astype(np.int64), edges.astype(np.float64) * lines.price_unit


def draw_book(lines: BookLines, path: Path, *, title: str) -> None:
    """Write the PNG, whole or not at all.

    Raises:
        MissingError: matplotlib is not installed, the file cannot be written, or there is nothing to draw.
    """
    try:
        from matplotlib import dates
        from matplotlib.colors import LogNorm
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingError("plots need matplotlib", hint="pip install 'tapehouse[demo]'") from error
    image, times, prices = heat(lines)
    figure = Figure(figsize=(11, 7), dpi=110, layout="constrained", facecolor="white")
    depth, spread = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    least, most = float(np.nanmin(image)), float(np.nanmax(image))
    shades = depth.pcolormesh(
        times.astype("datetime64[ns]"),
        prices,
        image,
        norm=LogNorm(vmin=least, vmax=max(most, least * 1.01)),
        cmap="YlGnBu",
        shading="flat",
        rasterized=True,
    )
    figure.colorbar(shades, ax=depth, label="size at a price", pad=0.01)
    step = max(1, len(lines.times) // TIMES_MAX)
    shown = lines.times[::step].astype("datetime64[ns]")
    depth.plot(shown, lines.mids[::step], color=INK, linewidth=0.7, label="mid")
    depth.set_ylim(prices[0], prices[-1])
    depth.set_ylabel(f"{lines.symbol}, {lines.currency}")
    depth.legend(loc="upper left", frameon=False)
    spread.step(shown, lines.spreads[::step], where="post", color=LINE, linewidth=0.8)
    spread.axhline(0, color=MUTED, linewidth=0.5)
    spread.set_ylabel(f"spread, {lines.currency}")
    spread.set_xlabel("engine time, UTC")
    formatter: Any = dates.DateFormatter
    spread.xaxis.set_major_formatter(formatter("%H:%M:%S", tz="UTC"))
    for axes in (depth, spread):
        axes.spines[["top", "right"]].set_visible(False)
    spread.grid(alpha=0.15)
    figure.suptitle(title, color=INK, x=0.01, ha="left", fontsize=12)
    write_picture(figure, path)


def lines_of(builder: AnalyticsBuilder) -> BookLines:
    """What is drawn of a builder that kept its ladders: its one instrument.

    Raises:
        UsageError: It has several; one is to be chosen.
        MissingError: It has none.
    """
    known = builder.slots.instruments
    if not known:
        raise MissingError("there is nothing to draw: it holds no instrument with a book")
    if len(known) > 1:
        names = ", ".join(instrument.symbol for instrument in known[:10])
        raise UsageError("a picture is of one instrument", subject="--plot", hint=f"--instrument with one of {names}")
    instrument = known[0]
    times, ladders = builder.ladders()
    table = builder.table()
    spreads = table["spread"].fill_null(float("nan")).to_numpy()
    mids = table["mid"].fill_null(float("nan")).to_numpy()
    return BookLines(
        symbol=instrument.symbol,
        currency=instrument.currency,
        times=times,
        ladders=ladders,
        mids=np.where(spreads >= 0, mids, np.nan),  # The middle of a crossed book is no price.
        spreads=spreads,
        price_unit=float(f"1e{instrument.price_exponent}"),
        size_unit=float(f"1e{instrument.size_exponent}"),
        tick=instrument.tick_size,
    )
