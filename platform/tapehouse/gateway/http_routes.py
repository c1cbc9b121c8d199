"""The operations of the HTTP gateway as data: what finds a request's operation, and what OpenAPI publishes."""

from __future__ import annotations

from dataclasses import dataclass

from tapehouse.gateway.http_values import Refused, unquote
from tapehouse.kv.entries import KEY_BYTES_MAX, VALUE_BYTES_MAX
from tapehouse.kv.history import HISTORY_VERSIONS_MAX

SCAN_DEFAULT = 100
SCAN_MAX = 1_000
HISTORY_DEFAULT = 20
HISTORY_MAX = min(100, HISTORY_VERSIONS_MAX)
_KEY = "{key}"

READ_PARAMETERS = ("level", "max_staleness", "session")
WRITE_PARAMETERS = ("ttl", "keep_ttl", "revision", "if_absent", "if_present", "session")
# name: what it means, and its JSON schema.
PARAMETERS: dict[str, tuple[str, dict[str, object]]] = {
    "level": (
        "Read level; `linearizable` where nothing is said, `session` where a session is given.",
        {"type": "string", "enum": ["eventual", "session", "linearizable"]},
    ),
    "max_staleness": ("How old an eventual read may be: 2, 500ms, 1.5s.", {"type": "string"}),
    "session": (
        "What this caller has seen, as an answer gave it; the header Tapehouse-Session says the same.",
        {"type": "string"},
    ),
    "ttl": ("How long the key lives: 30 (seconds), 500ms, 2h, 7d.", {"type": "string"}),
    "keep_ttl": ("Leave the key's expiry as it is.", {"type": "boolean"}),
    "revision": (
        "Only where the key has this revision; 0: only where there is none. `If-Match` says the same.",
        {"type": "string", "pattern": "^[0-9]+$"},
    ),
    "if_absent": ("Only where there is no such key. `If-None-Match: *` says the same.", {"type": "boolean"}),
    "if_present": ("Only where there is one.", {"type": "boolean"}),
    "atomic": ("All pairs or none; their keys must share a slot, as {tag}a and {tag}b do.", {"type": "boolean"}),
    "encoding": (
        "How keys and values are written in JSON; with `utf8`, bytes that are no text come as `…_base64`.",
        {"type": "string", "enum": ["utf8", "base64"], "default": "utf8"},
    ),
    "prefix": ("What the keys begin with, percent-encoded bytes.", {"type": "string"}),
    "after": ("Keys above this one alone, percent-encoded bytes.", {"type": "string"}),
    "limit": ("How many at most.", {"type": "integer", "minimum": 1}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path.

    Attributes:
        path: `{key}` at its end stands for a key in percent-encoded bytes, slashes and all.
        query: Names of PARAMETERS.
        body: What it takes: "pairs", "bytes", "faults", or "" for nothing.
        answers: By status, what the body is: a schema's name, "bytes", "text", "events", "page".
        is_open: Whether it is answered without a token.
    """

    name: str
    method: str
    path: str
    summary: str
    query: tuple[str, ...] = ()
    body: str = ""
    answers: tuple[tuple[int, str], ...] = ((200, "Anything"),)
    is_open: bool = False

    @property
    def has_key(self) -> bool:
        """Whether a key ends its path."""
        return self.path.endswith(_KEY)

    @property
    def fixed(self) -> str:
        """Its path without the key."""
        return self.path.removesuffix(_KEY)

    @property
    def body_bytes_max(self) -> int:
        """Bytes of a body that it takes; JSON may write a byte in six."""
        return {"pairs": BODY_BYTES_MAX, "bytes": VALUE_BYTES_MAX, "faults": 4_096}.get(self.body, 0)


BODY_BYTES_MAX = 4 * 1024 * 1024
_WRITTEN = ((200, "Written"), (412, "Written"))
OPERATIONS = (
    Operation(
        name="put_pairs", method="POST", path="/key", body="pairs", query=(*WRITE_PARAMETERS, "atomic", "encoding"),
        summary='Set keys: {"key": "value", …}; each by itself unless `atomic`.',
        answers=((200, "Results"), (412, "Results"), (503, "Results"), (504, "Results")),
    ),
    Operation(
        name="get", method="GET", path="/key/{key}", query=(*READ_PARAMETERS, "encoding"), answers=((200, "Stored"),),
        summary="What a key holds; as it is with `Accept: application/octet-stream`.",
    ),
    Operation(
        name="put", method="PUT", path="/key/{key}", query=WRITE_PARAMETERS, body="bytes", answers=_WRITTEN,
        summary="Set a key to the bytes of the body, as they are.",
    ),
    Operation(
        name="delete", method="DELETE", path="/key/{key}", query=("revision", "session"),
        answers=((200, "Written"), (404, "Written"), (412, "Written")), summary="Remove a key.",
    ),
    Operation(
        name="scan", method="GET", path="/keys", answers=((200, "Page"),),
        query=("prefix", "after", "limit", *READ_PARAMETERS, "encoding"),
        summary="Keys and values by prefix, in the order of the keys' bytes; `next` is the address of the next page.",
    ),
    Operation(
        name="history", method="GET", path="/history/{key}", query=("limit", "encoding"), answers=((200, "History"),),
        summary="The last versions of a key, oldest first; read from the log, and slow.",
    ),
    Operation(
        name="watch", method="GET", path="/watch", query=("prefix", "session", "encoding"), answers=((200, "events"),),
        summary="Changes of keys by prefix as server-sent events; goes on after `Last-Event-ID`.",
    ),
    Operation(
        name="status", method="GET", path="/status",
        summary="Shards, their positions, lag and views, connections, faults that a drill has on.",
    ),
    Operation(
        name="readyz", method="GET", path="/readyz", is_open=True, answers=((200, "Ready"), (503, "Ready")),
        summary="Whether writes and linearizable reads go through now, or why not.",
    ),
    Operation(name="livez", method="GET", path="/livez", is_open=True, summary="Whether this gateway answers at all."),
    Operation(name="leader", method="GET", path="/leader", summary="The broker that leads each shard's log."),
    Operation(
        name="metrics", method="GET", path="/metrics", answers=((200, "text"),), summary="All counters, for Prometheus."
    ),
    Operation(name="metrics_json", method="GET", path="/metrics.json", summary="All counters, as JSON."),
    Operation(name="openapi", method="GET", path="/openapi.json", summary="This description, as OpenAPI 3.1."),
    Operation(name="faults", method="GET", path="/faults", answers=((200, "Faults"),), summary="What a drill has on."),
    Operation(
        name="set_faults", method="POST", path="/faults", body="faults", answers=((200, "Faults"),),
        summary="Change what a drill has on; only where the gateway was started with --allow-faults.",
    ),
    Operation(name="page", method="GET", path="/", answers=((200, "page"),), summary="How things are, for people."),
)  # fmt: skip


def find_operation(method: str, target: str) -> tuple[Operation, bytes, str]:
    """The operation of a request, the key in its path, and its query.

    Args:
        target: The path and query as they were sent.

    Raises:
        Refused: There is none: 404, or 405 where another method would do.
    """
    path, _, query = target.partition("#")[0].partition("?")
    asked = "GET" if method == "HEAD" else method
    there: list[Operation] = []
    for operation in OPERATIONS:
        if path.startswith(operation.fixed) if operation.has_key else path == operation.path:
            there.append(operation)
    for operation in there:
        if operation.method == asked:
            key = unquote(path[len(operation.fixed) :], "the key") if operation.has_key else b""
            if len(key) > KEY_BYTES_MAX:
                raise Refused(400, "bad-request", f"a key of {len(key)} bytes", f"at most {KEY_BYTES_MAX}")
            return operation, key, query
    if there:
        methods = [operation.method for operation in there] + ["HEAD"] * any(one.method == "GET" for one in there)
        allowed = ", ".join(methods)
        raise Refused(405, "no-such-method", f"no {method[:16]} here", f"allowed: {allowed}", {"Allow": allowed})
    raise Refused(404, "no-such-path", f"nothing is at {path[:64]}", "see /openapi.json, or / for people")
