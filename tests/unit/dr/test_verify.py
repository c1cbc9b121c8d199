"""Every object of a repository, damaged or deleted, is named; a restore that meets it stops and names it too."""

from __future__ import annotations

import pytest

from tapehouse.core.clock import VirtualClock
from tapehouse.core.errors import IntegrityError, MissingError, TapehouseError
from tapehouse.dr.backup import backup
from tapehouse.dr.manifest import decode_manifest, encode_manifest
from tapehouse.dr.repository import MARKER, MachineSnapshot
from tapehouse.dr.restore import MemoryTarget, restore
from tapehouse.dr.store import MemoryStore
from tapehouse.dr.verify import verify
from tests.support.logs import OLD_ID, extend, filled


async def repository() -> MemoryStore:
    """Three manifests over two logs with several segments, and a snapshot."""
    store = MemoryStore()
    tape, commands = await filled("TAPE_demo", 4000), await filled("CMDS_demo", 10)
    for last in (4000, 4200, 8300):
        await extend(tape, last)
        snapshot = MachineSnapshot(log="TAPE_demo", log_id=OLD_ID, sequence=last, data=b"state" * last)
        await backup([tape, commands], store, {"book": snapshot}, VirtualClock(last))
    return store


async def keys(store: MemoryStore) -> list[str]:
    return [info.key async for info in store.list("")]


async def needed(store: MemoryStore) -> set[str]:
    """What the newest manifest cannot do without."""
    newest = decode_manifest(await store.get("manifests/0000000003.json"), "")
    return set(newest.object_keys()) | {f"manifests/{number:010d}.json" for number in (1, 2, 3)}


async def test_a_sound_repository_is_sound() -> None:
    store = await repository()
    report = await verify(store)
    assert report.sound
    assert report.manifest == 3
    assert report.objects >= len(await needed(store))
    assert set(await keys(store)) - await needed(store) > {MARKER}, "the control: superseded objects are there too"


@pytest.mark.parametrize("damage", ["first byte", "middle", "last byte", "deleted", "empty"])
async def test_every_damaged_object_is_named(damage: str) -> None:
    store = await repository()
    for key in sorted(await needed(store)):
        before = await store.get(key)
        if damage == "deleted":
            await store.delete(key)
        elif damage == "empty":
            await store.put(key, b"")
        else:
            store.flip(key, {"first byte": 0, "middle": len(before) // 2, "last byte": -1}[damage])
        if (key, damage) == ("manifests/0000000003.json", "deleted"):
            assert (await verify(store)).manifest == 2, "the newest manifest is what there is"
        elif (key, damage) == ("manifests/0000000001.json", "deleted"):
            assert (await verify(store)).sound, "old manifests may be removed"
        else:
            report = await verify(store)
            assert [found.key for found in report.damaged] == [key]
            assert report.damaged[0].reason
        await store.put(key, before)
    assert (await verify(store)).sound


async def test_a_restore_stops_at_a_damaged_object_and_names_it() -> None:
    store = await repository()
    newest = decode_manifest(await store.get("manifests/0000000003.json"), "")
    for key in newest.object_keys():
        before = await store.get(key)
        store.flip(key, len(before) // 2)
        with pytest.raises(IntegrityError) as caught:
            await restore(store, MemoryTarget(), VirtualClock())
        assert caught.value.subject == key
        await store.delete(key)
        with pytest.raises(IntegrityError, match="gone") as caught:
            await restore(store, MemoryTarget(), VirtualClock())
        assert caught.value.subject == key
        await store.put(key, before)
    await restore(store, MemoryTarget(), VirtualClock())


async def test_a_swapped_segment_is_found() -> None:
    """An object that is whole, but stands under another's name."""
    store = await repository()
    newest = decode_manifest(await store.get("manifests/0000000003.json"), "")
    one, two = [key for key in newest.object_keys() if "TAPE" in key][:2]
    await store.put(two, await store.get(one))
    assert [found.key for found in (await verify(store)).damaged] == [two]


async def test_a_manifest_that_was_replaced_is_found() -> None:
    """A valid manifest with another content: only the chain can tell."""
    store = await repository()
    key = "manifests/0000000002.json"
    manifest = decode_manifest(await store.get(key), key)
    await store.put(key, encode_manifest(manifest.model_copy(update={"cut_ns": 1})))
    report = await verify(store)
    assert [found.key for found in report.damaged] == [key]
    assert "successor" in report.damaged[0].reason


async def test_any_flipped_byte_of_a_manifest_is_found() -> None:
    store = await repository()
    data = await store.get("manifests/0000000003.json")
    for at in range(len(data)):
        for mask in (0x01, 0x20):
            damaged = bytearray(data)
            damaged[at] ^= mask
            with pytest.raises(IntegrityError):
                decode_manifest(bytes(damaged), "m")


async def test_a_damaged_marker_is_named() -> None:
    store = await repository()
    for at in range(len(await store.get(MARKER))):
        store.flip(MARKER, at)
        with pytest.raises(IntegrityError, match=r"tapehouse\.json"):
            await verify(store)
        store.flip(MARKER, at)


async def test_nothing_to_verify_is_said() -> None:
    with pytest.raises(MissingError, match="right bucket"):
        await verify(MemoryStore())
    with pytest.raises(TapehouseError, match="no manifest 9"):
        await verify(await repository(), manifest=9)
