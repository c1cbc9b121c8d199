"""The repository's format: a second reader agrees, and a repository written by version 1 stays readable."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tapehouse.core.clock import VirtualClock
from tapehouse.dr.backup import backup
from tapehouse.dr.file_store import FileStore
from tapehouse.dr.repository import MachineSnapshot
from tapehouse.dr.restore import MemoryTarget, restore
from tapehouse.dr.store import ObjectStore
from tapehouse.dr.verify import verify
from tapehouse.log.memory import MemoryLog
from tests.support.logs import OLD_ID, extend, filled, messages_of
from tests.support.second_reader import read_repository

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "formats" / "repository-v1"
REPOSITORY_ID = b"r" * 16
NEW_ID = b"n" * 16


async def write_history(store: ObjectStore) -> list[MemoryLog]:
    """Two backups of two logs, the first of which was restored to an earlier message in between."""
    tape, commands = await filled("TAPE_demo", 30), await filled("CMDS_demo", 4)
    state = {"book": MachineSnapshot(log="TAPE_demo", log_id=OLD_ID, sequence=12, data=b"first state")}
    specs = {"TAPE_demo": {"subjects": ["tape.v1.demo"], "größe": None}}
    await backup([tape, commands], store, state, VirtualClock(1000), specs=specs, new_id=lambda: REPOSITORY_ID)
    target = MemoryTarget()
    await restore(store, target, VirtualClock(), through={"TAPE_demo": 20}, new_id=lambda: NEW_ID)
    tape, commands = target.logs["TAPE_demo"], target.logs["CMDS_demo"]
    await extend(tape, 26, payload=b"after")
    state = {"book": MachineSnapshot(log="TAPE_demo", log_id=NEW_ID, sequence=26, data=b"second state " * 5000)}
    await backup([tape, commands], store, state, VirtualClock(2000), specs=specs)
    return [tape, commands]


async def found_in(logs: list[MemoryLog]) -> dict[str, Any]:
    found = {}
    for log in logs:
        messages = await messages_of(log, 1, (await log.extent()).last)
        found[log.name] = [
            [m.sequence, m.subject, [list(item) for item in sorted(m.headers.items())], m.payload.hex()]
            for m in messages
        ]
    return found


async def test_a_second_reader_reads_what_was_written(tmp_path: Path) -> None:
    logs = await write_history(FileStore(tmp_path))
    read = read_repository(tmp_path)
    assert read["logs"] == await found_in(logs)
    assert read["snapshots"] == {"book": (b"second state " * 5000).hex()}


async def test_the_golden_repository_stays_readable(tmp_path: Path) -> None:
    expected = json.loads((GOLDEN.parent / "repository-v1.json").read_text())
    assert read_repository(GOLDEN)["logs"] == expected["logs"]
    root = tmp_path / "copy"
    shutil.copytree(GOLDEN, root)  # The store makes a lock file beside the objects that it changes.
    store = FileStore(root)
    assert (await verify(store)).sound
    target = MemoryTarget()
    report = await restore(store, target, VirtualClock())
    assert await found_in(list(target.logs.values())) == expected["logs"]
    assert {log.name: log.head.hex() for log in report.logs} == expected["heads"]
    assert target.snapshots == {"book": b"second state " * 5000}
    assert target.specs["TAPE_demo"] == {"subjects": ["tape.v1.demo"], "größe": None}
    branches = (await target.logs["TAPE_demo"].extent()).branches
    assert [branch.through for branch in branches] == [20, 26, None]


async def test_the_same_history_gives_the_same_objects(tmp_path: Path) -> None:
    """Names do not depend on the compressor; so a rerun of version 1 makes the golden repository's keys again."""
    await write_history(FileStore(tmp_path))
    assert names_of(tmp_path) == names_of(GOLDEN)


def names_of(root: Path) -> set[str]:
    """The keys of all objects that are named by what they hold."""
    files = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    return {key for key in files if key.startswith(("segments/", "chunks/"))}
