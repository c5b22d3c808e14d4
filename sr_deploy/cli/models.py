"""`sr-deploy models`: list the bundled models with their size and quality."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sr_deploy.models import ModelEntry


_EXIT_BAD_INPUT = 3
"""A bundled model file is damaged; the intact ones are listed all the same."""


@click.command("models")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array instead of a table.")
def command(as_json: bool) -> None:
    """List the bundled models.

    The first column shows the name to give to --model. Quality is PSNR in dB and SSIM of the Y channel.
    """
    from sr_deploy.models import survey_models

    entries, broken = survey_models()
    if entries or not broken:
        _print(entries, as_json=as_json)
    for error in broken.values():
        from sr_deploy.cli.shared.console import complain

        complain(f"{error}; the file is part of sr-deploy: install sr-deploy again")
    if broken:
        click.get_current_context().exit(_EXIT_BAD_INPUT)


def _print(entries: Sequence[ModelEntry], *, as_json: bool) -> None:
    """Print the models as a table or as JSON. An empty JSON array is printed too; an empty table is a note on stderr."""
    if as_json:
        import json

        click.echo(json.dumps([_record(entry) for entry in entries], indent=2))
        return
    if not entries:
        click.echo("no model is bundled with this installation", err=True)
        return
    from sr_deploy.cli.shared.console import table

    header = ("name", "scale", "parameters", "KiB", "precision", "licence", "quality")
    click.echo(table(header, [_row(entry) for entry in entries]))


def _record(entry: ModelEntry) -> dict[str, Any]:
    """One model as JSON values, for --json.

    "size_bytes" is the size of the file, "halo" is in input pixels (None: the whole picture), and "quality" maps data
    sets to measures.
    """
    return {
        "name": entry.name,
        "path": str(entry.path),
        "scale": entry.scale,
        "channels": entry.spec.channels,
        "halo": entry.spec.halo,
        "precision": entry.spec.precision,
        "architecture": entry.spec.architecture,
        "parameters": entry.parameters,
        "size_bytes": entry.size,
        "licence": entry.licence,
        "quality": entry.quality,
        "sha256": entry.sha256,
    }


def _row(entry: ModelEntry) -> tuple[str, ...]:
    """One model as a row of the table; "-" stands for an unknown value."""
    return (
        entry.name,
        str(entry.scale),
        "-" if entry.parameters is None else f"{entry.parameters:,}",
        f"{entry.size / 1024:.0f}",
        entry.spec.precision,
        entry.licence or "-",
        _quality(entry) or "-",
    )


def _quality(entry: ModelEntry) -> str:
    """The measured quality of a model on each data set, such as "Set5 31.05 dB 0.8790"."""
    return ", ".join(
        " ".join([name, *(_measure(key, value) for key, value in sorted(measures.items()))])
        for name, measures in entry.quality.items()
    )


def _measure(key: str, value: float) -> str:
    """One measured value: PSNR in dB, any other measure (SSIM) as a plain number."""
    return f"{value:.2f} dB" if key.startswith("psnr") else f"{value:.4f}"
