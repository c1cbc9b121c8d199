"""Who may make, attach to, replace and remove a ring, and what is refused with which words."""

from __future__ import annotations

import gc
import os
import stat
from pathlib import Path

import pytest

from tapehouse.core import ConflictError, DataError, DecodeError, InvariantError, MissingError, UsageError
from tapehouse.market import empty_cells
from tapehouse.ring import Policy, Ring, list_rings, remove
from tapehouse.ring import place as place_module
from tapehouse.ring.layout import CELLS, HEAD, HEADER_BYTES, MAGIC, POLICY, TAIL, VERSION, file_bytes
from tapehouse.ring.place import default_directory


def one_cell() -> object:
    cell = empty_cells(1)
    cell["cells"] = 1
    return cell


def patch(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def test_a_ring_is_made_whole_and_private(ring_directory: Path) -> None:
    ring = Ring.create("feed", cells=64, policy=Policy.DROP, directory=ring_directory)
    assert ring.path == ring_directory / "feed.ring"
    found = ring.path.stat()
    assert (found.st_size, stat.S_IMODE(found.st_mode)) == (file_bytes(64), 0o600)
    assert found.st_blocks * 512 >= file_bytes(64)  # claimed now, so that a full tmpfs never kills a writer
    assert list_rings(ring_directory) == ["feed"]
    assert [path.name for path in ring_directory.iterdir()] == ["feed.ring"]


def test_every_ring_has_another_identity(ring_directory: Path) -> None:
    first = Ring.create("feed", cells=64, directory=ring_directory)
    second = Ring.create("feed", cells=64, directory=ring_directory)
    assert first.identity.creation != second.identity.creation


@pytest.mark.parametrize("cells", [0, 1, 32, 63, 65, 96, 1 << 27, -64])
def test_a_capacity_that_cannot_be_is_refused(ring_directory: Path, cells: int) -> None:
    with pytest.raises(UsageError, match="power of two"):
        Ring.create("feed", cells=cells, directory=ring_directory)


@pytest.mark.parametrize("name", ["", "../up", "Feed", "a b", "x" * 65])
def test_a_name_that_cannot_be_is_refused(ring_directory: Path, name: str) -> None:
    with pytest.raises(UsageError, match="ring name"):
        Ring.create(name, cells=64, directory=ring_directory)


def test_roles_are_exclusive_also_within_a_process(ring_directory: Path) -> None:
    with Ring.produce("feed", cells=64, directory=ring_directory):
        with pytest.raises(ConflictError, match=f"process {os.getpid()} is its producer"):
            Ring.produce("feed", directory=ring_directory)
        with (
            Ring.consume("feed", directory=ring_directory),
            pytest.raises(ConflictError, match=f"process {os.getpid()} is its consumer"),
        ):
            Ring.consume("feed", directory=ring_directory)
    with (
        Ring.produce("feed", directory=ring_directory) as again,
        Ring.consume("feed", directory=ring_directory) as reader,
    ):
        assert (again.epoch, reader.epoch) == (2, 2)


def test_a_role_that_was_forgotten_is_free_when_its_holder_is_gone(ring_directory: Path) -> None:
    producer = Ring.produce("feed", cells=64, directory=ring_directory)
    append_one = producer.append_one
    del producer
    gc.collect()
    with Ring.observe("feed", directory=ring_directory) as observer:
        assert not observer.producer_alive
        assert observer.producer_pid == os.getpid()  # never closed: as one who died
    assert append_one(0, 0, 0, 0, 0, 0, 1 << 56, 0)  # The memory stays as long as the function.


@pytest.mark.parametrize("role", ["produce", "consume"])
def test_a_living_ring_is_neither_replaced_nor_removed(ring_directory: Path, role: str) -> None:
    Ring.create("feed", cells=64, directory=ring_directory)
    with getattr(Ring, role)("feed", directory=ring_directory):
        for reclaim in (False, True):
            with pytest.raises(ConflictError, match=f"process {os.getpid()}"):
                Ring.create("feed", cells=64, directory=ring_directory, reclaim=reclaim)
        with pytest.raises(ConflictError, match=f"process {os.getpid()}"):
            remove("feed", directory=ring_directory)
    remove("feed", directory=ring_directory)
    assert list_rings(ring_directory) == []


def test_a_dead_ring_with_cells_is_kept_unless_reclaimed(ring_directory: Path) -> None:
    with Ring.produce("feed", cells=64, directory=ring_directory) as producer:
        producer.append(one_cell())
    with pytest.raises(ConflictError, match=r"1 cells that nobody drained.*drain it, or reclaim it"):
        Ring.create("feed", cells=64, directory=ring_directory)
    with Ring.observe("feed", directory=ring_directory) as observer:
        assert (observer.lag, observer.replaced) == (1, False)
        Ring.create("feed", cells=128, directory=ring_directory, reclaim=True)
        assert observer.replaced
        assert observer.lag == 1  # the old one, while somebody looks at it
    with Ring.observe("feed", directory=ring_directory) as observer:
        assert (observer.cells, observer.head) == (128, 0)
    assert [path.name for path in ring_directory.iterdir()] == ["feed.ring"]


def test_who_attaches_while_the_ring_is_replaced_gets_the_new_one(
    ring_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tapehouse.ring import file

    Ring.create("feed", cells=64, directory=ring_directory)
    opened = file.open_ring
    replaced = []

    def open_then_replace(path: Path, **options: bool) -> object:
        found = opened(path, **options)
        if not replaced:
            replaced.append(True)
            Ring.create("feed", cells=128, directory=ring_directory)
        return found

    monkeypatch.setattr(file, "open_ring", open_then_replace)
    with Ring.consume("feed", directory=ring_directory) as consumer:
        assert consumer.cells == 128


def test_an_existing_ring_must_be_what_is_asked_for(ring_directory: Path) -> None:
    Ring.create("feed", cells=64, policy=Policy.FAIL, directory=ring_directory)
    with pytest.raises(UsageError, match="cells are 64, not 128"):
        Ring.produce("feed", cells=128, directory=ring_directory)
    with pytest.raises(UsageError, match="policy"):
        Ring.produce("feed", policy=Policy.DROP, directory=ring_directory)
    with Ring.produce("feed", directory=ring_directory) as producer:
        assert (producer.cells, producer.policy) == (64, Policy.FAIL)


def test_what_is_not_there_is_said(ring_directory: Path) -> None:
    for attempt in (Ring.consume, Ring.observe, remove):
        with pytest.raises(MissingError, match="no such ring"):
            attempt("feed", directory=ring_directory)
    assert list_rings(ring_directory / "nothing") == []


@pytest.mark.parametrize(
    ("at", "data", "error", "words"),
    [
        (0, b"ELF\x7f", DecodeError, "no ring"),
        (4, (VERSION + 1).to_bytes(2, "little"), DecodeError, f"layout {VERSION + 1}.*tapehouse that made it"),
        (6, (128).to_bytes(2, "little"), DataError, "128 bytes cannot be"),
        (CELLS, (128).to_bytes(8, "little"), DataError, "bytes where a ring of 128 cells has"),
        (CELLS, (65).to_bytes(8, "little"), DataError, "65 cells"),
        (POLICY, (9).to_bytes(8, "little"), DataError, "policy 9"),
        (HEAD, (65).to_bytes(8, "little"), DataError, "head 65 and tail 0 cannot be"),
        (TAIL, (1).to_bytes(8, "little"), DataError, "head 0 and tail 1 cannot be"),
    ],
)
def test_a_foreign_newer_or_damaged_file_is_refused(
    ring_directory: Path, at: int, data: bytes, error: type[DataError], words: str
) -> None:
    ring = Ring.create("feed", cells=64, directory=ring_directory)
    patch(ring.path, at, data)
    before = ring.path.read_bytes()
    for attach in (Ring.produce, Ring.consume):
        with pytest.raises(error, match=words):
            attach("feed", directory=ring_directory)
    assert ring.path.read_bytes() == before


@pytest.mark.parametrize("size", [0, 3, HEADER_BYTES - 1, HEADER_BYTES, file_bytes(64) - 1, file_bytes(64) + 4096])
def test_a_file_of_another_length_is_refused(ring_directory: Path, size: int) -> None:
    ring = Ring.create("feed", cells=64, directory=ring_directory)
    os.truncate(ring.path, size)
    for attach in (Ring.produce, Ring.consume, Ring.observe, Ring.create):
        with pytest.raises(DataError):
            attach("feed", directory=ring_directory)
    assert ring.path.stat().st_size == size


def test_a_link_is_not_followed(ring_directory: Path) -> None:
    real = Ring.create("feed", cells=64, directory=ring_directory)
    (ring_directory / "link.ring").symlink_to(real.path)
    with pytest.raises(MissingError):
        Ring.produce("link", directory=ring_directory)


def test_a_directory_that_others_can_write_is_refused(ring_directory: Path) -> None:
    ring_directory.chmod(0o777)
    with pytest.raises(UsageError, match="chmod 700"):
        Ring.create("feed", cells=64, directory=ring_directory)


def test_a_ring_that_does_not_fit_says_so(ring_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(MissingError, match="enlarge the tmpfs"):
        Ring.create("feed", cells=64, directory=ring_directory)
    assert list(ring_directory.iterdir()) == []


def test_the_default_directory_can_be_chosen(ring_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(place_module.VARIABLE, raising=False)
    assert default_directory() == Path(f"/dev/shm/tapehouse-{os.getuid()}")
    monkeypatch.setenv(place_module.VARIABLE, str(ring_directory / "mine"))
    Ring.create("feed", cells=64)
    assert list_rings() == ["feed"]
    assert stat.S_IMODE((ring_directory / "mine").stat().st_mode) == 0o700
    remove("feed")


def test_nothing_is_done_through_a_closed_ring(ring_directory: Path) -> None:
    producer = Ring.produce("feed", cells=64, directory=ring_directory)
    consumer = Ring.consume("feed", directory=ring_directory)
    observer = Ring.observe("feed", directory=ring_directory)
    producer.append(one_cell())
    view = consumer.readable()
    for end in (producer, consumer, observer):
        end.close()
        end.close()
    assert view["cells"].tolist() == [1]  # The memory stays while a view of it is held.
    for use in (
        lambda: producer.append(one_cell()),
        lambda: producer.head,
        lambda: producer.address,
        lambda: consumer.readable(),
        lambda: consumer.release(1),
        lambda: consumer.lag,
        lambda: observer.head,
        lambda: observer.producer_alive,
    ):
        with pytest.raises(InvariantError, match="after it was closed"):
            use()
    with pytest.raises(ValueError, match="closed"):
        producer.append_one(0, 0, 0, 0, 0, 0, 1 << 56, 0)


def test_application_words_are_signed_and_kept(ring_directory: Path) -> None:
    with Ring.produce("feed", cells=64, directory=ring_directory) as producer:
        for number, value in ((0, -1), (63, 2**63 - 1), (7, -(2**63))):
            producer.set_word(number, value)
        for wrong in (-1, 64):
            with pytest.raises(UsageError, match="words 0 to 63"):
                producer.word(wrong)
    with (
        Ring.consume("feed", directory=ring_directory) as consumer,
        Ring.observe("feed", directory=ring_directory) as seen,
    ):
        for end in (consumer, seen):
            assert (end.word(0), end.word(63), end.word(7), end.word(1)) == (-1, 2**63 - 1, -(2**63), 0)


def test_magic_is_what_the_format_page_says() -> None:
    assert MAGIC == b"THRG"
