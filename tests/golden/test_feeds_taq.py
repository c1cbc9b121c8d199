"""The IBM day of 2013-10-08: every line, and every minute and second bar that was made of it."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tapehouse.feeds import check_source, open_feed
from tapehouse.feeds.taq import TaqFeed
from tapehouse.market import Kind

TRADES, QUOTES = "ibm_tick_20131008_trade.zip", "ibm_tick_20131008_quote.zip"


def lines_of(path: Path) -> list[bytes]:
    with zipfile.ZipFile(path) as archive:
        return archive.read(archive.namelist()[0]).splitlines(keepends=True)


def packed(path: Path, member: str, data: bytes) -> Path:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(member, data)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())
    return path


def test_the_published_truths_and_every_bar(market_data: Path) -> None:
    found = check_source("taq", [market_data / "taq_lean" / TRADES])
    assert (found.rows, found.mismatches, found.first_mismatch) == (33_381, 0, None)
    assert found.compared == 33_381 + 2 * (424 + 6_826)
    assert found.truths["minute_volume"] == "420/424"
    assert found.truths["second_volume"] == "5833/6826"
    assert (found.truths["minute_high_low"], found.truths["second_high_low"]) == ("421/424", "6811/6826")


def test_both_files_merged(market_data: Path) -> None:
    paths = [market_data / "taq_lean" / name for name in (TRADES, QUOTES)]
    feed = open_feed("taq", paths)
    cells = np.concatenate(list(feed.batches()))
    assert (np.diff(cells["ts_recv"]) >= 0).all()
    firsts = cells[cells["cells"] > 0]
    assert (firsts["kind"] == Kind.TRADE).sum() == 33_381
    assert (firsts["kind"] == Kind.QUOTE).sum() == 125_750
    same = np.diff(firsts["ts_recv"]) == 0
    assert not ((firsts["kind"][:-1] == Kind.TRADE) & (firsts["kind"][1:] == Kind.QUOTE))[same].any()
    single = np.concatenate([np.concatenate(list(TaqFeed([path]).batches())) for path in paths])
    assert sorted(single["size"].tolist()) == sorted(cells["size"].tolist())
    assert {each.venue for each in feed.instruments} >= {"XNYS", "XNAS", "ARCX", "BATS"}
    assert (feed.instruments[0].symbol, feed.name) == ("IBM", "taq-ibm-2013-10-08")


@pytest.mark.parametrize("field", [1, 2])
def test_control_one_changed_digit_of_a_trade(market_data: Path, tmp_path: Path, field: int) -> None:
    """A digit of a size, or the first two of a price: the bars beside the file contradict it."""
    lines = lines_of(market_data / "taq_lean" / TRADES)
    for unit in ("minute", "second"):
        name = TRADES.replace("tick", unit)
        (tmp_path / name).write_bytes((market_data / "taq_lean" / name).read_bytes())
    parts = lines[15_000].split(b",")
    parts[field] = bytes([parts[field][0] ^ (3 if field == 2 else 8)]) + parts[field][1:]
    lines[15_000] = b",".join(parts)
    path = packed(tmp_path / TRADES, "20131008_ibm_Trade_Tick.csv", b"".join(lines))
    found = check_source("taq", [path])
    assert found.mismatches >= 1
    assert "bar" in str(found.first_mismatch)


def test_control_one_changed_byte_of_the_zip(market_data: Path, tmp_path: Path) -> None:
    from tapehouse.core import DecodeError

    data = bytearray((market_data / "taq_lean" / QUOTES).read_bytes())
    data[len(data) // 2] ^= 4
    path = tmp_path / QUOTES
    path.write_bytes(bytes(data))
    with pytest.raises(DecodeError):
        check_source("taq", [path])
