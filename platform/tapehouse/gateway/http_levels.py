"""Read levels and sessions as HTTP requests name them."""

from __future__ import annotations

from tapehouse.core.errors import DataError
from tapehouse.gateway.http_values import Refused, bad, duration_of, text_of
from tapehouse.kv.levels import EVENTUAL, LINEARIZABLE, Eventual, Level, Session

SESSION_HEADER = "tapehouse-session"


def level_of(query: dict[str, bytes], header: str | None, otherwise: Level = LINEARIZABLE) -> Level:
    """The level of a read: what is named; else `session` where there is one, else the gateway's own.

    Args:
        header: The session that a header gives.
        otherwise: Where nothing is named.

    Raises:
        Refused: It is none, or what goes with another level was given.
    """
    name = text_of(query, "level")
    has_session = "session" in query or header is not None
    if name is None:
        name = "session" if has_session else type(otherwise).__name__.lower()
    staleness = duration_of(query, "max_staleness")
    if staleness is not None and name != "eventual":
        raise bad("max_staleness goes with level=eventual alone", "the other levels are never stale")
    if name == "session":
        return reader_session(query, header) or Session()
    if "session" in query:
        raise bad(f"a session and level={name[:16]}", "a session is read at level=session")
    if name == "linearizable":
        return LINEARIZABLE
    if name == "eventual":
        return EVENTUAL if staleness is None else Eventual(staleness)
    raise bad(f"no read level {name[:64]!r}", "eventual, session or linearizable")


def reader_session(query: dict[str, bytes], header: str | None) -> Session | None:
    """The session of the query or of a header; None where there is none."""
    text = text_of(query, "session")
    text = header if text is None else text
    if text is None:
        return None
    try:
        return Session.parse(text)
    except DataError as error:
        raise Refused(400, "bad-session", error.message, error.hint) from error


def writer_session(query: dict[str, bytes], header: str | None) -> Session:
    """The session that takes note of a write; a new one where none was given."""
    return reader_session(query, header) or Session()
