"""Faults of a drill as a JSON object: what `POST /faults` takes."""

from __future__ import annotations

from typing import Any, TypedDict

from tapehouse.gateway.http_values import bad, duration_ns

_DELAYS = ("write_delay", "view_delay", "snapshot_delay")
_KNOWN = (*_DELAYS, "write_failure", "write_failure_seed")


class Turned(TypedDict, total=False):
    """What `Faults.turn` takes."""

    write_delay_ns: int
    view_delay_ns: int
    snapshot_delay_ns: int
    write_failure: float
    seed: int


def read_faults(members: dict[str, Any]) -> Turned:
    """What is to be changed; delays are times such as `50ms`, 0 for none.

    Raises:
        Refused: A name that is not known, or a value that is none.
    """
    turned: Turned = {}
    for name, value in members.items():
        if name not in _KNOWN:
            raise bad(f"no fault {name[:64]!r}", f"known: {', '.join(_KNOWN)}")
        if name in _DELAYS:
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise bad(f"{name} is no time", "50ms, 2s, or 0 for none")
            ns = duration_ns(str(value), name)
            if name == "write_delay":
                turned["write_delay_ns"] = ns
            elif name == "view_delay":
                turned["view_delay_ns"] = ns
            else:
                turned["snapshot_delay_ns"] = ns
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise bad(f"{name} is no number", "0 to 1, and a whole number for the seed")
        elif name == "write_failure":
            turned["write_failure"] = float(value)
        elif not isinstance(value, int):
            raise bad(f"{name} is no whole number")
        else:
            turned["seed"] = value
    if "seed" in turned and "write_failure" not in turned:
        raise bad("a seed without write_failure", "give both")
    return turned
