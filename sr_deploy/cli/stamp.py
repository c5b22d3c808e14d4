"""`sr-deploy stamp`: find out what an ONNX file from elsewhere is, and write the spec into the file.

This module parses and prints; `sr_deploy.probe` finds the spec.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sr_deploy.cli.shared.paths import NamedPath, check_new

if TYPE_CHECKING:
    import onnx

    from sr_deploy.spec import ModelSpec

_RANGES = {"0..1": (0.0, 1.0), "0..255": (0.0, 255.0), "-1..1": (-1.0, 1.0)}
_EXAMPLES = """\b
Examples:
  sr-deploy stamp model.onnx -o model-stamped.onnx
  sr-deploy stamp model.onnx --value-range 0..255 --licence CC0-1.0
"""


def _parse_halo(text: str) -> int | str:
    """Parse --halo: a number of pixels, or "global" for a model that sees the whole picture. Raises click.BadParameter."""
    if text != "global" and not text.isdecimal():
        raise click.BadParameter(f"{text!r} is not a number of pixels or 'global'.")
    return text if text == "global" else int(text)


@click.command("stamp", epilog=_EXAMPLES)
@click.argument("file", type=NamedPath())
@click.option("-o", "--output", type=NamedPath(), help="ONNX file to write. [default: FILE itself]")
@click.option("--overwrite", is_flag=True, help="Replace an existing output file.")
@click.option("--name", help="Name of the model. [default: the name of the file]")
@click.option("--licence", help="Licence of the weights as an SPDX identifier.")
@click.option(
    "--scale",
    type=click.IntRange(1, 16),
    help="Expected scale; nothing is written if the model has another one.",
)
@click.option(
    "--value-range",
    type=click.Choice(list(_RANGES)),
    help="Pixel values of black and white. [default: found by probing]",
)
@click.option(
    "--halo",
    type=_parse_halo,
    metavar="PIXELS|global",
    help="Halo in input pixels; 'global' means that the model is never tiled. [default: found by probing]",
)
@click.option(
    "--force", is_flag=True, help="Probe a file again that has a spec already, and replace the spec."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def command(
    file: Path,
    output: Path | None,
    overwrite: bool,
    name: str | None,
    licence: str | None,
    scale: int | None,
    value_range: str | None,
    halo: int | str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Find the spec of a model and write it into its ONNX FILE.

    Scale, channels, layout, value range, input sizes, precision and halo are found by running the model on small
    pictures. Properties that remain undecided are listed and recorded. --value-range and --halo set these two
    by hand. If the file has a spec already, only the properties given as options are changed.
    """
    from sr_deploy.graph.onnx_file import load_model, save_model, write_spec

    model = load_model(file)
    target = output or file
    check_new(
        target, overwrite=overwrite or _is_same_file(file, target)
    )  # checked first, because probing takes minutes
    given = {"value_range": _RANGES[value_range] if value_range else None, "halo": halo}
    named = {key: value for key, value in {"name": name, "licence": licence}.items() if value}
    spec = _spec(file, model, given, changes=bool(named), force=force).with_(**named)
    _check_scale(file, spec, scale)
    # stamping in place changes the model that a link names; the link stays
    save_model(write_spec(model, spec), target if output else file.resolve())
    _print(target, spec, as_json=as_json)


def _is_same_file(first: Path, second: Path) -> bool:
    """True if both paths name the same existing file."""
    return second.exists() and first.samefile(second)


def _spec(
    file: Path, model: onnx.ModelProto, given: dict[str, Any], *, changes: bool, force: bool
) -> ModelSpec:
    """The spec to write: the one in `model` with the given properties changed, or the result of probing.

    `given` holds value range and halo, None where they are not given; probing then finds them. `changes` is true if
    --name or --licence is given. With `force` a spec in the model is ignored. Raises UsageError if the model has a
    spec and no option changes it.
    """
    from sr_deploy.errors import UsageError
    from sr_deploy.graph.onnx_file import read_spec

    spec = None if force else read_spec(model)
    if spec is None:
        from sr_deploy.probe.probe import KnownFacts, probe

        click.echo(f"probing {file}; this takes minutes for a large network", err=True)
        return probe(model, name=file.stem, given=KnownFacts(**given))
    decided = {key: value for key, value in given.items() if value is not None}
    if not (decided or changes):
        raise UsageError(
            f"{file} has a spec already (scale {spec.scale}, halo {spec.halo}); name the properties to change, or probe "
            "the file again with --force"
        )
    if decided.get("halo") == "global":  # a spec stores a global halo as None
        decided["halo"] = None
    return spec.with_(**decided)


def _check_scale(file: Path, spec: ModelSpec, scale: int | None) -> None:
    from sr_deploy.errors import UsageError

    if scale is not None and scale != spec.scale:
        raise UsageError(
            f"{file}: --scale {scale} was given, but the model has scale {spec.scale}; leave --scale out, or name another file"
        )


def _print(path: Path, spec: ModelSpec, *, as_json: bool) -> None:
    """Print the spec that was written to `path`, as text or as JSON."""
    if as_json:
        import json
        from dataclasses import asdict

        click.echo(json.dumps({"path": str(path), "spec": asdict(spec)}, indent=2))
        return
    from sr_deploy.cli.info import spec_lines

    click.echo("\n".join([*spec_lines(spec), f"written into {path}"]))
