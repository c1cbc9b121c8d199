"""`tapehouse dr`: back up, restore, list, verify."""

from __future__ import annotations

from pathlib import Path


def backup(
    store: str, *, tape: list[str] | None = None, nats: str | None = None, home: Path | None = None, json: bool = False
) -> int:
    """Ship new segments and changed state of all tapes to a store.

    Examples:

        tapehouse dr backup file:///var/backups/desk

        AWS_ACCESS_KEY_ID=… tapehouse dr backup 's3://bucket/desk?endpoint=http://127.0.0.1:9000'

    Parameters
    ----------
    store
        `s3://bucket/prefix`, optionally with `?endpoint=`, or `file:///path`.
    tape
        Only these; else all. What an earlier backup holds must stay among them.
    nats
        The broker; else what the environment or the embedded cluster says.
    home
        Where snapshots live, as given to `tapehouse up`.
    json
        One line of JSON.
    """
    from tapehouse.app.bootstrap import open_platform
    from tapehouse.app.recovery import backup_tapes
    from tapehouse.cli.output import Bar, console, print_json, print_table, run_async
    from tapehouse.core import SystemClock
    from tapehouse.dr import BackupReport, open_store

    ignored: list[str] = []
    with Bar("back up", None, unit="messages", quiet=json) as bar:

        async def run() -> BackupReport:
            opened = open_store(store)
            try:
                async with open_platform(nats, home=home) as platform:
                    tapes = tape or await platform.tapes()
                    return await backup_tapes(
                        platform,
                        opened,
                        tapes,
                        SystemClock(),
                        progress=lambda _log, done, _total: bar.at(done),
                        on_ignored=ignored.append,
                    )
            finally:
                await opened.close()

        report = run_async(run())
    found = {
        "manifest": report.manifest.number,
        "written": report.written,
        "segments_new": report.segments_new,
        "segments_reused": report.segments_reused,
        "chunks_new": report.chunks_new,
        "chunks_reused": report.chunks_reused,
        "bytes_sent": report.bytes_sent,
        "requests": report.requests,
        "seconds": round((report.finished_ns - report.cut_ns) / 1e9, 3),
        "rpo_seconds_worst": None if report.rpo_ns_worst is None else round(report.rpo_ns_worst / 1e9, 3),
        "logs": {log.name: log.last for log in report.manifest.logs},
        "ignored_snapshots": ignored,
    }
    if json:
        print_json(found)
        return 0
    state = "written" if report.written else "nothing is new: the last one stands"
    sent = f"{report.bytes_sent:,} bytes in {report.requests} requests, {found['seconds']} s"
    lines = [
        ("manifest", f"{report.manifest.number}, {state}"),
        ("segments", f"{report.segments_new} sent, {report.segments_reused} there already"),
        ("chunks", f"{report.chunks_new} sent, {report.chunks_reused} there already"),
        ("sent", sent),
    ]
    if found["rpo_seconds_worst"] is not None:
        lines.append(("RPO", f"{found['rpo_seconds_worst']} s at worst since the backup before"))
    lines += [("ignored", f"the snapshot of {reason}") for reason in ignored]
    for label, value in lines:
        console.print(f"{label:<10}{value}", highlight=False)
    print_table("Logs", ("log", "through"), [(log.name, log.last) for log in report.manifest.logs])
    return 0


def restore(
    store: str,
    *,
    manifest: int | None = None,
    nats: str | None = None,
    home: Path | None = None,
    json: bool = False,
) -> int:
    """Rebuild every log and snapshot of a backup in an empty cluster; every sequence is asserted.

    A log that is there already and holds something else is never touched. A restore that was stopped goes on when
    the same command is given again.

    Examples:

        tapehouse dr restore file:///var/backups/desk

    Parameters
    ----------
    store
        As given to `tapehouse dr backup`.
    manifest
        Its number; else the newest.
    nats
        The broker; else what the environment or the embedded cluster says.
    home
        Where snapshots will live, as given to `tapehouse up`.
    json
        One line of JSON.
    """
    from tapehouse.app.bootstrap import open_platform
    from tapehouse.app.recovery import restore_cluster
    from tapehouse.cli.output import Bar, console, print_json, print_table, run_async
    from tapehouse.core import SystemClock
    from tapehouse.dr import RestoreReport, open_store

    with Bar("restore", None, unit="messages", quiet=json) as bar:

        async def run() -> RestoreReport:
            opened = open_store(store)
            try:
                async with open_platform(nats, home=home) as platform:
                    return await restore_cluster(
                        platform,
                        opened,
                        SystemClock(),
                        manifest=manifest,
                        progress=lambda _log, done, _total: bar.at(done),
                    )
            finally:
                await opened.close()

        report = run_async(run())
    found = {
        "manifest": report.manifest.number,
        "logs": {
            log.name: {"first": log.first, "last": log.last, "appended": log.appended, "head": log.head.hex()}
            for log in report.logs
        },
        "snapshots": list(report.snapshots),
        "bytes_received": report.bytes_received,
        "seconds": round(report.duration_ns / 1e9, 3),
    }
    if json:
        print_json(found)
        return 0
    rows = [(log.name, log.first, log.last, log.appended) for log in report.logs]
    print_table(f"Restored from manifest {report.manifest.number}", ("log", "first", "last", "appended"), rows)
    console.print(f"snapshots  {', '.join(report.snapshots) or 'none'}", highlight=False)
    console.print(f"RTO so far {found['seconds']} s; next: tapehouse prove --tape …", highlight=False)
    return 0


def list_manifests(store: str, *, json: bool = False) -> int:
    """The backups of a store, oldest first.

    Examples:

        tapehouse dr list file:///var/backups/desk

    Parameters
    ----------
    store
        As given to `tapehouse dr backup`.
    json
        One line of JSON.
    """
    from tapehouse.cli.output import print_json, print_table, run_async
    from tapehouse.core.units import format_time_ns
    from tapehouse.dr import Manifest, Repository, open_store

    async def run() -> list[Manifest]:
        opened = open_store(store)
        try:
            repository = await Repository.open(opened)
            return [await repository.manifest(number) for number in await repository.numbers()]
        finally:
            await opened.close()

    manifests = run_async(run())
    if json:
        print_json(
            [
                {"manifest": m.number, "cut": format_time_ns(m.cut_ns), "logs": {log.name: log.last for log in m.logs}}
                for m in manifests
            ]
        )
        return 0
    rows = [
        (m.number, format_time_ns(m.cut_ns), ", ".join(f"{log.name} {log.last}" for log in m.logs)) for m in manifests
    ]
    print_table("Backups", ("manifest", "cut", "logs through"), rows)
    return 0


def verify(store: str, *, manifest: int | None = None, json: bool = False) -> int:
    """Read every object that a backup needs and check it; exit 1 where one is damaged or gone, which is named.

    Examples:

        tapehouse dr verify file:///var/backups/desk

    Parameters
    ----------
    store
        As given to `tapehouse dr backup`.
    manifest
        Its number; else the newest.
    json
        One line of JSON.
    """
    from tapehouse.cli.output import Bar, console, print_json, run_async
    from tapehouse.dr import VerifyReport, open_store
    from tapehouse.dr import verify as verify_store

    with Bar("verify", None, unit="objects", quiet=json) as bar:

        async def run() -> VerifyReport:
            opened = open_store(store)
            try:
                return await verify_store(opened, manifest=manifest, progress=lambda _log, done, _total: bar.at(done))
            finally:
                await opened.close()

        report = run_async(run())
    if json:
        print_json(
            {
                "manifest": report.manifest,
                "objects": report.objects,
                "bytes_read": report.bytes_read,
                "damaged": [{"key": damage.key, "reason": damage.reason} for damage in report.damaged],
            }
        )
    else:
        console.print(
            f"manifest {report.manifest}: {report.objects} objects, {report.bytes_read:,} bytes", highlight=False
        )
        for damage in report.damaged:
            console.print(f"DAMAGED {damage.key}: {damage.reason}", highlight=False)
    return 0 if report.sound else 1
