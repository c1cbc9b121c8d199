"""The whole loop against a real MinIO, on three brokers: recorded, backed up, wiped, restored, proved."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tapehouse.dr.s3 import Credentials, S3Location, S3Store
from tests.support.minio import MinioServer, minio  # noqa: F401  (a fixture)

TIMEOUT_S = 240


@pytest.mark.timeout(300)
async def test_a_day_is_proved_through_minio(minio: MinioServer, tmp_path: Path) -> None:  # noqa: F811
    store = S3Store(
        S3Location(bucket="proof", prefix="", endpoint=minio.endpoint),
        Credentials(access_key=minio.access_key, secret_key=minio.secret_key),
    )
    await store.create_bucket()
    await store.close()
    environment = os.environ | {
        "AWS_ACCESS_KEY_ID": minio.access_key,
        "AWS_SECRET_ACCESS_KEY": minio.secret_key,
        "AWS_DEFAULT_REGION": "us-east-1",
        "TAPEHOUSE_HOME": str(tmp_path / "home"),
    }
    command = [sys.executable, "-m", "tapehouse.cli", "demo", "--cells", "30000", "--paced-seconds", "2", "--json"]
    command += ["--store", f"s3://proof/desk?endpoint={minio.endpoint}", "--plot", str(tmp_path / "day.png")]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["equal"] is True
    assert [path["name"] for path in found["paths"]] == [
        "live", "replay 10x", "replay max", "from segments", "restored",
    ]  # fmt: skip
    assert len({path["decision_digest"] for path in found["paths"]}) == 1
    assert (tmp_path / "day.png").read_bytes().startswith(b"\x89PNG")
