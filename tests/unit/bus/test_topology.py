"""Streams as data, and what counts as drift."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tapehouse.bus import headers
from tapehouse.bus.topology import (
    METADATA_BRANCHES,
    METADATA_LOG_ID,
    StreamSpec,
    cmds_spec,
    drift,
    events_spec,
    kv_spec,
    out_spec,
    parked_spec,
    read_branches,
    snaps_spec,
    stream_config,
    tape_spec,
)
from tapehouse.core import DecodeError, IntegrityError, UsageError
from tapehouse.log import Branch

BRANCHES = (Branch(log_id=bytes(16), through=9), Branch(log_id=bytes(range(16))))


def config() -> dict[str, Any]:
    return stream_config(tape_spec("demo"), replicas=3, branches=BRANCHES)


def test_the_names_and_subjects() -> None:
    specs = [tape_spec("a"), events_spec("b"), cmds_spec("c"), kv_spec(3), snaps_spec(), out_spec(), parked_spec()]
    assert [(spec.name, spec.subjects) for spec in specs] == [
        ("TAPE_a", ("tape.v1.a",)),
        ("EVENTS_b", ("evt.v1.b",)),
        ("CMDS_c", ("cmd.v1.c.>",)),
        ("KV_3", ("kv.v1.3",)),
        ("SNAPS", ("snap.v1.>",)),
        ("OUT", ("out.v1.>",)),
        ("PARKED", ("parked.v1.>",)),
    ]
    assert [spec.single_writer for spec in specs] == [True, True, False, False, False, False, False]


def test_names_that_no_subject_can_hold() -> None:
    for name in ("", "A", "a.b", "a b", "a*"):
        with pytest.raises(UsageError):
            tape_spec(name)
    with pytest.raises(UsageError, match="replicas"):
        tape_spec("a", replicas=2)


def test_a_log_forgets_nothing_by_itself() -> None:
    made = config()
    assert (made["discard"], made["retention"], made["storage"]) == ("new", "limits", "file")
    assert (made["max_age"], made["max_msgs"], made["max_msgs_per_subject"]) == (0, -1, -1)
    assert made["deny_delete"]
    assert "first_seq" not in made
    assert stream_config(tape_spec("a"), replicas=1, branches=BRANCHES, first_seq=7)["first_seq"] == 7


def test_what_was_asked_for_is_no_drift() -> None:
    server_adds = {"persist_mode": "default", "duplicate_window": 120, "metadata": {"_nats.ver": "2.15.1"}}
    actual = {**config(), **server_adds}
    actual["metadata"] = {**config()["metadata"], "_nats.ver": "2.15.1"}
    del actual["max_age"]  # The server leaves zeros out.
    del actual["deny_purge"]
    assert drift(config(), actual) == []


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("max_age", 60_000_000_000, "max_age"),
        ("discard", "old", "discard"),
        ("num_replicas", 1, "num_replicas is 1, not 3"),
        ("subjects", ["tape.v1.demo", "more"], "subjects"),
        ("storage", "memory", "storage"),
        ("deny_delete", False, "deny_delete"),
        ("max_msgs", 10, "max_msgs"),
        ("persist_mode", "async", "before the disk has it"),
        ("allow_rollup_hdrs", True, "allow_rollup_hdrs"),
        ("sources", [{"name": "X"}], "sources"),
        ("no_ack", True, "no_ack"),
    ],
)
def test_each_drift_is_named(key: str, value: object, said: str) -> None:
    found = drift(config(), {**config(), key: value})
    assert len(found) == 1
    assert said in found[0]


def test_another_log_is_drift() -> None:
    actual = {**config(), "metadata": {**config()["metadata"], METADATA_LOG_ID: "00"}}
    assert METADATA_LOG_ID in drift(config(), actual)[0]


def test_branches_come_back() -> None:
    assert read_branches("TAPE_demo", config()) == BRANCHES


def test_foreign_and_damaged_metadata() -> None:
    with pytest.raises(UsageError, match="did not make"):
        read_branches("X", {"metadata": {"a": "b"}})
    with pytest.raises(UsageError):
        read_branches("X", {})
    whole = config()["metadata"]
    for damaged in ("[", "[]", '[{"log_id": "zz", "through": 1}]', '[{"log_id": "00", "through": null}]'):
        with pytest.raises(IntegrityError):
            read_branches("X", {"metadata": {**whole, METADATA_BRANCHES: damaged}})
    assert json.loads(whole[METADATA_BRANCHES])[0]["through"] == 9


def test_specs_are_values() -> None:
    assert tape_spec("a") == StreamSpec(
        name="TAPE_a", subjects=("tape.v1.a",), single_writer=True, description=tape_spec("a").description
    )


def test_headers_on_their_way_out_and_back() -> None:
    assert headers.outgoing(None, expected_last=None, subject="s") is None
    sent = headers.outgoing({"A": "1"}, expected_last=7, subject="s")
    assert sent == {"A": "1", "Nats-Expected-Last-Sequence": "7"}
    assert headers.incoming({**sent, "nats-batch-id": "x"}) == {"A": "1"}
    assert headers.incoming(None) == {}
    with pytest.raises(UsageError):
        headers.outgoing({"NATS-Rollup": "sub"}, expected_last=None, subject="s")


def test_stored_header_blocks() -> None:
    assert headers.parse(b"NATS/1.0\r\nA: 1\r\nB:x: y\r\n\r\n") == {"A": "1", "B": "x: y"}
    with pytest.raises(DecodeError):
        headers.parse(b"HTTP/1.1 200\r\n\r\n")
