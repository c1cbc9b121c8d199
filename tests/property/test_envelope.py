"""Envelopes: encode and read are inverse, old bodies are upcast step by step, and errors name the field."""

from __future__ import annotations

import json
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from tapehouse.core import DataError, DecodeError, InvariantError
from tapehouse.log import Envelope, Registry, deterministic_id, read_envelope, validate
from tapehouse.log.envelope import ENVELOPE_BYTES_MAX, Body

GOOD = {"id": "a", "type": "order.submit", "version": 1, "correlation": "c", "time": 5, "body": {}}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
ENVELOPES = st.builds(
    Envelope,
    id=TEXT,
    type=st.from_regex(r"[a-z][a-z0-9_]{0,9}(\.[a-z][a-z0-9_]{0,9}){1,2}", fullmatch=True),
    version=st.integers(1, 65_535),
    client=st.just("") | TEXT,
    number=st.integers(0, 2**63 - 1),
    causation=st.none() | TEXT,
    correlation=TEXT,
    time=st.integers(0, 2**63 - 1),
    traceparent=st.none() | TEXT,
    body=st.dictionaries(TEXT, JSON_VALUES, max_size=4),
)


def encoded(**changes: object) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


@given(envelope=ENVELOPES)
@settings(deadline=None)
def test_an_envelope_comes_back_and_its_bytes_are_canonical(envelope: Envelope) -> None:
    data = envelope.encode()
    assert read_envelope(data) == envelope
    assert read_envelope(data).encode() == data
    fields = json.loads(data)
    assert data == json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert ("causation" in fields) == (envelope.causation is not None)
    reordered = json.dumps(dict(reversed(fields.items())), indent=2).encode()
    if len(reordered) <= ENVELOPE_BYTES_MAX:
        assert read_envelope(reordered).encode() == data


def test_absent_fields_of_a_body_stay_as_they_were_sent() -> None:
    envelope = Envelope(**{**GOOD, "body": {"limit": None, "deep": {"also": None}}})
    assert read_envelope(envelope.encode()).body == {"limit": None, "deep": {"also": None}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": ""}, "id: "),
        ({"id": "x" * 65}, "id: "),
        ({"type": "submit"}, "type: "),
        ({"type": "Order.submit"}, "type: "),
        ({"type": "order.submit\n"}, "type: "),
        ({"type": "a." + "b" * 63}, "type: "),
        ({"version": 0}, "version: "),
        ({"version": 65_536}, "version: "),
        ({"version": "1"}, "version: "),
        ({"version": 1.0}, "version: "),
        ({"version": True}, "version: "),
        ({"client": "x" * 65}, "client: "),
        ({"client": 7}, "client: "),
        ({"number": -1}, "number: "),
        ({"number": 2**63}, "number: "),
        ({"time": -1}, "time: "),
        ({"time": None}, "time: "),
        ({"causation": "x" * 65}, "causation: "),
        ({"correlation": ""}, "correlation: "),
        ({"body": []}, "body: "),
        ({"surprise": 1}, "surprise: "),
    ],
)
def test_a_bad_field_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(DecodeError) as caught:
        read_envelope(encoded(**change))
    assert caught.value.message.startswith(message)
    assert caught.value.subject == "envelope"


@pytest.mark.parametrize("name", ["id", "type", "version", "correlation", "time", "body"])
def test_a_missing_field_is_named(name: str) -> None:
    with pytest.raises(DecodeError, match=f"{name}: Field required"):
        read_envelope(json.dumps({key: value for key, value in GOOD.items() if key != name}).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'"text"',
        encoded()[:-1],
        encoded() + b"x",
        encoded().replace(b'"body": {}', b'"body": {"x": NaN}'),
        encoded().replace(b'"body": {}', b'"body": {"x": -Infinity}'),
        encoded().replace(b'"body": {}', b'"body": {"x": "\\ud800"}'),
        encoded().replace(b'"body": {}', b'"body": ' + b'{"a":' * 2000 + b"1" + b"}" * 2000),
    ],
)
def test_what_is_no_envelope_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        read_envelope(data)


def test_the_longest_envelope_is_what_a_record_holds() -> None:
    assert ENVELOPE_BYTES_MAX == 12_192
    room = ENVELOPE_BYTES_MAX - len(Envelope(**{**GOOD, "body": {"text": ""}}).encode())
    longest = Envelope(**{**GOOD, "body": {"text": "x" * room}})
    assert len(longest.encode()) == ENVELOPE_BYTES_MAX
    assert read_envelope(longest.encode()) == longest
    with pytest.raises(DecodeError, match="12193 bytes are too long"):
        read_envelope(longest.encode() + b" ")
    with pytest.raises(DataError, match="12193 bytes is too long"):
        Envelope(**{**GOOD, "body": {"text": "x" * (room + 1)}}).encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", object(), {1, 2}, b"bytes"])
def test_a_body_that_json_cannot_hold_is_refused_when_written(value: object) -> None:
    with pytest.raises(DataError, match="body"):
        Envelope(**{**GOOD, "body": {"x": value}}).encode()


# Types and versions.


class Submit(BaseModel):
    """The newest body, version 3."""

    model_config = ConfigDict(extra="forbid")

    instrument: str
    size: int = Field(gt=0)
    side: str


def registry() -> Registry:
    """Version 1 had `symbol` and a signed `quantity`, version 2 named the instrument, version 3 split off the side."""

    def from_1(body: Body) -> Body:
        body["instrument"] = body.pop("symbol")
        return body

    def from_2(body: Body) -> Body:
        quantity = body["quantity"]
        return {"instrument": body["instrument"], "size": abs(quantity), "side": "buy" if quantity > 0 else "sell"}

    made = Registry()
    made.register("order.submit", 3, Submit)
    made.upcast("order.submit", 2, from_2)
    made.upcast("order.submit", 1, from_1)
    return made


@pytest.mark.parametrize(
    ("version", "body"),
    [
        (1, {"symbol": "AMZN", "quantity": -5}),
        (2, {"instrument": "AMZN", "quantity": -5}),
        (3, {"instrument": "AMZN", "size": 5, "side": "sell"}),
    ],
)
def test_every_version_arrives_as_the_newest(version: int, body: Body) -> None:
    envelope, newest = registry().decode(encoded(version=version, body=body))
    assert newest == Submit(instrument="AMZN", size=5, side="sell")
    assert (envelope.version, envelope.body) == (version, body), "the envelope stays as it was sent"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "order.invent"}, "unknown type 'order.invent'.*known: order.submit"),
        ({"version": 4}, "order.submit: version 4 is newer than 3.*upgrade"),
        ({"version": 3, "body": {}}, "order.submit: instrument: Field required"),
        ({"version": 3, "body": {"instrument": "A", "size": 0, "side": "buy"}}, "order.submit: size: "),
        ({"version": 3, "body": {"instrument": "A", "size": 1, "side": "buy", "extra": 1}}, "order.submit: extra: "),
        ({"version": 1, "body": {"quantity": 1}}, "version 1 cannot be upcast: KeyError 'symbol'"),
        ({"version": 2, "body": {"instrument": "A", "quantity": "many"}}, "version 2 cannot be upcast: TypeError"),
    ],
)
def test_a_body_that_cannot_be_read_says_why(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        registry().decode(encoded(**change))


def test_a_version_without_an_upcaster_can_no_longer_be_read() -> None:
    made = Registry()
    made.register("order.submit", 3, Submit)
    made.upcast("order.submit", 2, lambda body: body)
    with pytest.raises(DataError, match="version 1 can no longer be read"):
        made.decode(encoded(version=1))


def test_a_registry_is_declared_once_and_consistently() -> None:
    made = registry()
    assert (made.names(), made.model("order.submit"), made.version("order.submit")) == (["order.submit"], Submit, 3)
    with pytest.raises(InvariantError, match="twice"):
        made.register("order.submit", 4, Submit)
    with pytest.raises(InvariantError, match="version 0"):
        made.register("order.other", 0, Submit)
    for version in (0, 1, 3):
        with pytest.raises(InvariantError, match="no room"):
            made.upcast("order.submit", version, lambda body: body)
    for ask in (made.model, made.version):
        with pytest.raises(DataError, match="unknown type"):
            ask("order.invent")
    with pytest.raises(DataError, match="unknown type"):
        made.upcast("order.invent", 1, lambda body: body)


def test_validate_names_the_nested_field() -> None:
    class Outer(BaseModel):
        legs: list[Submit]

    with pytest.raises(DataError) as caught:
        validate(Outer, {"legs": [{"instrument": "A", "size": 1, "side": "buy"}, {"size": 1}]}, subject="combo.submit")
    assert str(caught.value).startswith("combo.submit: legs.1.instrument: Field required")


# Deterministic ids.


def test_deterministic_ids_are_pinned() -> None:
    assert deterministic_id("fill", 7) == "859ef901-7e13-5484-9df2-fd2e3900529e"
    assert deterministic_id("fill", 7) == str(
        uuid.uuid5(uuid.UUID("6f0d5f7a-2f0c-5f5e-9d0a-7a6f75736531"), "4:fill1:7")
    )


@given(first=st.lists(TEXT, max_size=4), second=st.lists(TEXT, max_size=4))
@settings(deadline=None)
def test_ids_differ_where_parts_do(first: list[str], second: list[str]) -> None:
    assert (deterministic_id(*first) == deterministic_id(*second)) == (first == second)
    joined = ["".join(first)]
    assert (deterministic_id(*first) == deterministic_id(*joined)) == (first == joined)
