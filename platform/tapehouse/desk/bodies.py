"""What bodies of commands and events have in common: strict fields, and times as people write them."""

from __future__ import annotations

from typing import Annotated, Any, NoReturn

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from tapehouse.core.errors import TapehouseError
from tapehouse.core.units import UNDEFINED, parse_time_ns

ACCOUNT_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,31}$"
INT64_MAX = 2**63 - 1
TAG_MAX = 32


class Body(BaseModel):
    """A body: frozen, and without room for a field that nobody knows."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def refuse(problem: str) -> NoReturn:
    """Fail a validation with a sentence of our own."""
    raise PydanticCustomError("unfit", problem.replace("{", "{{").replace("}", "}}"))


def _time(value: Any) -> Any:
    """UTC ns of a time as it is written: ISO 8601 or an integer."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        refuse("a time is ISO 8601 or an integer, UTC ns")
    try:
        return parse_time_ns(value)
    except TapehouseError as error:
        refuse(error.message)


def _known_time(value: int) -> int:
    if not 0 < value < UNDEFINED:
        refuse("a time is after 1970 and before 2262")
    return value


def _printable(value: str) -> str:
    if not value.isprintable():
        refuse("it has characters that cannot be printed")
    return value


Time = Annotated[int, BeforeValidator(_time), AfterValidator(_known_time)]
Account = Annotated[str, Field(pattern=ACCOUNT_PATTERN)]
Symbol = Annotated[str, Field(min_length=1, max_length=64)]
OrderId = Annotated[int, Field(ge=0, le=INT64_MAX)]
Text = Annotated[str, AfterValidator(_printable)]
