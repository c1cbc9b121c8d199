"""Which role runs on which cores: read from one line of configuration, applied to the thread that asks.

`TAPEHOUSE_CPUS="engine=1,sidecar=0"`, or the same after `--cpus`: roles by comma, several cores as `2-3` or `0+2`. A
thread that is started later inherits the cores of the one that starts it, so a process pins itself before its threads.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from tapehouse.core.errors import MissingError, UsageError

VARIABLE = "TAPEHOUSE_CPUS"
ROLES = ("engine", "sidecar", "projector", "feed")
CORES_MAX = 4096
_ONLINE = Path("/sys/devices/system/cpu/online")
_EXAMPLE = f"such as {VARIABLE}=engine=1,sidecar=0"

Cores = frozenset[int]


def read_cores(text: str) -> Cores:
    """The cores of a list as Linux writes it: `0-2,5`; `+` does for the comma.

    Raises:
        UsageError: It is no such list.
    """
    found: set[int] = set()
    for part in filter(None, re.split(r"[,+]", text.strip())):
        match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part.strip())
        if match is None:
            raise UsageError(f"{part.strip()!r} is no core", hint="a number, or a range such as 2-3")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < CORES_MAX:
            raise UsageError(f"{part.strip()!r} is no range of cores", hint="a number, or a range such as 2-3")
        found.update(range(first, last + 1))
    return frozenset(found)


def online_cores() -> Cores:
    """The cores that this machine runs."""
    try:
        return read_cores(_ONLINE.read_text(encoding="ascii"))
    except OSError:  # Not Linux, or nothing mounted there.
        return frozenset(range(os.cpu_count() or 1))


def parse(text: str, *, subject: str = VARIABLE) -> dict[str, Cores]:
    """The cores of each role.

    Args:
        subject: Where the text comes from, for errors.

    Raises:
        UsageError: An unknown or repeated role, something that is no core, or a core that this machine has not.
    """
    roles: dict[str, Cores] = {}
    online = online_cores()
    for part in filter(None, (part.strip() for part in text.split(","))):
        role, given, cores = (word.strip() for word in part.partition("="))
        if role not in ROLES:
            raise UsageError(f"there is no role {role!r}", subject=subject, hint=f"{', '.join(ROLES)}; {_EXAMPLE}")
        if role in roles:
            raise UsageError(f"role {role} is there twice", subject=subject, hint="several cores as 2-3 or 0+2")
        try:
            roles[role] = read_cores(cores)
        except UsageError as error:
            raise UsageError(f"{role}: {error}", subject=subject, hint=_EXAMPLE) from error
        if not given or not roles[role]:
            raise UsageError(f"role {role} has no core", subject=subject, hint=_EXAMPLE)
        missing = sorted(roles[role] - online)
        if missing:
            has = f"this machine has {min(online)} to {max(online)}"
            raise UsageError(f"{role}: there is no core {missing[0]}", subject=subject, hint=has)
    return roles


def configured(option: str | None = None, environment: Mapping[str, str] = os.environ) -> dict[str, Cores]:
    """What `--cpus` says, else what the environment says; empty where neither does."""
    if option is not None:
        return parse(option, subject="--cpus")
    return parse(environment.get(VARIABLE, ""))


def pin(role: str, cores: Mapping[str, Cores]) -> Cores | None:
    """Put the calling thread, and those that it will start, onto its role's cores.

    Returns:
        The cores, None where the role has none: then nothing is changed.

    Raises:
        MissingError: The machine has the core, but this process may not use it.
    """
    if role not in ROLES:
        raise UsageError(f"there is no role {role!r}", hint=", ".join(ROLES))
    wanted = cores.get(role)
    if wanted is None:
        return None
    try:
        os.sched_setaffinity(0, wanted)
    except OSError as error:
        given = "a container or cpuset gives this process other cores"
        raise MissingError(f"{role} may not run on {_written(wanted)}", subject=VARIABLE, hint=given) from error
    left_out = wanted - os.sched_getaffinity(0)
    if left_out:
        raise MissingError(
            f"{role} was not given {_written(left_out)}", subject=VARIABLE, hint="a container or cpuset withholds it"
        )
    return wanted


def _written(cores: Cores) -> str:
    return f"core{'s' if len(cores) > 1 else ''} {'+'.join(map(str, sorted(cores)))}"
