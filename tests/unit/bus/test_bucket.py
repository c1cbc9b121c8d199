"""Reading a native bucket while some of its servers lag: what the leader has is never left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tapehouse.bus import Bucket, bucket
from tapehouse.bus.bucket import BucketEntry
from tapehouse.core.errors import BusUnavailableError, MissingError


class Leader:
    """The bus, of which only the leader's `STREAM.MSG.GET` is asked."""

    def __init__(self, last: int) -> None:
        self.last = last

    async def patient_api(self, call: str, body: dict[str, Any], **_: object) -> dict[str, Any]:
        assert call == "STREAM.MSG.GET.KV_b", json.dumps(body)
        if body["seq"] > self.last:
            raise MissingError("no such message")
        return {"message": {"seq": self.last}}


def entry(sequence: int) -> BucketEntry:
    return BucketEntry(key=f"k{sequence}", sequence=sequence, value=b"v", headers={})


Batch = Callable[[int], Any]


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> Callable[[Batch, int], Any]:
    """All sequences that are read, where batches come from a function of their first sequence."""
    monkeypatch.setattr(bucket, "RETRY_PAUSE_S", 0.0)
    monkeypatch.setattr(bucket, "PATIENCE_S", 0.05)

    async def read(batch: Batch, last: int) -> list[int]:
        target = Bucket(Leader(last), "b")  # type: ignore[arg-type]

        async def answer(first: int) -> Any:
            return batch(first)

        monkeypatch.setattr(target, "_batch", answer)
        return [each.sequence async for each in target.entries()]

    return read


async def test_a_server_that_lags_is_asked_again(reading: Callable[[Batch, int], Any]) -> None:
    known = iter([4, 4, 7, 9])  # how far the server that answers has come, call by call

    def batch(first: int) -> tuple[list[BucketEntry], bool]:
        through = next(known)
        found = [entry(sequence) for sequence in range(first, through + 1)][:3]
        return found, not found or found[-1].sequence == through

    assert await reading(batch, 9) == list(range(1, 10))


async def test_an_empty_bucket_has_no_entries(reading: Callable[[Batch, int], Any]) -> None:
    assert await reading(lambda _: ([], True), 0) == []


async def test_a_server_that_never_answers_is_told_of(reading: Callable[[Batch, int], Any]) -> None:
    def batch(_: int) -> None:
        raise TimeoutError

    with pytest.raises(BusUnavailableError, match="the bucket's entries were not read"):
        await reading(batch, 1)
