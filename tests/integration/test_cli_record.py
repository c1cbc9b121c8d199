"""record, replay, prove, dr: a desk's day on one cluster, its backup, and the same day in another cluster."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import ESH4, Shell, excerpt

CELLS = 20_000
EXCERPT_CELLS = 1_355


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A user with a cluster of one broker."""
    shell = Shell(tmp_path_factory.mktemp("desk") / "home")
    with shell.cluster():
        yield shell


@pytest.fixture(scope="module")
def generated(desk: Shell) -> Any:
    """What `record generated --json` told; the tape is `gen`."""
    return desk.json("record", "generated", "--cells", CELLS, "--tape", "gen")


@pytest.fixture(scope="module")
def aapl(desk: Shell, market_data: Path) -> Any:
    """What recording the real excerpt told; the tape is `aapl`."""
    return desk.json("record", "lobster", *excerpt(market_data), "--tape", "aapl")


DIGESTS = ("decision_digest", "state_digest", "decisions", "cells")


def digests(told: dict[str, Any]) -> tuple[Any, ...]:
    """What must be the same on every path."""
    return tuple(told[name] for name in DIGESTS)


# Recording.


def test_a_lobster_pair(aapl: Any) -> None:
    assert aapl["tape"] == "aapl"
    assert aapl["feed_cells"] == EXCERPT_CELLS
    assert aapl["cells"] > EXCERPT_CELLS
    assert aapl["decisions"] > 0
    assert (aapl["unknown_orders"], aapl["revealed_levels"]) == (9, 12)


def test_a_lobster_zip_goes_to_a_tape_of_its_own_name(desk: Shell, market_data: Path) -> None:
    archive = market_data / "lobster" / "LOBSTER_SampleFile_AMZN_2012-06-21_1.zip"
    told = desk.inside.json("record", "lobster", archive, "--no-options")
    assert told["tape"] == "lobster-amzn-2012-06-21"
    assert told["feed_cells"] > 57_515  # the messages of that day, as LOBSTER counts them
    assert digests(desk.inside.json("replay", "--tape", told["tape"])) == digests(told)


def test_a_dbn_day(desk: Shell, market_data: Path) -> None:
    told = desk.inside.json("record", "dbn", market_data / ESH4, "--tape", "esh4", "--no-options")
    assert told["feed_cells"] == 68_793
    assert digests(desk.inside.json("replay", "--tape", "esh4")) == digests(told)


def test_people_see_the_numbers_and_what_comes_next(desk: Shell) -> None:
    done = desk.run("record", "generated", "--cells", 2000, "--tape", "shown", "--strategy", "none")
    lines = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    assert lines["tape"] == "shown"
    assert lines["decisions"] == "0"
    assert "decision_digest" not in lines, "nothing was decided"
    assert lines["next:"].startswith("tapehouse replay --tape shown")
    assert done.err == "", "no bar where there is no terminal"


def test_the_same_command_again_adds_nothing(desk: Shell, generated: Any) -> None:
    again = desk.inside.json("record", "generated", "--cells", CELLS, "--tape", "gen")
    assert again["skipped_cells"] == again["feed_cells"] == generated["feed_cells"]
    assert again["decision_digest"] == generated["decision_digest"]


def test_a_tape_holds_one_history(desk: Shell, aapl: Any) -> None:
    said = desk.refused("record", "generated", "--cells", 2000, "--tape", "aapl", code=4)
    assert "it holds the feed 'lobster-aapl-2012-06-21', not 'generated-7'" in said
    assert "--tape NAME" in said


# Replaying and proving.


def test_any_speed_gives_the_same_digests(desk: Shell, aapl: Any) -> None:
    fast = desk.json("replay", "--tape", "aapl", "--speed", "max")
    paced = desk.inside.json("replay", "--tape", "aapl", "--speed", "10x", "--paced-seconds", 2)
    assert digests(fast) == digests(paced) == digests(aapl)
    assert paced["seconds"] > 0.1, "two seconds of the tape at 10x"
    assert paced["positions"] == fast["positions"]
    assert fast["positions"][0]["symbol"] == "AAPL"


def test_a_replay_for_people_and_its_picture(desk: Shell, aapl: Any, tmp_path: Path) -> None:
    picture = tmp_path / "session.png"
    shown = desk.run("replay", "--tape", "aapl", "--speed", "1000x", "--plot", picture).out
    assert any(line.split()[:1] == ["AAPL"] for line in shown.splitlines())
    assert "lateness_p99_us" in shown
    assert f"state_digest       {aapl['state_digest']}" in shown
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert list(tmp_path.iterdir()) == [picture], "no draft is left"


def test_a_tape_is_proved_in_one_line(desk: Shell, aapl: Any) -> None:
    proof = desk.json("prove", "--tape", "aapl")
    assert list(proof) == ["paths", "equal"]
    assert proof["equal"] is True
    assert [path["name"] for path in proof["paths"]] == ["live", "replay", "replay again"]
    assert {digests(path) for path in proof["paths"]} == {digests(desk.inside.json("replay", "--tape", "aapl"))}
    shown = desk.inside.run("prove", "--tape", "aapl").out
    assert shown.splitlines()[-1] == "PROVED"
    assert "state from the live desk's snapshot" in shown, "its state is compared, not copied"


def test_another_strategy_is_told_apart(desk: Shell, aapl: Any) -> None:
    done = desk.run("prove", "--tape", "aapl", "--strategy", "watcher", "--json", code=1)
    assert done.json["equal"] is False
    assert "live and replay part at output cell" in done.err
    assert len(done.err.splitlines()) == 1
    last = desk.inside.run("prove", "--tape", "aapl", "--parameters", '{"interval_ms": 20}', code=1).out.splitlines()[
        -1
    ]
    assert last.startswith("DIFFERENT: live and replay part at output cell ")


def test_a_tape_without_decisions_cannot_be_proved(desk: Shell) -> None:
    desk.inside.json("record", "generated", "--cells", 2000, "--tape", "silent", "--strategy", "none")
    assert "recorded without a strategy" in desk.inside.refused("prove", "--tape", "silent", code=3)


def test_the_live_desks_own_state_is_compared(desk: Shell, tmp_path: Path) -> None:
    """Its snapshot is held against the replays: a wrong one is found, a torn one is told."""
    desk.inside.json("record", "generated", "--cells", 2000, "--tape", "held")
    (kept,) = (desk.home / "snapshots").glob("held-*/engine.snapshot")
    desk.inside.json("record", "generated", "--cells", 2000, "--seed", 8, "--tape", "other")
    (other,) = (desk.home / "snapshots").glob("other-*/engine.snapshot")
    sound = kept.read_bytes()
    kept.write_bytes(_moved(other.read_bytes(), sound))
    done = desk.inside.run("prove", "--tape", "held", "--json", code=1)
    assert done.json["equal"] is False
    kept.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    assert "a snapshot's digest disagrees" in " ".join(desk.inside.run("prove", "--tape", "held").out.split())
    told = desk.inside.json("dr", "backup", f"file://{tmp_path}/store", "--tape", "held")
    assert told["ignored_snapshots"] == ["engine of held: a snapshot's digest disagrees"], "the log is the truth"
    assert told["logs"]["TAPE_held"] > 0
    kept.write_bytes(sound)


def _moved(snapshot: bytes, to: bytes) -> bytes:
    """Another tape's state under this tape's position: what a desk in a wrong state would have left."""
    from tapehouse.log import Snapshot

    taken, place = Snapshot.decode(snapshot), Snapshot.decode(to)
    return Snapshot(progress=place.progress, machine_version=taken.machine_version, state=taken.state).encode()


def test_what_is_not_there_is_named(desk: Shell, generated: Any) -> None:
    said = desk.inside.refused("prove", "--tape", "nope", code=3)
    assert said.startswith("nope: there is no such tape (there are ")
    assert "gen" in said


# Disaster recovery.


@pytest.fixture(scope="module")
def backed_up(desk: Shell, generated: Any, aapl: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A store with two backups, the second incremental; its URL and its directory."""
    place = tmp_path_factory.mktemp("store")
    url = f"file://{place}"
    assert "no tapehouse repository" in desk.inside.refused("dr", "list", url, code=3), "it is empty"
    first = desk.json("dr", "backup", url)
    assert first["manifest"] == 1
    assert first["written"]
    assert first["segments_new"] > 0
    assert first["bytes_sent"] > 0

    nothing = desk.inside.json("dr", "backup", url)
    assert not nothing["written"]
    assert (nothing["segments_new"], nothing["chunks_new"], nothing["bytes_sent"]) == (0, 0, 0)

    desk.inside.json("record", "generated", "--cells", 3000, "--tape", "more")
    second = desk.inside.json("dr", "backup", url)
    assert second["manifest"] == 2
    assert second["segments_new"] == 2, "TAPE_more and EVENTS_more alone"
    assert second["segments_reused"] == first["segments_new"]
    assert set(second["logs"]) - set(first["logs"]) == {"TAPE_more", "EVENTS_more", "CMDS_more"}
    return url, place


def test_backups_are_listed_and_verified(desk: Shell, backed_up: tuple[str, Path]) -> None:
    url, _ = backed_up
    assert [told["manifest"] for told in desk.json("dr", "list", url)] == [1, 2]
    assert "TAPE_more" in desk.inside.run("dr", "list", url).out
    whole = desk.json("dr", "verify", url)
    assert (whole["manifest"], whole["damaged"]) == (2, [])
    older = desk.inside.json("dr", "verify", url, "--manifest", 1)
    assert older["objects"] < whole["objects"]
    assert "there is no manifest 9" in desk.inside.refused("dr", "verify", url, "--manifest", 9, code=3)
    shown = desk.inside.run("dr", "backup", url).out
    assert "nothing is new: the last one stands" in shown


def test_a_tape_is_replayed_straight_from_the_backup(desk: Shell, backed_up: tuple[str, Path], aapl: Any) -> None:
    url, _ = backed_up
    assert digests(desk.inside.json("replay", "--tape", "aapl", "--store", url)) == digests(aapl)
    said = desk.inside.refused("replay", "--tape", "nope", "--store", url, code=3)
    assert said.startswith("nope: there is no such tape in backup 2 (there are ")


def test_a_backup_becomes_another_cluster(desk: Shell, backed_up: tuple[str, Path], aapl: Any, tmp_path: Path) -> None:
    url, _ = backed_up
    other = Shell(tmp_path / "home")
    with other.cluster():
        assert "nothing to back up" in other.inside.refused("dr", "backup", f"file://{tmp_path}/store", code=3)
        told = other.json("dr", "restore", url)
        assert told["manifest"] == 2
        assert told["logs"]["TAPE_aapl"]["appended"] == told["logs"]["TAPE_aapl"]["last"] > 0
        assert "aapl.engine" in told["snapshots"]
        assert all(log["appended"] == 0 for log in other.inside.json("dr", "restore", url)["logs"].values())

        proof = other.inside.json("prove", "--tape", "aapl")
        assert proof["equal"]
        assert {digests(path) for path in proof["paths"]} == {digests(aapl)}
        assert digests(other.inside.json("replay", "--tape", "gen")) == digests(
            desk.inside.json("replay", "--tape", "gen")
        )

        # The desk goes on where it was lost, and a restore never touches what came after.
        again = other.inside.json("record", "generated", "--cells", 3000, "--tape", "more")
        assert again["skipped_cells"] == again["feed_cells"]
        said = other.inside.refused("dr", "restore", url, code=2)
        assert said.startswith("TAPE_more: a log of this name is there already")
        assert "restore into an empty cluster" in said


def test_a_living_cluster_is_never_restored_over(desk: Shell, backed_up: tuple[str, Path], aapl: Any) -> None:
    url, _ = backed_up
    assert "a log of this name is there already, with" in desk.inside.refused("dr", "restore", url, code=2)
    assert digests(desk.inside.json("replay", "--tape", "aapl")) == digests(aapl), "nothing of it was touched"


def test_damaged_and_lost_objects_are_named(desk: Shell, backed_up: tuple[str, Path], tmp_path: Path) -> None:
    _, place = backed_up
    copy = tmp_path / "store"
    shutil.copytree(place, copy)
    url = f"file://{copy}"
    (segment,) = (copy / "segments" / "TAPE_aapl").iterdir()
    sound = segment.read_bytes()
    key = segment.relative_to(copy).as_posix()
    middle = len(sound) // 2
    segment.write_bytes(sound[:middle] + bytes([sound[middle] ^ 0x10]) + sound[middle + 1 :])

    told = desk.json("dr", "verify", url, code=1)
    assert [damage["key"] for damage in told["damaged"]] == [key]
    shown = desk.inside.run("dr", "verify", url, code=1).out
    assert f"DAMAGED {key}: " in shown
    assert key in desk.inside.refused("replay", "--tape", "aapl", "--store", url, code=4)
    other = Shell(tmp_path / "home")
    with other.cluster():
        assert key in other.refused("dr", "restore", url, code=4)
        segment.write_bytes(sound)
        assert other.inside.json("dr", "restore", url)["manifest"] == 2, "a restore that was stopped goes on"
        assert other.inside.json("prove", "--tape", "aapl")["equal"]

    segment.unlink()
    assert [damage["key"] for damage in desk.inside.json("dr", "verify", url, code=1)["damaged"]] == [key]
    assert f"{key}: the object is gone" in desk.inside.refused("replay", "--tape", "aapl", "--store", url, code=4)


def test_a_tape_that_is_not_there_is_not_backed_up(desk: Shell, generated: Any, tmp_path: Path) -> None:
    said = desk.inside.refused("dr", "backup", f"file://{tmp_path}/store", "--tape", "nope", code=3)
    assert said.startswith("nope: there is no such tape")
    assert not (tmp_path / "store" / "manifests").exists()
    (tmp_path / "file").write_text("")
    assert "it is no directory" in desk.inside.refused("dr", "backup", f"file://{tmp_path}/file/store", code=2)
