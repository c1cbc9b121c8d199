"""Which source files a kernel's machine code depends on, and one hash over them.

A constant, an inlined helper, a callee: whatever a file imports from tapehouse, directly or not, may be compiled into
its kernels. So the closure of a file's imports names its machine code; an edit anywhere in it names another.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

DIGEST_BYTES = 10
_DECLARES = re.compile(rb"\bkernel\(|^[ \t]*(?:from|import)[ \t]+numba\b", re.M)
_IMPORT = re.compile(rb"^[ \t]*(?:from|import)[ \t]+tapehouse\.([\w.]+)(?:[ \t]+import[ \t]+(\([^)]*\)|[^\n]*))?", re.M)


def source_roots() -> list[Path]:
    """The directories that make up the `tapehouse` namespace."""
    import tapehouse

    return sorted(Path(entry) for entry in tapehouse.__path__)


class Sources:
    """The source files below some roots, read as they are asked for; a file that changes later is not seen."""

    def __init__(self, roots: Iterable[Path]) -> None:
        self._paths = {path.relative_to(root).as_posix(): path for root in roots for path in sorted(root.rglob("*.py"))}
        self._texts: dict[str, bytes] = {}
        self._imports: dict[str, list[str]] = {}

    def text(self, name: str) -> bytes:
        """The source of a file, by its path below its root."""
        if name not in self._texts:
            self._texts[name] = self._paths[name].read_bytes()
        return self._texts[name]

    def name_of(self, file: str) -> str | None:
        """The path below its root of a file, None where it is below none."""
        path = Path(file)
        return next((name for name, known in self._paths.items() if known == path), None)

    def declaring(self) -> list[str]:
        """Every file that declares kernels."""
        return [name for name in self._paths if _DECLARES.search(self.text(name))]

    def deciding(self) -> list[str]:
        """Those of them whose kernels can decide anything: not the ones of `app`, which only measure."""
        return [name for name in self.declaring() if not name.startswith("app/")]

    def closure(self, *names: str, texts: Iterable[bytes] = ()) -> list[str]:
        """Those files, and all that they (and the `texts` of others) import, directly or not; sorted."""
        found = set(names)
        waiting = list(names)
        for text in texts:
            waiting += self._imported(text)
        found.update(waiting)
        while waiting:
            name = waiting.pop()
            if name not in self._imports:
                self._imports[name] = self._imported(self.text(name))
            for imported in self._imports[name]:
                if imported not in found:
                    found.add(imported)
                    waiting.append(imported)
        return sorted(found)

    def _imported(self, text: bytes) -> list[str]:
        """The files that a text imports; of a name that is no file, the file that it is taken from."""
        imported = []
        for module, members in _IMPORT.findall(text):
            base = module.decode().replace(".", "/")
            paths = [base, *(f"{base}/{member.decode()}" for member in re.findall(rb"\w+", members))]
            names = (f"{path}{end}" for path in paths for end in (".py", "/__init__.py"))
            imported += [name for name in names if name in self._paths]
        return imported

    def digest(self, names: Iterable[str], *, texts: Iterable[bytes] = ()) -> str:
        """One hash over files, by name and content, and over the `texts` of others."""
        hasher = hashlib.blake2b(digest_size=DIGEST_BYTES)
        for name in names:
            text = self.text(name)
            hasher.update(name.encode() + b"\0" + len(text).to_bytes(8, "little") + text)
        for text in texts:
            hasher.update(b"\0" + len(text).to_bytes(8, "little") + text)
        return hasher.hexdigest()
