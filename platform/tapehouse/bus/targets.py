"""Where the broker is: an explicit URL, `NATS_URL`, a NATS context, or the embedded cluster, in this order.

A context counts only when it is named (`context` or `NATS_CONTEXT`): the one selected for the `nats` program may be
production, and `tapehouse demo` must never run there by surprise.
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tapehouse.bus import state as files
from tapehouse.bus.process import is_alive
from tapehouse.bus.server import HOST
from tapehouse.core import BusUnavailableError, MissingError, UsageError

DEFAULT_MONITOR_PORT = 8222


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A broker to connect to.

    Attributes:
        source: Who named it, for messages.
        monitors: Host and port of each server's monitoring, where known or guessable.
        nodes: How many servers there are; None for an external broker.
        options: What else the client library's `connect` takes: credentials, TLS.
    """

    urls: tuple[str, ...]
    source: str
    monitors: tuple[tuple[str, int], ...] = ()
    nodes: int | None = None
    options: dict[str, Any] = field(default_factory=dict)


def resolve_target(
    urls: str | Sequence[str] | None = None, *, context: str | None = None, directory: Path | None = None
) -> Target:
    """Find the broker.

    Raises:
        BusUnavailableError: Nothing names one, and no embedded cluster runs.
        MissingError: The named context, or a file it names, does not exist.
        UsageError: A URL or a context cannot be understood.
    """
    if urls:
        return _external(urls, "the given URL")
    if context:
        return _from_context(context)
    if os.environ.get("NATS_URL"):
        return _external(os.environ["NATS_URL"], "NATS_URL")
    if os.environ.get("NATS_CONTEXT"):
        return _from_context(os.environ["NATS_CONTEXT"])
    return _embedded((directory or files.default_directory()).absolute())


def _embedded(directory: Path) -> Target:
    state = files.load_state(directory)
    if state is None or not any(is_alive(node.process) for node in state.nodes):
        raise BusUnavailableError("no cluster runs here", subject=str(directory), hint="start one with tapehouse up")
    return Target(
        urls=tuple(state.urls),
        source=f"the embedded cluster in {directory}",
        monitors=tuple((HOST, node.monitor_port) for node in state.nodes),
        nodes=len(state.nodes),
    )


def _external(urls: str | Sequence[str], source: str, options: dict[str, Any] | None = None) -> Target:
    listed = [url.strip() for url in urls.split(",")] if isinstance(urls, str) else list(urls)
    monitors = []
    for url in listed:
        spelled = url if "://" in url else f"nats://{url}"
        try:
            parts = urlsplit(spelled)
            port = parts.port  # Read to have it checked.
        except ValueError as error:
            raise UsageError(f"{url!r} is no NATS URL: {error}", subject=source) from None
        if parts.scheme not in ("nats", "tls", "ws", "wss") or not parts.hostname or port == 0:
            raise UsageError(f"{url!r} is no NATS URL", subject=source, hint="such as nats://127.0.0.1:4222")
        monitors.append((parts.hostname, DEFAULT_MONITOR_PORT))
    return Target(urls=tuple(listed), source=source, monitors=tuple(monitors), options=options or {})


def _from_context(name: str) -> Target:
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    path = Path(name) if name.endswith(".json") else Path(base) / "nats" / "context" / f"{name}.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingError(f"there is no NATS context {name!r}", subject=str(path), hint="nats context ls") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"NATS context {name!r} cannot be read: {error}", subject=str(path)) from error
    if not isinstance(raw, dict):
        raise UsageError(f"NATS context {name!r} is no JSON object", subject=str(path))
    return _external(str(raw.get("url") or "nats://127.0.0.1:4222"), f"NATS context {name!r}", _options(raw, path))


def _options(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for key in ("user", "password", "token"):
        if raw.get(key):
            options[key] = str(raw[key])
    if raw.get("creds"):
        options["user_credentials"] = _file(raw["creds"], path)
    if raw.get("nkey"):
        options["nkeys_seed"] = _file(raw["nkey"], path)
    if raw.get("inbox_prefix"):
        options["inbox_prefix"] = str(raw["inbox_prefix"])
    if raw.get("ca") or raw.get("cert"):
        context = ssl.create_default_context(cafile=_file(raw["ca"], path) if raw.get("ca") else None)
        if raw.get("cert"):
            context.load_cert_chain(_file(raw["cert"], path), _file(raw["key"], path) if raw.get("key") else None)
        options["tls"] = context
    return options


def _file(name: Any, context: Path) -> str:
    path = Path(str(name)).expanduser()
    if not path.is_file():
        raise MissingError(f"the file {path} is not there", subject=str(context))
    return str(path)
