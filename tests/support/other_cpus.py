"""Processes that see another CPU: for the compiler (NUMBA_CPU_NAME) and for the C library (GLIBC_TUNABLES)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import PROJECT

# glibc 2.33 renamed the features, so both spellings; unknown ones are ignored. That the mask works is shown by
# `test_the_c_library_does_change_its_bits_so_the_mask_works`.
MASKED = "glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4,-AVX512F,-AVX2_Usable,-FMA_Usable,-FMA4_Usable,-AVX512F_Usable"
# What a process is told, by a name for test output. Kernels for another CPU have a cache directory of their own.
OTHERS: dict[str, dict[str, str]] = {
    "as it is": {},
    "C library without FMA and AVX2": {"GLIBC_TUNABLES": MASKED},
    "kernels for a generic CPU": {"NUMBA_CPU_NAME": "generic"},
    "both": {"GLIBC_TUNABLES": MASKED, "NUMBA_CPU_NAME": "generic"},
}


def words_of(module: str, *arguments: str, environment: dict[str, str], timeout_s: int = 300) -> list[str]:
    """What a module of the tests, run as a program, prints, word by word, with these variables set."""
    inherited = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    run = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=PROJECT, env={**inherited, **environment}, capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


def cpu_flags() -> set[str]:
    """The features of this CPU, as Linux names them."""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return set(found.group(1).split()) if found else set()
