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

    from sr_deploy.probe.probe import Examination
    from sr_deploy.spec import ModelSpec

_RANGES = {"0..1": (0.0, 1.0), "0..255": (0.0, 255.0), "-1..1": (-1.0, 1.0)}
_EXAMPLES = """\b
Examples:
  sr-deploy stamp model.onnx -o model-stamped.onnx
  sr-deploy stamp model.onnx --value-range 0..255 --licence CC0-1.0
  sr-deploy stamp model.onnx -o picture.onnx --output-name image --input noise=0.1
"""


def _parse_halo(text: str) -> int | str:
    """Parse --halo: a number of pixels, or "global" for a model that sees the whole picture. Raises click.BadParameter."""
    if text != "global" and not text.isdecimal():
        raise click.BadParameter(f"{text!r} is not a number of pixels or 'global'.")
    return text if text == "global" else int(text)


def _parse_inputs(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    """Parse --input NAME=NUMBER. A name may contain "=". Raises click.BadParameter."""
    found = {}
    for text in values:
        name, _, number = text.rpartition("=")
        try:
            found[name] = float(number)
        except ValueError:
            name = ""
        if not name:
            raise click.BadParameter(f"'{text}' is not an input with a number, like noise=0.1.", ctx, param)
    return found


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
    "--output-range",
    type=click.Choice(list(_RANGES)),
    help="Pixel values of black and white at the output. [default: found by probing]",
)
@click.option(
    "--bgr", is_flag=True, help="The model takes and gives blue, green, red. [default: red, green, blue]"
)
@click.option(
    "--output-name",
    metavar="NAME",
    help="Output of the graph that is the picture; the others are removed. Needs -o.",
)
@click.option(
    "--input",
    "fixed_inputs",
    metavar="NAME=NUMBER",
    multiple=True,
    callback=_parse_inputs,
    help="Number for an input that is no picture, such as a noise level; repeat for several. Needs -o.",
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
    output_range: str | None,
    bgr: bool,
    output_name: str | None,
    fixed_inputs: dict[str, float],
    halo: int | str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Find the spec of a model and write it into its ONNX FILE.

    Scale, channels, layout, value range, input sizes, precision and halo are found by running the model on small
    pictures, in a process of its own: a crash of the runtime costs one size. Properties that remain undecided are
    listed and recorded. --value-range, --output-range, --bgr and --halo set these by hand. If the file has a spec
    already, only the properties given as options are changed.

    A graph with several inputs or outputs becomes one with a picture in and a picture out by --input and
    --output-name. With -o, a graph of 12 or 48 channels, which are pixel-unshuffled RGB, gets the unshuffling inside.
    """
    from sr_deploy.graph.onnx_file import load_model, save_model, write_spec

    model = load_model(file)
    target = output or file
    check_new(
        target, overwrite=overwrite or _is_same_file(file, target)
    )  # checked first, because probing takes minutes
    if output_name is not None or fixed_inputs:
        model = _with_selected_ports(model, output_name, fixed_inputs, separate=output is not None)
    model = _with_packing(file, model) if output is not None else model
    given = {
        "value_range": _RANGES[value_range] if value_range else None,
        "output_range": _RANGES[output_range] if output_range else None,
        "channel_order": "BGR" if bgr else None,
        "halo": halo,
    }
    named = {key: value for key, value in {"name": name, "licence": licence}.items() if value}
    found = _spec(file, model, given, changes=bool(named), force=force)
    spec = found.spec.with_(**named)
    _check_scale(file, spec, scale)
    # stamping in place changes the model that a link names; the link stays
    save_model(write_spec(model, spec), target if output else file.resolve())
    _print(target, spec, found.evidence, as_json=as_json)


def _with_selected_ports(
    model: onnx.ModelProto, output_name: str | None, inputs: dict[str, float], *, separate: bool
) -> onnx.ModelProto:
    """The model with one picture in and out. Raises UsageError if it would replace the file that has all ports."""
    from sr_deploy.errors import UsageError
    from sr_deploy.graph.select_ports import select_ports

    if not separate:
        raise UsageError("--output-name and --input make another graph; name the file to write with -o")
    return select_ports(model, output=output_name, inputs=inputs)


def _with_packing(file: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the packing of pixels into cells inside, if it takes cells; said in a line."""
    from sr_deploy.graph.select_ports import with_packing

    packed = with_packing(model)
    if packed is None:
        return model
    click.echo(
        f"{file} takes pixels in cells, packed as by torch's pixel_unshuffle; the file written packs them itself",
        err=True,
    )
    return packed


def _is_same_file(first: Path, second: Path) -> bool:
    """True if both paths name the same existing file."""
    return second.exists() and first.samefile(second)


def _spec(
    file: Path, model: onnx.ModelProto, given: dict[str, Any], *, changes: bool, force: bool
) -> Examination:
    """The spec to write: the one in `model` with the given properties changed, or the result of probing.

    `given` are fields of `KnownFacts`, None where they are not given; probing then finds them. `changes` is true if
    --name or --licence is given. With `force` a spec in the model is ignored. Raises UsageError if the model has a
    spec and no option changes it.
    """
    from sr_deploy.cli.shared.probing import examined
    from sr_deploy.errors import UsageError
    from sr_deploy.graph.onnx_file import lost_spec, read_spec
    from sr_deploy.probe.probe import Examination

    spec = None if force else read_spec(model)
    if spec is None:
        click.echo(f"probing {file}{lost_spec(model)}; this takes minutes for a large network", err=True)
        return examined(model, file, given)
    decided = {key: value for key, value in given.items() if value is not None}
    if not (decided or changes):
        raise UsageError(
            f"{file} has a spec already (scale {spec.scale}, halo {spec.halo}); name the properties to change, or probe "
            "the file again with --force"
        )
    if decided.get("halo") == "global":  # a spec stores a global halo as None
        decided["halo"] = None
    return Examination(spec=spec.with_(**decided), evidence={})


def _check_scale(file: Path, spec: ModelSpec, scale: int | None) -> None:
    from sr_deploy.errors import UsageError

    if scale is not None and scale != spec.scale:
        raise UsageError(
            f"{file}: --scale {scale} was given, but the model has scale {spec.scale}; leave --scale out, or name another file"
        )


def _print(path: Path, spec: ModelSpec, evidence: dict[str, str], *, as_json: bool) -> None:
    """Print the spec that was written to `path`, as text or as JSON, with what it rests on."""
    if as_json:
        import json
        from dataclasses import asdict

        click.echo(json.dumps({"path": str(path), "spec": asdict(spec), "evidence": evidence}, indent=2))
        return
    from sr_deploy.cli.info import spec_lines

    click.echo("\n".join([*spec_lines(spec, evidence), f"written into {path}"]))
