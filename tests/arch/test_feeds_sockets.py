"""Of the feeds room, only `live/` may wait for anything: everything else takes values and gives values."""

from __future__ import annotations

import ast
from pathlib import Path

FEEDS = Path(__file__).resolve().parents[2] / "platform" / "tapehouse" / "feeds"
WAITING = {
    "aiohttp",
    "asyncio",
    "http",
    "select",
    "selectors",
    "socket",
    "socketserver",
    "ssl",
    "threading",
    "urllib.request",
}


def waiting_imports(source: str) -> set[str]:
    """Modules that a source imports and that wait for somebody."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {name for name in names if name in WAITING or name.split(".")[0] in WAITING}
        if any(name.startswith("tapehouse.feeds.live") for name in names):
            found.add("tapehouse.feeds.live")
    return found


def test_only_live_has_sockets() -> None:
    files = [path for path in FEEDS.rglob("*.py") if path.parent.name != "live"]
    assert len(files) > 20
    assert {path.name: waiting_imports(path.read_text()) for path in files if waiting_imports(path.read_text())} == {}
    assert any(waiting_imports(path.read_text()) for path in (FEEDS / "live").glob("*.py"))


def test_each_of_them_is_found() -> None:
    for name in WAITING:
        assert waiting_imports(f"def late():\n    import {name}\n")
    assert waiting_imports("from urllib import request")
    assert waiting_imports("from tapehouse.feeds.live.server import FeedServer")
    assert not waiting_imports("from urllib.parse import urlsplit\nimport json")
