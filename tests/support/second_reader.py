"""A second reader of our stored formats, from docs/formats/segment.md and dr's FORMAT.md alone.

It uses none of tapehouse's code, so that it can disagree with it.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import xxhash
import zstandard
from blake3 import blake3


def read_segment(plain: bytes) -> dict[str, Any]:
    """Everything in a segment's plaintext."""

    def checked(start: int, end: int) -> None:
        assert struct.unpack_from("<Q", plain, end)[0] == xxhash.xxh3_64_intdigest(plain[start:end])

    def counted(at: int) -> tuple[bytes, int]:
        (size,) = struct.unpack_from("<I", plain, at)
        return plain[at + 4 : at + 4 + size], at + 4 + size

    assert plain[0:4] == b"THSG"
    version, name_bytes, first = struct.unpack_from("<HHQ", plain, 4)
    assert version == 1
    head = plain[32:64]
    checked(0, 64 + name_bytes)
    at = 72 + name_bytes
    messages = []
    while struct.unpack_from("<I", plain, at)[0]:
        (length,) = struct.unpack_from("<I", plain, at)
        checked(at, at + 4 + length)
        head = blake3(head + plain[at + 4 : at + 4 + length]).digest()
        (sequence,) = struct.unpack_from("<Q", plain, at + 4)
        assert sequence == first + len(messages)
        subject, inner = counted(at + 12)
        (headers_count,) = struct.unpack_from("<I", plain, inner)
        inner += 4
        headers = []
        for _ in range(headers_count):
            name, inner = counted(inner)
            value, inner = counted(inner)
            headers.append([name.decode(), value.decode()])
        assert headers == sorted(headers, key=lambda pair: pair[0].encode())
        payload, inner = counted(inner)
        assert inner == at + 4 + length
        messages.append([sequence, subject.decode(), headers, payload.hex()])
        at = inner + 8
    count, last = struct.unpack_from("<QQ", plain, at + 4)
    assert count == len(messages)
    assert last == first + count - 1
    assert plain[at + 20 : at + 52] == head
    assert plain[at + 52 :] == blake3(plain[: at + 52]).digest()
    return {
        "name": plain[64 : 64 + name_bytes].decode(),
        "first": first,
        "log_id": plain[16:32].hex(),
        "head_before": plain[32:64].hex(),
        "head_after": head.hex(),
        "messages": messages,
    }


def read_repository(root: Path) -> dict[str, Any]:
    """The newest cut of a repository in a directory: each log's messages and each snapshot's bytes."""
    marker = _canonical_json(root / "tapehouse.json")
    assert (marker["format"], marker["version"]) == ("tapehouse-repository", 1)
    paths = sorted((root / "manifests").iterdir())
    previous = None
    for number, path in enumerate(paths, 1):
        manifest = _canonical_json(path)
        digest = manifest.pop("digest")
        assert digest == blake3(_dump(manifest)).hexdigest()
        assert path.name == f"{number:010d}.json"
        assert (manifest["number"], manifest["previous"]) == (number, previous)
        assert (manifest["format"], manifest["version"]) == ("tapehouse-manifest", 1)
        assert manifest["repository"] == marker["id"]
        previous = blake3(path.read_bytes()).hexdigest()
    return {
        "logs": {log["name"]: _read_log(root, log) for log in manifest["logs"]},
        "snapshots": {snapshot["name"]: _read_snapshot(root, snapshot) for snapshot in manifest["snapshots"]},
    }


def _read_log(root: Path, log: dict[str, Any]) -> list[Any]:
    messages: list[Any] = []
    head, expected = bytes(32).hex(), log["first"]
    for entry in log["segments"]:
        name = f"{entry['first']:020d}-{entry['blake3']}.seg.zst"
        plain = _unpacked(root / "segments" / log["name"] / name, entry["blake3"])
        assert len(plain) == entry["plain_bytes"]
        segment = read_segment(plain)
        assert (segment["name"], segment["first"], segment["head_before"]) == (log["name"], expected, head)
        branch = next(b for b in log["branches"] if b["through"] is None or b["through"] >= entry["first"])
        assert segment["log_id"] == branch["log_id"]
        head, expected = entry["head_after"], entry["last"] + 1
        assert segment["head_after"] == head
        messages += segment["messages"]
    return messages


def _read_snapshot(root: Path, snapshot: dict[str, Any]) -> str:
    data = b"".join(_unpacked(root / "chunks" / chunk, chunk) for chunk in snapshot["chunks"])
    assert len(data) == snapshot["size"]
    assert blake3(data).hexdigest() == snapshot["blake3"]
    return data.hex()


def _unpacked(path: Path, digest: str) -> bytes:
    plain: bytes = zstandard.ZstdDecompressor().decompress(path.read_bytes())
    assert blake3(plain).hexdigest() == digest
    return plain


def _canonical_json(path: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(path.read_bytes())
    assert path.read_bytes() == _dump(fields)
    return fields


def _dump(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
