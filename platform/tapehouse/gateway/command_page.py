"""The published page of the RESP gateway's commands, made from their table."""

from __future__ import annotations

from tapehouse.gateway.resp_commands import COMMANDS, Command, Kind
from tapehouse.gateway.resp_layout import (
    ARGUMENTS_MAX,
    BULK_BYTES_MAX,
    LINE_BYTES_MAX,
    REQUEST_BYTES_MAX,
)
from tapehouse.gateway.resp_session import OWED_BYTES_MAX, PIPELINE_MAX
from tapehouse.kv.entries import BATCH_MAX, KEY_BYTES_MAX

_TITLES = {
    Kind.READ: "Reading, at the connection's read level",
    Kind.WRITE: "Writing; answered once it is in the log and applied",
    Kind.CONNECTION: "The connection",
    Kind.ADMIN: "The gateway",
}
_HEAD = """# Commands of the RESP gateway

The gateway speaks RESP2 and RESP3 (`HELLO 3`), and plain lines (`PUT k v 30`). Any other command is answered
`ERR unknown command`, any other option with an error that names it. This page is made from the table that the gateway
itself uses (`platform/tapehouse/gateway/resp_commands.py`).
"""
_ERRORS = """
## Errors
| first word | means |
|---|---|
| `ERR` | the request is wrong; nothing was done |
| `BUSY` | too much waits already; nothing was done: ask again in a moment |
| `TRYAGAIN` | the key's slot is on its way to another shard, or the broker is away; nothing was done |
| `READONLY` | the key is below a derived prefix (`positions/`, …), which can only be read; nothing was done |
| `UNKNOWN` | a write was sent and nobody knows whether it was applied: read the key, then decide |
| `REFUSED` | a batch was not applied, because one of its writes could not be |
| `CROSSSLOT` | the keys of a batch belong to several slots: give them one `{tag}` |
| `NOAUTH`, `WRONGPASS` | the gateway wants its token: `AUTH token`, or `HELLO 3 AUTH default token` |
"""


def _row(command: Command) -> str:
    form = f"{command.name} {command.syntax}".strip().replace("|", "\\|")
    return f"| `{form}` | {command.summary} | {command.remarks} |"


def command_page() -> str:
    """docs/kv-commands.md."""
    parts = [_HEAD]
    for kind, title in _TITLES.items():
        rows = [_row(command) for command in COMMANDS if command.kind is kind]
        parts.append("\n".join([f"\n## {title}", "| command | does | remarks |", "|---|---|---|", *rows, ""]))
    parts.append(_ERRORS)
    parts.append(
        f"""
## Limits
A key has at most {KEY_BYTES_MAX:,} bytes, a value {BULK_BYTES_MAX:,}, a plain line {LINE_BYTES_MAX:,}, a request
{REQUEST_BYTES_MAX:,} and {ARGUMENTS_MAX:,} words, a batch {BATCH_MAX} writes. A connection may have
{PIPELINE_MAX:,} requests unanswered and {OWED_BYTES_MAX:,} bytes of answers that it has not taken; until then
it is not read from.
Bytes that are no request are answered `ERR Protocol error`, after the answers to what came before, and end the
connection.

In plain lines a quote at the beginning of a word goes to the closing one: `"a b\\n"` with escapes, `'a b'` without.
A quote within a word is a byte like any other: `PUT k {{"bid":1}}`.
"""
    )
    return "".join(parts)
