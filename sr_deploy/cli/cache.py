"""`sr-deploy cache`: list the compiled TensorRT engines that are kept, and delete those that are no longer wanted.

This module parses and prints; `sr_deploy.engines.tensorrt.cache` holds the engines.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sr_deploy.engines.tensorrt.cache import CachedEngine, EngineCache


@click.group("cache")
def command() -> None:
    """List or delete the cached TensorRT engines.

    The cache is a folder of the user; the variable SR_DEPLOY_CACHE sets another folder, or none if it is empty.
    """


@command.command("list")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="Folder of the cache. [default: SR_DEPLOY_CACHE, else the user's cache folder]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array instead of a table.")
def list_command(folder: Path | None, as_json: bool) -> None:
    """List the engines, most recently used first."""
    cache = _cache(folder)
    entries = cache.entries()
    if as_json:
        import json

        click.echo(json.dumps([_record(entry) for entry in entries], indent=2))
        return
    if not entries:
        click.echo(f"no engines in {cache.folder}", err=True)
        return
    from sr_deploy.cli.shared.console import table

    header = ("model", "precision", "pixels", "MiB", "last used", "TensorRT", "GPU", "file")
    click.echo(table(header, [_row(entry) for entry in entries]))


@command.command("prune")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="Folder of the cache. [default: SR_DEPLOY_CACHE, else the user's cache folder]",
)
@click.option(
    "--days", type=click.FloatRange(0), help="Delete engines that were not used for this many days."
)
@click.option(
    "--max-mib",
    type=click.IntRange(0),
    help="Delete the least recently used engines until the cache fits into this size, in MiB.",
)
@click.option("--all", "everything", is_flag=True, help="Delete all engines.")
def prune_command(folder: Path | None, days: float | None, max_mib: int | None, everything: bool) -> None:
    """Delete cached engines by age or total size, or all of them.

    Damaged engines are always deleted. Other files in the folder are never touched.
    """
    if not everything and days is None and max_mib is None:
        raise click.UsageError("nothing to delete is named; add --days, --max-mib or --all.")
    cache = _cache(folder)
    max_bytes = None if max_mib is None else max_mib << 20
    deleted = cache.prune() if everything else cache.prune(days=days, most_bytes=max_bytes)
    size = sum(entry.size for entry in deleted)
    click.echo(f"{len(deleted)} engines deleted, {size / (1 << 20):.1f} MiB, {len(cache.entries())} left")


def _cache(folder: Path | None) -> EngineCache:
    from sr_deploy.engines.tensorrt.cache import EngineCache, engine_folder
    from sr_deploy.errors import UsageError

    if (chosen := folder or engine_folder()) is None:
        raise UsageError("the cache is turned off (SR_DEPLOY_CACHE is empty); name a --folder")
    return EngineCache(chosen)


def _record(entry: CachedEngine) -> dict[str, Any]:
    """One entry as JSON values, for --json: path, size in bytes, last use in seconds since 1970, and sidecar.
    The sidecar ("record") is None for a damaged entry."""
    import json

    record = None if entry.record is None else json.loads(entry.record.to_json())
    return {"path": str(entry.path), "size_bytes": entry.size, "last_used": entry.used, "record": record}


def _row(entry: CachedEngine) -> tuple[str, ...]:
    """One entry as a row of the table. The time is local; a damaged entry has "-" where nothing is known."""
    from datetime import datetime

    used = datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d %H:%M")
    size, record = f"{entry.size / (1 << 20):.1f}", entry.record
    if record is None:
        return ("(damaged)", "-", "-", size, used, "-", "-", entry.path.name)
    machine = record.machine
    return (
        record.spec.name,
        record.spec.precision,
        record.pixels,
        size,
        used,
        machine.tensorrt,
        machine.gpu,
        entry.path.name,
    )
