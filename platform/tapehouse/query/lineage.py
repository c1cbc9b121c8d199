"""The table `lineage`: what led to each order and fill, from the input on the tape over the decision to the fill.

Two passes: EVENTS says which inputs matter, TAPE what they were. A fill names two of them: the input that filled it,
and the one that its order was decided on, which the order's id says.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from tapehouse.core.errors import DataError
from tapehouse.core.units import UNDEFINED
from tapehouse.desk.names import Names
from tapehouse.desk.state import INDEX_BITS
from tapehouse.log import FrameHeader, Log, read_envelope
from tapehouse.market import FILL_EXTENSION, ORDER_EXTENSION, Action, Cells, Kind, unpack_payload
from tapehouse.query.bbo import COLUMNS as TOP_COLUMNS
from tapehouse.query.bbo import INSTRUMENT as TOP_INSTRUMENT
from tapehouse.query.bbo import ORDINAL as TOP_ORDINAL
from tapehouse.query.bbo import TS, BboBuilder
from tapehouse.query.builders import LIQUIDITY_WORDS, REASON_WORDS, Records, account_names, decision_columns
from tapehouse.query.columns import ACTIONS, KINDS, SIDES, Dictionary, Ints, finish, words_of
from tapehouse.query.read import read_frames

_PRICED = (Kind.MBO, Kind.MBP, Kind.QUOTE, Kind.TRADE, Kind.OPTION_QUOTE, Kind.ORDER)
_COMMAND_SCHEMA = {
    "ordinal": pl.Int64, "command_id": pl.String, "command_type": pl.String, "client": pl.String,
    "client_number": pl.Int64, "cmds_sequence": pl.Int64, "correlation": pl.String,
}  # fmt: skip
# What is told of an order beside the input that filled it.
_OF_ORDER = ("input_kind", "command_id", "command_type", "client", "client_number", "cmds_sequence", "correlation")


async def build_lineage(tape: Log, events: Log, *, as_of: int | None = None) -> pl.DataFrame:
    """A row for each ORDER and FILL record, in the order of EVENTS."""
    dictionary, names = Dictionary(), Names()
    decisions = Decisions(dictionary, names)
    async for header, cells in read_frames(events, as_of=as_of):
        dictionary.learn(header, cells)
        names.learn(cells)
        decisions.take(header, cells)
    decided = decisions.table()
    known = Dictionary()
    inputs = Inputs(known, *decisions.wanted())
    async for header, cells in read_frames(tape, as_of=as_of):
        known.learn(header, cells)
        inputs.take(header, cells)
    return _join(decided, inputs)


class Decisions:
    """The ORDER and FILL records of EVENTS."""

    def __init__(self, dictionary: Dictionary, names: Names) -> None:
        self._dictionary = dictionary
        self._names = names
        self._orders = Records(extensions=1)
        self._fills = Records(extensions=1)

    def take(self, header: FrameHeader, cells: Cells) -> None:
        self._orders.take(header, cells, cells["kind"] == Kind.ORDER)
        self._fills.take(header, cells, cells["kind"] == Kind.FILL)

    def wanted(self) -> tuple[Ints, npt.NDArray[np.int64]]:
        """The input ordinals that led to anything, and (input ordinal, instrument) of each decision; both sorted."""
        cells = np.concatenate([self._orders.cells(), self._fills.cells()])
        inputs, ids = cells["sequence"].astype(np.int64), cells["instrument"].astype(np.int64)
        origins = (cells["order_id"] >> INDEX_BITS).astype(np.int64)
        return np.unique(np.concatenate([inputs, origins])), np.unique(np.stack([inputs, ids], axis=1), axis=0)

    def table(self) -> pl.DataFrame:
        orders, fills = self._orders.cells(), self._fills.cells()
        sent = self._orders.cells(1).view(ORDER_EXTENSION)
        told = self._fills.cells(1).view(FILL_EXTENSION)
        ids = fills["instrument"]
        of_orders = finish(
            {
                **decision_columns(self._orders, self._dictionary),
                "instrument": orders["instrument"].astype(np.int64),
                "order_id": orders["order_id"].astype(np.int64),
                "account": account_names(self._names, sent["client"]),
                "number": sent["number"].astype(np.int64),
                "reason": words_of(REASON_WORDS, orders["depth"]),
            }
        )
        of_fills = finish(
            {
                **decision_columns(self._fills, self._dictionary),
                "instrument": ids.astype(np.int64),
                "order_id": fills["order_id"].astype(np.int64),
                "account": account_names(self._names, told["client"]),
                "liquidity": words_of(LIQUIDITY_WORDS, np.minimum(fills["depth"], 1)),
                **self._dictionary.money("fee", ids, told["fee"]),
                "match_id": told["match_id"].astype(np.int64),
            }
        )
        both = pl.concat([of_orders, of_fills], how="diagonal").sort("ordinal")
        announced = of_orders.filter(
            words_mask(of_orders, Action.ACCEPTED) | words_mask(of_orders, Action.REJECTED)
        ).unique("order_id", keep="first")
        terms = announced.select(
            "order_id",
            pl.col("input_ordinal").alias("order_input"),
            *(pl.col(name).alias(f"order_{name}") for name in ("ts", "price", "price_fixed", "size", "size_fixed")),
            pl.col("number").alias("order_number"),
        )
        return both.join(terms, on="order_id", how="left", maintain_order="left").with_columns(
            pl.coalesce("order_input", pl.col("order_id") // (1 << INDEX_BITS)).alias("order_input"),
            pl.coalesce("number", "order_number").alias("number"),
        )


def words_mask(frame: pl.DataFrame, action: Action) -> pl.Series:
    """Where a frame's `action` is this one."""
    return (frame["action"] == action.name.lower()).fill_null(False)


class Inputs:
    """The records of TAPE at wanted ordinals, and the top of a book after each wanted (ordinal, instrument)."""

    def __init__(self, dictionary: Dictionary, wanted: Ints, tops: npt.NDArray[np.int64]) -> None:
        self._dictionary = dictionary
        self._wanted = wanted
        self._records = Records()
        self._commands: list[tuple[Any, ...]] = []
        self._tops = _Tops(dictionary, tops)

    def take(self, header: FrameHeader, cells: Cells) -> None:
        self._tops.take(header, cells)
        first = header.first_ordinal
        low, high = np.searchsorted(self._wanted, [first, first + len(cells)])
        rows = self._wanted[low:high] - first
        mask = np.zeros(len(cells), np.bool_)
        mask[rows] = True
        self._records.take(header, cells, mask)
        for row in rows[cells["cells"][rows] > 0].tolist():
            if cells["kind"][row] == Kind.COMMAND:
                self._learn_command(first + row, cells[row : row + int(cells["cells"][row])])

    def _learn_command(self, ordinal: int, record: Cells) -> None:
        sequence = int(record["sequence"][0])
        try:
            said = read_envelope(unpack_payload(record))
        except DataError:  # A parked one that led to nothing of its own.
            self._commands.append((ordinal, f"cmds:{sequence}", None, None, None, sequence, f"cmds:{sequence}"))
            return
        place = (ordinal, said.id, said.type, said.client or None, said.number if said.client else None, sequence)
        self._commands.append((*place, said.correlation))

    def table(self) -> pl.DataFrame:
        """A row an input: `ordinal`, `input_*`, the command, `correlation`, `causation`."""
        cells, ordinals = self._records.cells(), self._records.ordinals()
        ids = cells["instrument"]
        priced = np.isin(cells["kind"], _PRICED)
        frame = finish(
            {
                "ordinal": ordinals,
                "input_kind": words_of(KINDS, cells["kind"]),
                "input_action": words_of(ACTIONS, np.where(priced, cells["action"], 0)),
                "input_symbol": self._dictionary.symbols(ids),
                "input_side": words_of(SIDES, np.where(priced, cells["side"], 0)),
                **self._dictionary.price("input_price", ids, np.where(priced, cells["price"], UNDEFINED)),
                **self._dictionary.size("input_size", ids, np.where(priced, cells["size"], UNDEFINED)),
                "input_ts_event_ns": cells["ts_event"].astype(np.int64),
                "input_source": cells["source"].astype(np.int64),
            }
        )
        commands = pl.DataFrame(self._commands, schema=_COMMAND_SCHEMA, orient="row")
        tape = pl.format("tape:{}", pl.col("ordinal"))
        return frame.join(commands, on="ordinal", how="left", maintain_order="left").with_columns(
            pl.coalesce("correlation", tape).alias("correlation"), pl.coalesce("command_id", tape).alias("causation")
        )

    def tops(self) -> pl.DataFrame:
        """The top of the book of `instrument` after the input `input_ordinal`."""
        return self._tops.table()


class _Tops(BboBuilder):
    """Tops of books at some places alone, so that a long tape costs no memory."""

    def __init__(self, dictionary: Dictionary, wanted: npt.NDArray[np.int64]) -> None:
        super().__init__(dictionary)
        self._wanted = wanted
        self._latest: dict[int, npt.NDArray[np.int64]] = {}
        self._found: list[npt.NDArray[np.int64]] = []
        self._places: list[tuple[int, int]] = []

    def take(self, header: FrameHeader, cells: Cells) -> None:
        super().take(header, cells)
        rows = np.concatenate([np.zeros((0, TOP_COLUMNS), np.int64), *self._parts, _quoted(header, cells)])
        self._parts.clear()
        rows = rows[np.argsort(rows[:, TOP_ORDINAL], kind="stable")]
        first, last = header.first_ordinal, header.first_ordinal + len(cells)
        low, high = np.searchsorted(self._wanted[:, 0], [first, last])
        asked = self._wanted[low:high]
        for number in np.union1d(rows[:, TOP_INSTRUMENT], asked[:, 1]).tolist():
            own = rows[rows[:, TOP_INSTRUMENT] == number]
            for ordinal in asked[asked[:, 1] == number, 0].tolist():
                before = int(np.searchsorted(own[:, TOP_ORDINAL], ordinal, side="right"))
                top = own[before - 1] if before else self._latest.get(number)
                if top is not None:
                    self._places.append((ordinal, number))
                    self._found.append(top)
            if len(own):
                self._latest[number] = own[-1]

    def table(self) -> pl.DataFrame:
        rows = np.array(self._found, np.int64).reshape(-1, TOP_COLUMNS)
        places = np.array(self._places, np.int64).reshape(-1, 2)
        self._parts = [rows]
        told = super().table().select("bid", "bid_size", "ask", "ask_size", pl.col("ordinal").alias("top_ordinal"))
        return told.with_columns(
            pl.Series("input_ordinal", places[:, 0], dtype=pl.Int64),
            pl.Series("instrument", places[:, 1], dtype=pl.Int64),
        )


def _quoted(header: FrameHeader, cells: Cells) -> npt.NDArray[np.int64]:
    """Rows of tops, as `bbo` has them, that QUOTE records say."""
    at = np.flatnonzero((cells["kind"] == Kind.QUOTE) & (cells["cells"] >= 2))
    rows = np.zeros((len(at), TOP_COLUMNS), np.int64)
    rows[:, TOP_ORDINAL] = at + header.first_ordinal
    rows[:, TS] = cells["ts_recv"][at]
    rows[:, TOP_INSTRUMENT] = cells["instrument"][at]
    for column, (field, row) in enumerate((("price", 0), ("size", 0), ("price", 1), ("size", 1)), TOP_INSTRUMENT + 1):
        rows[:, column] = cells[field][at + row]
    return rows


COLUMNS = (
    "ordinal", "ts", "ts_ns", "input_ordinal", "index", "input_kind", "input_action", "input_symbol", "input_side",
    "input_price", "input_price_fixed", "input_size", "input_size_fixed", "input_ts_event_ns", "input_source",
    "command_id", "command_type", "client", "client_number", "cmds_sequence", "bid", "bid_size", "ask", "ask_size",
    "kind", "action", "symbol", "side", "price", "price_fixed", "size", "size_fixed", "order_id", "account", "number",
    "reason", "liquidity", "fee", "fee_fixed", "match_id", "order_input", "order_input_kind", "order_ts",
    "order_price", "order_price_fixed", "order_size", "order_size_fixed", "order_command_id", "order_command_type",
    "order_client", "order_client_number", "order_cmds_sequence", "causation", "correlation",
)  # fmt: skip


def _join(decided: pl.DataFrame, inputs: Inputs) -> pl.DataFrame:
    known = inputs.table()
    origins = known.select(
        pl.col("ordinal").alias("order_input"), *(pl.col(name).alias(f"order_{name}") for name in _OF_ORDER)
    )
    frame = (
        decided.join(
            known.rename({"ordinal": "input_ordinal", "correlation": "input_correlation"}),
            on="input_ordinal",
            how="left",
            maintain_order="left",
        )
        .join(origins, on="order_input", how="left", maintain_order="left")
        .join(inputs.tops(), on=("input_ordinal", "instrument"), how="left", maintain_order="left")
        # A chain begins with the order's own input, whatever filled it later.
        .with_columns(pl.coalesce("order_correlation", "input_correlation").alias("correlation"))
    )
    return frame.select(COLUMNS)
