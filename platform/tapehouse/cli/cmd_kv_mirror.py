"""`tapehouse kv mirror`: the replicated KV in a native NATS bucket."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tapehouse.app.kv_mirror import Comparison, MirrorCounts


def mirror(
    bucket: str,
    /,
    *,
    prefix: str = "",
    once: bool = False,
    verify: bool = False,
    json: bool = False,
    nats: str | None = None,
    home: Path | None = None,
) -> int:
    """Keep the replicated KV, or a prefix of it, in a native NATS bucket, for `nats kv get` and `nats kv watch`.

    It goes on until Ctrl-C, with changes, deletes and expiries. Where it stands is in the bucket itself, so a start
    after any end, a kill too, writes what differs and nothing else. Letters, digits, `_`, `-`, `/` and single dots of a
    key stay as they are; other bytes become `=` and two hex digits. The bucket is made where it is not there, and must
    be the mirror's own.

    Examples:

        tapehouse kv mirror desk

        tapehouse kv mirror limits --prefix limits/ --once

        tapehouse kv mirror desk --verify

    Parameters
    ----------
    bucket
        Its name.
    prefix
        Mirror the keys that begin with it; nothing for all.
    once
        Bring the bucket to where the KV is, and end.
    verify
        Write nothing: compare every key and value; exit code 1 where they differ.
    json
        One line of JSON when the bucket has been compared (`ready`), and one at the end.
    nats
        The broker; else what the environment or the embedded cluster says.
    home
        Where the embedded cluster lives.
    """
    import asyncio
    from dataclasses import asdict

    from tapehouse.app.kv_keys import open_keys
    from tapehouse.app.kv_mirror import Mirror, verify_mirror
    from tapehouse.bus import Bucket
    from tapehouse.cli.output import Bar, console, print_json, run_async, stop_signal
    from tapehouse.core.clock import SystemClock
    from tapehouse.core.errors import EXIT_CHECK_FAILED
    from tapehouse.core.tasks import cancel_all

    begins = prefix.encode()

    async def compare() -> Comparison:
        async with open_keys(nats, home=home) as (platform, kv):
            return await verify_mirror(kv, await Bucket.open(platform.bus, bucket, create=False), begins)

    async def run() -> MirrorCounts:
        async with open_keys(nats, home=home, name=f"mirror-{bucket}") as (platform, kv):
            told = (
                f"mirror of tapehouse's KV, keys that begin with {prefix!r}" if prefix else "mirror of tapehouse's KV"
            )
            target = await Bucket.open(platform.bus, bucket, description=told)
            mirroring = Mirror(kv, target, prefix=begins, clock=SystemClock())
            with Bar("mirror", None, unit="keys", quiet=json) as bar:

                def progress(done: int, of: int) -> None:
                    bar.at(done)

                if once:
                    await mirroring.compare(progress)
                    return mirroring.counts
                following = asyncio.create_task(mirroring.follow(progress, tell_ready))
                stop = asyncio.create_task(_set(stop_signal()))
                try:
                    await asyncio.wait({following, stop}, return_when=asyncio.FIRST_COMPLETED)
                    if following.done():
                        following.result()
                finally:
                    await cancel_all([following, stop])
            return mirroring.counts

    def tell_ready(counts: MirrorCounts) -> None:
        if json:
            print_json({"ready": True, "bucket": bucket, **asdict(counts)})
        else:
            console.print(f"the bucket {bucket} is where the KV is: {_words(counts)}; Ctrl-C ends it", highlight=False)

    if verify:
        found = run_async(compare())
        if json:
            print_json(asdict(found))
        else:
            console.print(f"{found.keys:,} keys compared, {found.different:,} differ", highlight=False)
            for line in found.differences:
                console.print(line, highlight=False, markup=False)
        return EXIT_CHECK_FAILED if found.different else 0
    counts = run_async(run())
    if json:
        print_json({"stopped": True, "bucket": bucket, **asdict(counts)})
    else:
        console.print(f"mirrored: {_words(counts)}", highlight=False)
    return 0


def _words(counts: MirrorCounts) -> str:
    return f"{counts.puts:,} set, {counts.deletes:,} deleted, {counts.same:,} already there"


async def _set(stop: Any) -> None:
    await stop.wait()
