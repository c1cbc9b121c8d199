"""Servers that do not know a stream yet: who asks about it, and who appends to it, is not misled."""

from __future__ import annotations

import json
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from tapehouse.bus import Bus, JetStreamLog
from tapehouse.bus.api import NoStreamError
from tapehouse.bus.requests import NobodyListensError
from tapehouse.bus.stream_calls import call_stream, settle
from tapehouse.bus.targets import Target
from tapehouse.core import BusUnavailableError, Metrics, MissingError

NAME, SUBJECT = "TAPE_new", "tape.v1.new"


class LateServers(Bus):
    """A bus whose servers answer from a script; the last answer of each call is given for ever.

    Args:
        answers: By the call's first two words; an error is raised.
        unheard: So many appends reach nobody.
    """

    def __init__(self, answers: dict[str, list[Any]], *, unheard: int = 0) -> None:
        super().__init__(Target(urls=("nats://127.0.0.1:1",), source="a test"), Client(), Metrics())
        self.asked: list[str] = []
        self._answers = answers
        self._unheard = unheard

    async def patient_api(
        self, call: str, body: dict[str, Any] | None = None, *, patience_s: float = 1.0
    ) -> dict[str, Any]:
        name = call.removesuffix(f".{NAME}")
        self.asked.append(name)
        left = self._answers[name]
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)

    async def request(
        self, subject: str, payload: bytes, *, timeout_s: float, headers: dict[str, str] | None = None
    ) -> Msg:
        if self._unheard:
            self._unheard -= 1
            raise NobodyListensError("nobody answers on this subject", subject=subject)
        return Msg(_client=self.client, data=json.dumps({"stream": NAME, "seq": 1}).encode())


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapehouse.bus.stream_calls.RETRY_PAUSE_S", 0)
    monkeypatch.setattr("tapehouse.bus.stream_calls.SETTLE_PAUSE_S", 0)
    monkeypatch.setattr("tapehouse.bus.jetstream.UNHEARD_PAUSE_S", 0)


def info(*current: bool, leader: str = "n0", offline: bool = False) -> dict[str, Any]:
    copies = [{"name": f"n{number}", "current": each, "offline": offline} for number, each in enumerate(current, 1)]
    return {"cluster": {"leader": leader, "replicas": copies}}


async def test_a_stream_that_its_leader_knows_is_not_missing() -> None:
    missing = NoStreamError("no such stream")
    bus = LateServers({"STREAM.MSG.GET": [missing, missing, {"message": 7}], "STREAM.INFO": [info(True, True)]})
    assert await call_stream(bus, "STREAM.MSG.GET", NAME, {}) == {"message": 7}
    assert bus.asked == ["STREAM.MSG.GET", "STREAM.INFO", "STREAM.MSG.GET", "STREAM.INFO", "STREAM.MSG.GET"]


async def test_a_stream_that_is_gone_is_missing_at_once() -> None:
    missing = NoStreamError("no such stream")
    bus = LateServers({"STREAM.MSG.GET": [missing], "STREAM.INFO": [missing]})
    with pytest.raises(MissingError, match="no such stream"):
        await call_stream(bus, "STREAM.MSG.GET", NAME, {})
    assert bus.asked == ["STREAM.MSG.GET", "STREAM.INFO"]


async def test_servers_that_never_agree_are_told_of() -> None:
    bus = LateServers({"STREAM.MSG.GET": [NoStreamError("no such stream")], "STREAM.INFO": [info()]})
    with pytest.raises(BusUnavailableError, match="another leads"):
        await call_stream(bus, "STREAM.MSG.GET", NAME, {})


async def test_a_new_stream_is_settled_when_all_servers_that_are_up_know_it() -> None:
    names = {"streams": [NAME]}
    bus = LateServers(
        {
            "STREAM.NAMES": [{}, {"streams": None}, names],
            "STREAM.INFO": [NoStreamError("no such stream"), info(True, False), info(True, True, leader=""),
                            info(True, True)],
        }
    )  # fmt: skip
    await settle(bus, NAME, SUBJECT)
    assert bus.asked.count("STREAM.NAMES") == 6
    assert bus.asked.count("STREAM.INFO") == 4
    down = LateServers({"STREAM.NAMES": [names], "STREAM.INFO": [info(False, False, offline=True)]})
    await settle(down, NAME, SUBJECT)
    with pytest.raises(BusUnavailableError, match="some server does not know it"):
        await settle(LateServers({"STREAM.NAMES": [{}]}), NAME, SUBJECT)


async def test_an_append_that_nobody_heard_is_sent_again() -> None:
    bus = LateServers({"STREAM.INFO": [info(True, True)]}, unheard=3)
    assert await JetStreamLog(bus, NAME, subjects=(SUBJECT,)).append(b"x", expected_last=0) == 1
    assert bus.asked == ["STREAM.INFO"] * 3
    deaf = JetStreamLog(LateServers({"STREAM.INFO": [info()]}, unheard=1), NAME, subjects=(SUBJECT,), timeout_s=0)
    with pytest.raises(BusUnavailableError, match="nothing was written"):
        await deaf.append(b"x", expected_last=0)
