"""The envelope of a command or a JSON event, and the registry that knows their types and versions.

An envelope is one JSON object; docs/formats/envelope.md describes it. Types are stored by registered name and version,
never by class. An older version is *upcast* one version at a time to the newest before it is validated, so a reader
sees only the newest. Pydantic validates at this edge; machines behind it see plain values.
"""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from tapehouse.core.errors import DataError, DecodeError, InvariantError
from tapehouse.market.cell import PAYLOAD_BYTES_MAX

NAME_PATTERN = r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$"
ENVELOPE_BYTES_MAX = PAYLOAD_BYTES_MAX  # a command or event must fit one record
_NAMESPACE = uuid.UUID("6f0d5f7a-2f0c-5f5e-9d0a-7a6f75736531")  # of deterministic ids; pinned for ever

Body = dict[str, Any]
Upcaster = Callable[[Body], Body]
M = TypeVar("M", bound=BaseModel)


class Envelope(BaseModel):
    """What travels around every command and JSON event.

    Args:
        id: Unique; `deterministic_id` for anything a machine makes.
        type, version: Registered name of the body, and its version.
        client, number: Who sent a command and its how-manieth it is: the key of "exactly once".
        causation: The id of what led to this; None where a person did.
        correlation: The id at the beginning of the chain.
        time: UTC ns; of a command when it was sent, of an event the engine's now.
        traceparent: W3C trace context, carried along, in no digest.
        body: The payload of that type and version.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: str = Field(min_length=1, max_length=64)
    type: str = Field(pattern=NAME_PATTERN, max_length=64)
    version: int = Field(ge=1, le=65_535)
    client: str = Field(default="", max_length=64)
    number: int = Field(default=0, ge=0, le=2**63 - 1)
    causation: str | None = Field(default=None, max_length=64)
    correlation: str = Field(min_length=1, max_length=64)
    time: int = Field(ge=0, le=2**63 - 1)
    traceparent: str | None = Field(default=None, max_length=64)
    body: Body

    def encode(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, no absent optional fields.

        Raises:
            DataError: The body holds what JSON cannot, or the whole is longer than ENVELOPE_BYTES_MAX.
        """
        fields = {name: value for name, value in self.model_dump().items() if value is not None}
        try:
            data = json.dumps(
                fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
            ).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise DataError(f"body: {error}", subject=self.type) from error
        if len(data) > ENVELOPE_BYTES_MAX:
            raise DataError(
                f"an envelope of {len(data)} bytes is too long",
                subject=self.type,
                hint=f"{ENVELOPE_BYTES_MAX} bytes is the most a record holds",
            )
        return data


def deterministic_id(*parts: str | int) -> str:
    """A UUID (version 5) that the same parts give on every machine and in every replay.

    Each part goes in with its length, so ("a", "bc") and ("ab", "c") differ; 1 and "1" are the same part.
    """
    texts = [str(part) for part in parts]
    return str(uuid.uuid5(_NAMESPACE, "".join(f"{len(text)}:{text}" for text in texts)))


@dataclass(slots=True)
class _Type:
    model: type[BaseModel]
    version: int
    upcasters: dict[int, Upcaster] = field(default_factory=dict)


class Registry:
    """Names, newest versions and upcasters of bodies."""

    def __init__(self) -> None:
        self._types: dict[str, _Type] = {}

    def register(self, name: str, version: int, model: type[M]) -> type[M]:
        """Declare the newest version of a type."""
        if name in self._types:
            raise InvariantError(f"type {name} is registered twice")
        if version < 1:
            raise InvariantError(f"type {name} cannot have version {version}")
        self._types[name] = _Type(model=model, version=version)
        return model

    def upcast(self, name: str, from_version: int, upcaster: Upcaster) -> None:
        """Declare how a body of `from_version` becomes one of the next version; it gets a copy that it may change."""
        entry = self._type(name)
        if not 1 <= from_version < entry.version or from_version in entry.upcasters:
            raise InvariantError(f"no room for an upcaster of type {name} from version {from_version}")
        entry.upcasters[from_version] = upcaster

    def names(self) -> list[str]:
        """Every registered type."""
        return sorted(self._types)

    def model(self, name: str) -> type[BaseModel]:
        """The newest body model of a type; raises DataError for an unknown name."""
        return self._type(name).model

    def version(self, name: str) -> int:
        """The newest version of a type; raises DataError for an unknown name."""
        return self._type(name).version

    def decode(self, data: bytes) -> tuple[Envelope, BaseModel]:
        """An envelope and its body in the newest version.

        Raises:
            DecodeError: No JSON, no envelope.
            DataError: An unknown type or version, a body that an upcaster cannot take, or one that fails validation;
                the field is named.
        """
        envelope = read_envelope(data)
        entry = self._type(envelope.type)
        body = copy.deepcopy(envelope.body)
        if envelope.version > entry.version:
            raise DataError(
                f"version {envelope.version} is newer than {entry.version}",
                subject=envelope.type,
                hint="upgrade tapehouse to read it",
            )
        for version in range(envelope.version, entry.version):
            upcaster = entry.upcasters.get(version)
            if upcaster is None:
                raise DataError(f"version {version} can no longer be read", subject=envelope.type)
            try:
                body = upcaster(body)
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                raise DataError(
                    f"a body of version {version} cannot be upcast: {type(error).__name__} {error}",
                    subject=envelope.type,
                ) from error
        return envelope, validate(entry.model, body, subject=envelope.type)

    def _type(self, name: str) -> _Type:
        entry = self._types.get(name)
        if entry is None:
            raise DataError(f"unknown type {name!r}", hint=f"known: {', '.join(self.names())}")
        return entry


def read_envelope(data: bytes) -> Envelope:
    """Parse an envelope without looking into its body.

    Raises:
        DecodeError: Longer than ENVELOPE_BYTES_MAX, no JSON, or a field is missing, unknown or bad; it is named.
    """
    if len(data) > ENVELOPE_BYTES_MAX:
        raise DecodeError(
            f"{len(data)} bytes are too long", subject="envelope", hint=f"at most {ENVELOPE_BYTES_MAX} bytes"
        )
    try:
        return Envelope.model_validate(from_json(data, allow_inf_nan=False))
    except ValueError as error:
        if not isinstance(error, ValidationError):
            raise DecodeError(f"no JSON: {error}", subject="envelope") from None
        raise DecodeError(_first_problem(error), subject="envelope") from None


def validate(model: type[M], body: Body, *, subject: str) -> M:
    """A body as its model; raises DataError naming the first bad field."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise DataError(_first_problem(error), subject=subject) from None


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else problem["msg"]
