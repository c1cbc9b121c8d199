"""Declared instruments in place of what a format guessed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tapehouse.core import DataError, MissingError
from tapehouse.feeds import GeneratedDay, SourceOptions, open_feed

DECLARED = """
[[instrument]]
symbol = "BRAVO"
venue = "GEN"
tick_size = "0.005"
calendar = "XNYS"
multiplier = 10

[[instrument]]
symbol = "ALFA"
tick_size = "0.01"
currency = "EUR"
"""


def saved(tmp_path: Path, text: str) -> SourceOptions:
    path = tmp_path / "instruments.toml"
    path.write_text(text)
    return SourceOptions(instruments=path)


def test_what_is_declared_goes_before_what_was_guessed(tmp_path: Path) -> None:
    plain, feed = open_feed("generated"), open_feed("generated", (), saved(tmp_path, DECLARED))
    assert (feed.name, feed.cells_estimate) == (plain.name, plain.cells_estimate)
    found = {item.symbol: item for item in feed.instruments}
    assert (found["BRAVO"].tick_size, found["BRAVO"].calendar, found["BRAVO"].multiplier) == (5_000_000, "XNYS", 10)
    assert (found["ALFA"].currency, found["ALFA"].venue) == ("EUR", "GEN"), "a declaration without venue fits any"
    assert [item.id for item in feed.instruments] == [item.id for item in plain.instruments]
    assert found["CHARLIE"] == next(item for item in plain.instruments if item.symbol == "CHARLIE")
    assert np.array_equal(next(feed.batches()), next(plain.batches()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[instrument]]\nsymbol = "NONE"\n', "declares no instrument of this feed"),
        ('[[instrument]]\nsymbol = "ALFA"\nvenue = "XNYS"\n', "declares no instrument of this feed"),
        ('[[instrument]]\nsymbol = "ALFA"\nlot_size = "0.1"\n', "size_exponent is -1, the feed's cells count in 0"),
    ],
)
def test_what_does_not_fit_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        open_feed("generated", (), saved(tmp_path, text))
    assert "instruments.toml" in str(caught.value)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        open_feed("generated", (), SourceOptions(instruments=tmp_path / "none.toml"))


def test_what_a_format_counts_can_be_read_through_it(tmp_path: Path) -> None:
    feed = open_feed("generated", (), saved(tmp_path, DECLARED))
    feed._feed.odd_records = 7  # type: ignore[attr-defined]
    assert feed.odd_records == 7  # type: ignore[attr-defined]
    assert isinstance(feed._feed, GeneratedDay)  # type: ignore[attr-defined]
