"""Watching keys over HTTP: changes as server-sent events.

Each event is one change. Its id is a session from which a watcher that comes back (`Last-Event-ID`, as browsers send
it) misses nothing; it may be told some changes of one frame a second time, which their revisions show.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator

from tapehouse.core.errors import TapehouseError
from tapehouse.gateway.http_errors import error_problem
from tapehouse.gateway.http_values import Encoding, told
from tapehouse.kv.client import Kv
from tapehouse.kv.entries import Op
from tapehouse.kv.levels import Session
from tapehouse.kv.recent import Change

NS_PER_MS = 1_000_000
HEARTBEAT = b": still here\n\n"
RETRY_MS = 2_000


class Watch:
    """One watcher; `events` are its bytes, in order and for ever.

    Args:
        session: What it has seen already; None to begin with what comes from now on.
    """

    def __init__(self, kv: Kv, prefix: bytes, session: Session | None, encoding: Encoding) -> None:
        self._kv = kv
        self._encoding = encoding
        # What the views hold now was seen, unless a session says that it was not: then a place is told before it comes.
        self._seen = Session(tuple(node.token() for node in kv.nodes))
        if session is not None:
            self._seen = Session(tuple(session.token(node.shard) or node.token() for node in kv.nodes))

        self._changes = kv.watch(prefix, Session.parse(self._seen.text))

    async def events(self) -> AsyncGenerator[bytes]:
        """Its greeting, its changes, and at last the error for which it ends."""
        yield f"retry: {RETRY_MS}\nid: {self._seen.text}\nevent: hello\ndata: {{}}\n\n".encode()
        try:
            for node in self._kv.nodes:
                await node.reach(self._seen)
            async for change in self._changes:
                self._note(change)
                yield self._event(change)
        except TapehouseError as error:
            body = json.dumps(error_problem(error), ensure_ascii=False)
            yield f"event: error\ndata: {body}\n\n".encode()

    def _note(self, change: Change) -> None:
        """What came before this change's frame was seen; of its own frame more may come."""
        node = self._kv.nodes[change.shard]
        token = node.token_at(change.sequence - 1, 0)
        self._seen.note(token)

    def _event(self, change: Change) -> bytes:
        kind = "put"
        if change.op is Op.DELETE or not change.revision:
            kind = "delete"
        elif change.op is Op.EXPIRE:
            kind = "expire"
        row = told("key", change.key, self._encoding) | {"revision": str(change.revision)}
        if kind == "put":
            row |= told("value", change.value, self._encoding)
        expiry = {} if change.expiry is None else {"expires_ms": change.expiry // NS_PER_MS or None}
        body = json.dumps(row | expiry, ensure_ascii=False)
        return f"id: {self._seen.text}\nevent: {kind}\ndata: {body}\n\n".encode()
