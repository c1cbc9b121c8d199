"""The embedded SeaweedFS, shared by a whole test session."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tapehouse.dr.embedded_store import EmbeddedStore, Endpoint


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A running SeaweedFS."""
    server = EmbeddedStore(tmp_path_factory.mktemp("weed"))
    endpoint = asyncio.run(server.start())
    yield endpoint
    asyncio.run(server.stop())
