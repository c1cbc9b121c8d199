"""`tapehouse out`: a desk's events as the stream OUT has them for any language."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from tapehouse.app.bootstrap import Platform

EXIT_BEHIND = 1
ROWS_MAX = 10_000  # of a table; --json has no end


def out(
    *,
    tape: str = "main",
    type: str | None = None,
    from_position: int = 0,
    follow: bool = False,
    check: Annotated[bool, Parameter(negative="")] = False,
    nats: str | None = None,
    json: bool = False,
) -> int:
    """Show what a desk decided, each event once and in order, as the stream OUT has it.

    Programs in any language read the same messages on the subjects `out.v1.<tape>.<type>`.

    Examples:

        tapehouse out --type order.filled

        tapehouse out --follow --json | jq .body

        tapehouse out --check

    Parameters
    ----------
    tape
        Whose desk.
    type
        Such as `order.filled`; all by default.
    from_position
        Events at this ordinal of EVENTS and after it.
    follow
        Go on with what comes, until Ctrl-C.
    check
        Hold OUT against EVENTS instead: exit 1 where it is behind, 4 where it differs.
    nats
        The broker; else what the environment or the embedded cluster says.
    json
        One line of JSON for each event, as it was published.
    """
    from tapehouse.app.bootstrap import open_platform
    from tapehouse.cli.output import run_async
    from tapehouse.core.errors import UsageError

    if from_position < 0:
        raise UsageError(f"{from_position} is no ordinal", subject="--from-position", hint="0 or more")

    async def run() -> int:
        async with open_platform(nats) as platform:
            if check:
                return await _check(platform, tape, json=json)
            return await _show(platform, tape, type, from_position, follow=follow, json=json)

    return run_async(run())


async def _show(
    platform: Platform, tape: str, kind: str | None, from_position: int, *, follow: bool, json: bool
) -> int:
    from tapehouse.app.out import read_out
    from tapehouse.cli.output import console, diagnostics, print_json, print_table

    await platform.tape(tape)  # Says so where there is none, and which there are.
    rows: list[tuple[object, ...]] = []
    more = 0
    async for event in read_out(await platform.out(), tape, kind=kind, from_position=from_position, follow=follow):
        if json:
            print_json(event.event)
        elif follow:
            console.print("  ".join(str(each) for each in _row(event.event)), highlight=False, soft_wrap=True)
        elif len(rows) < ROWS_MAX:
            rows.append(_row(event.event))
        else:
            more += 1
    if not json and not follow:
        print_table("", ("position", "time", "type", "", "causation"), rows)
        if more:
            diagnostics.print(f"{more} more: --from-position, or --json for all", highlight=False, style="dim")
    return 0


async def _check(platform: Platform, tape: str, *, json: bool) -> int:
    import dataclasses

    from tapehouse.app.out import check_out
    from tapehouse.cli.output import console, print_json

    found = await check_out(tape, await platform.events(tape), await platform.out())
    if json:
        print_json(dataclasses.asdict(found))
    else:
        console.print(
            f"{found.events - found.behind} of {found.events} events are in OUT, byte for byte and in order; "
            f"{found.repeated} came again",
            highlight=False,
        )
    return EXIT_BEHIND if found.behind else 0


def _row(event: dict[str, Any]) -> tuple[object, ...]:
    return event["position"]["events"], event["time"], event["type"], _words(event["body"]), event["causation"]


def _words(body: dict[str, Any]) -> str:
    """What happened, in a few words; the rest is in the JSON."""
    shown = ("account", "side", "size", "left", "instrument", "price", "liquidity", "outcome", "reason")
    said = [f"left {body[name]}" if name == "left" else str(body[name]) for name in shown if body.get(name)]
    order = [f"order {body['order_id']}"] if body.get("order_id") else []
    return " ".join(said + order)
