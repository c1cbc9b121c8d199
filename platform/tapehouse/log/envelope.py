"""The envelope of a command or a JSON event, and the registry that knows their types and versions.

An envelope is one JSON object; docs/formats/envelope.md describes it. Types are stored by registered name and version,
never by class. An older version is *upcast* one version at a time to the newest before it is validated, so a reader
sees only the newest. Pydantic validates at this edge; machines behind it see plain values.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tapehouse.core.errors import DataError, DecodeError, InvariantError

NAME_PATTERN = r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$"
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

    model_config = ConfigDict(frozen=True, extra="forbid")

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
        """Canonical JSON: sorted keys, no spaces, no absent optional fields."""
        return json.dumps(
            self.model_dump(exclude_none=True), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        ).encode()


def deterministic_id(*parts: str | int) -> str:
    """A UUID (version 5) that the same parts give on every machine and in every replay."""
    return str(uuid.uuid5(_NAMESPACE, "\x1f".join(str(part) for part in parts)))


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
        self._types[name] = _Type(model=model, version=version)
        return model

    def upcast(self, name: str, from_version: int, upcaster: Upcaster) -> None:
        """Declare how a body of `from_version` becomes one of the next version."""
        self._types[name].upcasters[from_version] = upcaster

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
            DataError: An unknown type or version, or a body that fails validation; the field is named.
        """
        envelope = read_envelope(data)
        entry = self._type(envelope.type)
        body = envelope.body
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
            body = upcaster(body)
        return envelope, validate(entry.model, body, subject=envelope.type)

    def _type(self, name: str) -> _Type:
        entry = self._types.get(name)
        if entry is None:
            raise DataError(f"unknown type {name!r}", hint=f"known: {', '.join(self.names())}")
        return entry


def read_envelope(data: bytes) -> Envelope:
    """Parse an envelope without looking into its body; raises DecodeError."""
    try:
        return Envelope.model_validate_json(data)
    except ValidationError as error:
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
