"""The peers of the replicated KV that no package brings, built from Go source: etcd, rqlite, and the load for both.

`make peers` builds them (minutes, once for a machine) into the cache outside the work tree; a benchmark only looks
there. Their versions are pinned by the `go.mod` and `go.sum` below `peers/`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tapehouse.app.bench.peer import SCRIPTS
from tapehouse.app.go_tools import built_program, sources_digest, tools_directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One program of Go.

    Attributes:
        binary: What `go` calls it.
        module: Where its sources or pins are, below `peers/`.
        package: What is built.
        of: The module whose version it has.
        has_c: A C compiler is needed.
    """

    binary: str
    module: str
    package: str
    of: str
    has_c: bool = False

    @property
    def source(self) -> Path:
        """Its Go module."""
        return SCRIPTS / self.module

    @property
    def cached_name(self) -> str:
        """Its file in the cache; other sources have another."""
        return f"{self.binary}-{sources_digest(self.source)}"

    @property
    def version(self) -> str:
        """As its module pins it."""
        found = re.search(rf"^\s*(?:require )?{re.escape(self.of)} v(\S+)", (self.source / "go.mod").read_text(), re.M)
        return found.group(1) if found else "unknown"

    def find(self) -> Path | None:
        """The built program; None where it was not built."""
        path = tools_directory() / self.cached_name
        return path if os.access(path, os.X_OK) else None

    def build(self) -> Path:
        """The program, built where the cache lacks it.

        Raises:
            ToolError: Go is missing, or the build failed.
        """
        arguments = ["install", "-trimpath", "-buildvcs=false", self.package]
        return built_program(self.cached_name, self.binary, arguments, self.source, has_c=self.has_c)


KV_PEER = Program(binary="kvpeer", module="kv", package=".", of="go.etcd.io/etcd/server/v3")
RQLITED = Program(
    binary="rqlited", module="rqlite", package="github.com/rqlite/rqlite/v8/cmd/rqlited",
    of="github.com/rqlite/rqlite/v8", has_c=True,
)  # fmt: skip

if __name__ == "__main__":
    for program in (KV_PEER, RQLITED):
        print(program.build())
