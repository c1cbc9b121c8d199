"""Where a live recorder connects when a user names another place than the venue's own."""

from __future__ import annotations

import pytest

from tapehouse.feeds.live.venues import redirected
from tapehouse.feeds.session import Endpoint

OWN = Endpoint(websocket="wss://stream.venue.com:9443/stream", rest="https://api.venue.com")


@pytest.mark.parametrize(
    ("url", "rest", "websocket", "api"),
    [
        (None, None, OWN.websocket, OWN.rest),
        ("ws://127.0.0.1:8080", None, "ws://127.0.0.1:8080/stream", "http://127.0.0.1:8080"),
        ("ws://127.0.0.1:8080/", None, "ws://127.0.0.1:8080/stream", "http://127.0.0.1:8080"),
        ("wss://mirror/other?x=1", None, "wss://mirror/other?x=1", "https://mirror"),
        ("ws://here", "http://there:1/", "ws://here/stream", "http://there:1"),
        (None, "http://there:1", OWN.websocket, "http://there:1"),
    ],
)
def test_what_is_left_out_is_as_the_venue_has_it(url: str | None, rest: str | None, websocket: str, api: str) -> None:
    found = redirected(OWN, url, rest)
    assert (found.websocket, found.rest) == (websocket, api)


def test_a_venue_without_rest_gets_none() -> None:
    assert redirected(Endpoint(websocket="wss://venue/v5"), "ws://here", None).rest == ""
