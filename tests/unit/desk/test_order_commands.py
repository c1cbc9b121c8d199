"""Bodies of commands: what fits together, what does not and why, and how earlier versions are read."""

from __future__ import annotations

from typing import Any

import pytest

from tapehouse.client.commands import make_command
from tapehouse.core.errors import DataError
from tapehouse.desk.commands import COMMANDS, EVENTS, CommandOutcome, SubmitOrder
from tapehouse.log import Envelope

LIMIT = {"instrument": "ALFA", "side": "buy", "price": "0.98", "size": "5"}
STOP = {"instrument": "ALFA", "side": "buy", "type": "stop", "stop": "1.05", "size": "5"}
MARKET = {"instrument": "ALFA", "side": "buy", "type": "market", "size": "5"}


def read(kind: str, version: int, body: dict[str, Any]) -> Any:
    envelope = Envelope(id="x", type=kind, version=version, correlation="x", time=0, body=body)
    return COMMANDS.decode(envelope.encode())[1]


def made(kind: str, body: dict[str, Any]) -> dict[str, Any]:
    return make_command(kind, body, command_id="x", client="", number=0, time_ns=0).body


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({**LIMIT, "price": None}, "a limit order needs a price"),
        ({**LIMIT, "stop": "1"}, "a limit order has no stop: send stop or stop_limit"),
        ({**MARKET, "price": "1"}, "a market order has no price"),
        ({**MARKET, "time_in_force": "gtc"}, "a market order never rests: time_in_force is ioc or fok, not gtc"),
        ({**MARKET, "post_only": True}, "a post_only order is a limit order that may rest"),
        ({**MARKET, "display": "1"}, "display is of limit orders that may rest"),
        ({**STOP, "stop": None}, "a stop order needs a stop"),
        ({**STOP, "price": "1"}, "a stop order has no price"),
        ({**STOP, "time_in_force": "ioc"}, "a stop order waits: time_in_force is gtc, day or gtd, not ioc"),
        ({**STOP, "type": "stop_limit"}, "a stop_limit order needs a price"),
        ({**LIMIT, "time_in_force": "gtd"}, "a gtd order needs expires_at"),
        ({**LIMIT, "expires_at": 1}, "expires_at is of gtd orders alone"),
        ({**LIMIT, "time_in_force": "gtd", "expires_at": "2026-01-05"}, "expires_at: '2026-01-05' has no time zone"),
        ({**LIMIT, "time_in_force": "gtd", "expires_at": 0}, "expires_at: a time is after 1970 and before 2262"),
        ({**LIMIT, "time_in_force": "gtd", "expires_at": True}, "expires_at: a time is ISO 8601 or an integer, UTC ns"),
        ({**LIMIT, "time_in_force": "fok", "display": "1"}, "display is of limit orders that may rest"),
        ({**LIMIT, "display": "6"}, "display is larger than size"),
        ({**LIMIT, "time_in_force": "ioc", "post_only": True}, "a post_only order is a limit order that may rest"),
        ({**LIMIT, "tag": "x" * 33}, "tag: "),
        ({**LIMIT, "tag": "a\nb"}, "tag: it has characters that cannot be printed"),
        ({**LIMIT, "time_in_force": "post_only"}, "time_in_force: "),
    ],
)
def test_what_does_not_fit_together_is_refused_before_it_is_sent(body: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError) as caught:
        made("order.submit", body)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        ("order.replace", {"order_id": 1}, "nothing to change"),
        ("kill.switch", {"scope": "account"}, "scope account needs an account"),
        ("kill.switch", {"scope": "all", "account": "alice"}, "the other scopes have none"),
        ("risk.set_limits", {"account": "alice"}, "no limit is given"),
        ("account.configure", {"account": "alice"}, "nothing to configure"),
        ("cash.book", {"account": "alice", "currency": "USD", "amount": "0"}, "a deposit of 0"),
        ("cash.book", {"account": "alice", "currency": "USD", "amount": "NaN"}, "amount: "),
        ("position.correct", {"account": "a", "instrument": "X", "size": "0", "price": "1"}, "a size of nothing"),
        ("strategy.configure", {"parameters": {}}, "parameters: "),
        ("strategy.configure", {"parameters": {"a": 1.5}}, "parameters.a: "),
        ("instrument.register", {"symbol": "X", "tick_size": 0.01}, 'write it in quotes, as "0.01"'),
    ],
)
def test_every_command_says_what_is_wrong_with_it(kind: str, body: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError) as caught:
        made(kind, body)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("body", "in_force"),
    [
        (LIMIT, "gtc"),
        (MARKET, "ioc"),
        ({**MARKET, "time_in_force": "fok"}, "fok"),
        (STOP, "gtc"),
        ({**STOP, "type": "stop_limit", "price": "1.06", "display": "2", "time_in_force": "day"}, "day"),
        ({**LIMIT, "time_in_force": "gtd", "expires_at": "2026-01-05T21:00:00Z", "reduce_only": True}, "gtd"),
    ],
)
def test_what_fits_together_comes_back_as_it_was_sent(body: dict[str, Any], in_force: str) -> None:
    sent = made("order.submit", body)
    read_again = read("order.submit", COMMANDS.version("order.submit"), sent)
    assert isinstance(read_again, SubmitOrder)
    assert read_again.in_force == in_force
    assert read_again.model_dump(mode="json") == sent
    if in_force == "gtd":
        assert read_again.expires_at == 1_767_646_800_000_000_000


def test_an_order_is_upcast_from_its_first_version_to_the_newest() -> None:
    first = read("order.submit", 1, {**LIMIT, "time_in_force": "post_only"})
    assert (first.type, first.in_force, first.post_only, first.tag) == ("limit", "gtc", True, "")
    second = read("order.submit", 2, {**STOP, "time_in_force": "day"})
    assert (second.type, second.in_force, second.tag) == ("stop", "day", "")
    assert read("order.submit", 3, {**LIMIT, "tag": "hedge 7"}).tag == "hedge 7"


@pytest.mark.parametrize(
    ("version", "body", "reason"),
    [
        (1, {**LIMIT, "time_in_force": "fok"}, "Input should be 'gtc', 'ioc' or 'post_only'"),
        (1, {**LIMIT, "type": "market"}, "type: Extra inputs are not permitted"),
        (1, MARKET, "price: Field required"),
        (2, {**LIMIT, "tag": "x"}, "tag is a field of version 3"),
    ],
)
def test_an_earlier_version_has_no_later_fields(version: int, body: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError) as caught:
        read("order.submit", version, body)
    assert reason in str(caught.value)


def test_a_first_cancel_had_to_name_its_instrument() -> None:
    assert read("order.cancel", 2, {"order_id": 7}).instrument is None
    with pytest.raises(DataError, match="instrument: Field required"):
        read("order.cancel", 1, {"order_id": 7})


def test_a_first_outcome_is_read_as_one_of_today() -> None:
    body = {"outcome": "accepted", "position": 3, "order_id": 12_288}
    envelope = Envelope(id="x", type="command.outcome", version=1, correlation="x", time=0, body=body)
    outcome = EVENTS.decode(envelope.encode())[1]
    assert isinstance(outcome, CommandOutcome)
    assert (outcome.order_id, outcome.input, outcome.number, outcome.tag, outcome.count) == (12_288, 0, 0, "", 0)
