"""`tapehouse send`: publish a command and wait for its outcome."""

from __future__ import annotations

import dataclasses
import json as json_module
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from tapehouse.client import Outcome

EXIT_NOT_ACCEPTED = 1


def send(
    type: str | None = None,
    body: str | None = None,
    /,
    *,
    tape: str = "main",
    client: str | None = None,
    number: int | None = None,
    timeout: float = 10.0,
    list_types: Annotated[bool, Parameter(name="--list", negative="")] = False,
    nats: str | None = None,
    json: bool = False,
) -> int:
    """Send a command to a desk and wait for its outcome; exit 1 where the desk did not accept it.

    The body is checked before anything is sent. A command that is sent again with the same client and number has one
    effect: it is answered with its first outcome.

    Examples:

        tapehouse send order.submit '{"instrument":"AMZN","side":"buy","price":"220.10","size":100}' --tape amzn

        tapehouse send order.submit '{"instrument":"AMZN","side":"sell","type":"stop","stop":"219","size":100}'

        tapehouse send order.mass_cancel '{"account":"manual"}' --client ops --number 7

        tapehouse send risk.set_limits '{"account":"manual","order_size":500,"position":2000}'

        tapehouse send kill.switch '{"scope":"all"}'

        tapehouse send strategy.configure '{"parameters":{"spread_ticks":3}}'

        tapehouse send instrument.register '{"symbol":"GOLD","venue":"internal","tick_size":"0.5"}'

        tapehouse send --list

        tapehouse send order.submit --list

    Parameters
    ----------
    type
        Such as `order.submit`; `--list` shows all.
    body
        Its fields as JSON; without it, standard input is read.
    tape
        Which desk: that of this tape.
    client
        Who sends it; a fresh name by default.
    number
        The how-manieth command of this client; the next one by default.
    timeout
        Seconds to wait for the outcome.
    list_types
        Show the types of commands and their fields, or those of one type, and send nothing.
    nats
        The broker; else what the environment or the embedded cluster says.
    json
        One line of JSON.
    """
    from tapehouse.cli.cmd_sql import read_piped
    from tapehouse.cli.output import run_async
    from tapehouse.client import AsyncClient
    from tapehouse.client.commands import make_command
    from tapehouse.core.errors import UsageError

    if list_types:
        return _list(type, json=json)
    if type is None:
        raise UsageError("a command has a type and a body", hint="see tapehouse send --list")
    if number is not None and client is None:
        raise UsageError("--number says nothing without --client", hint="a number is one client's")
    fields = _read_body(body if body is not None else read_piped("the body", "see tapehouse send --list"))
    make_command(type, fields, command_id="check", client=client or "", number=number or 0, time_ns=0)

    async def run() -> Outcome:
        async with await AsyncClient.open(nats, client=client) as desk:
            return await desk.send(type, fields, tape=tape, timeout=timeout, number=number)

    outcome = run_async(run())
    _tell(outcome, json=json)
    return 0 if outcome.accepted else EXIT_NOT_ACCEPTED


def _tell(outcome: Outcome, *, json: bool) -> None:
    from tapehouse.cli.output import console, print_json

    if json:
        print_json(dataclasses.asdict(outcome))
        return
    first = f" (first {outcome.first})" if outcome.first else ""
    order = f", order {outcome.order_id}" if outcome.order_id else ""
    instrument = f", instrument {outcome.instrument}" if outcome.instrument else ""
    count = f", {outcome.count:,} orders cancelled" if outcome.count else ""
    tag = f", tag {outcome.tag}" if outcome.tag else ""
    reason = f": {outcome.reason}" if outcome.reason else ""
    what = f"{outcome.outcome}{first}{order}{instrument}{count}{tag}{reason}"
    console.print(f"{what}, at ordinal {outcome.position}", highlight=False, markup=False)


def _read_body(text: str) -> dict[str, Any]:
    from tapehouse.core.errors import DataError

    try:
        fields = json_module.loads(text)
    except ValueError as error:
        raise DataError(f"no JSON: {error}", subject="the body", hint="quote it for the shell: '{...}'") from None
    if not isinstance(fields, dict):
        raise DataError("no JSON object", subject="the body", hint='such as {"account":"manual"}')
    return fields


def _list(only: str | None, *, json: bool) -> int:
    """Every type of command with its fields."""
    from tapehouse.cli.output import console, print_json, print_table
    from tapehouse.desk.commands import COMMANDS

    names = COMMANDS.names() if only is None else [only]
    schemas = {name: COMMANDS.model(name).model_json_schema() for name in names}
    if json:
        print_json(schemas)
        return 0
    for name, schema in schemas.items():
        version = f", version {COMMANDS.version(name)}" if COMMANDS.version(name) > 1 else ""
        console.print(f"\n{name}: {schema.get('description', '')}{version}", highlight=False, markup=False)
        required = schema.get("required", [])
        fields = sorted(schema.get("properties", {}).items(), key=lambda field: field[0] not in required)
        rows = [(field, _kind(told), _given(told, required=field in required)) for field, told in fields]
        if rows:
            print_table("", ("field", "what", ""), rows)
        else:
            console.print("no fields: send '{}'", highlight=False)
    return 0


def _given(told: dict[str, Any], *, required: bool) -> str:
    """Whether a field must be given, or what it is where it is not."""
    if required:
        return "required"
    usual = told.get("default")
    return "optional" if usual in (None, "") else f"default {json_module.dumps(usual)}"


def _kind(told: dict[str, Any]) -> str:
    """A field's schema in a few words."""
    options = [option for option in told.get("anyOf", [told]) if option.get("type") != "null"]
    kinds = [option.get("type", "") for option in options]
    if "enum" in options[0]:
        kind = " or ".join(json_module.dumps(value) for value in options[0]["enum"])
    elif kinds[:2] == ["number", "string"]:
        kind = "decimal"
    else:
        kind = " or ".join(dict.fromkeys(kinds))
    return f"{kind}, {told['description']}" if "description" in told else kind
