"""`tapehouse profile` on real processes: the busy function is in the picture, and every failure names its fix."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tapehouse.app import profiling
from tapehouse.cli import main as cli
from tapehouse.core import MissingError, UsageError

PROGRAM = """
import sys, time
def spin_around(until):
    while time.monotonic() < until:
        sum(range(1000))
def keep_many_bytes():
    return [bytearray(100_000) for _ in range(50)]
print("ready", flush=True)
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    kept = keep_many_bytes()
    spin_around(min(end, time.monotonic() + 0.05))
"""
LONG, SHORT = "300", "1.2"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "busy.py"
    path.write_text(PROGRAM)
    return path


@pytest.fixture
def busy(program: Path) -> Iterator[int]:
    """The pid of a process that spins and allocates."""
    with subprocess.Popen([sys.executable, str(program), LONG], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process.pid
        process.kill()


def profiled(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tapehouse.cli", "profile", *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def picture(run: subprocess.CompletedProcess[str]) -> str:
    """What was written, by the JSON line that alone is on standard output."""
    assert run.returncode == 0, run.stderr
    return Path(json.loads(run.stdout)["output"]).read_text()


@pytest.mark.parametrize("options", [(), ("--no-native",)], ids=["native", "python"])
def test_a_running_process(busy: int, tmp_path: Path, options: tuple[str, ...]) -> None:
    svg = picture(profiled(str(busy), "--seconds", "1", "--json", *options, cwd=tmp_path))
    assert svg.startswith("<?xml")
    assert "spin_around (busy.py" in svg
    assert (tmp_path / f"profile-{busy}.svg").exists()
    os.kill(busy, 0)  # It goes on.


def test_a_command_to_its_end(program: Path, tmp_path: Path) -> None:
    run = profiled("--output", "busy.svg", "--json", "--", sys.executable, str(program), SHORT, cwd=tmp_path)
    assert "spin_around" in picture(run)
    assert "ready" in run.stderr


def test_a_command_is_stopped_after_the_seconds(program: Path, tmp_path: Path) -> None:
    run = profiled("--seconds", "1", "--json", "--", sys.executable, str(program), LONG, cwd=tmp_path)
    assert "spin_around" in picture(run)
    assert str(program) not in processes()


def test_the_memory_of_a_command(program: Path, tmp_path: Path) -> None:
    run = profiled("--memory", "--json", "--", "python", str(program), SHORT, cwd=tmp_path)
    assert "keep_many_bytes" in picture(run)


def test_the_memory_of_a_command_that_is_stopped(program: Path, tmp_path: Path) -> None:
    run = profiled("--memory", "--seconds", "2", "--json", "--", sys.executable, str(program), LONG, cwd=tmp_path)
    assert "keep_many_bytes" in picture(run)
    assert str(program) not in processes()


@pytest.mark.skipif(not (shutil.which("gdb") or shutil.which("lldb")), reason="memray enters by a debugger")
def test_the_memory_of_a_running_process(busy: int, tmp_path: Path) -> None:
    html = picture(profiled(str(busy), "--memory", "--seconds", "1", "--json", cwd=tmp_path))
    assert "keep_many_bytes" in html
    os.kill(busy, 0)


def processes() -> str:
    """The command lines of all processes."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # It ended meanwhile.
    return "\n".join(lines)


GONE = "4194305"  # above the largest pid that Linux gives


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "give a process"),
        ((GONE,), 3, f"{GONE}: there is no such process"),
        (("--memory", GONE), 3, "there is no such process"),
        (("1", "--tape", "main"), 2, "give a process"),
        (("--tape", "nobody"), 3, "no host of this tape"),
        (("1", "--seconds", "0"), 2, "1 to 3600"),
        (("1", "--output", "a.png"), 2, "end it with .svg"),
        (("1", "--memory", "--output", "a.svg"), 2, "end it with .html"),
        (("1", "--output", "nowhere/a.svg"), 3, "no such directory"),
        (("--", "no-such-program"), 3, "there is no such program"),
        (("--", "sleep", "3"), 2, "that is no Python process"),
        (("--memory", "--", "sleep", "3"), 2, "that is no Python program"),
    ],
)
def test_every_failure_is_one_line_that_names_the_fix(
    arguments: tuple[str, ...],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["profile", "--json", "--home", str(tmp_path), *arguments]) == code
    captured = capfd.readouterr()
    (line,) = captured.err.splitlines()
    assert said in line
    assert "(" in line, "what to do about it"
    assert captured.out == ""


def test_a_running_process_that_is_not_python(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            with pytest.raises(UsageError, match="no Python process"):
                profiling.profile_process(process.pid, tmp_path / "a.svg", seconds=1)
        finally:
            process.kill()


def test_a_tool_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(profiling.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match=r"py-spy is not installed .pip install 'tapehouse\[profile\]'"):
        profiling.profile_process(os.getpid(), tmp_path / "a.svg", seconds=1)
    with pytest.raises(MissingError, match="memray is not installed"):
        profiling.profile_memory_of_process(os.getpid(), tmp_path / "a.html", seconds=1)


@pytest.mark.parametrize(
    ("complaint", "said"),
    [
        ("Error: Permission Denied: Try running again with elevated permissions", "SYS_PTRACE|ptrace_scope"),
        ("Cannot find a supported lldb or gdb executable.", "apt install gdb"),
        ("Error: no stack counts found", "for longer"),
        ("Error: Failed to get process executable name. Check", "has ended"),
        ("something unheard of", "something unheard of .said by py-spy"),
    ],
)
def test_what_the_tools_complain_of_names_its_fix(complaint: str, said: str) -> None:
    run = subprocess.CompletedProcess(["/bin/py-spy"], 1, stderr=complaint)
    with pytest.raises(MissingError, match=said):
        profiling._fail_for(run, "4711")
    profiling._fail_for(subprocess.CompletedProcess(["/bin/py-spy"], 0, stderr=complaint), "4711")


def test_the_hint_follows_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scope = tmp_path / "ptrace_scope"
    monkeypatch.setattr(profiling, "_PTRACE_SCOPE", scope)
    assert "SYS_PTRACE" in profiling.permission_hint()
    scope.write_text("1\n")
    assert "sysctl kernel.yama.ptrace_scope=0" in profiling.permission_hint()
