"""Golden files of command and event bodies: what each version looked like, and the checker that holds code to it.

A folder holds `<type>-v<N>.json` (bodies as they were written by version N, never edited), `newest.json` (how each of
them is read today, renewed on purpose when a type gets a new version) and `hashes.txt` (BLAKE3 of each file).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from blake3 import blake3

from tapehouse.core.errors import DataError
from tapehouse.log import Envelope, Registry

NEWEST, HASHES = "newest.json", "hashes.txt"
_NAME = re.compile(r"([a-z][a-z0-9_.]*)-v([1-9][0-9]*)\.json")
Bodies = list[dict[str, Any]]


def stored(kind: str, version: int, body: dict[str, Any]) -> bytes:
    """A body in an envelope, as it is on a log."""
    return Envelope(id="golden", type=kind, version=version, correlation="golden", time=1, body=body).encode()


def read_today(registry: Registry, kind: str, version: int, bodies: Bodies) -> Bodies:
    """What bodies of a version are in the newest one; raises DataError where one cannot be read."""
    return [registry.decode(stored(kind, version, body))[1].model_dump(mode="json") for body in bodies]


def files_of(folder: Path) -> dict[str, tuple[str, int]]:
    """The golden files of a folder: name to type and version."""
    found = {path.name: _NAME.fullmatch(path.name) for path in sorted(folder.glob("*-v*.json"))}
    return {name: (match[1], int(match[2])) for name, match in found.items() if match}


def problems(folder: Path, registry: Registry) -> list[str]:
    """Everything about a folder that is not as it must be; empty where all is well."""
    wrong = []
    files = files_of(folder)
    wanted = {(kind, version) for kind in registry.names() for version in range(1, registry.version(kind) + 1)}
    wrong += [f"{kind} version {version} has no golden file" for kind, version in sorted(wanted - set(files.values()))]
    wrong += [f"{name} is of a version that nobody registered" for name in files if files[name] not in wanted]
    hashes = dict(line.split() for line in (folder / HASHES).read_text().splitlines())
    newest = json.loads((folder / NEWEST).read_text())
    for name in sorted(hashes.keys() - files.keys()):
        wrong.append(f"{name} is gone")
    for name, (kind, version) in files.items():
        data = (folder / name).read_bytes()
        if hashes.get(name) != blake3(data).hexdigest():
            wrong.append(f"{name} was edited, or is not in {HASHES}")
        bodies = json.loads(data)
        if not bodies:
            wrong.append(f"{name} holds no body")
        try:
            today = read_today(registry, kind, version, bodies)
        except DataError as error:
            wrong.append(f"{name} can no longer be read: {error}")
            continue
        if newest.get(name) != today:
            wrong.append(f"{name} is read otherwise than {NEWEST} says")
    return wrong


def write(folder: Path, registry: Registry, examples: dict[str, dict[int, Bodies]]) -> list[str]:
    """Write the files that are not there yet, and what all of them are read as today; returns the new names."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for kind, versions in examples.items():
        for version, bodies in versions.items():
            path = folder / f"{kind}-v{version}.json"
            if not path.exists():
                read_today(registry, kind, version, bodies)
                path.write_text(json.dumps(bodies, indent=1, sort_keys=True) + "\n")
                made.append(path.name)
    hashes = folder / HASHES
    known = hashes.read_text() if hashes.exists() else ""
    added = [f"{name} {blake3((folder / name).read_bytes()).hexdigest()}\n" for name in made]
    hashes.write_text("".join(sorted([*known.splitlines(keepends=True), *added])))
    newest = {
        name: read_today(registry, kind, version, json.loads((folder / name).read_text()))
        for name, (kind, version) in files_of(folder).items()
    }
    (folder / NEWEST).write_text(json.dumps(newest, indent=1, sort_keys=True) + "\n")
    return made
