"""Where a process spends its time (py-spy) and its memory (memray): of a running one, or of a command from its start.

Both tools are programs of their own, brought by `tapehouse[profile]`; here they are found, called with the options that
fit a desk, and what they say when they fail is turned into one line that names the fix. py-spy reads the other process
from outside, so the profiled one is neither changed nor stopped for longer than a sample; memray must run inside it.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tapehouse.core.errors import MissingError, UsageError

SECONDS_DEFAULT = 10.0
SECONDS_MAX = 3600.0
STOP_TIMEOUT_S = 30.0  # how long a command may take to end, and memray to write, after it was asked to
_ATTACH_TIMEOUT_S = 60.0
_RENDER_TIMEOUT_S = 600.0
_RATE_PER_SECOND = 100
_INSTALL = "pip install 'tapehouse[profile]'"
_PTRACE_SCOPE = Path("/proc/sys/kernel/yama/ptrace_scope")
_ADDRESS = re.compile(rb"(?<![\w/])(0x[0-9a-f]{6,16}) \(\?\)")
_NOT_THE_CAUSE = ("stack backtrace", "caused by", "usage:", "for more information")


def find_tool(name: str) -> str:
    """The program beside this Python, else on PATH.

    Raises:
        MissingError: It is not installed.
    """
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise MissingError(f"{name} is not installed", hint=_INSTALL)
    return found


def check_process(pid: int) -> None:
    """Refuse a process that there is not, or that is not ours.

    Raises:
        MissingError: It has ended, or belongs to somebody else.
    """
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError) as error:
        hint = "it may have ended; --tape NAME finds the host of a tape"
        raise MissingError("there is no such process", subject=str(pid), hint=hint) from error
    except PermissionError as error:
        raise MissingError("may not look into the process", subject=str(pid), hint=permission_hint()) from error


def check_output(output: Path, suffix: str) -> None:
    """Refuse a place that can't be written to before anything takes its time.

    Raises:
        UsageError: The name's ending is not that of what will be written.
        MissingError: The directory is not there.
    """
    if output.suffix != suffix:
        raise UsageError(f"what is written is {suffix[1:].upper()}", subject=str(output), hint=f"end it with {suffix}")
    if not output.absolute().parent.is_dir():
        raise MissingError("there is no such directory", subject=str(output.absolute().parent), hint="make it first")


def permission_hint() -> str:
    """What lets one process look into another on this machine."""
    same = "run as the user of that process, or as root"
    try:
        scope = int(_PTRACE_SCOPE.read_text(encoding="ascii"))
    except (OSError, ValueError):
        scope = 0
    if scope == 0:
        return f"{same}; in a container add the capability SYS_PTRACE"
    return f"{same}; kernel.yama.ptrace_scope is {scope}: sudo sysctl kernel.yama.ptrace_scope=0"


def profile_process(pid: int, output: Path, *, seconds: float, native: bool = True) -> None:
    """Write the flamegraph of a running Python process, an SVG.

    Raises:
        MissingError: py-spy, the process, or the right to look into it is not there; or the process only waited.
        UsageError: It is no Python process.
    """
    check_process(pid)
    _spy(["--pid", str(pid)], output, seconds=seconds, native=native)


def profile_command(command: Sequence[str], output: Path, *, seconds: float | None, native: bool = True) -> None:
    """Run a command, and write the flamegraph of it and of the Python processes that it starts.

    Args:
        seconds: Stop it after so long; None lets it run to its end.

    Raises:
        MissingError: py-spy or the command is not there, or it only waited.
        UsageError: It is no Python program.
    """
    _spy(["--subprocesses", "--", *_resolved(command)], output, seconds=seconds, native=native)


def profile_memory_of_process(pid: int, output: Path, *, seconds: float) -> None:
    """Write the flamegraph of what a running process allocates meanwhile, HTML; gdb or lldb must be there.

    Raises:
        MissingError: memray, a debugger, the process, or the right to look into it is not there.
    """
    memray = find_tool("memray")
    check_process(pid)
    with tempfile.TemporaryDirectory(prefix="tapehouse-profile-") as scratch:
        record = Path(scratch, "allocations.bin")
        attach = [memray, "attach", "--output", str(record), str(pid)]
        _fail_for(_finished(attach, _ATTACH_TIMEOUT_S), pid)
        try:
            _wait_while_alive(pid, seconds)
        finally:
            detached = _finished([memray, "detach", str(pid)], _ATTACH_TIMEOUT_S)
        if detached.returncode:
            check_process(pid)  # One that has ended has written its record; what else failed is told.
            _fail_for(detached, pid)
        _render_memory(memray, record, output)


def profile_memory_of_command(command: Sequence[str], output: Path, *, seconds: float | None) -> None:
    """Run a Python program, and write the flamegraph of its memory at its peak, HTML.

    Raises:
        MissingError: memray or the command is not there.
        UsageError: It is no Python program.
    """
    memray = find_tool("memray")
    arguments = _python_arguments(_resolved(command))
    with tempfile.TemporaryDirectory(prefix="tapehouse-profile-") as scratch:
        record = Path(scratch, "allocations.bin")
        run = [memray, "run", "--quiet", "--output", str(record), *arguments]
        with subprocess.Popen(run, start_new_session=True, stdout=2) as process:
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                _end(process, signal.SIGINT)
            finally:
                _end(process, signal.SIGKILL)
        if not record.exists() or record.stat().st_size == 0:
            raise MissingError("the command ended before anything was recorded", subject=" ".join(command))
        _render_memory(memray, record, output)


def _spy(target: list[str], output: Path, *, seconds: float | None, native: bool) -> None:
    """Sample with py-spy; where it can't read native stacks on this machine, without them."""
    options = [find_tool("py-spy"), "record", "--format", "flamegraph", "--rate", str(_RATE_PER_SECOND)]
    options += ["--output", str(output)]
    options += ["--duration", str(max(1, round(seconds)))] if seconds is not None else []
    run = _finished([*options, *(["--native"] if native else []), *target], None)
    if run.returncode and native and "--native" in run.stderr:  # Refused as an option, before anything was started.
        run = _finished([*options, *target], None)
    subject = target[-1] if target[0] == "--pid" else " ".join(target[2:])
    _fail_for(run, subject)
    if not output.exists():
        raise MissingError("nothing was sampled", subject=subject, hint="it only waited: profile it for longer")
    if target[0] != "--pid":  # What the command itself said there.
        sys.stderr.writelines(line for line in run.stderr.splitlines(True) if not line.startswith(("py-spy>", "\n")))
    # What was compiled at run time has no names: say so instead of showing bare addresses.
    output.write_bytes(_ADDRESS.sub(rb"machine code \1", output.read_bytes()))


def _finished(command: Sequence[str], timeout_s: float | None) -> subprocess.CompletedProcess[str]:
    """A tool run to its end, its complaints kept; what goes to its standard output, or a command's, goes to our error.

    Raises:
        MissingError: It did not end in time.
    """
    try:
        return subprocess.run(
            command, stdout=2, stderr=subprocess.PIPE, text=True, errors="replace", timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise MissingError(f"{Path(command[0]).name} did not answer", hint="try again, or for less long") from error


def _fail_for(run: subprocess.CompletedProcess[str], subject: object) -> None:
    """Raise what a tool's complaint means, in one line with its fix."""
    if run.returncode == 0:
        return
    complaint = run.stderr[max(0, run.stderr.find("Error: ")) :]  # A profiled command may have spoken before.
    said = complaint.lower()
    name = str(subject)
    if "permission denied" in said or "operation not permitted" in said or "ptrace" in said:
        raise MissingError("may not look into the process", subject=name, hint=permission_hint())
    if "gdb" in said or "lldb" in said or "debugger" in said:
        hint = "apt install gdb, or profile from the start: tapehouse profile --memory -- COMMAND"
        raise MissingError("memray needs a debugger to enter a running process", subject=name, hint=hint)
    if "no stack counts" in said:
        raise MissingError("nothing was sampled", subject=name, hint="it only waited: profile it for longer")
    if "process executable name" in said or "no such process" in said:
        raise MissingError("the process has ended", subject=name, hint="profile it sooner, or for less long")
    if "python version" in said or "no python processes" in said:
        raise UsageError("that is no Python process", subject=name, hint="only Python is profiled")
    lines = [line.strip() for line in complaint.splitlines() if line.strip()]
    told = [line for line in lines if not line.lower().startswith(_NOT_THE_CAUSE)]
    raise MissingError(told[0] if told else "no output", subject=name, hint=f"said by {Path(run.args[0]).name}")


def _resolved(command: Sequence[str]) -> list[str]:
    """A command with its program found.

    Raises:
        MissingError: There is no such program.
    """
    beside = Path(sys.executable).parent / command[0]
    found = str(beside) if os.sep not in command[0] and beside.exists() else shutil.which(command[0])
    if found is None:
        raise MissingError("there is no such program", subject=command[0], hint="give its path, or check PATH")
    return [found, *command[1:]]


def _python_arguments(command: list[str]) -> list[str]:
    """What follows `python` where a command is a Python program: memray runs that itself."""
    program = Path(command[0])
    if re.fullmatch(r"python[\d.]*", program.name):
        return command[1:]
    with open(program, "rb") as file:
        first = file.readline(256)
    if first.startswith(b"#!") and b"python" in first:
        return command
    raise UsageError("that is no Python program", subject=command[0], hint="memory is recorded of Python alone")


def _wait_while_alive(pid: int, seconds: float) -> None:
    """Until the time is over or the process has ended."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(min(left, 0.1))


def _end(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to a command and to what it started, where it still runs, and wait for it."""
    if process.poll() is None:
        os.killpg(process.pid, number)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _render_memory(memray: str, record: Path, output: Path) -> None:
    command = [memray, "flamegraph", "--force", "--output", str(output), str(record)]
    _fail_for(_finished(command, _RENDER_TIMEOUT_S), output)
