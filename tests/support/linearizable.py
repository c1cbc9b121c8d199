"""Whether a recorded history is linearizable, by Porcupine (`linearizer/`, built once from source into the cache).

The model is a register with revisions for each key: a get returns value and revision, a put-if succeeds at its expected
revision and is refused only where another one is found, revisions grow with every write of a key. Ambiguous writes may
have happened at any time after their call, or never. Gets of level `session` and `eventual` are left out: they promise
less, and `consistency.py` checks them. `python -m tests.support.linearizable FILE...` prints the verdicts.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapehouse.app.go_tools import built_program, sources_digest
from tests.support.history import HistoryError

SOURCE = Path(__file__).resolve().parent / "linearizer"
TIME_LIMIT_S = 30.0
MEMORY_MB = 1024
_BAD_INPUT = 3
_GRACE_S = 60  # reading the file and shrinking a violation, beside the search


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the checker says of one history: `ok`, `violation`, or `unknown` where a limit cut the search short."""

    history: str
    result: str
    operations: int
    left_out: int
    keys: int
    seconds: float
    undecided: Sequence[str]
    violation: dict[str, Any] | None
    drawing: str | None = None

    def __str__(self) -> str:
        if self.violation is None:
            keys = f", keys {', '.join(map(repr, self.undecided))} undecided" if self.undecided else ""
            return f"{self.history}: {self.result}, {self.operations} operations on {self.keys} keys{keys}"
        found = self.violation
        lines = [f"{self.history}: key {found['key']!r} is not linearizable: {found['message']}"]
        for title, name in (("culprit", "culprits"), ("then", "linearized"), ("cannot follow", "pending")):
            lines += [f"  {title}: line {each['line']}, {each['client']}: {each['text']}" for each in found[name]]
        return "\n".join([*lines, f"  the key then holds {found['state']}"])


def linearizer_program() -> Path:
    """The checker's program, built where the cache has none of these sources.

    Raises:
        ToolError: Go is missing, or the build failed.
    """
    return built_program(
        f"linearizer-{sources_digest(SOURCE)}", "linearizer", ["install", "-trimpath", "-buildvcs=false", "."], SOURCE
    )


def check_linearizable(path: Path, **limits: Any) -> Verdict:
    """The verdict on one history; see `check_histories`."""
    return check_histories([path], **limits)[0]


def check_histories(
    paths: Sequence[Path],
    *,
    time_limit_s: float = TIME_LIMIT_S,
    memory_mb: int = MEMORY_MB,
    key: str = "",
    drawing: Path | None = None,
) -> list[Verdict]:
    """The verdicts on histories, in their order.

    Args:
        time_limit_s: For each history.
        memory_mb: For the search of one key.
        key: Check this key alone.
        drawing: An HTML file to draw the offending key, or `key`, into.

    Raises:
        HistoryError: A file is no history.
        ToolError: The checker could not be built.
    """
    command = [str(linearizer_program()), f"-time-limit={time_limit_s}s", f"-memory-mb={memory_mb}", f"-key={key}"]
    command += [f"-html={drawing}"] if drawing else []
    done = subprocess.run(
        [*command, "--", *map(str, paths)],
        capture_output=True,
        timeout=(time_limit_s + _GRACE_S) * len(paths),
        check=False,
    )
    if done.returncode == _BAD_INPUT:
        raise HistoryError(done.stderr.decode(errors="replace").strip())
    verdicts = [Verdict(**json.loads(line)) for line in done.stdout.splitlines()]
    results = {verdict.result for verdict in verdicts}
    expected = 1 if "violation" in results else 2 if "unknown" in results else 0
    if done.returncode != expected or len(verdicts) != len(paths):
        raise RuntimeError(f"the checker ended with {done.returncode}: {done.stderr.decode(errors='replace')}")
    return verdicts


def assert_linearizable(path: Path, **limits: Any) -> Verdict:
    """Fail, with the operations that no order explains, unless the history is linearizable.

    Raises:
        AssertionError: It is not, or it was not decided within the limits.
    """
    verdict = check_linearizable(path, **limits)
    assert verdict.result == "ok", str(verdict)
    return verdict


if __name__ == "__main__":
    program = linearizer_program()
    if sys.argv[1:]:
        for each in check_histories([Path(argument) for argument in sys.argv[1:]]):
            print(each)
    else:
        print(program)
