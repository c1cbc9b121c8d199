"""What a user says of a table: which column is what, in TOML. See docs/formats/table.md for the whole of it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tapehouse.core.errors import DecodeError, MissingError
from tapehouse.market import Action, Side

MAPPING_BYTES_MAX = 1 << 20
TRADE, QUOTE, LEVEL, ORDER = "trade", "quote", "level", "order"
_NEEDS = {
    TRADE: ("price", "size"),
    QUOTE: ("bid", "ask"),
    LEVEL: ("side", "price", "size"),
    ORDER: ("order_id", "side", "price", "size", "action"),
}
_MAY = {
    TRADE: ("side", "order_id", "sequence"),
    QUOTE: ("bid_size", "ask_size", "sequence"),
    LEVEL: ("action", "event", "sequence"),
    ORDER: ("event", "sequence"),
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Constant(_Strict):
    """What every row has, in place of a column."""

    value: str


Source = str | Constant  # a column by its name, or a constant
Exponent = Annotated[int, Field(ge=-18, le=18)]


class TimeColumns(_Strict):
    """When: `event` at the venue, `receive` here, both in one unit."""

    event: str
    receive: str | None = None
    unit: Literal["s", "ms", "us", "ns", "iso"]
    zone: str = "UTC"


class InstrumentSource(_Strict):
    """What is traded."""

    symbol: Source
    venue: Source = Constant(value="")
    asset_class: str = "equity"
    currency: str = "USD"
    price_exponent: Exponent = -9
    size_exponent: Exponent = -9


class Columns(_Strict):
    """The columns of a row, as far as its kind has them."""

    price: Source | None = None
    size: Source | None = None
    side: Source | None = None
    action: Source | None = None
    order_id: str | None = None
    sequence: str | None = None
    event: str | None = None
    bid: Source | None = None
    bid_size: Source | None = None
    ask: Source | None = None
    ask_size: Source | None = None


class Sides(_Strict):
    """How the table spells sides; of a trade, the aggressor's."""

    bid: list[str] = ["bid", "buy", "b", "B"]
    ask: list[str] = ["ask", "sell", "a", "s", "A", "S"]
    none: list[str] = []


class Actions(_Strict):
    """How the table spells what happens to an order or a level."""

    add: list[str] = []
    modify: list[str] = []
    cancel: list[str] = []
    clear: list[str] = []
    trade: list[str] = []
    fill: list[str] = []
    snapshot: list[str] = []


class Mapping(_Strict):
    """A whole mapping."""

    kind: Literal["trade", "quote", "level", "order"]
    sorted: bool = True
    time: TimeColumns
    instrument: InstrumentSource
    columns: Columns
    sides: Sides = Sides()
    actions: Actions = Actions()

    @property
    def zone(self) -> ZoneInfo | None:
        """The zone of times that bear none; None for UTC."""
        return None if self.time.zone == "UTC" else ZoneInfo(self.time.zone)

    def side_values(self) -> dict[str, int]:
        """Each spelling's side."""
        spelled = ((self.sides.bid, Side.BID), (self.sides.ask, Side.ASK), (self.sides.none, Side.NONE))
        return {text: int(side) for texts, side in spelled for text in texts}

    def action_values(self) -> dict[str, int]:
        """Each spelling's action; SNAPSHOT_ACTION for rows of a snapshot."""
        names = {name: Action[name.upper()] for name in ("add", "modify", "cancel", "clear", "trade", "fill")}
        found = {text: int(action) for name, action in names.items() for text in getattr(self.actions, name)}
        return found | dict.fromkeys(self.actions.snapshot, SNAPSHOT_ACTION)


SNAPSHOT_ACTION = 255


def read_mapping(path: Path) -> Mapping:
    """A mapping file, checked as a whole.

    Raises:
        MissingError: There is no such file.
        DecodeError: It is no TOML, has a key that nobody knows, or lacks one that its kind needs.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAPPING_BYTES_MAX + 1)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise MissingError("there is no such mapping", subject=str(path)) from error
    hint = "docs/formats/table.md shows a whole one"
    try:
        if len(data) > MAPPING_BYTES_MAX:
            raise DecodeError(f"it is larger than {MAPPING_BYTES_MAX} bytes", subject=path.name, hint=hint)
        mapping = Mapping.model_validate(tomllib.loads(data.decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"the mapping is no TOML: {error}", subject=path.name, hint=hint) from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise DecodeError(first["msg"].lower(), subject=path.name, position=f"key {key}", hint=hint) from error
    _check_columns(mapping, path.name, hint)
    return mapping


def _check_columns(mapping: Mapping, subject: str, hint: str) -> None:
    """Each kind has its columns, and no others."""
    given = {name for name, value in mapping.columns if value is not None}
    needs, may = _NEEDS[mapping.kind], _MAY[mapping.kind]
    for name in needs:
        if name not in given:
            raise DecodeError(f"a {mapping.kind} needs it", subject=subject, position=f"key columns.{name}", hint=hint)
    for name in sorted(given - set(needs) - set(may)):
        raise DecodeError(f"a {mapping.kind} has none", subject=subject, position=f"key columns.{name}", hint=hint)
    try:
        ZoneInfo(mapping.time.zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise DecodeError("there is no such time zone", subject=subject, position="key time.zone", hint=hint) from error
    sides, actions = mapping.sides, mapping.actions
    spelled = [text for texts in (sides.bid, sides.ask, sides.none) for text in texts]
    acted = [text for _, texts in actions for text in texts]
    for name, texts in (("sides", spelled), ("actions", acted)):
        if len(set(texts)) < len(texts):
            raise DecodeError("one text has two meanings", subject=subject, position=f"key {name}", hint=hint)
