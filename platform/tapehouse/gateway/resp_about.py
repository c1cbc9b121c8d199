"""What COMMAND and CONFIG answer: the commands that there are, and the settings that clients ask for."""

from __future__ import annotations

from tapehouse.gateway.resp_commands import COMMANDS, Command
from tapehouse.gateway.resp_replies import Value, array_head, integer, value
from tapehouse.gateway.resp_requests import wrong_arity
from tapehouse.gateway.resp_scan import PATTERN_BYTES_MAX, Pattern
from tapehouse.gateway.resp_words import Refused

# What redis-benchmark and clients look at: a write is in a log before it is answered.
SETTINGS: dict[str, Value] = {"appendonly": "yes", "maxmemory": "0", "save": ""}
SINCE = "1.0.0"
_BY_NAME = {command.name: command for command in COMMANDS}


def unknown_subcommand(name: str, subcommand: bytes) -> str:
    """What Redis says to a subcommand that it does not have."""
    shown = subcommand[:128].partition(b"\0")[0].decode("latin-1")
    return f"ERR unknown subcommand '{shown}'. Try {name} HELP."


def command_reply(words: list[bytes], version: int) -> bytes:
    """COMMAND, with COUNT, DOCS, INFO or LIST.

    Raises:
        Refused: Another subcommand.
    """
    if len(words) == 1:
        return array_head(len(COMMANDS)) + b"".join(_info(command, version) for command in COMMANDS)
    subcommand, names = words[1].upper(), words[2:]
    if subcommand == b"COUNT" or (subcommand == b"LIST" and not names):
        if names:
            raise Refused(wrong_arity("command|count"))
        return (
            integer(len(COMMANDS))
            if subcommand == b"COUNT"
            else value([command.name.lower() for command in COMMANDS], version)
        )
    asked = [_BY_NAME.get(name.decode("latin-1").upper()) for name in names] if names else list(COMMANDS)
    if subcommand == b"INFO":
        no_command = b"*-1\r\n" if version == 2 else b"_\r\n"
        infos = [no_command if command is None else _info(command, version) for command in asked]
        return array_head(len(infos)) + b"".join(infos)
    if subcommand == b"DOCS":
        return value({command.name.lower(): _docs(command) for command in asked if command}, version)
    raise Refused(unknown_subcommand("COMMAND", words[1]))


def _info(command: Command, version: int) -> bytes:
    flags, nothing = frozenset(command.flags), frozenset[str]()
    return value(
        [
            command.name.lower(), command.arity, flags, command.first_key, command.last_key, command.step, nothing,
            [], [], [],
        ],
        version,
    )  # fmt: skip


def _docs(command: Command) -> dict[str, Value]:
    group = "string" if command.first_key else "connection"
    return {"summary": command.summary, "since": SINCE, "group": group}


def config_reply(words: list[bytes], version: int) -> bytes:
    """CONFIG GET.

    Raises:
        Refused: Another subcommand, or a pattern that is too long.
    """
    if words[1].upper() != b"GET":
        raise Refused(unknown_subcommand("CONFIG", words[1]))
    if len(words) < 3:
        raise Refused(wrong_arity("config|get"))
    if any(len(word) > PATTERN_BYTES_MAX for word in words[2:]):
        raise Refused(f"ERR a pattern of more than {PATTERN_BYTES_MAX} bytes")
    patterns = [Pattern(word.lower()) for word in words[2:]]
    return value(
        {name: told for name, told in SETTINGS.items() if any(one.matches(name.encode()) for one in patterns)}, version
    )
