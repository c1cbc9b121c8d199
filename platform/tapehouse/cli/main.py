"""The `tapehouse` command: finds the command's file, runs it, turns every error into one line and an exit code.

Exit codes: 0 done, 1 a check failed, 2 wrong usage, 3 something it needs is not there, 4 input or stored data is bad.
Commands live one per file in `cmd_<verb>.py` and are imported only when called, so that `--help` is quick.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version

from cyclopts import App, CycloptsError
from tapehouse.core.errors import EXIT_USAGE, TapehouseError

EXIT_INTERRUPTED = 130

# Command -> (function, one line of help); a nested name makes a group.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("cmd_demo:demo", "The whole loop on a generated or recorded day; ends with the proof or fails."),
    "up": ("cmd_up:up", "Start an embedded cluster of 1, 3 or 5 brokers and the desk's host."),
    "down": ("cmd_up:down", "Stop the embedded cluster."),
    "status": ("cmd_up:status", "Brokers, durability profile, streams, leaders and positions."),
    "host": ("cmd_host:host", "Run sequencer, engine and projections of one tape until stopped."),
    "record": ("cmd_record:record", "Put a market-data file onto a tape of its own, the strategy beside it."),
    "feeds list": ("cmd_feeds:list_formats", "The formats that can be recorded."),
    "feeds check": ("cmd_feeds:check", "Parse a file and hold it against the truth that it carries."),
    "send": ("cmd_send:send", "Publish a command and wait for its outcome."),
    "replay": ("cmd_replay:replay", "A recorded tape at any speed into a strategy."),
    "prove": ("cmd_prove:prove", "Digests of several paths side by side; exit 1 where they differ."),
    "kv get": ("cmd_kv:get", "Read a projection: positions, orders, prices, surface."),
    "sql": ("cmd_sql:sql", "DuckDB over events, trades, positions and surface."),
    "dr backup": ("cmd_dr:backup", "Ship new segments and changed state to a store."),
    "dr restore": ("cmd_dr:restore", "Rebuild a wiped cluster from a store."),
    "dr list": ("cmd_dr:list_manifests", "The manifests of a store."),
    "dr verify": ("cmd_dr:verify", "Read every object of the newest manifest and check it."),
    "doctor": ("cmd_doctor:doctor", "What this machine has and lacks."),
    "bench": ("cmd_bench:bench", "Measure: the durable tape, replay from it and from memory."),
}
GROUPS = {
    "feeds": "Market-data formats: list and check.",
    "kv": "Projections as keys and values.",
    "dr": "Disaster recovery: back up, restore, verify.",
}


def build() -> App:
    """The command tree; no command's module is imported."""
    app = App(
        name="tapehouse",
        help="A flight recorder for a trading desk that you can rewind.\n\nStart with `tapehouse demo`.",
        version=version("tapehouse"),
        help_format="markdown",
        suppress_keyboard_interrupt=False,
    )
    groups = {name: App(name=name, help=text) for name, text in GROUPS.items()}
    for group in groups.values():
        app.command(group)
    for name, (target, text) in COMMANDS.items():
        group_name, _, verb = name.rpartition(" ")
        parent = groups[group_name] if group_name else app
        parent.command(f"tapehouse.cli.{target}", name=verb, help=text)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is also the process's own when called as a program."""
    code = run(list(sys.argv[1:] if arguments is None else arguments))
    if arguments is None:
        sys.exit(code)
    return code


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; never raises a TapehouseError."""
    try:
        result = build()(arguments, exit_on_error=False, print_error=True, result_action="return_value")
    except CycloptsError:
        return EXIT_USAGE
    except TapehouseError as error:
        print(f"tapehouse: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("tapehouse: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # The reader of our output has gone; nothing is left to say.
        return 0
    return result if isinstance(result, int) else 0
