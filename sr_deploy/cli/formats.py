"""`sr-deploy formats`: which files are read and written, made from the code that does it."""

from __future__ import annotations

from typing import Any

import click


@click.command("formats")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def command(as_json: bool) -> None:
    """List the picture formats that are read and written.

    Formats that are refused by name follow. Reading goes by content, never by the name of a file.
    """
    from sr_deploy.images.codecs.avif import WAY_OUT, reads_heic
    from sr_deploy.images.codecs.formats import NAMES, formats
    from sr_deploy.images.codecs.headers import refused_names
    from sr_deploy.images.codecs.tiff import kinds_not_read, kinds_read

    written = [_record(NAMES[kind.name], kind) for kind in formats()]
    missing = {} if reads_heic() else {NAMES["heic"]: WAY_OUT}
    read, tiff = [name for name in NAMES.values() if name not in missing], kinds_read()
    refused = [*refused_names(), *(f"TIFF: {kind}" for kind in kinds_not_read())]
    if as_json:
        import json

        facts = {"read": read, "missing": missing, "tiff": tiff, "written": written, "refused": refused}
        click.echo(json.dumps(facts, indent=2))
        return
    from sr_deploy.cli.shared.console import table

    click.echo(f"read: {', '.join(read)}")
    for name, way in missing.items():
        click.echo(f"{name} is not read here: {way}")
    click.echo(f"TIFF is read with: {', '.join(tiff)}")
    click.echo(f"refused by name: {', '.join(refused)}\n")
    header = ("written", "suffixes", "bits", "opacity", "quality", "largest side")
    click.echo(table(header, [tuple(map(str, row.values())) for row in written]))


def _record(name: str, kind: Any) -> dict[str, Any]:
    """The abilities of a writable format, as JSON values."""
    return {
        "format": name,
        "suffixes": " ".join(kind.suffixes),
        "bits": "8, 16" if kind.deep else "8",
        "opacity": "yes" if kind.alpha else "no",
        "quality": f"1 to {kind.top_quality}" if kind.lossy else "lossless",
        "largest_side": kind.max_side,
    }
