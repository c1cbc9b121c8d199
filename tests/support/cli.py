"""The command line as a user runs it: processes of its own, a home of its own, and nothing left behind."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import tapehouse.cli.main

TIMEOUT_S = 90.0
WARM_TIMEOUT_S = 280.0  # kernels are compiled once on a machine
WAIT_S = 40.0
_NOT_OURS = ("NATS_", "AWS_", "TAPEHOUSE_TRACEBACK")
EXCERPT = "excerpt_AAPL_2012-06-21_34200000_57600000_{role}_10.csv"
ESH4 = "databento/nautilus/esh4-glbx-mdp3-20231225.mbo.dbn.zst"


@dataclass(frozen=True, slots=True)
class Done:
    """One command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its standard output, which must be exactly one line of JSON."""
        lines = self.out.splitlines()
        assert len(lines) == 1, self
        return json.loads(lines[0])


class Shell:
    """Runs commands with one home directory, as one user would on one machine."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        self.environment = environment

    def start(self, *arguments: object, module: str = "tapehouse.cli", **options: Any) -> subprocess.Popen[str]:
        """Start a command in a group of its own and return at once."""
        _compile_kernels()
        return subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(TAPEHOUSE_HOME=str(self.home), **self.environment),
            process_group=0,
            **options,
        )

    def run(self, *arguments: object, code: int | None = 0, timeout_s: float = TIMEOUT_S, **options: Any) -> Done:
        """Run a command to its end; it must leave with `code` (None: any)."""
        child = self.start(*arguments, **options)
        try:
            out, err = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            out, err = child.communicate()
            raise AssertionError(f"{arguments} still ran after {timeout_s} s\n{out}\n{err}") from None
        done = Done(child.returncode, out, err)
        assert code is None or done.code == code, f"{arguments} left with {done.code}\n{out}\n{err}"
        assert "Traceback" not in err, err
        return done

    def json(self, *arguments: object, code: int = 0, timeout_s: float = TIMEOUT_S) -> Any:
        """Run a command with --json; its one line, and silence beside it."""
        done = self.run(*arguments, "--json", code=code, timeout_s=timeout_s)
        assert done.err == "" or code, done
        return done.json

    def refused(self, *arguments: object, code: int, timeout_s: float = TIMEOUT_S) -> str:
        """Run a command that must fail: nothing on standard output, one line on standard error, which is returned."""
        done = self.run(*arguments, code=code, timeout_s=timeout_s)
        assert done.out == "", done
        return one_line(done.err)

    @property
    def inside(self) -> Shell:
        """The same user's commands run in this process, for those whose own process is not what is tested."""
        return _InsideShell(self.home, **self.environment)

    @contextmanager
    def cluster(self, *, nodes: int = 1, profile: str = "fast", host: bool = False) -> Iterator[dict[str, Any]]:
        """A cluster from `up` to `down`; yields what `up --json` told."""
        try:
            options = () if host else ("--no-host",)
            yield self.json("up", "--nodes", nodes, "--profile", profile, "--port", 0, *options)
        finally:
            self.run("down", code=None)
            assert_gone(self.home)


class _InsideShell(Shell):
    """Commands in this process: a hundred times quicker to start."""

    def run(self, *arguments: object, code: int | None = 0, timeout_s: float = TIMEOUT_S, **options: Any) -> Done:
        assert not options, "a command in this process takes this process's directory"
        out, err = io.StringIO(), io.StringIO()
        wanted = environment(TAPEHOUSE_HOME=str(self.home), **self.environment)
        with redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
            for name in set(os.environ) - set(wanted):
                patch.delenv(name)
            for name, value in wanted.items():
                patch.setenv(name, value)
            left = tapehouse.cli.main.run([str(argument) for argument in arguments])
        done = Done(left, out.getvalue(), err.getvalue())
        assert code is None or done.code == code, f"{arguments} left with {done.code}\n{done.out}\n{done.err}"
        assert "Traceback" not in done.err, done.err
        return done


def environment(**more: str) -> dict[str, str]:
    """This process's environment without what could lead a command to another broker or store."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_OURS)}
    return {**kept, **more}


def one_line(text: str) -> str:
    """What a failed command said: one line for the user."""
    lines = text.splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("tapehouse: "), text
    return lines[0].removeprefix("tapehouse: ")


def alive(pid: int) -> bool:
    """Whether a process still runs; one that has ended and that nobody has asked about does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def processes_of(place: Path) -> dict[int, str]:
    """The processes whose command line names a directory or anything below it."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"{place}/" in f"{command}/".replace(" ", "/ ") and alive(int(entry.name)):
            found[int(entry.name)] = command
    return found


def assert_gone(place: Path) -> None:
    """Every process that works below a directory has ended, or does so at once."""
    until(lambda: not processes_of(place), f"processes left: {processes_of(place)}", timeout_s=10.0)


def until(condition: Any, message: str, *, timeout_s: float = WAIT_S) -> None:
    """Wait until a condition holds, at most `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.05)


def excerpt(market_data: Path) -> tuple[Path, Path]:
    """A real LOBSTER message and book file: the first 999 rows of AAPL's day."""
    message, book = (market_data / "lobster" / EXCERPT.format(role=role) for role in ("message", "orderbook"))
    return message, book


def written(directory: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write files into a fresh directory; their paths in order."""
    directory.mkdir(parents=True)
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return [directory / name for name in files]


@cache
def _compile_kernels() -> None:
    command = [sys.executable, "-m", "tapehouse.cli", "doctor", "--warm", "--json"]
    subprocess.run(command, check=True, timeout=WARM_TIMEOUT_S, stdout=subprocess.DEVNULL, env=environment())
