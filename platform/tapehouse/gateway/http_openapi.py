"""The HTTP gateway as OpenAPI 3.1, made from its table of operations."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import Any

from tapehouse.gateway.http_errors import TITLES
from tapehouse.gateway.http_routes import HISTORY_MAX, OPERATIONS, PARAMETERS, SCAN_MAX, Operation
from tapehouse.gateway.http_values import BYTES_TYPE, PROBLEM_TYPE

_LIMITS = {"scan": SCAN_MAX, "history": HISTORY_MAX}
_TEXT: dict[str, Any] = {"type": "string"}
_WHOLE: dict[str, Any] = {"type": "integer"}
_BYTES = "As `{0}` where it is UTF-8, else, or with `encoding=base64`, as `{0}_base64`."
_KEY = {"key": _TEXT | {"description": _BYTES.format("key")}, "key_base64": _TEXT}
_VALUE = {
    "value": {"type": ["string", "null"], "description": _BYTES.format("value")}, "value_base64": _TEXT,
}  # fmt: skip
_REVISION = {"type": "string", "pattern": "^[0-9]+$", "description": "A number of up to 63 bits, as text."}
_EXPIRY = {"type": ["integer", "null"], "description": "When it expires, UTC ms; null for never."}
_SESSION = {"type": "string", "description": "For `session` of later requests, here or at another gateway."}


def _object(members: dict[str, Any], required: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"type": "object", "properties": members, **({"required": list(required)} if required else {})}


def _list(name: str) -> dict[str, Any]:
    return {"type": "array", "items": {"$ref": f"#/components/schemas/{name}"}}


SCHEMAS: dict[str, dict[str, Any]] = {
    "Anything": {"type": "object"},
    "Pairs": {"type": "object", "additionalProperties": _TEXT, "minProperties": 1},
    "Stored": _object(
        _KEY | _VALUE | {"revision": _REVISION, "expires_ms": _EXPIRY, "session": _SESSION}, ("revision", "expires_ms")
    ),
    "Written": _object(
        _KEY
        | {
            "status": _TEXT | {"enum": ["applied", "absent", "present", "changed", "refused"]},
            "revision": _REVISION | {"description": "That the key has now; 0 where there is none."},
            "session": _SESSION,
        },
        ("status", "revision", "session"),
    ),
    "Result": _object(
        _KEY
        | {
            "status": _TEXT | {"enum": ["applied", "absent", "present", "changed", "refused", "failed", "unknown"]},
            "revision": _REVISION, "error": {"$ref": "#/components/schemas/Problem"},
        },
        ("status",),
    ),
    "Results": _object(
        {"applied": _WHOLE, "results": _list("Result"), "session": _SESSION}, ("applied", "results", "session")
    ),
    "Page": _object(
        {
            "keys": _list("Stored"), "more": {"type": "boolean"}, "session": _SESSION,
            "next": _TEXT | {"description": "The address of the next page, where there is more."},
        },
        ("keys", "more"),
    ),
    "Version": _object(
        _VALUE | {"revision": _REVISION, "expires_ms": _EXPIRY, "time_ms": _WHOLE, "sequence": _WHOLE},
        ("revision", "time_ms", "sequence"),
    ),
    "History": _object(_KEY | {"versions": _list("Version")}, ("versions",)),
    "Ready": _object(
        {"ready": {"type": "boolean"}, "reasons": {"type": "array", "items": _TEXT}}, ("ready", "reasons")
    ),
    "Faults": _object(
        {
            **{
                name: _TEXT | {"description": "A time such as 50ms; 0 for none."}
                for name in ("write_delay", "snapshot_delay", "view_delay")
            },
            "write_failure": {"type": "number", "minimum": 0, "maximum": 1}, "write_failure_seed": _WHOLE,
        }
    ),
    "Problem": _object(
        {
            "title": _TEXT, "status": _WHOLE, "code": _TEXT, "detail": _TEXT, "hint": _TEXT,
            "outcome": _TEXT | {
                "enum": ["none", "unknown"],
                "description": "`none`: nothing was done, it may be asked again; `unknown`: it may have been applied.",
            },
            "retry_after_s": _WHOLE,
        },
        ("title", "status", "code", "detail"),
    ),
}  # fmt: skip
_BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "pairs": ("application/json", {"$ref": "#/components/schemas/Pairs"}),
    "bytes": (BYTES_TYPE, {}),
    "faults": ("application/json", {"$ref": "#/components/schemas/Faults"}),
}
_TYPES: dict[str, tuple[str, dict[str, Any]]] = {
    "bytes": (BYTES_TYPE, {}), "text": ("text/plain", _TEXT), "events": ("text/event-stream", _TEXT),
    "page": ("text/html", _TEXT),
}  # fmt: skip


@cache
def openapi() -> dict[str, Any]:
    """The whole description."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tapehouse kv", "version": version("tapehouse"), "license": {"name": "Apache-2.0"},
            "summary": "A Raft-replicated KV with three read levels.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "responses": {
                "Problem": {
                    "description": "Why not, and what is known of the outcome.",
                    "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
                }
            },
        },
        "security": [{"token": []}, {}],
    }  # fmt: skip


def _operation(operation: Operation) -> dict[str, Any]:
    parameters = [_parameter(name, operation) for name in operation.query]
    if operation.has_key:
        parameters.insert(
            0,
            {
                "name": "key", "in": "path", "required": True, "schema": _TEXT,
                "description": "Percent-encoded bytes.",
            },
        )  # fmt: skip
    told: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": parameters,
        "responses": {
            **{str(status): _answer(operation, status, kind) for status, kind in operation.answers},
            "default": {"$ref": "#/components/responses/Problem"},
        },
    }
    if operation.body:
        media, schema = _BODIES[operation.body]
        told["requestBody"] = {"required": True, "content": {media: {"schema": schema}}}
    if operation.is_open:
        told["security"] = [{}]
    return told


def _parameter(name: str, operation: Operation) -> dict[str, Any]:
    description, schema = PARAMETERS[name]
    if name == "limit":
        schema = schema | {"maximum": _LIMITS[operation.name]}
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _answer(operation: Operation, status: int, kind: str) -> dict[str, Any]:
    media, schema = _TYPES.get(kind, ("application/json", {"$ref": f"#/components/schemas/{kind}"}))
    content = {media: {"schema": schema}}
    if operation.name == "get":
        content[BYTES_TYPE] = {"schema": {}}
    return {"description": "OK" if status == 200 else TITLES[status], "content": content}
