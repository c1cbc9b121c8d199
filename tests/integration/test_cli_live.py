"""`tapehouse feeds serve` and `feeds live` as a user runs them: processes, a ring, Ctrl-C, and their wrong uses."""

from __future__ import annotations

import gzip
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from tapehouse.feeds import open_feed
from tapehouse.feeds.capture import read_capture
from tapehouse.feeds.served_venues import served_venue
from tapehouse.market.gap import RECOVERED_FROM, Confidence
from tests.support.cli import Shell
from tests.support.live_feeds import Drain, Market, ended, gaps_of, started, stopped

LINES = 2_000
FAULTS = ("--drop", "0.02", "--dup", "0.02", "--reorder", "0.02", "--corrupt-checksum", "0.02")


def change_after(source: Path, line: int) -> int:
    """The number of the first change of the book from that line on."""
    served, number = served_venue("binance"), 0
    for message in read_capture(source):
        played = served.play(message)
        if played is not None:
            if played.numbered and message.line > line:
                return number
            number += 1
    raise AssertionError("there is none")


def test_a_venue_with_all_faults_from_server_to_ring(market_data: Path, tmp_path: Path, ring_directory: Path) -> None:
    source, capture = tmp_path / "spot", tmp_path / "again.gz"
    with gzip.open(market_data / "binance_hftbacktest/spot_btcusdt_20240808.gz") as file:
        source.write_bytes(b"".join(islice(file, LINES)))
    feed = open_feed("binance", [source])
    truth = Market(np.concatenate([*(item.definition(ts_recv=0) for item in feed.instruments), *feed.batches()]))
    shell = Shell(tmp_path, TAPEHOUSE_SHM=str(ring_directory))
    faults = (*FAULTS, "--disconnect", f"@{change_after(source, LINES // 2)}")
    server, said = started(shell, "feeds", "serve", "binance", source, "--speed", "20x", "--json", *faults)
    http, websocket = said[-1].split()
    where = ("--url", f"{websocket}/stream", "--rest", http, "--ring", "spot", "--capture", capture)
    recorder, _ = started(shell, "feeds", "live", "binance", "BTCUSDT", *where, "--json")
    drain = Drain("spot", ring_directory)
    try:
        assert server.stdout is not None
        while server.stdout.readline().strip() != "played":
            drain.take()
        cells = drain.until_quiet(lambda found: Market(found) == truth, "the market is another one")
        told, played = stopped(recorder), stopped(server)
        drain.take()
    finally:
        drain.close()
        ended(recorder, server)
    happened = {item["fault"] for item in played["faults"]}
    assert happened == {"drop", "dup", "reorder", "corrupt-checksum", "disconnect"}
    gaps = gaps_of(cells)
    assert any(gap[0] < RECOVERED_FROM for gap in gaps)
    last = {gap[5]: gap[1] for gap in gaps}
    assert set(last.values()) == {Confidence.GOOD}
    assert told["venue"] == "binance"
    assert told["cells"] >= len(cells) - 14  # two definitions of seven cells
    assert told["snapshots"] >= 2
    assert told["malformed"] == sum(item["fault"] == "corrupt-checksum" for item in played["faults"]) > 0
    assert told["disconnections"] == told["connections"] >= 2
    refused = shell.refused("feeds", "check", "binance", capture, code=4)
    assert "line" in refused, "the capture holds what came, the corrupt messages also"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("serve", "lobster", "x.csv"), "cannot be served"),
        (("serve", "binance"), "nothing to serve"),
        (("serve", "binance", "x.gz", "--drop", "much"), "is no rate"),
        (("serve", "binance", "x.gz", "--drop", "0.9", "--dup", "0.9"), "together 1 at most"),
        (("serve", "itch", "x.itch"), "--udp"),
        (("serve", "itch", "x.itch", "--udp", "nowhere"), "is no address"),
        (("serve", "itch", "x.itch", "--udp", "127.0.0.1:9", "--disconnect", "0.1"), "no connection"),
        (("live", "lobster", "AMZN", "--ring", "r"), "cannot be recorded live"),
        (("live", "binance", "--ring", "r"), "no symbol"),
        (("live", "okx", "BTC-USDT", "--ring", "r", "--market", "spot"), "no markets"),
        (("live", "binance", "BTCUSDT", "--ring", "r", "--market", "moon"), "no market"),
        (("live", "binance", "BTCUSDT", "--ring", "r", "--stale-after", "soon"), "no duration"),
        (("live", "itch", "--ring", "r"), "--mold"),
        (("live", "itch", "AMZN", "--ring", "r", "--mold", "127.0.0.1:9"), "every symbol"),
        (("live", "itch", "--ring", "r", "--mold", "127.0.0.1:port"), "is no address"),
    ],
)
def test_wrong_uses(tmp_path: Path, ring_directory: Path, arguments: tuple[str, ...], said: str) -> None:
    shell = Shell(tmp_path, TAPEHOUSE_SHM=str(ring_directory)).inside
    assert said in shell.refused("feeds", *arguments, code=2)


def test_a_url_that_the_venue_does_not_have(market_data: Path, tmp_path: Path, ring_directory: Path) -> None:
    shell = Shell(tmp_path, TAPEHOUSE_SHM=str(ring_directory))
    server, said = started(shell, "feeds", "serve", "okx", market_data / "cryptofeed/OKX.ws.1.0")
    try:
        url = said[-1].split()[1] + "/nowhere"
        done = shell.run("feeds", "live", "okx", "BTC-USDT", "--ring", "r", "--url", url, code=3)
        assert "refuses the connection" in done.err
    finally:
        ended(server)
