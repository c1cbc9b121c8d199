"""Streams held against their specifications: made, verified, listed, led elsewhere, deleted."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from typing import Any

from tapehouse.bus.api import NO_SUITABLE_PEERS, REPLICAS_NEED_A_CLUSTER, STREAM_NAME_IN_USE, ApiError
from tapehouse.bus.connection import Bus
from tapehouse.bus.jetstream import JetStreamLog
from tapehouse.bus.stream_calls import settle, stream_info
from tapehouse.bus.topology import METADATA_LOG_ID, StreamSpec, drift, read_branches, stream_config
from tapehouse.core import BusUnavailableError, InvariantError, MissingError, UsageError
from tapehouse.core.ids import new_log_id
from tapehouse.log import Branch

PAGES_MAX = 1000  # of 256 streams each
RACE_LOOKS_MAX = 100
RACE_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatus:
    """A log's stream as its leader sees it now.

    Attributes:
        leader: The server that leads it; empty on a single server, and during an election.
        lagging: Replicas that are not current, by server name.
    """

    name: str
    first: int
    last: int
    messages: int
    bytes: int
    replicas: int
    leader: str
    lagging: tuple[str, ...]


class StreamAdmin:
    """What may be done to streams, on one bus.

    Args:
        replicas: Copies of new streams whose specification leaves it open; None: 3 in a cluster, else 1.
    """

    def __init__(self, bus: Bus, *, replicas: int | None = None) -> None:
        self._bus = bus
        self._replicas = replicas

    async def ensure(
        self,
        spec: StreamSpec,
        *,
        first_seq: int | None = None,
        log_id: bytes | None = None,
        branches: tuple[Branch, ...] | None = None,
    ) -> JetStreamLog:
        """Make the stream, or verify the one that is there.

        Args:
            first_seq: The first sequence of a new stream, for a restore.
            log_id: Of a new log; a stream that is there must have it. None: a fresh one, or any.
            branches: All branches of a restored log, oldest first; instead of `log_id`.

        Raises:
            UsageError: It is there and differs; each difference is named.
            MissingError: The broker has too few servers for the copies wanted.
        """
        if branches is None and log_id is not None:
            branches = (Branch(log_id=log_id),)
        spec = replace(spec, replicas=spec.replicas or self._replicas or self._bus.default_replicas())
        try:
            config = (await stream_info(self._bus, spec.name))["config"]
        except MissingError:
            config = await self._create(spec, branches or (Branch(log_id=new_log_id()),), first_seq)
        self._verify(spec, config, branches, first_seq)
        return JetStreamLog(self._bus, spec.name, subjects=spec.subjects)

    async def delete(self, name: str) -> None:
        """Delete a log and all it holds.

        Raises:
            MissingError: There is none.
            UsageError: The stream is none of tapehouse's.
        """
        read_branches(name, (await stream_info(self._bus, name))["config"])
        await self._bus.api(f"STREAM.DELETE.{name}")

    async def list(self) -> tuple[StreamStatus, ...]:
        """All logs on the broker, by name; other streams are left out."""
        found: list[StreamStatus] = []
        offset = 0
        for _ in range(PAGES_MAX):
            page = await self._bus.patient_api("STREAM.LIST", {"offset": offset})
            infos = page.get("streams") or []
            found += [_status(info) for info in infos if METADATA_LOG_ID in (info["config"].get("metadata") or {})]
            offset += len(infos)
            if not infos or offset >= int(page["total"]):
                return tuple(sorted(found, key=lambda status: status.name))
        raise InvariantError(f"more than {PAGES_MAX} pages of streams")

    async def status(self, name: str) -> StreamStatus:
        """One log now; raises MissingError where there is none."""
        return _status(await stream_info(self._bus, name))

    async def leader(self, name: str) -> str:
        """The server that leads a stream; empty on a single server, and during an election."""
        return (await self.status(name)).leader

    async def step_down(self, name: str) -> None:
        """Have another server lead the stream: planned, in a fraction of a second."""
        await self._bus.api(f"STREAM.LEADER.STEPDOWN.{name}")

    async def _create(self, spec: StreamSpec, branches: tuple[Branch, ...], first_seq: int | None) -> dict[str, Any]:
        if spec.replicas is None:
            raise InvariantError("the number of replicas was not settled", subject=spec.name)
        config = stream_config(spec, replicas=spec.replicas, branches=branches, first_seq=first_seq)
        try:
            # Sent again after a time-out: the same configuration twice is the same stream.
            created: dict[str, Any] = (await self._bus.patient_api(f"STREAM.CREATE.{spec.name}", config))["config"]
        except ApiError as error:
            if error.code == STREAM_NAME_IN_USE:  # Another process was faster; what it made is verified next.
                return await self._await_config(spec.name)
            if error.code in (NO_SUITABLE_PEERS, REPLICAS_NEED_A_CLUSTER):
                raise MissingError(
                    f"{spec.replicas} copies need as many servers: {error.message}",
                    subject=spec.name,
                    hint="start more servers, or ask for one replica",
                ) from error
            raise
        await settle(self._bus, spec.name, spec.subjects[0])
        return created

    async def _await_config(self, name: str) -> dict[str, Any]:
        """The configuration of a stream whose name is given away but which may not have a leader yet."""
        for _ in range(RACE_LOOKS_MAX):
            with contextlib.suppress(MissingError):
                config: dict[str, Any] = (await stream_info(self._bus, name))["config"]
                return config
            await asyncio.sleep(RACE_PAUSE_S)
        raise BusUnavailableError("the stream is being made and does not appear", subject=name, hint="try again")

    def _verify(
        self,
        spec: StreamSpec,
        config: dict[str, Any],
        branches: tuple[Branch, ...] | None,
        first_seq: int | None,
    ) -> None:
        held = read_branches(spec.name, config)
        expected = stream_config(spec, replicas=spec.replicas or 1, branches=branches or held, first_seq=first_seq)
        differences = drift(expected, config)
        if differences:
            raise UsageError(
                f"the stream is not as it should be: {'; '.join(differences)}",
                subject=spec.name,
                hint="nats stream edit changes settings; another log id means another log",
            )


def _status(info: dict[str, Any]) -> StreamStatus:
    state, config = info["state"], info["config"]
    cluster = info.get("cluster") or {}
    messages, last = int(state["messages"]), int(state["last_seq"])
    return StreamStatus(
        name=str(config["name"]),
        first=int(state["first_seq"]) if messages else last + 1,
        last=last,
        messages=messages,
        bytes=int(state["bytes"]),
        replicas=int(config["num_replicas"]),
        leader=str(cluster.get("leader") or ""),
        lagging=tuple(peer["name"] for peer in cluster.get("replicas") or [] if not peer.get("current")),
    )
