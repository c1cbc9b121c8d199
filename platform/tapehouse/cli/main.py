"""The `tapehouse` command: finds the command's file, runs it, turns every error into one line and an exit code.

Exit codes: 0 done, 1 a check failed, 2 wrong usage, 3 something it needs is not there, 4 input or stored data is bad.
Commands live one per file in `cmd_<verb>.py` and are imported only when called, so that `--help` is quick.
"""

from __future__ import annotations

import difflib
import errno
import itertools
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version

from cyclopts import App, CycloptsError, Parameter

from tapehouse.cli.console import PipeConsole
from tapehouse.core.errors import EXIT_MISSING, EXIT_USAGE, InvariantError, MissingError, TapehouseError, UsageError

EXIT_INTERRUPTED = 130

# Command -> (function, one line of help); a nested name makes a group.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("cmd_demo:demo", "The whole loop on a generated or recorded day; ends with the proof or fails."),
    "up": ("cmd_up:up", "Start an embedded cluster of 1, 3 or 5 brokers and the desk's host."),
    "down": ("cmd_up:down", "Stop the embedded cluster."),
    "status": ("cmd_up:status", "Brokers, durability profile, streams, leaders and positions."),
    "host": ("cmd_host:host", "Run sequencer, engine and projections of one tape until stopped."),
    "handover": ("cmd_handover:handover", "Have a tape's leader hand over to a waiting standby."),
    "record": ("cmd_record:record", "Put a market-data file onto a tape of its own, the strategy beside it."),
    "drain": ("cmd_drain:drain", "The sidecar alone: a journal to its tape, or any process's ring to files."),
    "gaps": ("cmd_gaps:gaps", "Spans of missing market data: when, why, how much, and how it was made good."),
    "feeds list": ("cmd_feeds:list_formats", "The formats that can be recorded."),
    "feeds check": ("cmd_feeds:check", "Parse a file and hold it against the truth that it carries."),
    "feeds push": ("cmd_feeds:push", "Push a source into a shared-memory ring, as a feed handler does."),
    "feeds serve": ("cmd_serve_feed:serve", "Serve a recording as the venue's live feed, with faults."),
    "feeds live": ("cmd_feeds_live:live", "Record a venue live into a ring: websocket, or ITCH over UDP."),
    "send": ("cmd_send:send", "Publish a command and wait for its outcome."),
    "parked list": ("cmd_parked:list_parked", "Inputs that a desk could not understand or apply."),
    "parked show": ("cmd_parked:show", "The bytes of one of them."),
    "parked replay": ("cmd_parked:replay", "Have the desk decide parked commands again."),
    "parked drop": ("cmd_parked:drop", "Have the desk forget parked commands."),
    "out": ("cmd_out:out", "The events of a desk as JSON, as the stream OUT has them for any language."),
    "send-orders": ("cmd_send_orders:send_orders", "Send a file of orders, many to a message."),
    "replay": ("cmd_replay:replay", "A recorded tape at any speed into a strategy."),
    "prove": ("cmd_prove:prove", "Digests of several paths side by side; exit 1 where they differ."),
    "book": ("cmd_book:book", "An order book at any moment of a tape."),
    "books build": ("cmd_book:build", "Write the snapshots that make a book at any moment quick."),
    "kv get": ("cmd_kv:get", "Read a key; of positions, orders, prices, surface also as it was at any moment."),
    "kv put": ("cmd_kv_keys:put", "Set a key, for a time or where it has a revision."),
    "kv del": ("cmd_kv_keys:delete", "Remove a key."),
    "kv scan": ("cmd_kv_keys:scan", "List the keys that begin with a prefix."),
    "kv watch": ("cmd_kv_keys:watch", "Tell each change of the keys that begin with a prefix."),
    "kv history": ("cmd_kv_keys:history", "The last versions of a key."),
    "kv build": ("cmd_kv:build", "Write the snapshots that make a projection at any moment quick."),
    "kv serve": ("cmd_kv_serve:serve", "Serve the replicated KV to redis-cli, redis-py and any client of RESP."),
    "kv rebalance": (
        "cmd_kv_rebalance:rebalance",
        "Spread the replicated KV over more or fewer shards, online.",
    ),
    "kv shards": ("cmd_kv_rebalance:shards", "Which slots and keys each shard of the replicated KV has."),
    "kv load": (
        "cmd_kv_load:load",
        "Put a load on gateways: rates, percentiles, and a check of what was read.",
    ),
    "kv mirror": ("cmd_kv_mirror:mirror", "Keep the KV, or a prefix of it, in a native NATS bucket."),
    "sql": ("cmd_sql:sql", "DuckDB over events, trades, positions and surface."),
    "analytics": ("cmd_analytics:analytics", "Measures of books and flows between them, a row an interval."),
    "bars": ("cmd_bars:bars", "Bars of trades by time, tick count, volume or money."),
    "dr backup": ("cmd_dr:backup", "Ship new segments and changed state to a store."),
    "dr restore": ("cmd_dr:restore", "Rebuild a wiped cluster from a store."),
    "dr list": ("cmd_dr:list_manifests", "The manifests of a store."),
    "dr verify": ("cmd_dr:verify", "Read every object of the newest manifest and check it."),
    "doctor": ("cmd_doctor:doctor", "What this machine has and lacks."),
    "profile": ("cmd_profile:profile", "Where a running process or a command spends its time, or its memory."),
    "bench": ("cmd_bench:bench", "Measure on this machine, beside goals and peers."),
}
GROUPS = {
    "feeds": "Market data: list and check formats, push into a ring, record live, serve a recording.",
    "books": "Snapshots of order books along a tape.",
    "kv": "Keys and values: a desk's projections, and the replicated KV for Redis clients.",
    "parked": "Inputs that a desk could not understand or apply: list, show, replay, drop.",
    "dr": "Disaster recovery: back up, restore, verify.",
}


def build(arguments: Sequence[str] = ()) -> App:
    """The command tree; no command's module is imported.

    Args:
        arguments: What was called: that one command's page of help is its own docstring, examples included, and not
            the one line that lists show of the others.
    """
    app = App(
        name="tapehouse",
        help="A flight recorder for a trading desk that you can rewind.\n\nStart with `tapehouse demo`.",
        version=version("tapehouse"),
        help_format="markdown",
        suppress_keyboard_interrupt=False,
        default_parameter=Parameter(negative_iterable=()),
        console=PipeConsole(),
    )
    groups = {name: App(name=name, help=text) for name, text in GROUPS.items()}
    for group in groups.values():
        app.command(group)
    for name, (target, text) in COMMANDS.items():
        group_name, _, verb = name.rpartition(" ")
        parent = groups[group_name] if group_name else app
        called = list(arguments[: len(name.split())]) == name.split()
        parent.command(f"tapehouse.cli.{target}", name=verb, help=None if called else text)
    return app


def check_command(arguments: Sequence[str]) -> None:
    """Refuse a command that there is not, before any command's module is imported to look for it.

    Raises:
        UsageError: There is none of that name; the nearest is offered.
    """
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), arguments))
    known = {name.split()[0] for name in COMMANDS}
    asked = words[:1]
    if asked and asked[0] in GROUPS and len(words) > 1:
        known = {name for name in COMMANDS if name.split()[0] == asked[0]}
        asked = words[:2]
    name = " ".join(asked)
    if not asked or name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    group = "tapehouse" if len(asked) == 1 else f"tapehouse {asked[0]}"
    meant = f"did you mean {near[0]}? " if near else ""
    raise UsageError(f"there is no command {name!r}", hint=f"{meant}see {group} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is also the process's own when called as a program."""
    if arguments is None:  # Whoever ends us with SIGTERM gets the same tidy end as with Ctrl-C.
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # As `tapehouse … &` in a script inherits it.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    code = run(list(sys.argv[1:] if arguments is None else arguments))
    if arguments is None:
        if code == EXIT_INTERRUPTED:  # A second Ctrl-C finds everything done: it only would change the exit code.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(code)
    return code


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; whatever goes wrong is one line on standard error.

    With TAPEHOUSE_TRACEBACK set, an error that is nobody's but ours is shown with its traceback.
    """
    try:
        check_command(arguments)
        result = build(arguments)(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()  # A reader that has gone is noticed here, not while Python ends.
    except CycloptsError as error:
        error.verbose = False
        return _tell(f"{str(error).strip()} ({_help_of(error)})", EXIT_USAGE)
    except TapehouseError as error:
        return _tell(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _tell("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        _release_output()  # Nobody reads what we say any more; that is no error.
        return 0
    except OSError as error:
        _release_output()
        _show_traceback()
        return _tell(str(_from_system(error)), EXIT_MISSING)
    except Exception as error:
        _show_traceback()
        told = InvariantError(
            f"{type(error).__name__}: {error}",
            hint="this is a bug: please report it; TAPEHOUSE_TRACEBACK=1 shows where",
        )
        return _tell(str(told), told.exit_code)
    return result if isinstance(result, int) else 0


def _tell(message: str, code: int) -> int:
    """Say what went wrong, in one line whatever it holds."""
    print(f"tapehouse: {' '.join(message.split())}", file=sys.stderr)
    return code


def _help_of(error: CycloptsError) -> str:
    """Where the user finds how it is used."""
    return f"see {' '.join(['tapehouse', *(error.command_chain or ())])} --help"


def _from_system(error: OSError) -> MissingError:
    """What the operating system refused, told as what is lacking."""
    hints = {
        errno.ENOSPC: "free some space there",
        errno.EDQUOT: "free some space there",
        errno.EACCES: "check its owner and mode",
        errno.EPERM: "check its owner and mode",
        errno.EROFS: "choose another place",
    }
    subject = error.filename if isinstance(error.filename, str) else ""
    return MissingError(error.strerror or str(error), subject=subject, hint=hints.get(error.errno or 0, ""))


def _release_output() -> None:
    """Write out what is buffered; where that cannot be, let it go, or Python would complain of it while it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_traceback() -> None:
    if os.environ.get("TAPEHOUSE_TRACEBACK"):
        traceback.print_exc()
