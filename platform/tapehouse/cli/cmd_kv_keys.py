"""`tapehouse kv put`, `del`, `scan`, `watch`, `history`: the replicated KV for people and scripts."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tapehouse.core.errors import EXIT_CHECK_FAILED, EXIT_MISSING, MissingError, UsageError

if TYPE_CHECKING:
    from tapehouse.kv.reference import Stored

LevelName = Literal["eventual", "linearizable"]
SHOWN_BYTES_MAX = 80  # of a value in a table


def put(
    key: str,
    value: str | None = None,
    /,
    *,
    file: Path | None = None,
    ttl: float | None = None,
    if_revision: int | None = None,
    if_absent: bool = False,
    json: bool = False,
    nats: str | None = None,
    home: Path | None = None,
) -> int:
    """Set a key of the replicated KV; it is durable on a majority of the brokers when this returns.

    Where a condition does not hold nothing is written, and the exit code is 1. Keys below `positions/`, `orders/`,
    `prices/`, `surface/`, `cash/` and `pnl/` are a desk's and cannot be set.

    Examples:

        tapehouse kv put limits/AMZN 500

        tapehouse kv put quote/AMZN '{"bid": 184.5}' --ttl 30

        tapehouse kv put limits/AMZN 600 --if-revision 4294967296

    Parameters
    ----------
    key
        Any text of up to 1,024 bytes.
    value
        Its value; `-` reads it from standard input.
    file
        Instead: the value is what this file holds.
    ttl
        Seconds after which the key is gone.
    if_revision
        Only where the key has this revision; 0: only where there is none.
    if_absent
        Only where there is no such key.
    json
        One line of JSON: `key`, `applied`, `status`, `revision`.
    nats
        The broker; else what the environment or the embedded cluster says.
    home
        Where the embedded cluster lives.
    """
    from tapehouse.app.kv_keys import open_keys
    from tapehouse.cli.output import run_async
    from tapehouse.kv.requests import Outcome

    if if_absent and if_revision is not None:
        raise UsageError("two conditions", subject="--if-absent, --if-revision", hint="--if-revision 0 says absent too")
    content = _content(value, file)

    async def run() -> Outcome:
        async with open_keys(nats, home=home, create=True) as (_, kv):
            if if_revision is not None:
                return await kv.put_if(_bytes(key), content, if_revision, ttl_s=ttl)
            return await kv.put(_bytes(key), content, ttl_s=ttl, if_absent=if_absent)

    return _tell(key, run_async(run()), json, "written")


def delete(
    key: str,
    /,
    *,
    if_revision: int | None = None,
    json: bool = False,
    nats: str | None = None,
    home: Path | None = None,
) -> int:
    """Remove a key of the replicated KV.

    A key that is not there ends with exit code 3, one that has another revision with 1.

    Examples:

        tapehouse kv del limits/AMZN

        tapehouse kv del limits/AMZN --if-revision 4294967296

    Parameters
    ----------
    key
        The key.
    if_revision
        Only where the key has this revision.
    json
        One line of JSON: `key`, `applied`, `status`, `revision`.
    nats
        The broker; else what the environment or the embedded cluster says.
    home
        Where the embedded cluster lives.
    """
    from tapehouse.app.kv_keys import open_keys
    from tapehouse.cli.output import run_async
    from tapehouse.kv.requests import Outcome

    async def run() -> Outcome:
        async with open_keys(nats, home=home) as (_, kv):
            return await kv.delete(_bytes(key), revision=if_revision)

    return _tell(key, run_async(run()), json, "deleted")


def scan(
    prefix: str = "",
    /,
    *,
    level: LevelName = "linearizable",
    limit: int = 1_000,
    tape: str = "main",
    json: bool = False,
    nats: str | None = None,
    home: Path | None = None,
) -> int:
    """List the keys that begin with a prefix, with their values, in the order of their bytes.

    A prefix of a desk's projections (`positions/…`) is asked of the host that serves the tape.

    Examples:

        tapehouse kv scan limits/

        tapehouse kv scan --json --limit 100000

    Parameters
    ----------
    prefix
        What the keys begin with; nothing for all.
    level
        `linearizable`: with all that was acknowledged before; `eventual`: as far as this process has come.
    limit
        The most that are listed.
    tape
        Whose projections are meant.
    json
        One line of JSON: a list of objects as `kv get --json` has them.
    nats
        The broker; else what the environment or the embedded cluster says.
    home
        Where the embedded cluster lives.
    """
    from tapehouse.app.kv_keys import open_keys, scan_all
    from tapehouse.cli.output import console, print_json, print_table, run_async
    from tapehouse.kv.levels import EVENTUAL, LINEARIZABLE

    if limit < 1:
        raise UsageError(f"{limit} keys", subject="--limit", hint="1 or more")

    async def run() -> list[tuple[bytes, Stored]]:
        async with open_keys(nats, home=home, tape=tape) as (_, kv):
            wanted = LINEARIZABLE if level == "linearizable" else EVENTUAL
            return await scan_all(kv, _bytes(prefix), wanted, limit=limit)

    rows = run_async(run())
    if json:
        print_json([told(key, row) for key, row in rows])
    elif not rows:
        console.print(f"no key begins with {prefix!r}" if prefix else "there are no keys", highlight=False)
    else:
        shown = [(_text(key), row.revision, _expires(row.expiry) or "", _excerpt(row.value)) for key, row in rows]
        print_table("", ("key", "revision", "expires", "value"), shown)
    return 0


def watch(
    prefix: str = "",
    /,
    *,
    existing: bool = False,
    count: int | None = None,
    json: bool = False,
    nats: str | None = None,
    home: Path | None = None,
) -> int:
    """Tell each change of the keys that begin with a prefix, until Ctrl-C.

    Of one key, changes come in their order, each once. Expiries are not told: a change says when its key will expire.

    Examples:

        tapehouse kv watch limits/

        tapehouse kv watch --existing --json | jq .key

    Parameters
    ----------
    prefix
        What the keys begin with; nothing for all.
    existing
        First tell what is there.
    count
        End after so many.
    json
        A line of JSON each: `op`, `key`, `value`, `revision`, `expires`.
    nats
        The broker; else what the environment or the embedded cluster says.
    home
        Where the embedded cluster lives.
    """
    from tapehouse.app.kv_keys import open_keys, scan_all
    from tapehouse.cli.output import console, diagnostics, print_json, run_async, stop_signal
    from tapehouse.core.tasks import cancel_all
    from tapehouse.kv.levels import Session

    told_so_far = 0

    def tell(op: str, key: bytes, value: bytes | None, revision: int, expiry: int | None) -> None:
        if json:
            line: dict[str, Any] = {"op": op, "key": _text(key), "revision": revision, "expires": _expires(expiry or 0)}
            print_json(line | (_value(value) if value is not None else {"value": None}))
        else:
            shown = "" if value is None else f" {_excerpt(value)}"
            until = f" until {_expires(expiry)}" if expiry else ""
            console.print(f"{op} {_text(key)}{shown}{until}", highlight=False, markup=False, soft_wrap=True)

    async def run() -> None:
        nonlocal told_so_far
        async with open_keys(nats, home=home) as (_, kv):
            seen = Session()
            await kv.scan(_bytes(prefix), seen, limit=1)  # From here on nothing is missed.
            after = Session.parse(seen.text)
            if existing:
                for key, row in await scan_all(kv, _bytes(prefix), seen):
                    tell("KEY", key, row.value, row.revision, row.expiry)
                    told_so_far += 1
            if not json:
                diagnostics.print("watching; Ctrl-C ends it", highlight=False, style="dim")
            async for change in kv.watch(_bytes(prefix), after):
                if count is not None and told_so_far >= count:
                    return
                tell(change.op.name, change.key, change.value, change.revision, change.expiry)
                told_so_far += 1
                if count is not None and told_so_far >= count:
                    return

    async def until_stopped() -> None:
        import asyncio

        stop = asyncio.create_task(_set(stop_signal()))
        watching = asyncio.create_task(run())
        try:
            await asyncio.wait({stop, watching}, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                watching.result()
        finally:
            await cancel_all([stop, watching])

    run_async(until_stopped())
    return 0


def history(
    key: str, /, *, limit: int = 20, json: bool = False, nats: str | None = None, home: Path | None = None
) -> int:
    """The last versions of a key, oldest first, from the log itself.

    A key that never was there ends with exit code 3.

    Examples:

        tapehouse kv history limits/AMZN

    Parameters
    ----------
    key
        The key.
    limit
        How many versions.
    json
        One line of JSON: a list with `time`, `revision` (0: it was deleted), `expires`, `value`, `sequence`.
    nats
        The broker; else what the environment or the embedded cluster says.
    home
        Where the embedded cluster lives.
    """
    from tapehouse.app.kv_keys import open_keys
    from tapehouse.cli.output import print_json, print_table, run_async
    from tapehouse.core.units import format_time_ns
    from tapehouse.kv.history import Version

    async def run() -> list[Version]:
        async with open_keys(nats, home=home) as (_, kv):
            return await kv.history(_bytes(key), limit=limit)

    versions = run_async(run())
    if not versions:
        raise MissingError("there never was such a key", subject=key)
    if json:
        print_json(
            [
                {
                    "time": format_time_ns(one.time), "revision": one.revision, "expires": _expires(one.expiry),
                    "sequence": one.sequence, **(_value(one.value) if one.value is not None else {"value": None}),
                }
                for one in versions
            ]
        )  # fmt: skip
        return 0
    shown = [
        (format_time_ns(one.time), one.revision or "deleted", _expires(one.expiry) or "", _excerpt(one.value or b""))
        for one in versions
    ]
    print_table(key, ("time", "revision", "expires", "value"), shown)
    return 0


def get_stored(key: str, *, level: LevelName, nats: str | None, json: bool) -> int:
    """`kv get` of a key that is no projection's."""
    from tapehouse.app.kv_keys import open_keys
    from tapehouse.cli.output import print_json, run_async
    from tapehouse.kv.levels import EVENTUAL, LINEARIZABLE

    async def run() -> Stored | None:
        async with open_keys(nats) as (_, kv):
            return await kv.get(_bytes(key), LINEARIZABLE if level == "linearizable" else EVENTUAL)

    row = run_async(run())
    if row is None:
        raise MissingError("no such key", subject=key, hint="what there is: tapehouse kv scan")
    if json:
        print_json(told(_bytes(key), row))
    else:
        sys.stdout.buffer.write(row.value + b"\n")
        sys.stdout.buffer.flush()
    return 0


def told(key: bytes, row: Stored) -> dict[str, Any]:
    """A key as JSON: its value as text, or as `value_base64` where it is none."""
    return {"key": _text(key), **_value(row.value), "revision": row.revision, "expires": _expires(row.expiry)}


def _tell(key: str, outcome: Any, json: bool, done: str) -> int:
    from tapehouse.cli.output import console, diagnostics, print_json
    from tapehouse.kv.entries import Status

    reasons = {Status.ABSENT: "there is no such key", Status.PRESENT: "the key is there already"}
    if json:
        status = outcome.status.name.lower()
        print_json({"key": key, "applied": outcome.is_applied, "status": status, "revision": outcome.revision})
    elif outcome.is_applied:
        console.print(f"{done}: revision {outcome.revision}", highlight=False)
    else:
        why = reasons.get(outcome.status, f"the key has revision {outcome.revision}")
        diagnostics.print(f"not {done}: {why}", highlight=False, markup=False)
    if outcome.is_applied:
        return 0
    return EXIT_MISSING if done == "deleted" and outcome.status is Status.ABSENT else EXIT_CHECK_FAILED


def _content(value: str | None, file: Path | None) -> bytes:
    if (value is None) == (file is None):
        raise UsageError("one value is needed", hint="VALUE, - for standard input, or --file FILE")
    if file is not None:
        try:
            return file.read_bytes()
        except OSError as error:
            raise MissingError(error.strerror or str(error), subject=str(file), hint="see --file") from error
    assert value is not None
    return sys.stdin.buffer.read() if value == "-" else _bytes(value)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _value(value: bytes) -> dict[str, str]:
    try:
        return {"value": value.decode()}
    except UnicodeDecodeError:
        return {"value_base64": base64.b64encode(value).decode()}


def _excerpt(value: bytes) -> str:
    text = "".join(each if each.isprintable() else " " for each in _text(value[:SHOWN_BYTES_MAX]))
    return text + (f" … {len(value):,} bytes" if len(value) > SHOWN_BYTES_MAX else "")


def _expires(expiry: int) -> str | None:
    from tapehouse.core.units import format_time_ns

    return format_time_ns(expiry) if expiry else None


async def _set(stop: Any) -> None:
    await stop.wait()
