"""The command line itself: exit codes, one line for every error, help that is quick and has examples."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tapehouse.cli import main as cli
from tapehouse.core import errors

# What a page of help may not wait for: each costs more than all of the command line itself.
HEAVY = ("numba", "numpy", "polars", "duckdb", "nats", "pandas", "pyarrow", "matplotlib", "aiobotocore", "scipy")
MODULES_MAX = 900  # imported for a page of help


class Failing:
    """A command whose work is replaced by an error."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch

    def run(self, error: BaseException | int | None) -> int:
        def work(*, home: Path | None = None, json: bool = False) -> int | None:
            if isinstance(error, BaseException):
                raise error
            return error

        self._patch.setattr("tapehouse.cli.cmd_up.down", work)
        return cli.run(["down"])


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Failing:
    return Failing(monkeypatch)


@pytest.fixture(autouse=True)
def warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """No command says that it compiles: whether this machine has is not what these tests are about."""
    monkeypatch.setattr("tapehouse.app.warm.is_warm", lambda: True)


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error; nothing on standard output."""
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("tapehouse: ")
    return line.removeprefix("tapehouse: ")


# Exit codes.


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvariantError, 1),
        (errors.ConflictError, 1),
        (errors.StrategyError, 1),
        (errors.UsageError, 2),
        (errors.MissingError, 3),
        (errors.BusUnavailableError, 3),
        (errors.StoreThrottledError, 3),
        (errors.DataError, 4),
        (errors.DecodeError, 4),
        (errors.GapError, 4),
        (errors.IntegrityError, 4),
    ],
)
def test_each_error_has_its_code_and_one_line(
    failing: Failing, capsys: pytest.CaptureFixture[str], error: type[errors.TapehouseError], code: int
) -> None:
    raised = error("it broke\nin two lines", subject="file.csv", position="line 7", hint="mend it")
    assert failing.run(raised) == code
    assert told(capsys) == "file.csv, line 7: it broke in two lines (mend it)"


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1), (3, 3)])
def test_what_a_command_returns_is_the_code(failing: Failing, returned: int | None, code: int) -> None:
    assert failing.run(returned) == code


def test_an_interrupt(failing: Failing, capsys: pytest.CaptureFixture[str]) -> None:
    assert failing.run(KeyboardInterrupt()) == 130
    assert told(capsys) == "interrupted"


def test_what_the_system_refuses(failing: Failing, capsys: pytest.CaptureFixture[str]) -> None:
    assert failing.run(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/full/disk")) == 3
    assert told(capsys) == "/full/disk: No space left on device (free some space there)"
    assert failing.run(PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/nowhere/x")) == 3
    assert told(capsys) == "/nowhere/x: Permission denied (check its owner and mode)"
    assert failing.run(OSError("something else")) == 3
    assert told(capsys) == "something else"


def test_our_own_bug_is_one_line_and_a_traceback_on_request(
    failing: Failing, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert failing.run(ZeroDivisionError("division by zero")) == 1
    line = told(capsys)
    assert line.startswith("ZeroDivisionError: division by zero (this is a bug: please report it")
    assert "TAPEHOUSE_TRACEBACK" in line
    monkeypatch.setenv("TAPEHOUSE_TRACEBACK", "1")
    assert failing.run(ZeroDivisionError("division by zero")) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


# Wrong usage.


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "there is no command 'nonsense' (see tapehouse --help)"),
        (["recrod", "generated"], "there is no command 'recrod' (did you mean record? see tapehouse --help)"),
        (["dr", "nonsense"], "there is no command 'dr nonsense' (see tapehouse dr --help)"),
        (["dr", "restroe", "x"], "there is no command 'dr restroe' (did you mean dr restore? see tapehouse dr --help)"),
        (["--bogus"], "--bogus"),
        (["up", "--bogus"], "Unknown option: --bogus"),
        (["up", "--nodes", "2"], 'Invalid value "2" for --nodes. Choose from: 1, 3, 5.'),
        (["up", "--profile", "slow"], 'Invalid value "slow" for --profile'),
        (["up", "--port", "x"], 'Invalid value for --port: unable to convert "x" into int.'),
        (["up", "--port", "70000"], "port 70000 (0 for free ports"),
        (["up", "--strategy", "nothing"], "there is no strategy 'nothing' (shipped: maker, watcher"),
        (["record"], "requires an argument"),
        (["record", "nothing"], "there is no format 'nothing' (one of binance, "),
        (["record", "generated", "file"], "a generated day reads no files"),
        (["record", "generated", "--cells", "20"], "1000 to"),
        (["record", "generated", "--tape", ""], "'' is no tape name"),
        (["record", "generated", "--tape", "a b"], "'a b' is no tape name"),
        (["record", "generated", "--strategy", "nothing"], "there is no strategy 'nothing'"),
        (["record", "generated", "--parameters", "{"], "no JSON"),
        (["record", "generated", "--parameters", "[]"], "no JSON object"),
        (["record", "generated", "--parameters", '{"colour": 1}'], "refuses its parameters"),
        (["record", "generated", "--parameters", '{"size": "a"}'], "refuses its parameters"),
        (["record", "lobster"], "LOBSTER data is one or two files, not 0"),
        (["record", "dbn", "a", "b"], "dbn: 2 files (give one file)"),
        (["replay"], "requires an argument"),
        (["replay", "--tape", "A.b"], "'A.b' is no tape name"),
        (["replay", "--tape", "x", "--speed", "0"], "'0' is no speed"),
        (["replay", "--tape", "x", "--speed=-2x"], "'-2x' is no speed"),
        (["replay", "--tape", "x", "--speed", "nan"], "'nan' is no speed"),
        (["replay", "--tape", "x", "--paced-seconds", "-1"], "--paced-seconds: -1 seconds"),
        (["replay", "--tape", "x", "--paced-seconds", "nan"], "--paced-seconds: nan seconds"),
        (["replay", "--tape", "x", "--plot", "x.xyz"], "pictures are PNG"),
        (["prove", "--tape", "", "--nats", "nats://127.0.0.1:1"], "'' is no tape name"),
        (["prove", "--speed", "fast"], "'fast' is no speed"),
        (["status", "--nats", ""], "an empty broker URL"),
        (["status", "--nats", "http://127.0.0.1:1"], "no NATS URL"),
        (["dr", "list", "backups"], "'backups' is no store"),
        (["dr", "verify", "s3://"], "'s3://' names no bucket"),
        (["feeds", "check", "generated", "a"], "a generated day reads no files"),
        (["feeds", "check", "nothing", "a"], "there is no format 'nothing'"),
        (["feeds", "check", "dbn", "a", "--date", "June"], "'June' is no day (write it as 2012-06-21)"),
        (["feeds", "check", "dbn"], "0 files"),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert cli.run(arguments) == 2
    assert said in told(capsys)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["record", "generated", "--strategy", "nothing.py:X"], "nothing.py: there is no such file"),
        (["record", "generated", "--strategy", "nothing:X"], "there is no module 'nothing'"),
        (["record", "generated", "--strategy", "tapehouse.strategies:X"], "no class or function 'X'"),
        (["record", "lobster", "/nowhere.zip"], "/nowhere.zip: there is no such file"),
        (["replay", "--tape", "x", "--plot", "/nowhere/x.png"], "/nowhere: there is no such directory"),
        (["replay", "--tape", "x", "--store", "file:///nowhere"], "no tapehouse repository"),
        (["dr", "list", "s3://bucket/x?endpoint=http://127.0.0.1:1"], "no usable credentials"),
        (["down"], "no cluster runs here"),
        (["status"], "no cluster runs here"),
        (["replay", "--tape", "x"], "no cluster runs here"),
    ],
)
def test_what_is_missing(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.setenv("TAPEHOUSE_HOME", str(tmp_path))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in [name for name in os.environ if name.startswith(("NATS_", "AWS_ACCESS", "AWS_SECRET", "AWS_PROFILE"))]:
        monkeypatch.delenv(name)
    assert cli.run(arguments) == 3
    assert said in told(capsys)


def test_usage_errors_say_where_the_help_is(capsys: pytest.CaptureFixture[str]) -> None:
    cli.run(["dr", "backup", "--bogus"])
    assert told(capsys).endswith("(see tapehouse dr backup --help)")


# Help.


@pytest.mark.parametrize("command", [name.split() for name in cli.COMMANDS], ids=" ".join)
def test_every_command_has_help_with_an_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([*command, "--help"]) == 0
    page = capsys.readouterr().out
    assert "Usage: tapehouse " + " ".join(command) in page
    examples = " ".join(page.split()).partition("xample")[2]
    assert f"tapehouse {' '.join(command)}" in examples
    options = page.partition("Parameters ─")[2] or page.partition("Arguments ─")[2]
    undocumented = [line for line in options.splitlines() if _is_bare(line)]
    assert not undocumented, undocumented


def _is_bare(line: str) -> bool:
    """An option with nothing said about it but its default."""
    words = line.strip("│ *").split()
    if not words or not words[0].startswith("--"):
        return False
    rest = " ".join(word for word in words if not word.startswith("--") and word != word.upper())
    return not rest or rest.startswith(("[default", "[required"))


def test_the_lists_show_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    page = capsys.readouterr().out
    for name in {command.split()[0] for command in cli.COMMANDS}:
        assert f"│ {name} " in page
    assert cli.run(["dr", "--help"]) == 0
    page = capsys.readouterr().out
    for name in ("backup", "list", "restore", "verify"):
        assert f"│ {name} " in page
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out.strip()


def _imported_by(*arguments: str) -> tuple[int, set[str]]:
    """The exit code of a command in a fresh process, and every module that it imported."""
    script = (
        "import sys\nfrom tapehouse.cli.main import run\ncode = run(sys.argv[1:])\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)\nsys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, set(done.stderr.splitlines())


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--help"], 0), (["dr", "--help"], 0), (["record", "--help"], 0), (["nonsense"], 2), (["up", "--bogus"], 2)],
)
def test_help_and_wrong_usage_import_little(arguments: list[str], code: int) -> None:
    left, modules = _imported_by(*arguments)
    assert left == code
    heavy = [name for name in HEAVY if name in modules]
    assert not heavy, heavy
    assert len(modules) < MODULES_MAX
    others = {name for name in modules if name.startswith("tapehouse.cli.cmd_")}
    assert len(others) <= 1, "no other command's module is imported"


def test_the_budget_sees_what_is_imported() -> None:
    """The control: a command that works does import what a page of help may not."""
    _, modules = _imported_by("replay", "--tape", "A.b")
    assert {"numba", "nats"} <= modules


# Whoever reads our output may leave.


def _piped(arguments: list[str], reader: list[str]) -> tuple[int, str, str]:
    with subprocess.Popen(
        [sys.executable, "-m", "tapehouse.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as writing:
        assert writing.stdout is not None
        assert writing.stderr is not None
        taken = subprocess.run(reader, stdin=writing.stdout, capture_output=True, text=True, timeout=60, check=False)
        writing.stdout.close()
        said = writing.stderr.read()
        return writing.wait(60), taken.stdout, said


def test_a_reader_that_leaves_is_no_error() -> None:
    for arguments in (["feeds", "list", "--json"], ["--help"], ["feeds", "list"]):
        code, _, said = _piped(arguments, ["true"])
        assert (code, said) == (0, "")


def test_output_that_cannot_be_written_is_an_error() -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tapehouse.cli", "feeds", "list", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 3
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_main_leaves_signals_alone_in_a_library(monkeypatch: pytest.MonkeyPatch, failing: Failing) -> None:
    """`main([...])` from Python changes nothing about the process that calls it."""
    before: Any = signal.getsignal(signal.SIGTERM)
    failing.run(0)
    assert cli.main(["down"]) == 0
    assert signal.getsignal(signal.SIGTERM) is before
