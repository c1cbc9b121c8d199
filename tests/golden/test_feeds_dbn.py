"""Real DBN files: the published end of a day's book, every version alike, and every supported schema."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import databento_dbn
import numpy as np
import pytest

from tapehouse.core import UNDEFINED, DecodeError
from tapehouse.feeds import DbnFeed, check_dbn
from tapehouse.feeds.dbn import SCHEMAS
from tapehouse.feeds.dbn_source import UPGRADE, open_dbn
from tapehouse.feeds.dbn_summaries import summary_cells
from tapehouse.market import Action, Flag, Kind, Side

EVE = "nautilus/esh4-glbx-mdp3-20231224.mbo.dbn.zst"
DAY = "nautilus/esh4-glbx-mdp3-20231225.mbo.dbn.zst"


def files_of(market_data: Path) -> list[Path]:
    folder = market_data / "databento"
    files = [*folder.glob("dbn_tests/*.dbn*"), *folder.glob("python_tests/*/*.dbn*")]
    return sorted(path for path in files if ".frag" not in path.name)


def schema_of(path: Path) -> str:
    with open_dbn(path) as stream:
        return str(stream.metadata.schema or "mixed")


class LevelBook:
    """Sizes by price, from orders."""

    def __init__(self) -> None:
        self.orders: dict[int, list[int]] = {}
        self.levels: dict[int, dict[int, int]] = {Side.BID: {}, Side.ASK: {}}

    def change(self, side: int, price: int, delta: int) -> None:
        size = self.levels[side].get(price, 0) + delta
        self.levels[side][price] = size
        if size == 0:
            del self.levels[side][price]

    def apply(self, action: int, side: int, order: int, price: int, size: int) -> None:
        if action == Action.CLEAR:
            self.__init__()
        elif action in (Action.ADD, Action.MODIFY):
            if order in self.orders:
                self.change(*self.orders[order][:2], -self.orders[order][2])
            self.orders[order] = [side, price, size]
            self.change(side, price, size)
        elif action == Action.CANCEL:
            self.change(*self.orders[order][:2], -size)
            self.orders[order][2] -= size
            if self.orders[order][2] == 0:
                del self.orders[order]

    def feed(self, path: Path) -> None:
        for cells in DbnFeed(path).batches():
            columns = ("action", "side", "order_id", "price", "size")
            for row in zip(*(cells[name].tolist() for name in columns), strict=True):
                self.apply(*row)

    def shape(self) -> tuple[int, int, int, int]:
        bids, asks = self.levels[Side.BID], self.levels[Side.ASK]
        return len(bids), len(asks), max(bids), min(asks)


def test_the_christmas_day_ends_as_published(market_data: Path) -> None:
    report = check_dbn(market_data / "databento" / DAY)
    expected = {
        "records": 68_792,
        "bid_levels": 922,
        "ask_levels": 565,
        "best_bid": Decimal("4810.00"),
        "best_ask": Decimal("4810.25"),
        "best_bid_size": 22,
        "best_ask_size": 28,
        "sequence": 59_585,
        "trades": 2_973,
        "unknown_orders": 0,
        "mismatches": 0,
        "symbol": "ESH4",
    }
    assert {name: report[name] for name in expected} == expected
    assert (str(report["best_bid"]), str(report["best_ask"])) == ("4810.00", "4810.25")
    assert json.dumps({name: float(report[name]) for name in ("best_bid", "best_ask")})


def test_two_days_in_one_book_do_not_double_it(market_data: Path) -> None:
    book = LevelBook()
    book.feed(market_data / "databento" / EVE)
    assert book.shape() == (892, 559, 4_799_000_000_000, 4_799_500_000_000)
    book.feed(market_data / "databento" / DAY)
    assert book.shape() == (922, 565, 4_810_000_000_000, 4_810_250_000_000)


def test_the_snapshot_without_a_clear_is_given_one(market_data: Path) -> None:
    feed = DbnFeed(market_data / "databento" / DAY)
    cells = next(feed.batches())
    first = cells[0]
    assert (first["action"], first["kind"]) == (Action.CLEAR, Kind.MBO)
    assert first["flags"] == int(Flag.SNAPSHOT | Flag.SYNTHETIC)
    assert cells[1]["action"] == Action.ADD
    assert cells[1]["flags"] & Flag.SNAPSHOT
    assert feed.inserted_clears == 1
    assert (cells["action"] == Action.CLEAR).sum() == 1


def test_the_day_is_one_future_with_a_quarter_point_tick(market_data: Path) -> None:
    feed = DbnFeed(market_data / "databento" / DAY)
    (instrument,) = feed.instruments
    assert (instrument.symbol, instrument.asset_class, instrument.tick_size) == ("ESH4", "future", 250_000_000)
    assert feed.name == "esh4-glbx-mdp3-20231225-mbo"


def test_fields_of_the_day_are_those_of_the_library(market_data: Path) -> None:
    path = market_data / "databento" / DAY
    cells = np.concatenate(list(DbnFeed(path).batches()))[1:]
    with open_dbn(path) as stream:
        decoder = databento_dbn.DBNDecoder(upgrade_policy=UPGRADE)
        decoder.write_and_decode(stream.metadata_bytes)
        at = 0
        for block in stream.blocks():
            records: list[Any] = decoder.write_and_decode(block.tobytes())
            part = cells[at : at + len(records)]
            for name in ("ts_event", "ts_recv", "sequence", "order_id", "price", "size", "flags"):
                assert part[name].tolist() == [int(getattr(record, name)) for record in records], name
            assert part["source"].tolist() == [int(record.publisher_id) for record in records]
            for name in ("action", "side"):
                assert part[name].tolist() == [ord(str(getattr(record, name))) for record in records]
            at += len(records)
    assert at == len(cells) == 68_792


def test_every_supported_file_decodes_as_the_library_decodes_it(market_data: Path) -> None:
    decoded = 0
    for path in files_of(market_data):
        schema = schema_of(path)
        if schema == "mixed" or schema in SCHEMAS:
            report = check_dbn(path)
            assert report["mismatches"] == 0, (path, report["first_mismatch"])
            assert report["records"] - sum(report["skipped"].values()) == 0 or report["cells"] > 0
            decoded += 1
    assert decoded == 137


def test_every_schema_has_cells(market_data: Path) -> None:
    assert {schema_of(path) for path in files_of(market_data)} <= {"mixed", *SCHEMAS}


def test_a_bar_is_heard_of_at_its_end(market_data: Path) -> None:
    (cells,) = DbnFeed(market_data / "databento/dbn_tests/test_data.ohlcv-1h.dbn").batches()
    bars = cells[cells["kind"] == Kind.BAR]
    firsts = bars[bars["cells"] > 0]
    assert (firsts["ts_recv"] - firsts["ts_event"] == 3_600 * 10**9).all()
    assert firsts["count"].tolist() == [3_600] * len(firsts)
    owned = bars[1].tobytes()
    opened, high, low, close = np.frombuffer(owned[:32], np.int64).tolist()
    assert low <= min(opened, close) <= max(opened, close) <= high
    assert close == int(firsts["price"][0])


@pytest.mark.parametrize("schema", ["ohlcv-1h", "statistics", "imbalance"])
def test_the_check_finds_a_summary_that_is_told_wrong(
    market_data: Path, monkeypatch: pytest.MonkeyPatch, schema: str
) -> None:
    def wrong(run: Any, rtype: int) -> Any:
        firsts, owned = summary_cells(run, rtype)
        owned[:, 0] += 1
        return firsts, owned

    path = market_data / f"databento/dbn_tests/test_data.{schema}.dbn"
    assert check_dbn(path)["mismatches"] == 0
    monkeypatch.setattr("tapehouse.feeds.dbn.summary_cells", wrong)
    report = check_dbn(path)
    assert report["mismatches"] == 1
    assert "summary 0 is" in report["first_mismatch"]


def test_files_without_metadata_are_refused(market_data: Path) -> None:
    folder = market_data / "databento/dbn_tests"
    for path in [*folder.glob("*.frag*"), *folder.glob("*.dbz")]:
        with pytest.raises(DecodeError) as caught:
            DbnFeed(path)
        assert caught.value.position == "byte 0"


@pytest.mark.parametrize(
    "schema",
    [
        "mbo",
        "mbp-1",
        "mbp-10",
        "tbbo",
        "trades",
        "definition",
        "status",
        "bbo-1s",
        "ohlcv-1m",
        "statistics",
        "imbalance",
    ],
)
def test_all_versions_hold_the_same_records(market_data: Path, schema: str) -> None:
    folder = market_data / "databento/dbn_tests"
    paths = [path for path in sorted(folder.glob(f"test_data.{schema}.*dbn*")) if ".frag" not in path.name]
    assert len(paths) >= 3
    versions = [(DbnFeed(path).instruments, [cells.tolist() for cells in DbnFeed(path).batches()]) for path in paths]
    assert all(version == versions[0] for version in versions)


def test_a_live_recording_of_mixed_records(market_data: Path) -> None:
    feed = DbnFeed(market_data / "databento/python_tests/LIVE/test_data.live.dbn.zst")
    cells = np.concatenate(list(feed.batches()))
    (instrument,) = feed.instruments
    assert (instrument.symbol, instrument.multiplier, instrument.tick_size) == ("ESZ4", 50, 250_000_000)
    assert feed.skipped["symbol-mapping"] == 20
    assert feed.corrected_times == 13, "the file joins recordings of several times"
    assert (np.diff(cells["ts_recv"][cells["cells"] > 0]) >= 0).all()
    kinds = {Kind.MBO, Kind.MBP, Kind.QUOTE, Kind.TRADE, Kind.BAR, Kind.STATISTIC}
    assert kinds == set(cells["kind"].tolist())


def test_undefined_prices_and_times_of_option_quotes(market_data: Path) -> None:
    feed = DbnFeed(market_data / "databento/python_tests/OPRA.PILLAR/test_data.cbbo-1s.dbn.zst")
    cells = np.concatenate(list(feed.batches()))
    bid, ask = cells[0], cells[1]
    assert (bid["price"], ask["price"], bid["size"], bid["cells"], ask["cells"]) == (UNDEFINED, UNDEFINED, 0, 2, 0)
    assert bid["ts_event"] == bid["ts_recv"] == 1_740_056_401_000_000_000
    (option,) = feed.instruments
    assert (option.asset_class, option.right, option.strike, option.multiplier) == ("option", "C", 250 * 10**9, 100)


def test_definitions_become_instruments(market_data: Path) -> None:
    feed = DbnFeed(market_data / "databento/python_tests/GLBX.MDP3/test_data.definition.dbn.zst")
    (future,) = feed.instruments
    assert (future.symbol, future.asset_class, future.tick_size, future.multiplier) == (
        "ESH1",
        "future",
        250_000_000,
        50,
    )
    assert future.expiry_ns == 1_616_160_600_000_000_000
    assert list(feed.batches()) == []


@pytest.mark.parametrize("batch_cells", [1, 5, 4096])
def test_any_batch_size_gives_the_same_cells(market_data: Path, batch_cells: int) -> None:
    path = market_data / "databento" / EVE
    whole = np.concatenate(list(DbnFeed(path).batches()))
    batches = list(DbnFeed(path, batch_cells=batch_cells).batches())
    assert max(map(len, batches)) == batch_cells
    assert (np.concatenate(batches) == whole).all()
